"""Differences between two policies, over seeds and problems."""

from dataclasses import dataclass
from statistics import fmean

import numpy as np

from launch.analysis.seeds import Estimate, average, difference, over_seeds_and_problems, wins
from reproduction.grid import Study
from reproduction.methods import Policy, figures_by_seed
from reproduction.results import Results


@dataclass(frozen=True)
class Comparison:
    """How two policies differ, by k: k = 1 is avg@n."""

    differences: dict[int, Estimate]
    won: dict[int, int]  # seeds for which the first is better
    seeds: int


def compare(results: Results, study: Study, base: str, one: Policy, other: Policy | None) -> Comparison | None:
    """Compares two policies on the test sets; None if no seed has both.

    Args:
        results: results of the study's runs.
        study: the study.
        base: base policy of the runs.
        one: the first policy.
        other: the second policy; None for the base policy.
    """
    differences, won = {}, {}
    runs: list[list[np.ndarray]] = []
    for k in (1, study.k):
        runs = figures_by_seed(results, study, base, [one, other], k)
        if not runs:
            return None
        differences[k] = over_seeds_and_problems(runs, difference)
        won[k] = wins(runs)
    return Comparison(differences, won, len(runs))


def estimate(results: Results, study: Study, base: str, policy: Policy | None, k: int) -> tuple[Estimate, int] | None:
    """Returns a policy's figure over all test sets and the number of seeds; None if there is no run."""
    runs = figures_by_seed(results, study, base, [policy], k)
    return (over_seeds_and_problems(runs, average), len(runs)) if runs else None


def by_test(results: Results, study: Study, base: str, policy: Policy | None, k: int) -> list[float]:
    """Returns a policy's figure on each test set, mean over seeds."""
    runs = figures_by_seed(results, study, base, [policy], k)
    return [fmean(float(np.nanmean(run[test])) for run in runs) for test in range(len(study.tests))]
