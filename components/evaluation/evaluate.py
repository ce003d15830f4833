"""Evaluation: samples a policy on the benchmarks and estimates avg@n and pass@k, with intervals."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.evaluation.pages import write_page
from components.evaluation.settings import EvaluationSettings
from components.shared.data.schema import BENCHMARK_ORDER, SAMPLES, count_rows, read_rows, table_writer, write_table
from components.shared.errors import InputError
from components.shared.grading import FAILED, TIMED_OUT, Grader, GradingRow, GradingSettings, reason_kind
from components.shared.policy.policy import check_room, policy_id
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.reporting.pass_at_k import bootstrap_interval, pass_at_k
from components.shared.sampling.base import Completion, Engine, Sampler, chosen_engine, open_sampler
from components.shared.stage import Progress, note, read_json, write_json


@dataclass
class ProblemTally:
    """One problem's samples."""

    samples: int = 0  # scorable ones
    correct: int = 0
    truncated: int = 0
    tokens: int = 0
    solutions: set[int] = field(default_factory=set)  # hashes of different correct completions

    def add(self, sample: dict[str, Any]) -> None:
        """Counts one sample; one that cannot be scored leaves the estimate alone."""
        self.truncated += sample["finish_reason"] == "length"
        self.tokens += sample["tokens"]
        if sample["correct"] is not None:
            self.samples += 1
            self.correct += sample["correct"]
            if sample["correct"]:
                self.solutions.add(hash("".join(sample["completion"].split())))


def evaluate(
    policy: str | Path,
    benchmarks: str | Path,
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
) -> dict[str, float]:
    """Evaluates a policy on every benchmark; goes on where an earlier attempt at the same was stopped.

    Args:
        policy: its folder.
        benchmarks: folder with one Parquet file a benchmark.
        settings: the recipe's `eval` section.
        grading: the recipe's `grading` section.
        name: what the report calls the policy, such as `rloop-2`.
        kind: base, rloop or explored.
        iteration: of RLoop, from 1; 0 for the base policy.
        seed: of the sampling and of the bootstrap.
        samples_out: folder to make, with `samples.parquet`: every sample and its verdict.
        evaluation_out: JSON file to write: the figures of each benchmark.
        page_out: the same as an HTML page.
        curve: JSON file of the intermediate checkpoints' figures, to show on the page.
        checkpointing: where progress is kept.

    Returns:
        The figures for KFP metrics, named `BENCHMARK_FIGURE`.

    Raises:
        InputError: a benchmark has no scorable problem, or the sampling engine cannot be used.
    """
    engine = chosen_engine(settings.engine)
    columns = ["problem_id", "prompt", "answer", "verifier"]
    problems = {
        benchmark: list(read_rows(Path(benchmarks) / f"{benchmark}.parquet", columns))
        for benchmark in read_json(Path(benchmarks) / BENCHMARK_ORDER)
    }
    own = {benchmark: settings.of(benchmark) for benchmark in problems}
    length = check_prompts(policy, problems, own)
    samples = sum(len(rows) * own[benchmark].samples for benchmark, rows in problems.items())
    progress = Progress(samples, f"samples of {name}")
    parameters = {"settings": settings.model_dump(), "engine": engine, "grading": grading.model_dump(), "seed": seed}
    reasons: Counter[str] = Counter()
    evaluations = []
    outputs = Outputs(
        {"samples": samples_out, "evaluation": evaluation_out, "page": page_out},
        {"name": name, "kind": kind, "iteration": iteration},
        [curve] if curve else [],
    )
    with contextlib.ExitStack() as stack:
        judged = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = stack.enter_context(Checkpoints(checkpointing, "evaluation", parameters, [policy, benchmarks]))
        if (figures := checkpoints.hand_over(outputs)) is not None:
            return figures
        sampler = stack.enter_context(contextlib.closing(sampler_of(policy, engine, settings, length)))
        grader = stack.enter_context(Grader(grading))
        writer = stack.enter_context(table_writer(Path(samples_out) / "samples.parquet", SAMPLES))
        kept = checkpoints.restore_shards(judged)
        if kept:
            note(f"goes on with {len(kept)} batches of an earlier attempt")
        for benchmark, rows in problems.items():
            tallies = {row["problem_id"]: ProblemTally() for row in rows}
            for sample in judged_samples(
                sampler, benchmark, benchmark, rows, own[benchmark], seed, grader, judged, checkpoints, progress
            ):
                tallies[sample["problem_id"]].add(sample)
                reasons[reason_kind(sample["reason"])] += 1
                writer.write(sample)
            evaluations.append(summarise(benchmark, list(tallies.values()), own[benchmark], seed))
    evaluation = {
        "name": name,
        "kind": kind,
        "iteration": iteration,
        "policy_id": policy_id(policy),
        "engine": engine,
        "timed_out": reasons[TIMED_OUT],
        "failed": reasons[FAILED],
        "reasons": dict(reasons.most_common()),
        "settings": {**settings.model_dump(), "seed": seed},
        "evaluations": evaluations,
    }
    write_json(evaluation_out, evaluation)
    write_page(page_out, evaluation, read_json(curve) if curve else None)
    metrics: dict[str, float] = {
        "grading_timed_out": reasons[TIMED_OUT],
        "grading_failed": reasons[FAILED],
        "grading_failed_share": reasons[FAILED] / max(1, reasons.total()),
    }
    for e in evaluations:
        metrics[f"{e['benchmark']}_avg_at_{e['n']}"] = e["avg"]
        metrics |= {f"{e['benchmark']}_pass_at_{k}": value for k, value in e["pass_at_k"].items()}
        metrics |= {f"{e['benchmark']}_{key}": e[key] for key in ("truncation_rate", "mean_tokens", "distinct_correct")}
    checkpoints.finish(outputs, metrics, _in_words(evaluations))
    return metrics


