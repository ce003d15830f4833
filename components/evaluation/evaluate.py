"""Evaluation: samples a policy on the benchmarks and estimates avg@n and pass@k, with confidence intervals."""

import contextlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from components.evaluation.benchmarks import check_prompts, load_benchmarks
from components.evaluation.graded_samples import GradedSampling, Measured, result_settings
from components.evaluation.pages import write_page
from components.evaluation.settings import EvaluationSettings
from components.evaluation.tally import ProblemTally, summarise
from components.shared.data.schema import SAMPLES, table_writer
from components.shared.grading import FAILED, TIMED_OUT, Grader, GradingSettings, reason_kind
from components.shared.policy import Policy
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.sampling.engines import chosen_engine
from components.shared.sampling.replicas import Replicas
from components.shared.stage import Progress, read_json, write_json


def evaluate(
    policy_path: str | Path,
    benchmarks_path: str | Path,
    settings: EvaluationSettings,
    grading: GradingSettings,
    *,
    name: str,
    kind: str,
    iteration: int,
    seed: int,
    samples_out: str | Path,
    evaluation_out: str | Path,
    page_out: str | Path,
    curve: str | Path | None = None,
    checkpointing: CheckpointSettings = NOWHERE,
    replicas: Replicas | None = None,
) -> dict[str, float]:
    """Evaluates a policy on every benchmark; resumes where an earlier attempt was stopped.

    Args:
        policy_path: Folder of the policy.
        benchmarks_path: Folder with one Parquet file per benchmark.
        settings: The recipe's `eval` section.
        grading: The recipe's `grading` section.
        name: The policy's name in the report, such as `rloop-2`.
        kind: base, rloop, explored or vanilla.
        iteration: Iteration of RLoop, from 1; 0 for the base policy.
        seed: Seed of the sampling and of the bootstrap.
        samples_out: Folder to create, with `samples.parquet`: every sample and its verdict.
        evaluation_out: JSON file to write: the figures of each benchmark.
        page_out: HTML file to write: the same as a page.
        curve: JSON file with the figures of the intermediate checkpoints, to show on the page.
        checkpointing: The recipe's `store` section: where progress is kept.
        replicas: Sample, and are kept for what the stage samples next; if None, they end with this evaluation.

    Returns:
        The figures for KFP metrics, named `BENCHMARK_FIGURE`.

    Raises:
        InputError: A benchmark has no scorable problem, or the sampling engine cannot be used.
    """
    policy, engine = Policy(policy_path), chosen_engine(settings.engine)
    benchmarks = load_benchmarks(benchmarks_path, settings)
    length = check_prompts(policy, benchmarks)
    progress = Progress(sum(benchmark.samples for benchmark in benchmarks), f"samples of {name}")
    parameters = {
        "settings": result_settings(settings),
        "engine": engine,
        "grading": grading.model_dump(),
        "seed": seed,
    }
    outputs = Outputs(
        {"samples": samples_out, "evaluation": evaluation_out, "page": page_out},
        {"name": name, "kind": kind, "iteration": iteration},
        [curve] if curve else [],
    )
    reasons: Counter[str] = Counter()
    evaluations = []
    with contextlib.ExitStack() as stack:
        batches = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs = [policy_path, benchmarks_path]
        checkpoints = stack.enter_context(Checkpoints(checkpointing, "evaluation", parameters, inputs))
        if (figures := checkpoints.hand_over(outputs)) is not None:
            return figures
        replicas = replicas or stack.enter_context(Replicas())
        grader = stack.enter_context(Grader(grading))
        grader.warm_up(problem["verifier"] for b in benchmarks for problem in b.problems)  # while the policy is loaded
        writer = stack.enter_context(table_writer(Path(samples_out) / "samples.parquet", SAMPLES))
        sampling, measured = GradedSampling(grader, checkpoints, batches, seed, progress), Measured(policy, benchmarks)
        sampling.complete(replicas, [measured], engine, settings, length)
        for benchmark in benchmarks:
            tallies = {problem["problem_id"]: ProblemTally() for problem in benchmark.problems}
            for sample in sampling.samples(measured, benchmark):
                tallies[sample["problem_id"]].add(sample)
                reasons[reason_kind(sample["reason"])] += 1
                writer.write(sample)
            evaluations.append(summarise(benchmark, list(tallies.values()), seed))
    evaluation = {
        "name": name,
        "kind": kind,
        "iteration": iteration,
        "policy_id": policy.id,
        "engine": engine,
        "timed_out": reasons[TIMED_OUT],
        "failed": reasons[FAILED],
        "reasons": dict(reasons.most_common()),
        "settings": {**result_settings(settings), "seed": seed},
        "evaluations": evaluations,
    }
    write_json(evaluation_out, evaluation)
    write_page(page_out, evaluation, read_json(curve) if curve else None)
    metrics = _metrics(evaluations, reasons)
    checkpoints.finish(outputs, metrics, _result_line(evaluations))
    return metrics


def _metrics(evaluations: list[dict[str, Any]], reasons: Counter[str]) -> dict[str, float]:
    metrics: dict[str, float] = {
        "grading_timed_out": reasons[TIMED_OUT],
        "grading_failed": reasons[FAILED],
        "grading_failed_share": reasons[FAILED] / max(1, reasons.total()),
    }
    for e in evaluations:
        metrics[f"{e['benchmark']}_avg_at_{e['n']}"] = e["avg"]
        metrics |= {f"{e['benchmark']}_pass_at_{k}": value for k, value in e["pass_at_k"].items()}
        metrics |= {f"{e['benchmark']}_{key}": e[key] for key in ("truncation_rate", "mean_tokens", "distinct_correct")}
    return metrics


def _result_line(evaluations: list[dict[str, Any]]) -> str:
    """Returns all benchmarks' avg@n and pass@k; n and the largest k appear once if they are the same for all."""
    named = [f"avg@{e['n']}/pass@{list(e['pass_at_k'])[-1]}" for e in evaluations]
    figures = [f"{e['avg']:.3f}/{list(e['pass_at_k'].values())[-1]:.3f}" for e in evaluations]
    benchmarks = [e["benchmark"] for e in evaluations]
    if len(set(named)) == 1:
        return f"{named[0]}: {', '.join(map(' '.join, zip(benchmarks, figures, strict=True)))}"
    return ", ".join(map(" ".join, zip(benchmarks, named, figures, strict=True)))
