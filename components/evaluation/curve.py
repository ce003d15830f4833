"""The curve over RL steps: exploration's intermediate checkpoints, each measured on a few problems."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from components.evaluation.benchmarks import Benchmark, check_prompts, load_curve_benchmarks
from components.evaluation.graded_samples import GradedSampling, Measured, result_settings
from components.evaluation.settings import EvaluationSettings
from components.evaluation.tally import ProblemTally, summarise
from components.shared.grading import Grader, GradingSettings
from components.shared.policy import Policy
from components.shared.policy.snapshots import snapshot_files, with_weights
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.sampling.engines import chosen_engine
from components.shared.sampling.replicas import Replicas
from components.shared.stage import Progress, write_json


def evaluate_curve(
    policy_path: str | Path,
    snapshots: str | Path,
    benchmarks_path: str | Path,
    settings: EvaluationSettings,
    grading: GradingSettings,
    *,
    kind: str,
    iteration: int,
    seed: int,
    with_initial: bool,
    curve_out: str | Path,
    checkpointing: CheckpointSettings = NOWHERE,
    replicas: Replicas | None = None,
) -> dict[str, float]:
    """Measures each intermediate checkpoint of exploration; resumes where an earlier attempt was stopped.

    Args:
        policy_path: Folder of the policy that exploration started from.
        snapshots: Folder with the checkpoints' weights, as exploration writes them.
        benchmarks_path: Folder with one Parquet file per benchmark.
        settings: The recipe's `eval` section.
        grading: The recipe's `grading` section.
        kind: explored or vanilla.
        iteration: Iteration of RLoop, from 1; for vanilla RL, the iteration after the same number of RL steps.
        seed: Seed of the sampling and of the bootstrap.
        with_initial: Whether the curve begins with the policy itself, at step 0.
        curve_out: JSON file to write: the figures at every point.
        checkpointing: The recipe's `store` section: where progress is kept.
        replicas: Sample, and are kept for what the stage samples next; if None, they end with the curve.

    Returns:
        The figures of the last point for KFP metrics, named `curve_BENCHMARK_FIGURE`.

    Raises:
        InputError: eval.curve_benchmarks names an unknown benchmark, or the sampling engine cannot be used.
    """
    policy, engine = Policy(policy_path), chosen_engine(settings.engine)
    benchmarks = load_curve_benchmarks(benchmarks_path, settings)
    length = check_prompts(policy, benchmarks)
    weights_by_step: dict[int, Path | None] = {0: None} if with_initial else {}
    weights_by_step |= snapshot_files(snapshots)
    samples = sum(benchmark.samples for benchmark in benchmarks) * len(weights_by_step)
    progress = Progress(samples, f"samples of {len(weights_by_step)} intermediate checkpoints")
    parameters = {
        "settings": result_settings(settings),
        "engine": engine,
        "grading": grading.model_dump(),
        "seed": seed,
        "initial": with_initial,
    }
    inputs = [policy_path, snapshots, benchmarks_path]
    outputs = Outputs({"curve": curve_out}, {"kind": kind, "iteration": iteration})
    points: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = stack.enter_context(Checkpoints(checkpointing, "evaluation", parameters, inputs))
        if (figures := checkpoints.hand_over(outputs)) is not None:
            return figures
        replicas = replicas or stack.enter_context(Replicas())
        grader = stack.enter_context(Grader(grading))
        (work / "batches").mkdir()
        sampling = GradedSampling(grader, checkpoints, work / "batches", seed, progress)
        measured = {}
        for step, weights in weights_by_step.items():
            checkpoint = with_weights(policy, weights, work / f"step-{step}") if weights else policy
            measured[step] = Measured(checkpoint, benchmarks, f"step-{step:06d}-")
        sampling.complete(replicas, list(measured.values()), engine, settings, length)
        for step, point in measured.items():
            evaluations = [_figures(point, benchmark, sampling, seed) for benchmark in benchmarks]
            points.append({"step": step, "policy_id": point.policy.id, "evaluations": evaluations})
    write_json(curve_out, {"kind": kind, "iteration": iteration, "engine": engine, "points": points})
    figures = _metrics(points)
    checkpoints.finish(outputs, figures, _result_line(points))
    return figures


def _figures(measured: Measured, benchmark: Benchmark, sampling: GradedSampling, seed: int) -> dict[str, Any]:
    """Returns the figures of a checkpoint on a benchmark."""
    tallies = {problem["problem_id"]: ProblemTally() for problem in benchmark.problems}
    for sample in sampling.samples(measured, benchmark):
        tallies[sample["problem_id"]].add(sample)
    return summarise(benchmark, list(tallies.values()), seed)


def _metrics(points: list[dict[str, Any]]) -> dict[str, float]:
    last = points[-1]["evaluations"] if points else []
    return {f"curve_{e['benchmark']}_avg_at_{e['n']}": e["avg"] for e in last}


def _result_line(points: list[dict[str, Any]]) -> str:
    if not points:
        return "no intermediate checkpoints"
    first, last = points[0]["evaluations"][0], points[-1]["evaluations"][0]
    averages = f"{last['benchmark']} avg@{last['n']} {first['avg']:.3f} to {last['avg']:.3f}"
    return f"{len(points)} intermediate checkpoints; {averages}"
