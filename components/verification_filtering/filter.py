"""Verification filtering: selects the expert set for RFT from all trajectories of an iteration.

A trajectory passes if it is scorable, ended with EOS, is graded correct again, solves a hard problem, is no duplicate,
and is within its problem's cap. Makes three passes over the table (grade, compare, write), so that memory does not grow
with the completions.
"""

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.shared.data.schema import (
    EARLIER,
    TRAJECTORIES,
    count_rows,
    earlier_expert_files,
    parquet_files,
    read_batches,
    read_rows,
    table_writer,
)
from components.shared.errors import InputError
from components.shared.grading import FAILED, HEDGED, TIMED_OUT, TRUNCATED, UNSCORABLE, Grader, GradingSettings
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.reporting import page
from components.shared.stage import whole_file, write_json
from components.verification_filtering.gates import Decisions
from components.verification_filtering.grade import TrajectoryGrading, saved_verdicts
from components.verification_filtering.settings import FilterSettings

# The verdict reasons that the report counts, by key.
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
    """Filters an iteration's trajectories; resumes if an earlier attempt at the same was stopped.

    Args:
        trajectories: folder with the harvested trajectories.
        problems: folder with the training problems.
        settings: the recipe's `filter` section.
        grading: the recipe's `grading` section.
        experts_out: folder to make, with `experts.parquet`.
        dropped_out: folder to make, with `dropped.parquet`: the rest, with `dropped_because`.
        report_out: JSON file to write: the count at every gate.
        page_out: HTML file to write: the same as a page.
        earlier_experts: folder with the previous iteration's experts, which are passed on with the earlier ones in it.
        checkpointing: where progress is kept.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: no trajectory passes; the message names the gate that dropped the most.
    """
    outputs = Outputs(
        {"experts": experts_out, "dropped": dropped_out, "report": report_out, "page": page_out},
        settings.model_dump(),
        [earlier_experts] if earlier_experts else [],
    )
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (verdicts := work / "verdicts").mkdir()
        decisions = Decisions(settings)
        with (
            Checkpoints(
                checkpointing, "verification_filtering", grading.model_dump(), [trajectories, problems]
            ) as earlier,
            Grader(grading) as grader,
        ):
            if (figures := earlier.hand_over(outputs)) is not None:
                return figures
            graded = TrajectoryGrading(trajectories, problems, grader)
            for row, correct, reason in graded.verdicts(earlier, verdicts):
                decisions.add(row, correct, reason)
        decisions.drop_duplicates()
        decisions.apply_cap(trajectories, work)

        report = {
            **decisions.counts(),
            "settings": settings.model_dump(),
            "grading": _grading_report(decisions, graded.answers_per_second),
        }
        if not (earlier_experts and _expert_files(Path(earlier_experts))):
            _check_not_empty(report)
        report["experts_by_success_rate"] = _split(
            trajectories, verdicts, decisions, Path(experts_out), Path(dropped_out)
        )
    report["earlier_experts"] = _pass_on(Path(earlier_experts), Path(experts_out)) if earlier_experts else 0
    write_json(report_out, report)
    _write_page(page_out, report)
    figures = _figures(report)
    earlier.finish(outputs, figures, _summary(report))
    return figures


def _grading_report(decisions: Decisions, answers_per_second: int) -> dict[str, Any]:
    return {
        "answers_per_second": answers_per_second,
        **{name: decisions.reasons[reason] for name, reason in _COUNTED.items()},
        "failed_share": decisions.reasons[FAILED] / max(1, len(decisions)),
        "reasons": dict(decisions.reasons.most_common()),
    }


def _check_not_empty(report: dict[str, Any]) -> None:
    if report["experts"]:
        return
    remedies = {
        "not_scorable": "check the gold answers and the verifier",
        "not_correct": "RL never solved a problem: choose easier problems, more steps or a stronger base policy",
        "not_finished": "raise rl.max_completion_tokens",
        "not_hard": f"raise filter.max_success_rate (now {report['settings']['max_success_rate']}), or use harder "
        f"problems",
    }
    counts = ", ".join(f"{gate['because']} ({gate['dropped']})" for gate in report["funnel"] if gate["dropped"])
    most = max(report["funnel"], key=lambda gate: int(gate["dropped"]))
    raise InputError(
        f"no trajectory is left for RFT. Of {report['trajectories']}: {counts}. The gate {most['gate']!r} "
        f"dropped the most; {remedies[most['gate']]}"
    )


