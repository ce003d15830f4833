"""The data preparation stage as Kubeflow Pipelines sees it."""

from kfp import dsl


@dsl.component(base_image="rloop-data-preparation", install_kfp_package=False)
def data_preparation(
    base_policy_uri: str,
    train: list,
    benchmarks: list,
    completion_tokens: int,
    data_version: str,
    settings: dict,
    grading_settings: dict,
    base_policy: dsl.Output[dsl.Model],
    problems: dsl.Output[dsl.Dataset],
    benchmark_problems: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Brings in the base policy, the training problems and the benchmarks, and cleans them.

    Args:
        base_policy_uri: A Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        train: Sources of training problems.
        benchmarks: Benchmarks, each with a name and a uri.
        completion_tokens: Tokens that a completion may take; prompts must leave them free in the model's context.
        data_version: Changes when the data behind the same names changed, so that the stage runs again.
        settings: The rest of the recipe's data section.
        grading_settings: The recipe's grading section.
        base_policy: The checked base policy.
        problems: Training problems.
        benchmark_problems: One table a benchmark.
        report: What was dropped and why, as JSON.
        page: The same as a page.
        metrics: Rows kept and dropped.
    """
    from components.data_preparation.prepare import prepare_data
    from components.data_preparation.settings import DataSettings
    from components.shared.grading import GradingSettings
    from components.shared.stage import log_metrics, stage

    with stage("data preparation"):
        figures = prepare_data(
            base_policy_uri,
            DataSettings.check({"train": train, "benchmarks": benchmarks, **settings}, "data"),
            GradingSettings.check(grading_settings, "grading"),
            completion_tokens=completion_tokens,
            policy_out=base_policy.path,
            problems_out=problems.path,
            benchmarks_out=benchmark_problems.path,
            report_out=report.path,
            page_out=page.path,
        )
        log_metrics(metrics, figures)
