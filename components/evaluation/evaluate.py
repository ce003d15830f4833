"""Evaluation: samples a policy on the benchmarks and estimates avg@n and pass@k, with intervals."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.evaluation.settings import EvaluationSettings
from components.shared import page
from components.shared.batches import batches
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow, GradingSettings
from components.shared.pass_at_k import bootstrap_interval, pass_at_k
from components.shared.policy import check_room, policy_id
from components.shared.sampling import Completion, Sampler
from components.shared.schema import BENCHMARK_ORDER, SAMPLES, TableWriter, read_rows, table_writer
from components.shared.stage import Progress, read_json, result, write_json


@dataclass
class ProblemTally:
    """One problem's samples."""

    samples: int = 0  # scorable ones
    correct: int = 0
    truncated: int = 0
    tokens: int = 0
    solutions: set[int] = field(default_factory=set)  # hashes of different correct completions

    def add(self, completion: Completion, verdict: bool | None) -> None:
        """Counts one sample; one that cannot be scored leaves the estimate alone."""
        self.truncated += completion.finish_reason == "length"
        self.tokens += len(completion.token_ids)
        if verdict is not None:
            self.samples += 1
            self.correct += verdict
            if verdict:
                self.solutions.add(hash("".join(completion.text.split())))


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
) -> dict[str, float]:
    """Evaluates a policy on every benchmark.

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

    Returns:
        The figures for KFP metrics, named `BENCHMARK_FIGURE`.

    Raises:
        InputError: a benchmark has no scorable problem.
    """
    columns = ["problem_id", "prompt", "answer", "verifier"]
    problems = {
        benchmark: list(read_rows(Path(benchmarks) / f"{benchmark}.parquet", columns))
        for benchmark in read_json(Path(benchmarks) / BENCHMARK_ORDER)
    }
    prompts = (row["prompt"] for rows in problems.values() for row in rows)
    check_room(policy, prompts, settings.max_completion_tokens, "eval")
    progress = Progress(sum(map(len, problems.values())) * settings.samples, f"samples of {name}")
    sampler = Sampler(
        policy,
        max_tokens=settings.max_completion_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        batch_size=settings.sequences_per_batch,
    )
    evaluations = []
    with (
        Grader(grading) as grader,
        table_writer(Path(samples_out) / "samples.parquet", SAMPLES) as writer,
    ):
        for benchmark, rows in problems.items():
            tallies = _sample_benchmark(sampler, benchmark, rows, settings, seed, grader, writer, progress)
            evaluations.append(_summarise(benchmark, list(tallies.values()), settings, seed))
        reasons = dict(grader.counts)
        timed_out = grader.timed_out
    evaluation = {
        "name": name,
        "kind": kind,
        "iteration": iteration,
        "policy_id": policy_id(policy),
        "timed_out": timed_out,
        "reasons": reasons,
        "settings": {**settings.model_dump(), "seed": seed},
        "evaluations": evaluations,
    }
    write_json(evaluation_out, evaluation)
    _write_page(page_out, evaluation)
    most = str(settings.pass_at[-1])
    figures = ", ".join(f"{e['benchmark']} {e['avg']:.3f}/{e['pass_at_k'][most]:.3f}" for e in evaluations)
    result(f"avg@{settings.samples}/pass@{most}: {figures}")
    metrics: dict[str, float] = {"grading_timed_out": timed_out}
    for e in evaluations:
        metrics[f"{e['benchmark']}_avg_at_{e['n']}"] = e["avg"]
        metrics |= {f"{e['benchmark']}_pass_at_{k}": value for k, value in e["pass_at_k"].items()}
        metrics |= {f"{e['benchmark']}_{key}": e[key] for key in ("truncation_rate", "mean_tokens", "distinct_correct")}
    return metrics


def _sample_benchmark(
    sampler: Sampler,
    benchmark: str,
    problems: list[dict[str, Any]],
    settings: EvaluationSettings,
    seed: int,
    grader: Grader,
    writer: TableWriter,
    progress: Progress,
) -> dict[int, ProblemTally]:
    tallies: defaultdict[int, ProblemTally] = defaultdict(ProblemTally)
    prompts = [problem["prompt"] for problem in problems]
    completions = sampler.sample(prompts, settings.samples, seed, progress)
    for batch in batches(completions, settings.sequences_per_batch):
        for completion, verdict in zip(batch, _grade(batch, problems, grader), strict=True):
            tallies[completion.prompt_index].add(completion, verdict)
            writer.write(
                {
                    "benchmark": benchmark,
                    "problem_id": problems[completion.prompt_index]["problem_id"],
                    "sample_index": completion.sample_index,
                    "completion": completion.text,
                    "finish_reason": completion.finish_reason,
                    "tokens": len(completion.token_ids),
                    "correct": verdict,
                }
            )
    return tallies


def _grade(batch: list[Completion], problems: list[dict[str, Any]], grader: Grader) -> list[bool | None]:
    rows = []
    for completion in batch:
        problem = problems[completion.prompt_index]
        truncated = completion.finish_reason != "stop"
        rows.append(GradingRow(problem["verifier"], problem["answer"], completion.text, truncated))
    return grader.grade(rows)


def _summarise(benchmark: str, tallies: list[ProblemTally], settings: EvaluationSettings, seed: int) -> dict[str, Any]:
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
    }


def _write_page(path: str | Path, evaluation: dict[str, Any]) -> None:
    evaluations = evaluation["evaluations"]
    ks = list(evaluations[0]["pass_at_k"])
    drawing, (axis,) = page.new_figure(7, 3.2)
    for e in evaluations:
        low, high = zip(*(e["pass_at_k_interval"][k] for k in ks), strict=True)
        (line,) = axis.plot([int(k) for k in ks], [e["pass_at_k"][k] for k in ks], marker="o", label=e["benchmark"])
        axis.fill_between([int(k) for k in ks], low, high, color=line.get_color(), alpha=0.15)
    axis.set_xscale("log", base=2)
    axis.set_xticks([int(k) for k in ks], ks)
    axis.set_xlabel("k")
    axis.set_ylabel("pass@k")
    axis.legend(frameon=False)
    page.page(
        path,
        f"Evaluation of {evaluation['name']}",
        f"Policy {evaluation['policy_id']}, {evaluations[0]['n']} samples a problem.",
        page.table(
            [
                "benchmark",
                "problems",
                f"avg@{evaluations[0]['n']}",
                "95 % interval",
                *(f"pass@{k}" for k in ks),
                "cut",
                "tokens",
                "different solutions",
            ],
            [
                [
                    e["benchmark"],
                    e["problems"],
                    e["avg"],
                    "{:.3f} to {:.3f}".format(*e["avg_interval"]),
                    *(e["pass_at_k"][k] for k in ks),
                    e["truncation_rate"],
                    e["mean_tokens"],
                    e["distinct_correct"],
                ]
                for e in evaluations
            ],
        ),
        page.figure(drawing, "pass@k with 95 % bootstrap intervals over problems."),
    )
