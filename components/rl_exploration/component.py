"""The RL exploration stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("rl_exploration")
def rl_exploration(
    policy: dsl.Input[dsl.Model],
    problems: dsl.Input[dsl.Dataset],
    iteration: int,
    segment: int,
    settings: dict,
    rollouts: dsl.Output[dsl.Dataset],
    explored_policy: dsl.Output[dsl.Model],
    snapshots: dsl.Output[dsl.Artifact],
    training_state: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    earlier_state: dsl.Input[dsl.Artifact] = None,
):
    """Runs RL (DAPO) from the iteration's policy and keeps every rollout.

    Args:
        policy: The iteration's initial policy; for vanilla RL, the base policy.
        problems: Training problems.
        iteration: Iteration of RLoop, from 1.
        segment: Segment of vanilla RL, from 1; it continues where the segment before it ended. 1 for an iteration of
            RLoop.
        settings: The seed, and the recipe's sections rl, grading, store and tracking.
        rollouts: Every completion of every step, in Parquet shards; figures of each step; TensorBoard event files.
        explored_policy: The policy at the end of RL.
        snapshots: Intermediate checkpoints: the weights after every rl.snapshot_every steps, if they are evaluated.
        training_state: Optimiser, scheduler, random state and position in the data, if another segment follows.
        page: The figures of each step as plots.
        metrics: Figures of the run as a whole.
        earlier_state: The training state of the segment before.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from components.rl_exploration.explore import explore
    from components.rl_exploration.settings import ExplorationSettings
    from components.shared.grading import GradingSettings
    from components.shared.progress.checkpoints import CheckpointSettings
    from components.shared.reporting.reports import EXPLORATION_LOG, TENSORBOARD
    from components.shared.stage import log_metrics, stage
    from components.shared.training.processes import on_processes
    from components.shared.training.tracking import TrackingSettings

    with stage("RL exploration"), TemporaryDirectory() as scratch:
        exploration = ExplorationSettings.check(settings["rl"], "rl")
        figures = on_processes(
            exploration.parallel,
            "rl",
            explore,
            Path(policy.path),
            Path(problems.path),
            exploration,
            GradingSettings.check(settings["grading"], "grading"),
            iteration=iteration,
            seed=int(settings["seed"]),
            rollouts_out=Path(rollouts.path),
            policy_out=Path(explored_policy.path),
            log_out=Path(rollouts.path) / EXPLORATION_LOG,
            page_out=Path(page.path),
            snapshots_out=Path(snapshots.path if snapshots else f"{scratch}/snapshots"),
            state_out=Path(training_state.path if training_state else f"{scratch}/state"),
            keep_state=training_state is not None,
            tensorboard_out=Path(rollouts.path) / TENSORBOARD,
            segment=segment,
            state=Path(earlier_state.path) if earlier_state else None,
            checkpointing=CheckpointSettings.check(settings["store"], "store"),
            tracking=TrackingSettings.check(settings["tracking"], "tracking"),
        )
        log_metrics(metrics, figures)
