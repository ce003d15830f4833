"""pass@k, and what can be said about figures over problems: bootstrap intervals and paired comparisons."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k) of solving a problem in k tries.

    Chen et al. 2021 (arXiv 2107.03374), equation 1.

    Args:
        n: samples of the problem.
        c: how many of them are correct.
        k: tries; 1 to n.

    Raises:
        ValueError: k > n, for which there is no estimate, or a number out of range.
    """
    if not 0 <= c <= n:
        raise ValueError(f"{c} correct of {n} samples")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples: k is 1 to n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over problems.

    Args:
        values: one figure a problem.
        seed: of the resampling.
        confidence: the interval's coverage.
    """
    return _percentiles(np.fromiter(_resampled_means(values, seed), np.float64), confidence)


@dataclass(frozen=True)
class Comparison:
    """How a figure of two policies differs on the same problems."""

    difference: float  # mean over problems of first minus second
    interval: tuple[float, float]
    probability: float  # that the first is better: share of resamples, a tie counts half
    problems: int


def paired_comparison(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, seed: int, confidence: float = 0.95
) -> Comparison:
    """Compares two policies by a paired bootstrap over problems: both are resampled together.

    What is hard for one policy is mostly hard for the other, so differences of the same problem vary far less than
    the figures themselves (Efron and Tibshirani 1993; Koehn 2004 for systems on one test set).

    Args:
        first, second: one figure a problem, such as the share correct or pass@k; the same problems in the same order.
        seed: of the resampling.
        confidence: the interval's coverage.

    Raises:
        ValueError: the two are not of the same problems.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or not len(a):
        raise ValueError(f"{len(a)} problems against {len(b)}: a paired comparison wants the same ones")
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
