"""The verification filtering stage as Kubeflow Pipelines sees it."""

from kfp import dsl


@dsl.component(base_image="rloop-verification-filtering", install_kfp_package=False)
def verification_filtering(
    trajectories: dsl.Input[dsl.Dataset],
    problems: dsl.Input[dsl.Dataset],
    max_success_rate: float,
    max_per_problem: int,
    settings: dict,
    grading_settings: dict,
    checkpoint_uri: str,
    checkpoint_settings: dict,
    experts: dsl.Output[dsl.Dataset],
    dropped: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    earlier_experts: dsl.Input[dsl.Dataset] = None,
):
    """Grades the trajectories again and keeps correct ones on hard problems as experts.

    Args:
        trajectories: What harvesting gathered.
        problems: Training problems.
        max_success_rate: A problem is hard, and kept, at or below this success rate over the iteration.
        max_per_problem: Trajectories kept of one problem.
        settings: The rest of the recipe's filter section.
        grading_settings: The recipe's grading section.
        checkpoint_uri: Where progress is kept, s3://BUCKET/PREFIX or a folder; empty for nowhere.
        checkpoint_settings: How often progress is saved and for how long it is kept.
        experts: The trajectories that RFT learns from.
        dropped: The rest, each with the reason.
        report: The count at every gate, as JSON.
        page: The same as a page.
        metrics: The counts.
        earlier_experts: Experts of the iteration before, to hand on beside this one's.
    """
    from components.shared.checkpoints import CheckpointSettings
    from components.shared.grading import GradingSettings
    from components.shared.stage import log_metrics, stage
    from components.verification_filtering.filter import filter_trajectories
    from components.verification_filtering.settings import FilterSettings

    with stage("verification filtering"):
        keys = {"max_success_rate": max_success_rate, "max_per_problem": max_per_problem}
        figures = filter_trajectories(
            trajectories.path,
            problems.path,
            FilterSettings.check({**settings, **keys}, "filter"),
            GradingSettings.check(grading_settings, "grading"),
            experts_out=experts.path,
            dropped_out=dropped.path,
            report_out=report.path,
            page_out=page.path,
            earlier_experts=earlier_experts.path if earlier_experts else None,
            checkpointing=CheckpointSettings.check({**checkpoint_settings, "uri": checkpoint_uri}, "store"),
        )
        log_metrics(metrics, figures)
