"""The RFT stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("rft")
def rft(
    policy: dsl.Input[dsl.Model],
    experts: dsl.Input[dsl.Dataset],
    iteration: int,
    settings: dict,
    rloop_policy: dsl.Output[dsl.Model],
    log: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Fine-tunes the iteration's initial policy, never the explored one, on the experts.

    Args:
        policy: The iteration's initial policy.
        experts: The trajectories to learn from.
        iteration: Iteration of RLoop, from 1.
        settings: The seed, and the recipe's sections rft, store and tracking.
        rloop_policy: The iteration's result, where the next one starts.
        log: Figures of each update, reports of earlier stages, and the trainer's TensorBoard event files.
        page: The figures of each update as plots.
        metrics: Figures of the run as a whole.
    """
    from pathlib import Path

    from components.rft.refine import refine
    from components.rft.settings import RFTSettings
    from components.shared.progress.checkpoints import CheckpointSettings
    from components.shared.reporting.reports import (
        EXPLORATION_LOG,
        FILTERING_REPORT,
        HARVESTING_REPORT,
        REPORTS,
        RFT_LOG,
        TENSORBOARD,
        copy_reports,
    )
    from components.shared.stage import log_metrics, stage
    from components.shared.training.processes import on_processes
    from components.shared.training.tracking import TrackingSettings

    with stage("RFT"):
        fine_tuning = RFTSettings.check(settings["rft"], "rft")
        figures = on_processes(
            fine_tuning.parallel,
            "rft",
            refine,
            Path(policy.path),
            Path(experts.path),
            fine_tuning,
            iteration=iteration,
            seed=int(settings["seed"]),
            policy_out=Path(rloop_policy.path),
            log_out=Path(log.path) / RFT_LOG,
            page_out=Path(page.path),
            tensorboard_out=Path(log.path) / TENSORBOARD,
            checkpointing=CheckpointSettings.check(settings["store"], "store"),
            tracking=TrackingSettings.check(settings["tracking"], "tracking"),
        )
        copy_reports(Path(experts.path) / REPORTS, log.path, EXPLORATION_LOG, HARVESTING_REPORT, FILTERING_REPORT)
        log_metrics(metrics, figures)
