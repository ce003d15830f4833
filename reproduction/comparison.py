"""Differences between two methods, over seeds and problems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launch.analysis.seeds import Estimate, difference, over_seeds_and_problems, relative, values
from reproduction.cross_fitting import cross_fitted
from reproduction.grid import Grid, Results, find_run
from reproduction.methods import ALL_KINDS_LABEL, KS, TESTS, Method, Pair


@dataclass(frozen=True)
class Comparison:
    """How two methods differ, by k: k = 1 is avg@n."""

    absolute: dict[int, Estimate]
    relative: dict[int, Estimate]
    won: dict[int, int]  # seeds for which the first method is better
    seeds: int


Comparisons = dict[tuple[str, str], Comparison]  # by base policy and label


def compare_pairs(results: Results, grid: Grid, methods: dict[str, Method], pairs: Sequence[Pair]) -> Comparisons:
    """Compares the pairs, and the cross-fitted methods, on every base policy that has runs of both.

    Args:
        results: results of the finished runs.
        grid: size of the comparison.
        methods: all methods, by name.
        pairs: pairs to compare.
    """
    comparisons: Comparisons = {}
    for base in grid.seeds:
        for pair in pairs:
            both = [methods[pair.one], methods[pair.other]]
            if found := _compare([pass_at_k_by_seed(results, base, both, k) for k in KS]):
                comparisons[base, pair.label] = found
        if found := _compare([cross_fitted(results, grid, TESTS, base, k) for k in KS]):
            comparisons[base, f"RLoop over vanilla RL, {ALL_KINDS_LABEL}"] = found
    return comparisons


def pass_at_k_by_seed(results: Results, base: str, methods: Sequence[Method], k: int) -> list[list[np.ndarray]]:
    """Returns pass@k of methods, for each seed with runs of all of them.

    Args:
        results: results of the finished runs.
        base: base policy of the runs.
        methods: the methods.
        k: of pass@k; 1 gives avg@n.

    Returns:
        For each seed, for each test set, an array of shape (methods, problems).
    """
    runs: list[list[np.ndarray]] = []
    for seed in sorted({run.seed for run in results if run.base == base}):
        of_seed = [find_run(results, base, seed, m.rate, m.variant) for m in methods]
        if all(of_seed):
            counts = [r["problems"][m.policy(r)] for m, r in zip(methods, of_seed, strict=True) if r]
            runs.append([np.stack([values(c, name, k) for c in counts]) for name in TESTS])
    return runs


def _compare(figures: Sequence[list[list[np.ndarray]]]) -> Comparison | None:
    """Compares two methods by their figures for each k (by seed, by test set); None without runs."""
    if not figures[0]:
        return None
    absolute, shares, won = {}, {}, {}
    for k, runs in zip(KS, figures, strict=True):
        absolute[k] = over_seeds_and_problems(runs, difference)
        shares[k] = over_seeds_and_problems(runs, relative)
        won[k] = sum(difference([np.nanmean(a, axis=1) for a in run]) > 0 for run in runs)
    return Comparison(absolute, shares, won, len(figures[0]))
