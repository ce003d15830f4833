"""The evaluation stages as Kubeflow Pipelines sees them."""

from kfp import dsl


@dsl.component(base_image="rloop-evaluation", install_kfp_package=False)
def evaluation(
    policy: dsl.Input[dsl.Model],
    benchmark_problems: dsl.Input[dsl.Dataset],
    kind: str,
    iteration: int,
    seed: int,
    samples: int,
    settings: dict,
    grading_settings: dict,
    checkpoint_uri: str,
    checkpoint_settings: dict,
    sampled: dsl.Output[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Samples a policy on the benchmarks and estimates avg@n and pass@k.

    Args:
        policy: The policy to measure.
        benchmark_problems: One table a benchmark.
        kind: base, explored, rloop or vanilla.
        iteration: Of RLoop, from 1; 0 for the base policy.
        seed: Of the sampling and of the bootstrap.
        samples: Completions a problem: the n of avg@n.
        settings: The rest of the recipe's eval section.
        grading_settings: The recipe's grading section.
        checkpoint_uri: Where progress is kept, s3://BUCKET/PREFIX or a folder; empty for nowhere.
        checkpoint_settings: How often progress is saved and for how long it is kept.
        sampled: Every sample and its verdict.
        evaluation: The figures of each benchmark, as JSON.
        page: The same as a page.
        metrics: The figures.
    """
    from components.evaluation.evaluate import evaluate
    from components.evaluation.settings import EvaluationSettings
    from components.shared.checkpoints import CheckpointSettings
    from components.shared.grading import GradingSettings
    from components.shared.stage import log_metrics, stage

    with stage("evaluation"):
        figures = evaluate(
            policy.path,
            benchmark_problems.path,
            EvaluationSettings.check({**settings, "samples": samples}, "eval"),
            GradingSettings.check(grading_settings, "grading"),
            name=kind if iteration == 0 else f"{kind}-{iteration}",
            kind=kind,
            iteration=iteration,
            seed=seed,
            samples_out=sampled.path,
            evaluation_out=evaluation.path,
            page_out=page.path,
            checkpointing=CheckpointSettings.check({**checkpoint_settings, "uri": checkpoint_uri}, "store"),
        )
        log_metrics(metrics, figures)


@dsl.component(base_image="rloop-evaluation", install_kfp_package=False)
def evaluation_curve(
    policy: dsl.Input[dsl.Model],
    snapshots: dsl.Input[dsl.Artifact],
    benchmark_problems: dsl.Input[dsl.Dataset],
    kind: str,
    iteration: int,
    with_initial: bool,
    seed: int,
    samples: int,
    settings: dict,
    grading_settings: dict,
    checkpoint_uri: str,
    checkpoint_settings: dict,
    curve: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Measures the policies that exploration kept on the way on a few problems.

    Args:
        policy: The policy that exploration started from.
        snapshots: The weights that it kept.
        benchmark_problems: One table a benchmark.
        kind: explored or vanilla.
        iteration: Of RLoop, from 1.
        with_initial: Whether the curve begins with the policy itself, at step 0.
        seed: Of the sampling and of the bootstrap.
        samples: Completions a problem of the benchmarks themselves.
        settings: The rest of the recipe's eval section.
        grading_settings: The recipe's grading section.
        checkpoint_uri: Where progress is kept, s3://BUCKET/PREFIX or a folder; empty for nowhere.
        checkpoint_settings: How often progress is saved and for how long it is kept.
        curve: The figures at every point, as JSON.
        page: The same as plots.
        metrics: The figures of the last point.
    """
    from components.evaluation.curve import evaluate_curve
    from components.evaluation.settings import EvaluationSettings
    from components.shared.checkpoints import CheckpointSettings
    from components.shared.grading import GradingSettings
    from components.shared.stage import log_metrics, stage

    with stage("evaluation of policies on the way"):
        figures = evaluate_curve(
            policy.path,
            snapshots.path,
            benchmark_problems.path,
            EvaluationSettings.check({**settings, "samples": samples}, "eval"),
            GradingSettings.check(grading_settings, "grading"),
            kind=kind,
            iteration=iteration,
            seed=seed,
            with_initial=with_initial,
            curve_out=curve.path,
            page_out=page.path,
            checkpointing=CheckpointSettings.check({**checkpoint_settings, "uri": checkpoint_uri}, "store"),
        )
        log_metrics(metrics, figures)
