"""Similarity of a problem's correct rollouts, within an RL step and between steps.

A policy that narrows writes the same solution again and again: similarity within a step rises. A policy that only
repeats what it wrote earlier adds nothing for RFT: similarity between steps rises.
"""

from collections import defaultdict
from statistics import fmean
from typing import Any

from components.shared.data.ngrams import Sketch, similarity, sketch, solution_text

_KEPT = 4  # correct rollouts per problem and step that are compared: at most six pairs


class SimilarityTally:
    """Tallies correct rollouts in order of step; keeps a few numbers per problem, no texts."""

    def __init__(self) -> None:
        self._now: dict[str, list[Sketch]] = {}  # of the current step, by problem
        self._before: dict[str, list[Sketch]] = {}  # of the previous step that had the problem
        self._step: int | None = None
        self._within: defaultdict[int, list[float]] = defaultdict(list)
        self._between: defaultdict[int, list[float]] = defaultdict(list)
        self._solutions: defaultdict[str, set[int]] = defaultdict(set)

    def add(self, problem: str, step: int, completion: str) -> None:
        """Counts one correct rollout."""
        if step != self._step:
            self._close()
            self._step = step
        self._solutions[problem].add(hash(solution_text(completion)))
        kept = self._now.setdefault(problem, [])
        if len(kept) < _KEPT:
            kept.append(sketch(completion))

    def _close(self) -> None:
        for problem, sketches in self._now.items():
            pairs = [similarity(a, b) for i, a in enumerate(sketches) for b in sketches[:i]]
            if pairs:
                self._within[self._step or 0].append(fmean(pairs))
            if earlier := self._before.get(problem):
                self._between[self._step or 0].append(fmean(similarity(a, b) for a in sketches for b in earlier))
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
        return fmean(map(len, self._solutions.values())) if self._solutions else 0.0


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None
