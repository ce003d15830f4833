"""Figures over runs with different seeds: means, and intervals that take seeds and problems into account."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from components.shared.reporting.pass_at_k import pass_at_k

_RESAMPLES = 2000
Counts = dict[str, dict[str, list[int]]]  # benchmark -> samples and correct ones of each problem


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
        """As a difference."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def percent(self) -> str:
        """As a relative difference."""
        return f"{100 * self.value:+.0f} % [{100 * self.low:+.0f}, {100 * self.high:+.0f}]"


def values(counts: Counts, benchmark: str, k: int) -> np.ndarray:
    """pass@k of every problem of a benchmark; k = 1 gives avg@n; NaN where fewer than k samples could be judged."""
    table = counts[benchmark]
    pairs = zip(table["samples"], table["correct"], strict=True)
    return np.array([pass_at_k(n, c, k) if n >= k else np.nan for n, c in pairs])


def over_seeds_and_problems(
    runs: Sequence[Sequence[np.ndarray]], figure: Callable[[list[np.ndarray]], float], seed: int = 0
) -> Estimate:
    """A figure of several policies over seeds and benchmarks, by a bootstrap that draws both.

    Seeds are drawn with replacement, then, in every benchmark, problems; all policies keep to the same draw. A problem
    without a figure (NaN) in one of them is left out of all.

    Args:
        runs: for each seed, for each benchmark, an array of shape (policies, problems).
        figure: of the mean over seeds, problems and benchmarks of each policy (an array of shape (policies,) a
            benchmark): for example the difference of two.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    known = [~np.isnan(np.stack(of_runs)).any(axis=(0, 1)) for of_runs in zip(*runs, strict=True)]
    runs = [[array[:, keep] for array, keep in zip(run, known, strict=True)] for run in runs]

    def means(seeds: Sequence[int], draw: bool) -> list[np.ndarray]:
        found = []
        for benchmark in range(len(runs[0])):
            problems = runs[0][benchmark].shape[1]
            chosen = rng.integers(0, problems, problems) if draw else np.arange(problems)
            found.append(np.mean([runs[s][benchmark][:, chosen].mean(axis=1) for s in seeds], axis=0))
        return found

    drawn = [figure(means(rng.integers(0, len(runs), len(runs)).tolist(), True)) for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(figure(means(range(len(runs)), False)), float(low), float(high))


def difference(of_benchmarks: list[np.ndarray]) -> float:
    """First policy minus second, the mean over benchmarks."""
    mean = np.mean(of_benchmarks, axis=0)
    return float(mean[0] - mean[1])


def relative(of_benchmarks: list[np.ndarray]) -> float:
    """The same as a share of the second."""
    mean = np.mean(of_benchmarks, axis=0)
    return float((mean[0] - mean[1]) / mean[1]) if mean[1] else float("nan")


def average(of_benchmarks: list[np.ndarray]) -> float:
    """The first policy's own figure."""
    return float(np.mean(of_benchmarks, axis=0)[0])
