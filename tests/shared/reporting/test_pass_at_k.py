import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.reporting.pass_at_k import bootstrap_interval, paired_comparison, pass_at_k


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_equals_the_share_of_draws_that_hold_a_correct_sample(numbers: tuple[int, int, int]) -> None:
    n, c, k = numbers
    samples = [True] * c + [False] * (n - c)
    draws = list(itertools.combinations(samples, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_one_is_the_average(numbers: tuple[int, int]) -> None:
    n, c = numbers
    assert pass_at_k(n, c, 1) == pytest.approx(c / n)


@given(st.integers(2, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_grows_with_k_and_stays_a_probability(numbers: tuple[int, int]) -> None:
    n, c = numbers
    values = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert all(0 <= v <= 1 for v in values)
    assert values == sorted(values)
    assert values[-1] == (1.0 if c else 0.0)


def test_large_numbers_neither_overflow_nor_round_to_one() -> None:
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4)
    assert pass_at_k(1024, 512, 256) == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_what_cannot_be_estimated_is_an_error(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.binomial(1, 0.3, 80).astype(float), seed=trial)
        covered += low <= 0.3 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_bootstrap_interval_repeats_with_its_seed_and_shrinks_to_a_point() -> None:
    values = [0.0, 0.5, 1.0, 0.25]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval([0.4] * 10, seed=1) == pytest.approx((0.4, 0.4))


def test_a_paired_comparison_by_hand() -> None:
    found = paired_comparison([1.0, 0.5, 1.0, 0.5], [0.5, 0.5, 0.5, 0.5], seed=0)
    assert found.difference == 0.25 and found.problems == 4
    assert 0.0 <= found.interval[0] < 0.25 < found.interval[1] <= 0.5
    same = paired_comparison([0.3, 0.7], [0.3, 0.7], seed=0)
    assert same.difference == 0.0 and same.interval == (0.0, 0.0) and same.probability == 0.5
    with pytest.raises(ValueError, match="2 and 3 problems"):
        paired_comparison([0.1, 0.2], [0.1, 0.2, 0.3], seed=0)


@pytest.mark.parametrize("difference", [0.0, 0.08])
def test_the_interval_of_a_paired_comparison_covers_the_truth(difference: float) -> None:
    """Two policies on 200 problems of very different difficulty, 200 times over: about 95 % of intervals are right."""
    rng = np.random.default_rng(0)
    covered, widths, unpaired = 0, [], []
    for trial in range(200):
        difficulty = rng.beta(0.5, 0.5, 200)
        first = np.clip(difficulty + difference + rng.normal(0, 0.05, 200), -1, 2)
        second = difficulty + rng.normal(0, 0.05, 200)
        found = paired_comparison(first, second, seed=trial)
        covered += found.interval[0] <= difference <= found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
        low, high = bootstrap_interval(first, trial)
        unpaired.append(high - low)
    assert 0.91 <= covered / 200 <= 0.985
    assert np.mean(widths) < np.mean(unpaired) / 4, "pairing takes out what both find hard"
