"""The curve over RL steps: the policies that exploration kept on the way, each measured on a few problems."""

import contextlib
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from components.evaluation.evaluate import ProblemTally, check_prompts, judged_samples, sampler_of, summarise
from components.evaluation.settings import EvaluationSettings
from components.shared.data.schema import BENCHMARK_ORDER, read_rows
from components.shared.errors import InputError, nearest
from components.shared.grading import Grader, GradingSettings
from components.shared.policy.policy import policy_id, snapshot_files, with_weights
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.sampling.base import chosen_engine
from components.shared.stage import Progress, note, read_json, write_json


def evaluate_curve(
    policy: str | Path,
    snapshots: str | Path,
    benchmarks: str | Path,
    settings: EvaluationSettings,
    grading: GradingSettings,
    *,
    kind: str,
    iteration: int,
    seed: int,
    with_initial: bool,
    curve_out: str | Path,
    checkpointing: CheckpointSettings = NOWHERE,
) -> dict[str, float]:
    """Measures each policy that exploration kept on the way; goes on where an earlier attempt was stopped.

    Args:
        policy: folder of the policy that exploration started from.
        snapshots: folder of weights, as exploration keeps them.
        benchmarks: folder with one Parquet file a benchmark.
        settings: the recipe's `eval` section.
        grading: the recipe's `grading` section.
        kind: explored or vanilla.
        iteration: of RLoop, from 1; of vanilla RL, the iteration that has the same number of RL steps behind it.
        seed: of the sampling and of the bootstrap.
        with_initial: whether the curve begins with the policy itself, at step 0.
        curve_out: JSON file to write: the figures at every point.
        checkpointing: where progress is kept.

    Returns:
        The figures of the last point for KFP metrics, named `curve_BENCHMARK_FIGURE`.

    Raises:
        InputError: eval.curve_benchmarks names what is no benchmark, or the sampling engine cannot be used.
    """
    engine = chosen_engine(settings.engine)
    known = read_json(Path(benchmarks) / BENCHMARK_ORDER)
    problems: dict[str, list[dict[str, Any]]] = {}
    for benchmark in settings.curve_benchmarks or known[:1]:
        if benchmark not in known:
            raise InputError(f"eval.curve_benchmarks: {benchmark!r} is no benchmark.{nearest(benchmark, known)}")
        stored = read_rows(Path(benchmarks) / f"{benchmark}.parquet", ["problem_id", "prompt", "answer", "verifier"])
        problems[benchmark] = list(islice(stored, settings.curve_problems))
    own = {benchmark: settings.of_curve(benchmark) for benchmark in problems}
    length = check_prompts(policy, problems, own)

    kept_policies: dict[int, Path | None] = {0: None} if with_initial else {}
    kept_policies |= snapshot_files(snapshots)
    samples = sum(len(rows) * own[benchmark].samples for benchmark, rows in problems.items())
    progress = Progress(samples * len(kept_policies), f"samples of {len(kept_policies)} policies on the way")
    parameters = {
        "settings": settings.model_dump(),
        "engine": engine,
        "grading": grading.model_dump(),
        "seed": seed,
        "initial": with_initial,
    }
    points: list[dict[str, Any]] = []
    outputs = Outputs({"curve": curve_out}, {"kind": kind, "iteration": iteration})
    with (
        tempfile.TemporaryDirectory() as work,
        Checkpoints(checkpointing, "evaluation", parameters, [policy, snapshots, benchmarks]) as checkpoints,
        Grader(grading) as grader,
    ):
        if (figures := checkpoints.hand_over(outputs)) is not None:
            return figures
        judged = Path(work) / "judged"
        judged.mkdir()
        kept = checkpoints.restore_shards(judged)
        if kept:
            note(f"goes on with {len(kept)} batches of an earlier attempt")
        for step, weights in kept_policies.items():
            folder = Path(policy) if weights is None else with_weights(policy, weights, Path(work) / f"step-{step}")
            measured = []
            with contextlib.closing(sampler_of(folder, engine, settings, length)) as sampler:
                for benchmark, rows in problems.items():
                    tallies = {row["problem_id"]: ProblemTally() for row in rows}
                    name, limits = f"step-{step:06d}-{benchmark}", own[benchmark]
                    for sample in judged_samples(
                        sampler, name, benchmark, rows, limits, seed, grader, judged, checkpoints, progress
                    ):
                        tallies[sample["problem_id"]].add(sample)
                    measured.append(summarise(benchmark, list(tallies.values()), limits, seed))
            points.append({"step": step, "policy_id": policy_id(folder), "evaluations": measured})
    curve = {"kind": kind, "iteration": iteration, "engine": engine, "points": points}
    write_json(curve_out, curve)
    if not points:
        checkpoints.finish(outputs, {}, "no policies were kept on the way")
        return {}
    last = points[-1]["evaluations"]
    benchmark, averages = last[0]["benchmark"], [point["evaluations"][0]["avg"] for point in points]
    said = f"{len(points)} policies on the way; {benchmark} avg@{last[0]['n']} {averages[0]:.3f} to {averages[-1]:.3f}"
    figures = {f"curve_{e['benchmark']}_avg_at_{e['n']}": e["avg"] for e in last}
    checkpoints.finish(outputs, figures, said)
    return figures
