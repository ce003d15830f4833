"""The RFT stage as Kubeflow Pipelines sees it."""

from kfp import dsl


@dsl.component(base_image="rloop-rft", install_kfp_package=False)
def rft(
    policy: dsl.Input[dsl.Model],
    experts: dsl.Input[dsl.Dataset],
    iteration: int,
    seed: int,
    learning_rate: float,
    epochs: float,
    settings: dict,
    checkpoint_uri: str,
    checkpoint_settings: dict,
    tracking_settings: dict,
    rloop_policy: dsl.Output[dsl.Model],
    tensorboard: dsl.Output[dsl.Artifact],
    log: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Fine-tunes the iteration's initial policy, never the explored one, on the experts.

    Args:
        policy: The iteration's initial policy.
        experts: The trajectories to learn from.
        iteration: Of RLoop, from 1.
        seed: Of the order of trajectories.
        learning_rate: Of the optimiser.
        epochs: Passes over the experts.
        settings: The rest of the recipe's rft section.
        checkpoint_uri: Where progress is kept, s3://BUCKET/PREFIX or a folder; empty for nowhere.
        checkpoint_settings: How often progress is saved and for how long it is kept.
        tracking_settings: Trackers beside TensorBoard.
        rloop_policy: The iteration's result, where the next one starts.
        tensorboard: What the trainer logs, as TensorBoard event files.
        log: Figures of each update, as JSON.
        page: The same as plots.
        metrics: Figures of the run as a whole.
    """
    from pathlib import Path

    from components.rft.refine import refine
    from components.rft.settings import RFTSettings
    from components.shared.checkpoints import CheckpointSettings
    from components.shared.processes import on_processes
    from components.shared.stage import log_metrics, stage
    from components.shared.tracking import TrackingSettings

    with stage("RFT"):
        fine_tuning = RFTSettings.check({**settings, "learning_rate": learning_rate, "epochs": epochs}, "rft")
        figures = on_processes(
            fine_tuning.parallel,
            "rft",
            refine,
            Path(policy.path),
            Path(experts.path),
            fine_tuning,
            iteration=iteration,
            seed=seed,
            policy_out=Path(rloop_policy.path),
            log_out=Path(log.path),
            page_out=Path(page.path),
            tensorboard_out=Path(tensorboard.path),
            checkpointing=CheckpointSettings.check({**checkpoint_settings, "uri": checkpoint_uri}, "store"),
            tracking=TrackingSettings.check(tracking_settings, "tracking"),
        )
        log_metrics(metrics, figures)
