"""The report stage as Kubeflow Pipelines sees it."""

from kfp import dsl


@dsl.component(base_image="rloop-report", install_kfp_package=False)
def report(
    previous_results: dsl.Input[dsl.Artifact],
    previous_policy: dsl.Input[dsl.Model],
    explored_policy: dsl.Input[dsl.Model],
    rloop_policy: dsl.Input[dsl.Model],
    base_evaluation: dsl.Input[dsl.Artifact],
    explored_evaluation: dsl.Input[dsl.Artifact],
    rloop_evaluation: dsl.Input[dsl.Artifact],
    exploration_log: dsl.Input[dsl.Artifact],
    harvesting_report: dsl.Input[dsl.Artifact],
    filtering_report: dsl.Input[dsl.Artifact],
    rft_log: dsl.Input[dsl.Artifact],
    iteration: int,
    with_vanilla: bool,
    settings: dict,
    results: dsl.Output[dsl.Artifact],
    best_policy: dsl.Output[dsl.Model],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    curve: dsl.Input[dsl.Artifact] = None,
    vanilla_policy: dsl.Input[dsl.Model] = None,
    vanilla_evaluation: dsl.Input[dsl.Artifact] = None,
    vanilla_log: dsl.Input[dsl.Artifact] = None,
    vanilla_harvesting_report: dsl.Input[dsl.Artifact] = None,
    vanilla_curve: dsl.Input[dsl.Artifact] = None,
):
    """Adds the iteration to the report of the run and chooses the best policy so far.

    Args:
        previous_results: The last report's results; before the first iteration, data preparation's report.
        previous_policy: The best policy before this iteration.
        explored_policy: This iteration's policy at the end of RL.
        rloop_policy: This iteration's policy after RFT.
        base_evaluation: Of the base policy.
        explored_evaluation: Of the explored policy.
        rloop_evaluation: Of the policy after RFT.
        exploration_log: Figures of each RL step.
        harvesting_report: Counts of trajectories.
        filtering_report: The count at every gate.
        rft_log: Figures of each RFT update.
        iteration: Of RLoop, from 1.
        with_vanilla: Whether vanilla RL runs beside RLoop; its first segment is iteration 1's exploration.
        settings: The recipe's report section.
        results: Every number so far, in summary.json.
        best_policy: The best policy so far.
        page: The report.
        metrics: The policies' figure on the validation benchmark.
        curve: Figures of the policies that exploration kept on the way.
        vanilla_policy: Of vanilla RL after as many steps as RLoop.
        vanilla_evaluation: Of that policy.
        vanilla_log: Figures of each of its RL steps.
        vanilla_harvesting_report: Counts of its trajectories.
        vanilla_curve: Figures of the policies that it kept on the way.
    """
    from components.report.report import IterationFiles, VanillaFiles
    from components.report.report import report as write_report
    from components.report.settings import ReportSettings
    from components.shared.stage import log_metrics, stage

    def path(artifact: dsl.Artifact | None) -> str | None:
        return artifact.path if artifact else None

    with stage("report"):
        figures = write_report(
            ReportSettings.check(settings, "report"),
            iteration=iteration,
            previous_results=previous_results.path,
            evaluations=[base_evaluation.path, explored_evaluation.path, rloop_evaluation.path],
            policies=[previous_policy.path, explored_policy.path, rloop_policy.path],
            iteration_files=IterationFiles(
                exploration=exploration_log.path,
                harvesting=harvesting_report.path,
                filtering=filtering_report.path,
                rft=rft_log.path,
                curve=path(curve),
            ),
            vanilla=VanillaFiles(
                policy=path(vanilla_policy),
                evaluation=path(vanilla_evaluation),
                exploration=path(vanilla_log),
                harvesting=path(vanilla_harvesting_report),
                curve=path(vanilla_curve),
            )
            if with_vanilla
            else None,
            results_out=results.path,
            page_out=page.path,
            policy_out=best_policy.path,
        )
        log_metrics(metrics, figures)
