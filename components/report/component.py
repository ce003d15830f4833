"""The report stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("report")
def report(
    previous_results: dsl.Input[dsl.Artifact],
    previous_policy: dsl.Input[dsl.Model],
    explored_policy: dsl.Input[dsl.Model],
    rloop_policy: dsl.Input[dsl.Model],
    explored_evaluation: dsl.Input[dsl.Artifact],
    rloop_evaluation: dsl.Input[dsl.Artifact],
    rft_log: dsl.Input[dsl.Artifact],
    iteration: int,
    with_vanilla: bool,
    settings: dict,
    results: dsl.Output[dsl.Artifact],
    best_policy: dsl.Output[dsl.Model],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    base_evaluation: dsl.Input[dsl.Artifact] = None,
    vanilla_policy: dsl.Input[dsl.Model] = None,
    vanilla_evaluation: dsl.Input[dsl.Artifact] = None,
    vanilla_report: dsl.Input[dsl.Artifact] = None,
):
    """Adds the iteration to the report of the run and chooses the best policy so far.

    Args:
        previous_results: The previous report's results; before iteration 1, data preparation's report.
        previous_policy: The best policy before this iteration.
        explored_policy: This iteration's policy at the end of RL.
        rloop_policy: This iteration's policy after RFT.
        explored_evaluation: Evaluation of the explored policy and its intermediate checkpoints.
        rloop_evaluation: Evaluation of the policy after RFT.
        rft_log: Figures of each RL step and RFT update, counts of trajectories and of every gate of the filter.
        iteration: RLoop iteration, from 1.
        with_vanilla: Whether vanilla RL runs too; its first segment is iteration 1's exploration.
        settings: The recipe's report section.
        results: All numbers so far, in summary.json.
        best_policy: The best policy so far.
        page: The report.
        metrics: The policies' figures on the validation benchmark.
        base_evaluation: Evaluation of the base policy, in iteration 1.
        vanilla_policy: The policy of vanilla RL after as many steps as RLoop.
        vanilla_evaluation: Evaluation of that policy and its intermediate checkpoints.
        vanilla_report: Counts of its trajectories, and figures of each of its RL steps.
    """
    from pathlib import Path

    from components.report.inputs import IterationFiles, VanillaFiles
    from components.report.report import report as write_report
    from components.report.settings import ReportSettings
    from components.shared.reporting.reports import EVALUATION
    from components.shared.stage import log_metrics, stage

    with stage("report"):
        evaluations = (base_evaluation, explored_evaluation, rloop_evaluation)
        vanilla = VanillaFiles.of(vanilla_policy, vanilla_evaluation, vanilla_report)
        figures = write_report(
            ReportSettings.check(settings["report"], "report"),
            iteration=iteration,
            previous_results=previous_results.path,
            evaluations=[Path(artifact.path) / EVALUATION for artifact in evaluations if artifact],
            policies=[previous_policy.path, explored_policy.path, rloop_policy.path],
            iteration_files=IterationFiles.of(rft_log, explored_evaluation),
            vanilla=vanilla if with_vanilla else None,
            results_out=results.path,
            page_out=page.path,
            policy_out=best_policy.path,
        )
        log_metrics(metrics, figures)
