"""Tunes on problems of all kinds; the development set has only the kind of the training problems.

Cross-fitting: each test set is split into two halves; what is measured on one half was chosen on the other.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from launch.analysis.seeds import values
from reproduction.grid import Grid, Results, find_run, last_policy

METHODS = ("rloop", "vanilla")


def choose_by_half(results: Results, grid: Grid, tests: Sequence[str]) -> list[list[float]]:
    """Chooses the learning rate with the best avg@n, averaged over test sets and the tuning seeds of base policy A.

    Returns:
        For each half of the test sets (every other problem), for each of METHODS, the learning rate.
    """
    chosen = []
    for half in (0, 1):
        rates: list[float] = []
        for kind in METHODS:
            averages = {
                rate: [
                    fmean(float(np.nanmean(_values(found, kind, name, 1)[half::2])) for name in tests)
                    for seed in grid.tuning_seeds
                    if (found := find_run(results, "A", seed, rate))
                ]
                for rate in grid.learning_rates
            }
            rates.append(max((rate for rate in averages if averages[rate]), key=lambda rate: fmean(averages[rate])))
        chosen.append(rates)
    return chosen


def cross_fitted(results: Results, grid: Grid, tests: Sequence[str], base: str, k: int) -> list[list[np.ndarray]]:
    """Measures METHODS at the learning rates that were chosen, for each problem, on the half without it.

    Returns:
        For each seed of a base policy, for each test set, pass@k of METHODS, of shape (2, problems).
    """
    chosen = choose_by_half(results, grid, tests)
    runs = []
    for seed in grid.seeds[base]:
        by_half = [[find_run(results, base, seed, rate) for rate in rates] for rates in chosen]
        if not all(found for of_half in by_half for found in of_half):
            continue
        of_seed = []
        for name in tests:
            rows = []
            for number, kind in enumerate(METHODS):
                first, second = (_values(of_half[number] or {}, kind, name, k) for of_half in by_half)
                row = second.copy()  # chosen on the second half, measured on the first
                row[1::2] = first[1::2]
                rows.append(row)
            of_seed.append(np.stack(rows))
        runs.append(of_seed)
    return runs


def _values(results: dict[str, Any], kind: str, benchmark: str, k: int) -> np.ndarray:
    return values(results["problems"][last_policy(results, kind)["name"]], benchmark, k)
