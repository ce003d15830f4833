"""The rollout harvesting stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("rollout_harvesting")
def rollout_harvesting(
    rollouts: dsl.Input[dsl.Dataset],
    trajectories: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
):
    """Merges the rollout shards of all steps and ranks into one table of trajectories.

    Args:
        rollouts: The shards that exploration recorded, and its log.
        trajectories: All rollouts, with the success rate of their problem. In reports/: counts, exploration's log, and
            each problem's success rate at each step.
        report: Counts and exploration's log only, if the report stage reads them from here.
        page: The counts as a page.
    """
    from pathlib import Path

    from components.rollout_harvesting.harvest import harvest
    from components.shared.reporting.reports import EXPLORATION_LOG, HARVESTING_REPORT, REPORTS, copy_reports
    from components.shared.stage import stage

    with stage("rollout harvesting"):
        reports = Path(trajectories.path) / REPORTS
        harvest(
            rollouts.path,
            trajectories_out=trajectories.path,
            success_rates_out=reports,
            report_out=reports / HARVESTING_REPORT,
            page_out=page.path,
        )
        copy_reports(rollouts.path, reports, EXPLORATION_LOG)
        if report:
            copy_reports(reports, report.path, EXPLORATION_LOG, HARVESTING_REPORT)
