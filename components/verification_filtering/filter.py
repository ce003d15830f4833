"""Verification filtering: from all trajectories of an iteration to the expert set for RFT.

Gates, in order: graded correct again, finished with EOS, on a hard problem, not the same text again, and
within the cap of its problem. Two passes over the table, so that memory does not grow with completions.
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.shared import page
from components.shared.batches import batches
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow, GradingSettings
from components.shared.schema import TRAJECTORIES, count_rows, read_batches, read_rows, table_writer
from components.shared.stage import Progress, result, write_json
from components.verification_filtering.diversity import Sketch, most_different, sketch, solution_text
from components.verification_filtering.settings import FilterSettings

_BATCH = 2048
# The gates in order: why a trajectory is left out, in the words of the report.
GATES = {
    "not_scorable": "the verifier could not judge it",
    "not_correct": "wrong",
    "not_finished": "cut before it ended",
    "not_hard": "the problem is solved too often",
    "duplicate": "the same solution of the problem again",
    "over_cap": "enough different solutions of the problem kept",
}


def filter_trajectories(
    trajectories: str | Path,
    problems: str | Path,
    settings: FilterSettings,
    grading: GradingSettings,
    *,
    experts_out: str | Path,
    dropped_out: str | Path,
    report_out: str | Path,
    page_out: str | Path,
) -> dict[str, float]:
    """Filters an iteration's trajectories.

    Args:
        trajectories: folder with the harvested trajectories.
        problems: folder with the training problems.
        settings: the recipe's `filter` section.
        grading: the recipe's `grading` section.
        experts_out: folder to make, with `experts.parquet`.
        dropped_out: folder to make, with `dropped.parquet`: the rest, with `dropped_because`.
        report_out: JSON file to write: the count at every gate.
        page_out: the same as an HTML page.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: no trajectory passes; the message says which gate let none through.
    """
    judged = {row["problem_id"]: (row["verifier"], row["answer"]) for row in read_rows(problems)}
    reasons: list[str | None] = []
    verdicts: list[bool | None] = []
    candidates: defaultdict[str, list[tuple[int, int, Sketch]]] = defaultdict(list)  # row, step, sketch
    seen: defaultdict[str, set[int]] = defaultdict(set)
    columns = ["problem_id", "step", "completion", "finish_reason", "success_rate"]
    progress = Progress(count_rows(trajectories), "trajectories graded")
    with Grader(grading) as grader:
        for batch in batches(read_rows(trajectories, columns), _BATCH):
            for row, verdict in zip(batch, _grade(batch, judged, grader, trajectories), strict=True):
                reason = _reason(row, verdict, settings)
                if reason is None:
                    # Texts are compared by hash within a problem: a set of texts would hold every completion.
                    text = hash(solution_text(row["completion"]))
                    if text in seen[row["problem_id"]]:
                        reason = "duplicate"
                    else:
                        seen[row["problem_id"]].add(text)
                        candidates[row["problem_id"]].append((len(reasons), row["step"], sketch(row["completion"])))
                reasons.append(reason)
                verdicts.append(verdict)
            progress.advance(len(batch))
        timed_out = grader.timed_out
    for rows in candidates.values():
        kept = set(most_different([(step, text) for _, step, text in rows], settings.max_per_problem))
        for index, (row_number, _, _) in enumerate(rows):
            if index not in kept:
                reasons[row_number] = "over_cap"

    report = _report(reasons, candidates, settings, timed_out)
    _check_not_empty(report)
    _split(trajectories, reasons, verdicts, Path(experts_out), Path(dropped_out))
    write_json(report_out, report)
    _write_page(page_out, report)
    result(f"{report['experts']} experts of {report['problems']} problems, from {len(reasons)} trajectories")
    return {
        "trajectories": len(reasons),
        "experts": report["experts"],
        "expert_problems": report["problems"],
        "grading_timed_out": timed_out,
        **{f"dropped_{gate['gate']}": gate["dropped"] for gate in report["funnel"]},
    }


def _grade(
    batch: list[dict[str, Any]], judged: dict[str, tuple[str, str]], grader: Grader, trajectories: str | Path
) -> list[bool | None]:
    rows = []
    for row in batch:
        if row["problem_id"] not in judged:
            raise InputError(f"{trajectories}: problem {row['problem_id']} is not among the training problems")
        rows.append(GradingRow(*judged[row["problem_id"]], row["completion"]))
    return grader.grade(rows)


def _reason(row: dict[str, Any], verdict: bool | None, settings: FilterSettings) -> str | None:
    if verdict is None or row["success_rate"] is None:
        return "not_scorable"
    if not verdict:
        return "not_correct"
    if row["finish_reason"] != "stop":
        return "not_finished"
    # The rate is stored in single precision, so a rate of exactly the threshold may lie a hair above it.
    if row["success_rate"] > settings.max_success_rate + 1e-6:
        return "not_hard"
    return None


def _report(
    reasons: list[str | None],
    candidates: dict[str, list[tuple[int, int, Sketch]]],
    settings: FilterSettings,
    timed_out: int,
) -> dict[str, Any]:
    dropped = Counter(reasons)
    left, funnel = len(reasons), []
    for gate, why in GATES.items():
        left -= dropped[gate]
        funnel.append({"gate": gate, "because": why, "dropped": dropped[gate], "left": left})
    steps = Counter(step for rows in candidates.values() for number, step, _ in rows if reasons[number] is None)
    return {
        "trajectories": len(reasons),
        "experts": left,
        "problems": len(candidates),
        "timed_out": timed_out,
        "funnel": funnel,
        "experts_by_step": [{"step": step, "experts": count} for step, count in sorted(steps.items())],
        "settings": settings.model_dump(),
    }


def _check_not_empty(report: dict[str, Any]) -> None:
    if report["experts"]:
        return
    remedies = {
        "not_scorable": "check the gold answers and the verifier",
        "not_correct": "RL never solved a problem: choose easier problems, more steps or a stronger base policy",
        "not_finished": "raise rl.max_completion_tokens",
        "not_hard": f"raise filter.max_success_rate (now {report['settings']['max_success_rate']}), or give harder "
        f"problems",
    }
    counts = ", ".join(f"{gate['dropped']} {gate['because']}" for gate in report["funnel"] if gate["dropped"])
    last = next(gate for gate in report["funnel"] if gate["left"] == 0)
    raise InputError(
        f"no trajectory is left for RFT. Of {report['trajectories']}: {counts}. The gate {last['gate']!r} emptied the "
        f"set; {remedies[last['gate']]}"
    )


def _split(
    trajectories: str | Path,
    reasons: list[str | None],
    verdicts: list[bool | None],
    experts_out: Path,
    dropped_out: Path,
) -> None:
    """Second pass: writes each trajectory with its new verdict to the one table or the other."""
    start = 0
    with (
        table_writer(experts_out / "experts.parquet", TRAJECTORIES) as experts,
        table_writer(dropped_out / "dropped.parquet", TRAJECTORIES) as dropped,
    ):
        for batch in read_batches(trajectories):
            end = start + batch.num_rows
            columns = {name: batch[name] for name in TRAJECTORIES.names}
            columns["verdict"] = pa.array(verdicts[start:end], pa.bool_())
            columns["dropped_because"] = pa.array(reasons[start:end], pa.string())
            table = pa.table(columns, schema=TRAJECTORIES)
            keep = pa.array([reason is None for reason in reasons[start:end]])
            experts.write_batch(table.filter(keep))
            dropped.write_batch(table.filter(pc.invert(keep)))
            start = end


def _write_page(path: str | Path, report: dict[str, Any]) -> None:
    drawing, (funnel, steps) = page.new_figure(10, 3.2, columns=2)
    names = ["trajectories", *(gate["gate"].replace("_", " ") for gate in report["funnel"])]
    left = [report["trajectories"], *(gate["left"] for gate in report["funnel"])]
    funnel.barh(["all", *(f"after '{name}'" for name in names[1:])], left)
    funnel.invert_yaxis()
    funnel.set_xlabel("trajectories left")
    steps.bar([s["step"] for s in report["experts_by_step"]], [s["experts"] for s in report["experts_by_step"]])
    steps.set_xlabel("RL step they were sampled at")
    steps.set_ylabel("experts")
    page.page(
        path,
        "Verification filtering",
        f"{report['experts']:,} experts of {report['problems']:,} problems, from {report['trajectories']:,} "
        "trajectories.",
        page.figure(drawing, "What each gate left, and which steps the experts come from."),
        page.table(
            ["gate", "left out because", "left out", "left"],
            [[g["gate"].replace("_", " "), g["because"], g["dropped"], g["left"]] for g in report["funnel"]],
        ),
    )
