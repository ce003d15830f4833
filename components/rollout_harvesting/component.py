"""The rollout harvesting stage as Kubeflow Pipelines sees it."""

from kfp import dsl


@dsl.component(base_image="rloop-rollout-harvesting", install_kfp_package=False)
def rollout_harvesting(
    rollouts: dsl.Input[dsl.Dataset],
    trajectories: dsl.Output[dsl.Dataset],
    success_rates: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Gathers the rollout shards of all steps and ranks into one table of trajectories.

    Args:
        rollouts: The shards that exploration recorded.
        trajectories: All rollouts, with the success rate of their problem.
        success_rates: Of each problem, at each step it was sampled.
        report: Counts, and shards set aside, as JSON.
        page: The same as a page.
        metrics: The counts.
    """
    from components.rollout_harvesting.harvest import harvest
    from components.shared.stage import log_metrics, stage

    with stage("rollout harvesting"):
        figures = harvest(
            rollouts.path,
            trajectories_out=trajectories.path,
            success_rates_out=success_rates.path,
            report_out=report.path,
            page_out=page.path,
        )
        log_metrics(metrics, figures)
