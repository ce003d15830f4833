"""Rollout harvesting: merges the rollout shards of all steps and ranks into one table of trajectories.

Streams the data: a first pass over a few columns counts per problem, a second one writes the rows. Incomplete and
duplicate shards are detected, set aside and counted.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.rollout_harvesting.similarity import SimilarityTally
from components.shared.data.schema import ROLLOUT_STEPS, ROLLOUTS, TRAJECTORIES, read_batches, table_writer, write_table
from components.shared.errors import InputError
from components.shared.reporting import page
from components.shared.stage import Progress, read_json, result, write_json

_Counts = dict[tuple[str, int], tuple[int, int]]  # (problem, step) -> scorable samples, correct ones
_SHARD = re.compile(r"step-(\d+)-rank-(\d+).*\.parquet")

SUCCESS_RATES = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("samples", pa.int32(), nullable=False),  # scorable samples
        pa.field("correct", pa.int32(), nullable=False),
        pa.field("success_rate_so_far", pa.float32(), nullable=False),  # of the problem, up to and including this step
    ]
)


def harvest(
    rollouts: str | Path,
    *,
    trajectories_out: str | Path,
    success_rates_out: str | Path,
    report_out: str | Path,
    page_out: str | Path,
) -> dict[str, float]:
    """Merges an iteration's rollout shards into a table of trajectories.

    Args:
        rollouts: folder of rollout shards.
        trajectories_out: folder to make, with `trajectories.parquet`: the rollouts in order of step and
            rank, with the `verdict` that follows from the reward and the problem's `success_rate` over the iteration.
        success_rates_out: folder to make, with `success_rates.parquet`: one row per problem and step at which it was
            sampled.
        report_out: JSON file to write.
        page_out: HTML file to write: the report as a page.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: there is no complete shard.
    """
    shards, report = _complete_shards(Path(rollouts))
    counts = _count(shards)
    totals = _totals(counts)
    rates = {problem: correct / samples for problem, (samples, correct) in totals.items() if samples}
    written, similarity = _write_trajectories(shards, rates, Path(trajectories_out) / "trajectories.parquet")
    write_table(Path(success_rates_out) / "success_rates.parquet", SUCCESS_RATES, _success_rates(counts))

    correct = sum(c for _, c in totals.values())
    report |= {
        "trajectories": written,
        "correct": correct,
        "not_scorable": written - sum(n for n, _ in totals.values()),
        "problems": len(totals),
        "never_solved": sum(rate == 0 for rate in rates.values()),
        "always_solved": sum(rate == 1 for rate in rates.values()),
        "missing_steps": _missing(Path(rollouts), {step for _, step in counts}),
        "success_rate_histogram": _histogram(rates),
        "by_step": _by_step(counts),
        "distinct_correct": similarity.distinct_solutions(),
        "similarity_by_step": similarity.by_step(),
    }
    write_json(report_out, report)
    _write_page(page_out, report)
    set_aside = report["duplicate_shards"] + report["incomplete_shards"]
    result(
        f"{written} trajectories for {len(totals)} problems, {correct} correct"
        + (f"; {len(set_aside)} shards set aside" if set_aside else "")
    )
    keys = ("trajectories", "correct", "problems", "never_solved", "always_solved")
    return {key: report[key] for key in keys} | {"shards_set_aside": len(set_aside)}


def _complete_shards(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    """The shards to use, in order of step and rank, and a report of those set aside."""
    incomplete = [f"{file.name}: left unfinished by a killed writer" for file in sorted(folder.glob(".*.tmp"))]
    found: defaultdict[tuple[int, int], list[Path]] = defaultdict(list)
    for file in sorted(folder.glob("*.parquet")):
        match = _SHARD.fullmatch(file.name)
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            incomplete.append(f"{file.name}: {str(error).splitlines()[0]}")
            continue
        if match is None or not schema.equals(ROLLOUTS):
            raise InputError(f"{file}: not a rollout shard; expected step-S-rank-R.parquet with the rollout columns")
        found[int(match[1]), int(match[2])].append(file)
    if not found:
        raise InputError(
            f"{folder} has no complete rollout shard ({len(incomplete)} unfinished); run exploration again"
        )
    duplicates, shards = [], []
    for step, rank in sorted(found):
        # A step that one rank sampled twice was repeated after a crash; training used the last samples.
        *older, newest = sorted(found[step, rank], key=_sampled_at)
        duplicates += [f"{file.name}: step {step}, rank {rank} was sampled again in {newest.name}" for file in older]
        shards.append(newest)
    return shards, {"shards": len(shards), "duplicate_shards": duplicates, "incomplete_shards": incomplete}


def _missing(folder: Path, steps: set[int]) -> list[int]:
    """Steps without rollouts. A later segment of a long RL run does not begin with step 0."""
    if (file := folder / ROLLOUT_STEPS).is_file():
        of_segment = read_json(file)
        return sorted(set(range(of_segment["first"], of_segment["end"])) - steps)
    return sorted(set(range(min(steps), max(steps))) - steps) if steps else []


def _sampled_at(shard: Path) -> Any:
    return pc.max(pq.read_table(shard, columns=["sampled_at"])["sampled_at"]).as_py()


def _count(shards: list[Path]) -> _Counts:
    """Scorable and correct samples by problem and step."""
    counts: defaultdict[tuple[str, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for shard in shards:
        table = pq.read_table(shard, columns=["problem_id", "step", "reward"])
        grouped = table.group_by(["problem_id", "step"]).aggregate([("reward", "count"), ("reward", "sum")])
        for row in grouped.to_pylist():
            samples, correct = counts[row["problem_id"], row["step"]]
            counts[row["problem_id"], row["step"]] = (
                samples + row["reward_count"],
                correct + int(row["reward_sum"] or 0),
            )
    return dict(counts)


def _totals(counts: _Counts) -> dict[str, tuple[int, int]]:
    """Scorable and correct samples by problem."""
    totals: dict[str, tuple[int, int]] = {}
    for (problem, _), (samples, correct) in counts.items():
        total, right = totals.get(problem, (0, 0))
        totals[problem] = total + samples, right + correct
    return totals


def _write_trajectories(shards: list[Path], rates: dict[str, float], path: Path) -> tuple[int, SimilarityTally]:
    """Writes the rollouts with the success rate of their problem.

    Returns:
        Number of rows, and the tally of their correct ones.
    """
    progress, similarity = Progress(len(shards), "shards"), SimilarityTally()
    with table_writer(path, TRAJECTORIES) as writer:
        for shard in shards:
            for batch in read_batches(shard):
                table = _with_success_rate(batch, rates)
                writer.write_batch(table)
                correct = table.filter(pc.fill_null(table["verdict"], False))
                for row in correct.select(["problem_id", "step", "completion"]).to_pylist():
                    similarity.add(row["problem_id"], row["step"], row["completion"])
            progress.advance()
    return writer.written, similarity


def _with_success_rate(batch: pa.RecordBatch, rates: dict[str, float]) -> pa.Table:
    columns = {name: batch[name] for name in ROLLOUTS.names}
    columns["verdict"] = pc.greater(batch["reward"], 0)
    columns["verdict_reason"] = pa.nulls(batch.num_rows, pa.string())
    columns["success_rate"] = pa.array([rates.get(p) for p in batch["problem_id"].to_pylist()], pa.float32())
    columns["dropped_because"] = pa.nulls(batch.num_rows, pa.string())
    return pa.table(columns, schema=TRAJECTORIES)


def _success_rates(counts: _Counts) -> Iterator[dict[str, Any]]:
    """The rows of the table of success rates."""
    so_far: dict[str, tuple[int, int]] = {}
    for problem, step in sorted(counts):
        samples, correct = counts[problem, step]
        total, right = so_far.get(problem, (0, 0))
        so_far[problem] = total, right = total + samples, right + correct
        yield {
            "problem_id": problem,
            "step": step,
            "samples": samples,
            "correct": correct,
            "success_rate_so_far": right / total if total else 0.0,
        }


def _histogram(rates: dict[str, float]) -> list[int]:
    """Number of problems by success rate, in ten equal bins from 0 to 1."""
    bins = [0] * 10
    for rate in rates.values():
        bins[min(int(rate * 10), 9)] += 1
    return bins


def _by_step(counts: _Counts) -> list[dict[str, Any]]:
    by_step: dict[int, list[int]] = {}
    for (_, step), (samples, correct) in counts.items():
        total = by_step.setdefault(step, [0, 0, 0])
        total[0] += samples
        total[1] += correct
        total[2] += correct > 0
    return [
        {"step": step, "samples": n, "correct": c, "problems_solved": solved}
        for step, (n, c, solved) in sorted(by_step.items())
    ]


def _write_page(path: str | Path, report: dict[str, Any]) -> None:
    drawing, (rates, steps, similar) = page.new_figure(13, 3.2, columns=3)
    rates.bar([(i + 0.5) / 10 for i in range(10)], report["success_rate_histogram"], width=0.09)
    rates.set_xlabel("success rate over the iteration")
    rates.set_ylabel("problems")
    steps.plot([s["step"] for s in report["by_step"]], [s["correct"] for s in report["by_step"]])
    steps.set_xlabel("RL step")
    steps.set_ylabel("correct rollouts")
    for name in ("within_step", "between_steps"):
        points = [(s["step"], s[name]) for s in report["similarity_by_step"] if s[name] is not None]
        similar.plot([step for step, _ in points], [value for _, value in points], label=name.replace("_", " "))
    similar.set_xlabel("RL step")
    similar.set_ylabel("similarity of correct rollouts")
    similar.legend(frameon=False, fontsize=8)
    set_aside = report["duplicate_shards"] + report["incomplete_shards"]
    names = ("shards", "trajectories", "correct", "not_scorable", "problems", "never_solved", "always_solved")
    page.page(
        path,
        "Rollout harvesting",
        f"{report['trajectories']:,} trajectories for {report['problems']:,} problems, {report['correct']:,} correct.",
        page.figure(
            drawing,
            "How often each problem was solved, when the correct rollouts were sampled, and how similar those of the "
            "same problem are (Jaccard similarity of token trigrams), within a step and to the previous step.",
        ),
        page.table(
            ["", "count"],
            [
                *([name.replace("_", " "), report[name]] for name in names),
                ["distinct correct solutions per solved problem", report["distinct_correct"]],
            ],
        ),
        page.heading("Shards set aside") + page.preformatted("\n".join(set_aside)) if set_aside else "",
    )
