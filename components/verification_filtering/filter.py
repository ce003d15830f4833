"""Verification filtering: from all trajectories of an iteration to the expert set for RFT.

Gates, in order: scorable, finished with EOS, graded correct again, on a hard problem, not the same text again, and
within the cap of its problem. Two passes over the table, so that memory does not grow with completions.
"""

import shutil
import tempfile
import time
from array import array
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.shared.data.batches import batches
from components.shared.data.ngrams import Sketch, sketch, solution_text
from components.shared.data.schema import (
    EARLIER,
    TRAJECTORIES,
    count_rows,
    earlier_expert_files,
    parquet_files,
    read_batches,
    read_rows,
    table_writer,
    write_table,
)
from components.shared.errors import InputError
from components.shared.grading import (
    FAILED,
    HEDGED,
    TIMED_OUT,
    TRUNCATED,
    UNSCORABLE,
    Grader,
    GradingRow,
    GradingSettings,
    Verdict,
    reason_kind,
)
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.reporting import page
from components.shared.stage import Progress, note, whole_file, write_json
from components.verification_filtering.diversity import most_different
from components.verification_filtering.settings import FilterSettings

_BATCH = 2048
# The gates in order: why a trajectory is left out, in the words of the report.
GATES = {
    "not_scorable": "the verifier could not judge it",
    "not_finished": "cut before it ended",
    "not_correct": "wrong",
    "not_hard": "the problem is solved too often",
    "duplicate": "the same solution of the problem again",
    "over_cap": "enough different solutions of the problem kept",
}
_GATE_NAMES = tuple(GATES)
_GATE_NUMBERS = {name: number for number, name in enumerate(_GATE_NAMES)}
_KEPT = -1
_VERDICTS = pa.schema(
    [
        pa.field("correct", pa.bool_()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("why", pa.string(), nullable=False),  # the reason with what was compared and how
    ]
)
# What the report counts of the reasons for verdicts.
_COUNTED = {
    "timed_out": TIMED_OUT,
    "failed": FAILED,
    "not_scorable": UNSCORABLE,
    "hedged": HEDGED,
    "truncated": TRUNCATED,
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
    earlier_experts: str | Path | None = None,
    checkpointing: CheckpointSettings = NOWHERE,
) -> dict[str, float]:
    """Filters an iteration's trajectories; goes on where an earlier attempt at the same was stopped.

    Args:
        trajectories: folder with the harvested trajectories.
        problems: folder with the training problems.
        settings: the recipe's `filter` section.
        grading: the recipe's `grading` section.
        experts_out: folder to make, with `experts.parquet`.
        dropped_out: folder to make, with `dropped.parquet`: the rest, with `dropped_because`.
        report_out: JSON file to write: the count at every gate.
        page_out: the same as an HTML page.
        earlier_experts: folder of the iteration before, whose experts, earlier ones included, are handed on.
        checkpointing: where progress is kept.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: no trajectory passes; the message says which gate let none through.
    """
    judged = {row["problem_id"]: (row["verifier"], row["answer"]) for row in read_rows(problems)}
    gates = array("b")  # of each trajectory: the gate that left it out, or _KEPT; a byte each
    verdicts = array("b")  # of each trajectory: 1 right, 0 wrong, -1 not scorable
    whys, why_numbers = array("I"), dict[str, int]()  # of each trajectory: why, as a number; many have the same
    candidates: defaultdict[str, list[tuple[int, int, Sketch]]] = defaultdict(list)  # row, step, sketch
    seen: defaultdict[str, set[int]] = defaultdict(set)
    columns = ["problem_id", "step", "completion", "finish_reason", "success_rate"]
    progress = Progress(count_rows(trajectories), "trajectories graded")
    grading_seconds, fresh = 0.0, 0
    reasons: Counter[str] = Counter()
    outputs = Outputs(
        {"experts": experts_out, "dropped": dropped_out, "report": report_out, "page": page_out},
        settings.model_dump(),
        [earlier_experts] if earlier_experts else [],
    )
    with (
        tempfile.TemporaryDirectory() as work,
        Checkpoints(checkpointing, "verification_filtering", grading.model_dump(), [trajectories, problems]) as earlier,
        Grader(grading) as grader,
    ):
        if (figures := earlier.hand_over(outputs)) is not None:
            return figures
        done = set(earlier.restore_shards(work))
        if done:
            note(f"goes on with {len(done)} batches of an earlier attempt")
        for number, batch in enumerate(batches(read_rows(trajectories, columns), _BATCH)):
            shard = Path(work) / f"verdicts-{number:06d}.parquet"
            if shard.name not in done:
                began = time.monotonic()
                graded = _grade(batch, judged, grader, trajectories)
                grading_seconds += time.monotonic() - began
                fresh += len(batch)
                write_table(
                    shard, _VERDICTS, ({"correct": v.correct, "reason": v.reason, "why": v.why} for v in graded)
                )
                earlier.add(shard)
            for row, found in zip(batch, read_rows(shard), strict=True):
                verdict = found["correct"]
                reasons[reason_kind(found["reason"])] += 1
                gate = _gate(row, verdict, settings)
                if gate is None:
                    # Texts are compared by hash within a problem: a set of texts would hold every completion.
                    text = hash(solution_text(row["completion"]))
                    if settings.drop_duplicates and text in seen[row["problem_id"]]:
                        gate = "duplicate"
                    else:
                        seen[row["problem_id"]].add(text)
                        candidates[row["problem_id"]].append((len(gates), row["step"], sketch(row["completion"])))
                gates.append(_KEPT if gate is None else _GATE_NUMBERS[gate])
                verdicts.append(-1 if verdict is None else int(verdict))
                whys.append(why_numbers.setdefault(found["why"], len(why_numbers)))
            progress.advance(len(batch))
    for rows in candidates.values():
        limit = settings.max_per_problem or len(rows)
        kept = set(most_different([(step, text) for _, step, text in rows], limit))
        for index, (row_number, _, _) in enumerate(rows):
            if index not in kept:
                gates[row_number] = _GATE_NUMBERS["over_cap"]

    report = _report(gates, candidates, settings)
    report["grading"] = {
        "answers_per_second": round(fresh / grading_seconds) if fresh else 0,
        **{name: reasons[reason] for name, reason in _COUNTED.items()},
        "failed_share": reasons[FAILED] / max(1, len(gates)),
        "reasons": dict(reasons.most_common()),
    }
    if not (earlier_experts and _expert_files(Path(earlier_experts))):
        _check_not_empty(report)
    report["experts_by_success_rate"] = _split(
        trajectories, gates, verdicts, (list(why_numbers), whys), Path(experts_out), Path(dropped_out)
    )
    handed_on = _hand_on(Path(earlier_experts), Path(experts_out)) if earlier_experts else 0
    report["earlier_experts"] = handed_on
    write_json(report_out, report)
    _write_page(page_out, report)
    also = f", and {handed_on} of earlier iterations" if handed_on else ""
    said = f"{report['experts']} experts of {report['problems']} problems, from {len(gates)} trajectories{also}"
    figures = {
        "trajectories": len(gates),
        "experts": report["experts"],
        "expert_problems": report["problems"],
        "earlier_experts": handed_on,
        **{f"grading_{name}": report["grading"][name] for name in ("answers_per_second", "failed_share", *_COUNTED)},
        **{f"dropped_{gate['gate']}": gate["dropped"] for gate in report["funnel"]},
    }
    earlier.finish(outputs, figures, said)
    return figures


def _grade(
    batch: list[dict[str, Any]], judged: dict[str, tuple[str, str]], grader: Grader, trajectories: str | Path
) -> list[Verdict]:
    rows = []
    for row in batch:
        if row["problem_id"] not in judged:
            raise InputError(f"{trajectories}: problem {row['problem_id']} is not among the training problems")
        rows.append(GradingRow(*judged[row["problem_id"]], row["completion"], row["finish_reason"] != "stop"))
    return grader.judge(rows)


def _gate(row: dict[str, Any], verdict: bool | None, settings: FilterSettings) -> str | None:
    if verdict is None or row["success_rate"] is None:
        return "not_scorable"
    if row["finish_reason"] != "stop":
        return "not_finished"
    if not verdict:
        return "not_correct"
    # The rate is stored in single precision, so a rate of exactly the threshold may lie a hair above it.
    if row["success_rate"] > settings.max_success_rate + 1e-6:
        return "not_hard"
    return None


def _hand_on(before: Path, experts_out: Path) -> int:
    """Copies experts of earlier iterations beside those of this one, a file each; returns how many they are."""
    files = _expert_files(before)
    for name, file in files.items():
        with whole_file(experts_out / EARLIER / name) as temporary:
            shutil.copyfile(file, temporary)
    return sum(map(count_rows, files.values()))


def _expert_files(experts: Path) -> dict[str, Path]:
    """An iteration's experts and those that were handed on to it, by the names under which they are handed on."""
    (own,) = parquet_files(experts)
    files = {file.name: file for file in earlier_expert_files(experts)}
    first = next(iter(read_rows(own, ["iteration"])), None)  # an iteration may have none of its own
    return files if first is None else {f"iteration-{first['iteration']}.parquet": own, **files}


def _report(
    gates: "array[int]", candidates: dict[str, list[tuple[int, int, Sketch]]], settings: FilterSettings
) -> dict[str, Any]:
    dropped = Counter(gates)
    left, funnel = len(gates), []
    for gate, why in GATES.items():
        count = dropped[_GATE_NUMBERS[gate]]
        left -= count
        funnel.append({"gate": gate, "because": why, "dropped": count, "left": left})
    steps = Counter(step for rows in candidates.values() for number, step, _ in rows if gates[number] == _KEPT)
    return {
        "trajectories": len(gates),
        "experts": left,
        "problems": len(candidates),
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
    most = max(report["funnel"], key=lambda gate: int(gate["dropped"]))
    raise InputError(
        f"no trajectory is left for RFT. Of {report['trajectories']}: {counts}. The gate {most['gate']!r} left out "
        f"most; {remedies[most['gate']]}"
    )


def _split(
    trajectories: str | Path,
    gates: "array[int]",
    verdicts: "array[int]",
    whys: tuple[list[str], "array[int]"],
    experts_out: Path,
    dropped_out: Path,
) -> list[int]:
    """Second pass: writes each trajectory with its new verdict to the one table or the other.

    Returns:
        Experts by the success rate of their problem, in ten equal bins from 0 to 1.
    """
    start, by_rate = 0, [0] * 10
    texts, numbers = whys
    with (
        table_writer(experts_out / "experts.parquet", TRAJECTORIES) as experts,
        table_writer(dropped_out / "dropped.parquet", TRAJECTORIES) as dropped,
    ):
        for batch in read_batches(trajectories):
            end = start + batch.num_rows
            columns = {name: batch[name] for name in TRAJECTORIES.names}
            columns["verdict"] = pa.array([None if v < 0 else bool(v) for v in verdicts[start:end]], pa.bool_())
            columns["verdict_reason"] = pa.array([texts[number] for number in numbers[start:end]], pa.string())
            names = [None if gate == _KEPT else _GATE_NAMES[gate] for gate in gates[start:end]]
            columns["dropped_because"] = pa.array(names, pa.string())
            table = pa.table(columns, schema=TRAJECTORIES)
            keep = pa.array([name is None for name in names])
            kept = table.filter(keep)
            for rate in kept["success_rate"].to_pylist():
                by_rate[min(int(rate * 10 + 1e-6), 9)] += 1
            experts.write_batch(kept)
            dropped.write_batch(table.filter(pc.invert(keep)))
            start = end
    return by_rate


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
            ["grading", "trajectories"],
            [
                *([reason, count] for reason, count in report["grading"]["reasons"].items()),
                ["answers a second", report["grading"]["answers_per_second"]],
            ],
        ),
        page.table(
            ["gate", "left out because", "left out", "left"],
            [[g["gate"].replace("_", " "), g["because"], g["dropped"], g["left"]] for g in report["funnel"]],
        ),
    )
