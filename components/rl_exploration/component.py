"""The RL exploration stage as Kubeflow Pipelines sees it."""

from kfp import dsl


@dsl.component(base_image="rloop-rl-exploration", install_kfp_package=False)
def rl_exploration(
    policy: dsl.Input[dsl.Model],
    problems: dsl.Input[dsl.Dataset],
    iteration: int,
    segment: int,
    keep_training_state: bool,
    seed: int,
    steps: int,
    learning_rate: float,
    prompts_per_step: int,
    group_size: int,
    settings: dict,
    grading_settings: dict,
    checkpoint_uri: str,
    checkpoint_settings: dict,
    tracking_settings: dict,
    rollouts: dsl.Output[dsl.Dataset],
    explored_policy: dsl.Output[dsl.Model],
    snapshots: dsl.Output[dsl.Artifact],
    training_state: dsl.Output[dsl.Artifact],
    tensorboard: dsl.Output[dsl.Artifact],
    log: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    earlier_state: dsl.Input[dsl.Artifact] = None,
):
    """Runs RL (DAPO) from the iteration's policy and keeps every rollout.

    Args:
        policy: The iteration's initial policy; of vanilla RL, the base policy.
        problems: Training problems.
        iteration: Of RLoop, from 1.
        segment: Of vanilla RL, from 1: it goes on where the segment before it ended. 1 for an iteration of RLoop.
        keep_training_state: Whether to keep what the next segment needs.
        seed: Of sampling and of the order of problems.
        steps: RL steps; each samples one batch of prompts.
        learning_rate: Of the optimiser.
        prompts_per_step: Prompts sampled at each step.
        group_size: Completions a prompt.
        settings: The rest of the recipe's rl section.
        grading_settings: The recipe's grading section.
        checkpoint_uri: Where progress is kept, s3://BUCKET/PREFIX or a folder; empty for nowhere.
        checkpoint_settings: How often progress is saved and for how long it is kept.
        tracking_settings: Trackers beside TensorBoard.
        rollouts: Every completion of every step, in Parquet shards.
        explored_policy: The policy at the end of RL.
        snapshots: The weights after every rl.snapshot_every steps.
        training_state: Optimiser, scheduler, random numbers and position in the data at the end, if kept.
        tensorboard: What the trainer logs, as TensorBoard event files.
        log: Figures of each step, as JSON.
        page: The same as plots.
        metrics: Figures of the run as a whole.
        earlier_state: The training state of the segment before.
    """
    from pathlib import Path

    from components.rl_exploration.explore import explore
    from components.rl_exploration.settings import ExplorationSettings
    from components.shared.checkpoints import CheckpointSettings
    from components.shared.grading import GradingSettings
    from components.shared.processes import on_processes
    from components.shared.stage import log_metrics, stage
    from components.shared.tracking import TrackingSettings

    with stage("RL exploration"):
        keys = {
            "steps": steps,
            "learning_rate": learning_rate,
            "prompts_per_step": prompts_per_step,
            "group_size": group_size,
        }
        exploration = ExplorationSettings.check({**settings, **keys}, "rl")
        figures = on_processes(
            exploration.parallel,
            "rl",
            explore,
            Path(policy.path),
            Path(problems.path),
            exploration,
            GradingSettings.check(grading_settings, "grading"),
            iteration=iteration,
            seed=seed,
            rollouts_out=Path(rollouts.path),
            policy_out=Path(explored_policy.path),
            log_out=Path(log.path),
            page_out=Path(page.path),
            snapshots_out=Path(snapshots.path),
            state_out=Path(training_state.path),
            tensorboard_out=Path(tensorboard.path),
            keep_state=keep_training_state,
            segment=segment,
            state=Path(earlier_state.path) if earlier_state else None,
            checkpointing=CheckpointSettings.check({**checkpoint_settings, "uri": checkpoint_uri}, "store"),
            tracking=TrackingSettings.check(tracking_settings, "tracking"),
        )
        log_metrics(metrics, figures)
