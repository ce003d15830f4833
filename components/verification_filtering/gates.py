"""The gates that a trajectory has to pass to become an expert, and the decision about each trajectory."""

from array import array
from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa

from components.shared.data.ngrams import Sketch, sketch, solution_text
from components.shared.grading import reason_kind
from components.verification_filtering.diversity import most_different
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

    Holds a few bytes per trajectory and a sketch per candidate, no completions.

    Attributes:
        reasons: number of trajectories by kind of verdict reason.

    Args:
        settings: the recipe's `filter` section.
    """

    def __init__(self, settings: FilterSettings) -> None:
        self.reasons: Counter[str] = Counter()
        self._settings = settings
        self._gates = array("b")  # the number of the gate that drops the trajectory, or _KEPT
        self._verdicts = array("b")  # 1 correct, 0 wrong, -1 not scorable
        self._why_numbers = array("I")  # index into _whys: many trajectories share an explanation
        self._whys: list[str] = []
        self._number_of_why: dict[str, int] = {}
        self._candidates: defaultdict[str, list[tuple[int, int, Sketch]]] = defaultdict(list)  # number, step, sketch
        self._seen: defaultdict[str, set[int]] = defaultdict(set)  # hashes of a problem's solutions

    def __len__(self) -> int:
        return len(self._gates)

    def add(self, row: dict[str, Any], verdict: dict[str, Any]) -> None:
        """Decides about the next trajectory by all gates but the cap.

        Args:
            row: of the trajectories.
            verdict: `correct`, `reason` and `why`, as graded anew.
        """
        correct = verdict["correct"]
        gate = _gate(row, correct, self._settings) or self._duplicate(row)
        if gate is None:
            candidate = len(self), row["step"], sketch(row["completion"])
            self._candidates[row["problem_id"]].append(candidate)
        self._gates.append(_KEPT if gate is None else _GATE_NUMBERS[gate])
        self._verdicts.append(-1 if correct is None else int(correct))
        if (why := verdict["why"]) not in self._number_of_why:
            self._number_of_why[why] = len(self._whys)
            self._whys.append(why)
        self._why_numbers.append(self._number_of_why[why])
        self.reasons[reason_kind(verdict["reason"])] += 1

    def _duplicate(self, row: dict[str, Any]) -> str | None:
        # Compare by hash and within a problem: a set of texts would hold every completion.
        text, seen = hash(solution_text(row["completion"])), self._seen[row["problem_id"]]
        if self._settings.drop_duplicates and text in seen:
            return "duplicate"
        seen.add(text)
        return None

    def apply_cap(self) -> None:
        """Keeps at most `max_per_problem` trajectories per problem: the most different ones, early ones first."""
        for rows in self._candidates.values():
            limit = self._settings.max_per_problem or len(rows)
            kept = set(most_different([(step, text) for _, step, text in rows], limit))
            for index, (number, _, _) in enumerate(rows):
                if index not in kept:
                    self._gates[number] = _GATE_NUMBERS["over_cap"]

    def columns(self, start: int, end: int) -> dict[str, pa.Array]:
        """The columns that the filter adds to the trajectories from row `start` up to but not including `end`."""
        verdicts = [None if verdict < 0 else bool(verdict) for verdict in self._verdicts[start:end]]
        dropped = [None if gate == _KEPT else _GATE_NAMES[gate] for gate in self._gates[start:end]]
        return {
            "verdict": pa.array(verdicts, pa.bool_()),
            "verdict_reason": pa.array([self._whys[number] for number in self._why_numbers[start:end]], pa.string()),
            "dropped_because": pa.array(dropped, pa.string()),
        }

    def counts(self) -> dict[str, Any]:
        """The counts of the stage's report: all trajectories, those left after each gate, and the experts."""
        dropped = Counter(self._gates)
        left, funnel = len(self), []
        for gate, because in GATES.items():
            count = dropped[_GATE_NUMBERS[gate]]
            left -= count
            funnel.append({"gate": gate, "because": because, "dropped": count, "left": left})
        candidates = (candidate for rows in self._candidates.values() for candidate in rows)
        steps = Counter(step for number, step, _ in candidates if self._gates[number] == _KEPT)
        return {
            "trajectories": len(self),
            "experts": left,
            "problems": len(self._candidates),
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
