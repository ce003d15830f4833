"""The rollout harvesting stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("rollout_harvesting")
def rollout_harvesting(
    rollouts: dsl.Input[dsl.Dataset],
    trajectories: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Gathers the rollout shards of all steps and ranks into one table of trajectories.

    Args:
        rollouts: The shards that exploration recorded, and its log.
        trajectories: All rollouts, with the success rate of their problem.
        report: Counts, exploration's log, and success_rates.parquet: each problem at each step it was sampled.
        page: The same as a page.
        metrics: The counts.
    """
    from pathlib import Path

    from components.rollout_harvesting.harvest import harvest
    from components.shared.reports import EXPLORATION_LOG, HARVESTING_REPORT, hand_on
    from components.shared.stage import log_metrics, stage

    with stage("rollout harvesting"):
        figures = harvest(
            rollouts.path,
            trajectories_out=trajectories.path,
            success_rates_out=report.path,
            report_out=Path(report.path) / HARVESTING_REPORT,
            page_out=page.path,
        )
        hand_on(EXPLORATION_LOG, rollouts.path, report.path)
        log_metrics(metrics, figures)
