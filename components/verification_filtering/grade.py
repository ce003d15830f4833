"""Grades the trajectories again, batch by batch; a restarted stage resumes after the batches it has already graded."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.shared.data.batches import batches
from components.shared.data.schema import count_rows, read_rows, write_table
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow, Verdict
from components.shared.progress.checkpoints import Checkpoints
from components.shared.stage import Progress, note

_BATCH = 2048
_COLUMNS = ["problem_id", "step", "completion", "finish_reason", "success_rate"]
_VERDICTS = pa.schema(
    [
        pa.field("correct", pa.bool_()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("why", pa.string(), nullable=False),  # the reason, with what was compared and how
    ]
)


class TrajectoryGrading:
    """Grades trajectories.

    Args:
        trajectories: folder with the harvested trajectories.
        problems: folder with the training problems.
        grader: of the answers.
    """

    def __init__(self, trajectories: str | Path, problems: str | Path, grader: Grader) -> None:
        self._trajectories, self._grader = trajectories, grader
        self._gold = {row["problem_id"]: (row["verifier"], row["answer"]) for row in read_rows(problems)}
        self._graded, self._seconds = 0, 0.0

    @property
    def answers_per_second(self) -> int:
        """Speed of this attempt's grading; 0 if an earlier attempt had graded everything."""
        return round(self._graded / self._seconds) if self._graded else 0

    def verdicts(self, checkpoints: Checkpoints, folder: Path) -> Iterator[tuple[dict[str, Any], bool | None, str]]:
        """Yields each trajectory with its verdict and the verdict's reason, in order of the table.

        Args:
            checkpoints: where graded batches are saved and those of an earlier attempt are.
            folder: for the verdicts, one file per batch; `saved_verdicts` reads them.

        Raises:
            InputError: a trajectory's problem is not among the training problems.
        """
        done = set(checkpoints.restore_shards(folder))
        if done:
            note(f"resuming with {len(done)} graded batches of an earlier attempt")
        progress = Progress(count_rows(self._trajectories), "trajectories graded")
        for number, batch in enumerate(batches(read_rows(self._trajectories, _COLUMNS), _BATCH)):
            shard = folder / f"verdicts-{number:06d}.parquet"
            if shard.name not in done:
                verdicts = self._grade(batch)
                write_table(
                    shard, _VERDICTS, ({"correct": v.correct, "reason": v.reason, "why": v.why} for v in verdicts)
                )
                checkpoints.add(shard)
            for row, verdict in zip(batch, read_rows(shard, ["correct", "reason"]), strict=True):
                yield row, verdict["correct"], verdict["reason"]
            progress.advance(len(batch))

    def _grade(self, batch: list[dict[str, Any]]) -> list[Verdict]:
        rows = []
        began = time.monotonic()
        for row in batch:
            if row["problem_id"] not in self._gold:
                raise InputError(
                    f"{self._trajectories}: problem {row['problem_id']} is not among the training problems; give the "
                    f"problems that exploration used"
                )
            rows.append(GradingRow(*self._gold[row["problem_id"]], row["completion"], row["finish_reason"] != "stop"))
        verdicts = self._grader.judge(rows)
        self._seconds += time.monotonic() - began
        self._graded += len(batch)
        return verdicts


def saved_verdicts(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the verdicts (`correct`, `reason`, `why`) that `TrajectoryGrading.verdicts` has put into a folder."""
    return read_rows(folder)
