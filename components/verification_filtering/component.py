"""The verification filtering stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("verification_filtering")
def verification_filtering(
    trajectories: dsl.Input[dsl.Dataset],
    problems: dsl.Input[dsl.Dataset],
    settings: dict,
    experts: dsl.Output[dsl.Dataset],
    dropped: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    earlier_experts: dsl.Input[dsl.Dataset] = None,
):
    """Grades the trajectories again and keeps the correct ones on hard problems as experts.

    Args:
        trajectories: The trajectories that harvesting wrote.
        problems: Training problems.
        settings: The recipe's sections filter, grading and store.
        experts: The trajectories that RFT trains on. In reports/: the count at every gate, and earlier reports.
        dropped: The other trajectories, each with the reason.
        page: The counts as a page.
        metrics: The counts.
        earlier_experts: The previous iteration's experts, to pass on with this one's.
    """
    from pathlib import Path

    from components.shared.grading import GradingSettings
    from components.shared.progress.checkpoints import CheckpointSettings
    from components.shared.reporting.reports import (
        EXPLORATION_LOG,
        FILTERING_REPORT,
        HARVESTING_REPORT,
        REPORTS,
        copy_reports,
    )
    from components.shared.stage import log_metrics, stage
    from components.verification_filtering.filter import filter_trajectories
    from components.verification_filtering.settings import FilterSettings

    with stage("verification filtering"):
        reports = Path(experts.path) / REPORTS
        figures = filter_trajectories(
            trajectories.path,
            problems.path,
            FilterSettings.check(settings["filter"], "filter"),
            GradingSettings.check(settings["grading"], "grading"),
            experts_out=experts.path,
            dropped_out=dropped.path,
            report_out=reports / FILTERING_REPORT,
            page_out=page.path,
            earlier_experts=earlier_experts.path if earlier_experts else None,
            checkpointing=CheckpointSettings.check(settings["store"], "store"),
        )
        copy_reports(Path(trajectories.path) / REPORTS, reports, EXPLORATION_LOG, HARVESTING_REPORT)
        log_metrics(metrics, figures)
