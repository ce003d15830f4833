"""Figures over runs with different seeds: means, and intervals that account for seeds and problems."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from components.shared.reporting.pass_at_k import pass_at_k

_RESAMPLES = 2000
Counts = dict[str, dict[str, list[int]]]  # benchmark -> `samples` and `correct` per problem


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def signed(self) -> str:
        """The estimate formatted as a difference."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def values(counts: Counts, benchmark: str, k: int) -> np.ndarray:
    """Returns pass@k per problem of a benchmark; k = 1 gives avg@n; NaN if fewer than k samples could be judged."""
    table = counts[benchmark]
    pairs = zip(table["samples"], table["correct"], strict=True)
    return np.array([pass_at_k(n, c, k) if n >= k else np.nan for n, c in pairs])


def over_seeds_and_problems(
    runs: Sequence[Sequence[np.ndarray]], figure: Callable[[list[np.ndarray]], float], seed: int = 0
) -> Estimate:
    """Estimates a figure over seeds and problems, with a percentile bootstrap that resamples both.

    Seeds are drawn with replacement and then, within every benchmark, problems; all policies share the same draw. A
    problem that is NaN for any policy or seed is left out for all.

    Args:
        runs: for each seed, for each benchmark, an array of shape (policies, problems).
        figure: computes the figure from the means over seeds and problems: one array of shape (policies,) per
            benchmark. For example the difference between two policies.
        seed: seed of the bootstrap.
    """
    known = [~np.isnan(np.stack(of_runs)).any(axis=(0, 1)) for of_runs in zip(*runs, strict=True)]
    tables = [np.stack(of_runs)[:, :, keep] for of_runs, keep in zip(zip(*runs, strict=True), known, strict=True)]
    # How often each resample draws a seed and a problem, as shares: means are then products of matrices.
    seeds, *problems = _draws(seed, (len(runs), *(table.shape[2] for table in tables)))
    means = [
        np.einsum("rs,spn,rn->rp", seeds, table, share, optimize=True)
        for table, share in zip(tables, problems, strict=True)
    ]
    drawn = [figure([of_benchmark[number] for of_benchmark in means]) for number in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(figure([table.mean(axis=(0, 2)) for table in tables]), float(low), float(high))


@lru_cache(maxsize=2)  # figures of the same runs share the draw, which takes longer than the figures
def _draws(seed: int, counts: tuple[int, ...]) -> list[np.ndarray]:
    """Draws as many of several things as there are, with replacement; returns shares of shape (resamples, count)."""
    rng = np.random.default_rng(seed)
    return [rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count for count in counts]


def difference(of_benchmarks: list[np.ndarray]) -> float:
    """Returns the first policy minus the second, averaged over benchmarks."""
    mean = np.mean(of_benchmarks, axis=0)
    return float(mean[0] - mean[1])


def wins(runs: Sequence[Sequence[np.ndarray]]) -> int:
    """Returns the number of seeds for which the first policy is better; `runs` as in `over_seeds_and_problems`."""
    return sum(difference([np.nanmean(of_benchmark, axis=1) for of_benchmark in run]) > 0 for run in runs)


def average(of_benchmarks: list[np.ndarray]) -> float:
    """Returns the first policy's own figure, averaged over benchmarks."""
    return float(np.mean(of_benchmarks, axis=0)[0])
