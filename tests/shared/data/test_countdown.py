import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.data import countdown
from tests.countdown_solver import solve

ANSWER = json.dumps({"numbers": [3, 7, 2], "target": 13})


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("3*2=6,6+7=13.", True),
        ("2*3=6, 7+6=13.", True),
        (" 3*2=6,6+7=13. ", True),
        ("3*2=6,6+7=13", False),  # never ended
        ("13.", False),  # the target alone stands in the prompt
        ("6+7=13.", False),  # a number from nowhere
        ("3*2=6,6+7=14.", False),
        ("3*2=5,5+7=12.", False),
        ("3+7=10,10+2=12.", False),  # not the target
        ("3*2=6.", False),  # a number left over
        ("3*2=6,6+7=13,13-0=13.", False),
        ("3*2=6,6+7=13.3*2=6,6+7=13.", False),
        ("7+7=14,14-2=12.", False),  # one number twice
        ("3*2=6;6+7=13.", False),
        ("__import__('os')=6,6+7=13.", False),
        ("", False),
        ("1" * 100_000, False),
    ],
)
def test_scores_the_whole_derivation(completion: str, right: bool) -> None:
    assert countdown.score(ANSWER, completion) is right


@given(st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    assert countdown.score(ANSWER, text) in (True, False)


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_a_random_derivation_is_right_for_the_value_it_reaches(seed: int, size: int) -> None:
    rng = random.Random(seed)
    numbers = tuple(rng.randint(1, 20) for _ in range(size))
    steps = countdown.random_steps(numbers, rng)
    if steps is None:
        return
    problem = countdown.Problem(numbers, steps[-1][3])
    completion = ",".join(f"{a}{o}{b}={v}" for a, o, b, v in steps) + "."
    assert countdown.score(problem.answer, completion)
    assert countdown.score(problem.answer, solve(problem.answer))
    other = countdown.Problem(numbers, problem.target + 1)
    assert not countdown.score(other.answer, completion)


def test_splits_share_no_problem_in_any_order_of_numbers() -> None:
    keys = {
        split: {p.key for seed in (1, 2) for p in countdown.generate(split, 3, 1, 9, 100, seed)}
        for split in countdown.SPLITS
    }
    for a in countdown.SPLITS:
        for b in countdown.SPLITS:
            assert a == b or not keys[a] & keys[b]
    assert countdown.Problem((3, 7, 2), 13).split == countdown.Problem((7, 2, 3), 13).split


def test_the_same_arguments_give_the_same_problems() -> None:
    first, again = (list(countdown.generate("dev", 3, 1, 9, 50, seed=4)) for _ in range(2))
    assert first == again
    assert len({p.key for p in first}) == 50
    assert first != list(countdown.generate("dev", 3, 1, 9, 50, seed=5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian", 3, 1, 9, 5, 0), "not one of pretrain, train, dev, test"),
        (("train", 1, 1, 9, 5, 0), "numbers from 2 to 6"),
        (("train", 2, 1, 2, 5000, 0), "found only"),
    ],
)
def test_impossible_wishes_are_errors(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(countdown.generate(*arguments))
