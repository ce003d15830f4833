"""The data preparation stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("data_preparation")
def data_preparation(
    base_policy_uri: str,
    data_version: str,
    settings: dict,
    base_policy: dsl.Output[dsl.Model],
    problems: dsl.Output[dsl.Dataset],
    benchmark_problems: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
):
    """Fetches and checks the base policy, and cleans the training problems and the benchmarks.

    Args:
        base_policy_uri: A Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        data_version: Changes when the data behind the same names changes, so that the stage runs again.
        settings: The recipe's sections data and grading, and the maximum tokens of a completion.
        base_policy: The checked base policy.
        problems: Training problems.
        benchmark_problems: One table per benchmark.
        report: What was dropped and why, as JSON.
        page: The report as a page.
    """
    from components.data_preparation.prepare import prepare_data
    from components.data_preparation.settings import DataSettings
    from components.shared.grading import GradingSettings
    from components.shared.stage import stage

    with stage("data preparation"):
        prepare_data(
            base_policy_uri,
            DataSettings.check(settings["data"], "data"),
            GradingSettings.check(settings["grading"], "grading"),
            completion_tokens=int(settings["completion_tokens"]),
            policy_out=base_policy.path,
            problems_out=problems.path,
            benchmarks_out=benchmark_problems.path,
            report_out=report.path,
            page_out=page.path,
        )