def _split(
    trajectories: str | Path, verdicts: Path, decisions: Decisions, experts_out: Path, dropped_out: Path
) -> list[int]:
    """Last pass: writes each trajectory, with its new verdict, to the table of experts or of dropped ones.

    Returns:
        Number of experts by the success rate of their problem, in ten equal bins from 0 to 1.
    """
    start, by_rate, saved = 0, [0] * 10, saved_verdicts(verdicts)
    with (
        table_writer(experts_out / "experts.parquet", TRAJECTORIES) as experts,
        table_writer(dropped_out / "dropped.parquet", TRAJECTORIES) as dropped,
    ):
        for batch in read_batches(trajectories):
            end = start + batch.num_rows
            graded = list(itertools.islice(saved, batch.num_rows))
            columns = {name: batch[name] for name in TRAJECTORIES.names} | {
                "verdict": pa.array([verdict["correct"] for verdict in graded], pa.bool_()),
                "verdict_reason": pa.array([verdict["why"] for verdict in graded], pa.string()),
                "dropped_because": pa.array(decisions.dropped_because(start, end), pa.string()),
            }
            table = pa.table(columns, schema=TRAJECTORIES)
            keep = pc.is_null(table["dropped_because"])
            kept = table.filter(keep)
            for rate in kept["success_rate"].to_pylist():
                by_rate[min(int(rate * 10 + 1e-6), 9)] += 1
            experts.write_batch(kept)
            dropped.write_batch(table.filter(pc.invert(keep)))
            start = end
    return by_rate


def _pass_on(before: Path, experts_out: Path) -> int:
    """Copies the experts of earlier iterations next to this one's, one file per iteration; returns their number."""
    files = _expert_files(before)
    for name, file in files.items():
        with whole_file(experts_out / EARLIER / name) as temporary:
            shutil.copyfile(file, temporary)
    return sum(map(count_rows, files.values()))


def _expert_files(experts: Path) -> dict[str, Path]:
    """An iteration's experts and the earlier ones passed on to it, by the names under which they are passed on."""
    (own,) = parquet_files(experts)
    files = {file.name: file for file in earlier_expert_files(experts)}
    first = next(iter(read_rows(own, ["iteration"])), None)  # an iteration may have no experts of its own
    return files if first is None else {f"iteration-{first['iteration']}.parquet": own, **files}


def _figures(report: dict[str, Any]) -> dict[str, float]:
    """The report's counts as KFP metrics."""
    return {
        "trajectories": report["trajectories"],
        "experts": report["experts"],
        "expert_problems": report["problems"],
        "earlier_experts": report["earlier_experts"],
        **{f"grading_{name}": report["grading"][name] for name in ("answers_per_second", "failed_share", *_COUNTED)},
        **{f"dropped_{gate['gate']}": gate["dropped"] for gate in report["funnel"]},
    }


def _summary(report: dict[str, Any]) -> str:
    earlier = f", and {report['earlier_experts']} from earlier iterations" if report["earlier_experts"] else ""
    return (
        f"{report['experts']} experts for {report['problems']} problems, from {report['trajectories']} "
        f"trajectories{earlier}"
    )


def _write_page(path: str | Path, report: dict[str, Any]) -> None:
    drawing, (funnel, steps) = page.new_figure(10, 3.2, columns=2)
    gates = report["funnel"]
    funnel.barh(
        ["all", *(f"after '{gate['gate'].replace('_', ' ')}'" for gate in gates)],
        [report["trajectories"], *(gate["left"] for gate in gates)],
    )
    funnel.invert_yaxis()
    funnel.set_xlabel("trajectories left")
    steps.bar([s["step"] for s in report["experts_by_step"]], [s["experts"] for s in report["experts_by_step"]])
    steps.set_xlabel("RL step at which they were sampled")
    steps.set_ylabel("experts")
    page.page(
        path,
        "Verification filtering",
        f"{report['experts']:,} experts for {report['problems']:,} problems, from {report['trajectories']:,} "
        "trajectories.",
        page.figure(drawing, "Trajectories left after each gate, and the RL steps that the experts come from."),
        page.table(
            ["gate", "reason", "dropped", "left"],
            [[gate["gate"].replace("_", " "), gate["because"], gate["dropped"], gate["left"]] for gate in gates],
        ),
        page.table(
            ["verdict reason", "trajectories"],
            [
                *([reason, count] for reason, count in report["grading"]["reasons"].items()),
                ["answers graded per second", report["grading"]["answers_per_second"]],
            ],
        ),
    )
