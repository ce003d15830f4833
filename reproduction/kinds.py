"""Tuning on problems of all kinds, which the development set, of the training problems' kind, does not have.

By cross-fitting: each test set is cut in two halves; what is measured on one half was chosen on the other.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from launch.seeds import values
from reproduction.plan import Grid, Results, last_policy

METHODS = ("rloop", "vanilla")


def choose_by_half(results: Results, grid: Grid, tests: Sequence[str]) -> list[dict[str, float]]:
    """For each half of the test sets (every other problem) and method, the learning rate with the best avg@n there.

    Over the tuning seeds of base policy A, mean of the test sets.
    """
    chosen = []
    for half in (0, 1):
        rates: dict[str, float] = {}
        for method in METHODS:
            averages = {
                rate: [
                    fmean(float(np.nanmean(_of(found, method, name, 1)[half::2])) for name in tests)
                    for run, found in results.items()
                    if run.base == "A" and run.learning_rate == rate and run.seed in grid.tuning_seeds
                ]
                for rate in grid.learning_rates
            }
            rates[method] = max((rate for rate in averages if averages[rate]), key=lambda rate: fmean(averages[rate]))
        chosen.append(rates)
    return chosen


def cross_fitted(results: Results, grid: Grid, tests: Sequence[str], base: str, k: int) -> list[list[np.ndarray]]:
    """For each seed of a base policy, for each test set, pass@k of RLoop and vanilla RL, of shape (2, problems).

    Each problem's figures are those of the learning rates that were chosen on the half without it.
    """
    chosen = choose_by_half(results, grid, tests)
    runs = []
    for seed in sorted({run.seed for run in results if run.base == base}):
        by_rate = {run.learning_rate: found for run, found in results.items() if (run.base, run.seed) == (base, seed)}
        if not all(rate in by_rate for rates in chosen for rate in rates.values()):
            continue
        of_seed = []
        for name in tests:
            rows = []
            for method in METHODS:
                row = np.empty_like(_of(by_rate[chosen[0][method]], method, name, k))
                for half in (0, 1):
                    rate = chosen[1 - half][method]
                    row[half::2] = _of(by_rate[rate], method, name, k)[half::2]
                rows.append(row)
            of_seed.append(np.stack(rows))
        runs.append(of_seed)
    return runs


def _of(results: dict[str, Any], method: str, benchmark: str, k: int) -> np.ndarray:
    return values(results["problems"][last_policy(results, method)["name"]], benchmark, k)