def _in_words(evaluations: list[dict[str, Any]]) -> str:
    """All benchmarks' avg@n and pass@k, with n and the largest k once where they are the same for all."""
    named = [f"avg@{e['n']}/pass@{list(e['pass_at_k'])[-1]}" for e in evaluations]
    figures = [f"{e['avg']:.3f}/{list(e['pass_at_k'].values())[-1]:.3f}" for e in evaluations]
    benchmarks = [e["benchmark"] for e in evaluations]
    if len(set(named)) == 1:
        return f"{named[0]}: {', '.join(map(' '.join, zip(benchmarks, figures, strict=True)))}"
    return ", ".join(map(" ".join, zip(benchmarks, named, figures, strict=True)))


def check_prompts(
    policy: str | Path, problems: dict[str, list[dict[str, Any]]], own: dict[str, EvaluationSettings]
) -> int:
    """Checks that every prompt of every benchmark leaves room for a completion; raises InputError.

    Returns:
        The tokens that a prompt and its completion take together at most.
    """
    longest = 0
    for limit in {settings.max_completion_tokens for settings in own.values()}:
        of_limit = [rows for name, rows in problems.items() if own[name].max_completion_tokens == limit]
        prompts = (row["prompt"] for rows in of_limit for row in rows)
        longest = max(longest, check_room(policy, prompts, limit, "eval"))
    return longest


def sampler_of(policy: str | Path, engine: Engine, settings: EvaluationSettings, length: int) -> Sampler:
    """A policy ready to sample from, as the recipe asks.

    Args:
        policy: its folder.
        engine: as chosen_engine gives it.
        settings: the recipe's `eval` section.
        length: tokens that a prompt and its completion take together at most.
    """
    return open_sampler(
        policy,
        engine,
        batch_size=settings.sequences_per_batch,
        length=length,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        tensor_parallel_size=settings.tensor_parallel_size,
    )


