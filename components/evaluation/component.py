"""The evaluation stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("evaluation")
def evaluation(
    policy: dsl.Input[dsl.Model],
    benchmark_problems: dsl.Input[dsl.Dataset],
    kind: str,
    iteration: int,
    settings: dict,
    evaluation: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    snapshots: dsl.Input[dsl.Artifact] = None,
    initial_policy: dsl.Input[dsl.Model] = None,
):
    """Samples a policy on the benchmarks and estimates avg@n and pass@k, and measures its intermediate checkpoints.

    Args:
        policy: The policy to evaluate.
        benchmark_problems: One table per benchmark.
        kind: base, explored, rloop or vanilla.
        iteration: Iteration of RLoop, from 1; 0 for the base policy.
        settings: The seed, and the recipe's sections eval, grading and store.
        evaluation: The figures of each benchmark and of each intermediate checkpoint, as JSON, and every sample of the
            policy with its verdict, in samples.parquet.
        page: The figures as a page.
        metrics: The figures of each benchmark.
        snapshots: Intermediate checkpoints of the RL that made the policy.
        initial_policy: The policy that RL started from, to measure beside them.
    """
    from pathlib import Path
    from typing import Any

    from components.evaluation.curve import evaluate_curve
    from components.evaluation.evaluate import evaluate
    from components.evaluation.settings import EvaluationSettings
    from components.shared.grading import GradingSettings
    from components.shared.progress.checkpoints import CheckpointSettings
    from components.shared.reporting.reports import CURVE, EVALUATION
    from components.shared.sampling.replicas import Replicas
    from components.shared.stage import log_metrics, stage

    with stage("evaluation"), Replicas() as replicas:
        measuring: dict[str, Any] = {
            "settings": EvaluationSettings.check(settings["eval"], "eval"),
            "grading": GradingSettings.check(settings["grading"], "grading"),
            "kind": kind,
            "iteration": iteration,
            "seed": int(settings["seed"]),
            "checkpointing": CheckpointSettings.check(settings["store"], "store"),
            "replicas": replicas,
        }
        figures, curve = {}, Path(evaluation.path) / CURVE
        if snapshots:
            figures = evaluate_curve(
                initial_policy.path if initial_policy else policy.path,
                snapshots.path,
                benchmark_problems.path,
                with_initial=initial_policy is not None,
                curve_out=curve,
                **measuring,
            )
        figures |= evaluate(
            policy.path,
            benchmark_problems.path,
            name=kind if iteration == 0 else f"{kind}-{iteration}",
            samples_out=evaluation.path,
            evaluation_out=Path(evaluation.path) / EVALUATION,
            page_out=page.path,
            curve=curve if snapshots else None,
            **measuring,
        )
        log_metrics(metrics, figures)
