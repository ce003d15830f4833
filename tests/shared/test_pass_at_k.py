import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.pass_at_k import bootstrap_interval, pass_at_k


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
