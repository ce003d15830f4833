"""Similarity of a problem's correct rollouts, within an RL step and between steps.

A policy that narrows writes the same solution again and again: similarity within a step rises. A policy that only
repeats what it wrote earlier adds nothing for RFT: similarity between steps rises.
"""

from array import array
from collections import defaultdict
from statistics import fmean
from typing import Any

import numpy as np

from components.shared.data.ngrams import Sketch, similarities, sketch, solution_text

_KEPT = 4  # correct rollouts per problem and step that are compared: at most six pairs


class SimilarityTally:
    """Tallies correct rollouts in order of step; keeps a few numbers per rollout and problem, no texts."""

    def __init__(self) -> None:
        self._now: dict[str, list[Sketch]] = {}  # of the current step, by problem
        self._before: dict[str, list[Sketch]] = {}  # of the previous step that had the problem
        self._step: int | None = None
        self._within: defaultdict[int, list[float]] = defaultdict(list)
        self._between: defaultdict[int, list[float]] = defaultdict(list)
        self._numbers: dict[str, int] = {}  # of the problems
        self._problems, self._solutions = array("i"), array("q")  # of each rollout: the problem, the solution's hash

    def add(self, problem: str, step: int, completion: str) -> None:
        """Counts one correct rollout."""
        if step != self._step:
            self._close()
            self._step = step
        self._problems.append(self._numbers.setdefault(problem, len(self._numbers)))
        self._solutions.append(hash(solution_text(completion)))
        kept = self._now.setdefault(problem, [])
        if len(kept) < _KEPT:
            kept.append(sketch(completion))

    def _close(self) -> None:
        for problem, sketches in self._now.items():
            pairs = [s for i in range(1, len(sketches)) for s in similarities(sketches[i], np.stack(sketches[:i]))]
            if pairs:
                self._within[self._step or 0].append(fmean(pairs))
            if earlier := self._before.get(problem):
                others = np.stack(earlier)
                self._between[self._step or 0].append(fmean(s for one in sketches for s in similarities(one, others)))
            self._before[problem] = sketches
        self._now = {}

    def by_step(self) -> list[dict[str, Any]]:
        """The mean similarity over problems at each step, 0 to 1; None if no problem had two rollouts to compare."""
        self._close()
        return [
            {"step": step, "within_step": _mean(self._within[step]), "between_steps": _mean(self._between[step])}
            for step in sorted({*self._within, *self._between})
        ]

    def distinct_solutions(self) -> float:
        """Mean number of distinct correct solutions per solved problem, ignoring white space and case."""
        problems, solutions = np.asarray(self._problems), np.asarray(self._solutions)
        order = np.lexsort((solutions, problems))
        differs = (np.diff(problems[order]) != 0) | (np.diff(solutions[order]) != 0)
        return float(1 + differs.sum()) / len(self._numbers) if self._numbers else 0.0


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None