def judged_samples(
    sampler: Sampler,
    name: str,
    benchmark: str,
    problems: list[dict[str, Any]],
    settings: EvaluationSettings,
    seed: int,
    grader: Grader,
    folder: Path,
    checkpoints: Checkpoints,
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    """A benchmark's judged samples, batch by batch; those that an earlier attempt left come first.

    Args:
        sampler: of the policy.
        name: with which the batches' files begin.
        benchmark: its name.
        problems: rows of the Problems table.
        settings: that hold for the benchmark.
        seed: of the sampling.
        grader: judges the samples.
        folder: where the batches go; holds those of an earlier attempt.
        checkpoints: gets each new batch.
        progress: counts the samples.
    """
    number = 0
    while (shard := folder / f"{name}-{number:06d}.parquet").exists():
        progress.advance(count_rows(shard))
        yield from read_rows(shard)
        number += 1
    for batch in sampler.sample(
        [problem["prompt"] for problem in problems],
        settings.samples,
        seed,
        max_tokens=settings.max_completion_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        progress=progress,
        skip=number,
    ):
        shard = folder / f"{name}-{number:06d}.parquet"
        write_table(shard, SAMPLES, _judged(batch, benchmark, problems, grader))
        checkpoints.add(shard)
        yield from read_rows(shard)
        number += 1


def _judged(
    batch: list[Completion], benchmark: str, problems: list[dict[str, Any]], grader: Grader
) -> Iterator[dict[str, Any]]:
    asked = []
    for completion in batch:
        problem = problems[completion.prompt_index]
        truncated = completion.finish_reason != "stop"
        asked.append(GradingRow(problem["verifier"], problem["answer"], completion.text, truncated))
    for completion, verdict in zip(batch, grader.judge(asked), strict=True):
        yield {
            "benchmark": benchmark,
            "problem_id": problems[completion.prompt_index]["problem_id"],
            "sample_index": completion.sample_index,
            "completion": completion.text,
            "finish_reason": completion.finish_reason,
            "tokens": len(completion.token_ids),
            "correct": verdict.correct,
            "reason": verdict.reason,
        }


def summarise(benchmark: str, tallies: list[ProblemTally], settings: EvaluationSettings, seed: int) -> dict[str, Any]:
    """The figures of a policy on a benchmark.

    Args:
        benchmark: its name.
        tallies: one a problem, in the benchmark's order.
        settings: that hold for the benchmark.
        seed: of the bootstrap.

    Returns:
        avg@n, pass@k and what else is known, and by problem how many samples could be judged and were correct.

    Raises:
        InputError: no problem has enough samples that can be judged.
    """
    most = settings.pass_at[-1]
    # A problem with fewer scorable samples than k has no pass@k; its gold answer is what cannot be read.
    scorable = [tally for tally in tallies if tally.samples >= most]
    if not scorable:
        raise InputError(f"benchmark {benchmark}: no problem has {most} scorable samples; check its gold answers")
    averages = [tally.correct / tally.samples for tally in scorable]
    passes = {str(k): [pass_at_k(tally.samples, tally.correct, k) for tally in scorable] for k in settings.pass_at}
    drawn = len(tallies) * settings.samples
    return {
        "benchmark": benchmark,
        "n": settings.samples,
        "problems": len(scorable),
        "not_scorable": len(tallies) - len(scorable),
        "avg": sum(averages) / len(averages),
        "avg_interval": bootstrap_interval(averages, seed),
        "pass_at_k": {k: sum(values) / len(values) for k, values in passes.items()},
        "pass_at_k_interval": {k: bootstrap_interval(values, seed) for k, values in passes.items()},
        "truncation_rate": sum(tally.truncated for tally in tallies) / drawn,
        "mean_tokens": sum(tally.tokens for tally in tallies) / drawn,
        "distinct_correct": sum(len(tally.solutions) for tally in scorable) / len(scorable),
        "by_problem": {
            "samples": [tally.samples for tally in tallies],
            "correct": [tally.correct for tally in tallies],
        },
    }
