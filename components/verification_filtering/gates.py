"""The gates that a trajectory has to pass to become an expert, and the decision about each trajectory."""

from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.shared.data.ngrams import solution_text
from components.shared.grading import reason_kind
from components.verification_filtering.diversity import keep_most_different
from components.verification_filtering.settings import FilterSettings

# The gates in order, each with the reason for which it drops a trajectory: the name is stored, the text is for display.
GATES = {
    "not_scorable": "the verifier could not grade it",
    "not_finished": "truncated before it ended",
    "not_correct": "wrong",
    "not_hard": "the problem is solved too often",
    "duplicate": "duplicate solution of the problem",
    "over_cap": "the problem has enough distinct solutions already",
}
_GATE_NAMES = tuple(GATES)
_GATE_NUMBERS = {name: number for number, name in enumerate(_GATE_NAMES)}
_KEPT = -1


class Decisions:
    """Which trajectories are kept and which gate drops the others, in the order of the table.

    Holds a byte per trajectory and 24 more per correct one on a hard problem, no completions.

    Attributes:
        reasons: number of trajectories by kind of verdict reason.

    Args:
        settings: the recipe's `filter` section.
    """

    def __init__(self, settings: FilterSettings) -> None:
        self.reasons: Counter[str] = Counter()
        self._settings = settings
        self._gates = array("b")  # the number of the gate that drops the trajectory, or _KEPT
        # Those that pass the gates that look at one trajectory at a time:
        self._rows, self._problems, self._steps = array("q"), array("i"), array("i")
        self._solutions = array("q")  # hashes: the texts together are too large
        self._problem_numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._gates)

    def add(self, row: dict[str, Any], correct: bool | None, reason: str) -> None:
        """Decides about the next trajectory by the gates that look at one trajectory at a time.

        Args:
            row: of the trajectories.
            correct: the verdict, as graded anew.
            reason: of the verdict.
        """
        gate = _gate(row, correct, self._settings)
        if gate is None:
            self._rows.append(len(self))
            self._problems.append(self._problem_numbers.setdefault(row["problem_id"], len(self._problem_numbers)))
            self._steps.append(row["step"])
            self._solutions.append(hash(solution_text(row["completion"])))
        self._gates.append(_KEPT if gate is None else _GATE_NUMBERS[gate])
        self.reasons[reason_kind(reason)] += 1

    def drop_duplicates(self) -> None:
        """Keeps the first of a problem's identical solutions, if the settings say so."""
        if not self._settings.drop_duplicates:
            return
        problems, solutions = np.asarray(self._problems), np.asarray(self._solutions)
        order = np.lexsort((solutions, problems))  # keeps the order of equal ones
        again = (np.diff(problems[order]) == 0) & (np.diff(solutions[order]) == 0)
        gates, rows = np.asarray(self._gates), np.asarray(self._rows)
        gates[rows[order[1:][again]]] = _GATE_NUMBERS["duplicate"]

    def apply_cap(self, trajectories: str | Path, folder: Path) -> None:
        """Keeps at most `max_per_problem` trajectories per problem: the most different ones, early ones first.

        Args:
            trajectories: folder with the trajectories.
            folder: for temporary files.
        """
        limit = self._settings.max_per_problem
        candidates, problems, steps = self._candidates()
        over = np.bincount(problems, minlength=1)[problems] > limit
        candidates, problems, steps = candidates[over], problems[over], steps[over]
        if limit and len(candidates):
            order = np.lexsort((steps, problems))
            kept = keep_most_different(trajectories, candidates[order], problems[order], limit, folder)
            np.asarray(self._gates)[candidates[order][~kept]] = _GATE_NUMBERS["over_cap"]

    def _candidates(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Row, problem number and RL step of each trajectory that no gate has dropped so far."""
        rows = np.asarray(self._rows)
        left = np.asarray(self._gates)[rows] == _KEPT
        return rows[left], np.asarray(self._problems)[left], np.asarray(self._steps)[left]

    def dropped_because(self, start: int, end: int) -> list[str | None]:
        """The names of the gates that drop the trajectories from row `start` up to but not including `end`."""
        return [None if gate == _KEPT else _GATE_NAMES[gate] for gate in self._gates[start:end]]

    def counts(self) -> dict[str, Any]:
        """The counts of the stage's report: all trajectories, those left after each gate, and the experts."""
        dropped = Counter(self._gates)
        left, funnel = len(self), []
        for gate, because in GATES.items():
            count = dropped[_GATE_NUMBERS[gate]]
            left -= count
            funnel.append({"gate": gate, "because": because, "dropped": count, "left": left})
        steps = Counter(self._candidates()[2].tolist())
        return {
            "trajectories": len(self),
            "experts": left,
            "problems": len(self._problem_numbers),
            "funnel": funnel,
            "experts_by_step": [{"step": step, "experts": count} for step, count in sorted(steps.items())],
        }


def _gate(row: dict[str, Any], correct: bool | None, settings: FilterSettings) -> str | None:
    """The first gate that drops a trajectory regardless of the others; None if it passes."""
    if correct is None or row["success_rate"] is None:
        return "not_scorable"
    if row["finish_reason"] != "stop":
        return "not_finished"
    if not correct:
        return "not_correct"
    # The rate is stored in single precision, so a rate equal to the threshold may be slightly above it.
    if row["success_rate"] > settings.max_success_rate + 1e-6:
        return "not_hard"
    return None
