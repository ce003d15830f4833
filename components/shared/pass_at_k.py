"""avg@n and pass@k with bootstrap intervals over problems."""

import math
from collections.abc import Sequence

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
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):  # one resample at a time: memory stays flat in the number of problems
        means[i] = array[rng.integers(0, len(array), len(array))].mean()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
