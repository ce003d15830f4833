"""pass@k, bootstrap intervals of figures over problems, and paired comparisons."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k) of the probability of solving a problem in k attempts.

    Chen et al. 2021 (arXiv 2107.03374), equation 1.

    Args:
        n: number of samples of the problem.
        c: number of correct samples.
        k: number of attempts, 1 to n.

    Raises:
        ValueError: k > n, which cannot be estimated, or a number is out of range.
    """
    if not 0 <= c <= n:
        raise ValueError(f"{c} correct of {n} samples")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples: k must be 1 to n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over problems.

    Args:
        values: one figure per problem.
        seed: of the resampling.
        confidence: coverage of the interval.
    """
    return _percentiles(np.fromiter(_resampled_means(values, seed), np.float64), confidence)


@dataclass(frozen=True)
class Comparison:
    """The difference between two policies in a figure on the same problems."""

    difference: float  # mean over problems of first minus second
    interval: tuple[float, float]
    probability: float  # that the first is better: share of resamples, ties counting half
    problems: int


def paired_comparison(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, seed: int, confidence: float = 0.95
) -> Comparison:
    """Compares two policies by a paired bootstrap over problems: both are resampled together.

    What is hard for one policy is mostly hard for the other, so the differences per problem vary far less than the
    figures themselves (Efron and Tibshirani 1993; Koehn 2004 for systems on one test set).

    Args:
        first, second: one figure per problem, such as the share correct or pass@k; the same problems in the same order.
        seed: of the resampling.
        confidence: coverage of the interval.

    Raises:
        ValueError: the numbers of problems differ, or there are none.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} problems: a paired comparison needs the same problems")
    means = np.fromiter(_resampled_means(a - b, seed), np.float64)
    probability = float((means > 0).mean() + (means == 0).mean() / 2)
    return Comparison(float((a - b).mean()), _percentiles(means, confidence), probability, len(a))


def _resampled_means(values: Sequence[float] | np.ndarray, seed: int) -> Iterator[float]:
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    for _ in range(_RESAMPLES):  # one resample at a time: memory stays flat in the number of problems
        yield array[rng.integers(0, len(array), len(array))].mean()


def _percentiles(means: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
