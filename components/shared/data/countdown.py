"""Countdown: reach a target from a few numbers with + - and *, a task with several solutions per problem.

A problem reads `Use 3 7 2 to make 13.`; a completion that solves it reads `3*2=6,6+7=13.`: every step
replaces two of the available numbers with one, and the last remaining number is the target. The whole
derivation is checked, since the prompt contains the target and repeating it would game the score.
Problems are assigned to splits by a hash of their numbers (in any order) and target, so two splits
never share a problem, whatever seeds and counts they are drawn with.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

SPLITS = ("pretrain", "train", "dev", "test")
# Twenty hash buckets: half for the demonstrations of a base policy, the rest for training and evaluation.
_SPLIT_OF_BUCKET = ("pretrain",) * 10 + ("train",) * 6 + ("dev",) * 2 + ("test",) * 2
_OPERATORS = "+-*"
_OPERATOR_WEIGHTS = (0.4, 0.3, 0.3)
_LARGEST_VALUE = 99
_STEP = re.compile(r"(\d{1,4})([+*-])(\d{1,4})=(\d{1,4})")
_LONGEST_COMPLETION = 400  # characters; a derivation for ten numbers fits


@dataclass(frozen=True)
class Problem:
    """Numbers to combine, in the order shown, and the value to reach."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> tuple[tuple[int, ...], int]:
        """Identifies a problem: its numbers in any order, and its target."""
        return tuple(sorted(self.numbers)), self.target

    @property
    def split(self) -> str:
        """The problem's split, one of `SPLITS`."""
        digest = hashlib.sha256(repr(self.key).encode()).digest()
        return _SPLIT_OF_BUCKET[int.from_bytes(digest[:4], "big") % len(_SPLIT_OF_BUCKET)]

    @property
    def text(self) -> str:
        """The question as the policy sees it."""
        return f"Use {' '.join(map(str, self.numbers))} to make {self.target}."

    @property
    def answer(self) -> str:
        """The problem as JSON for the scorer, since there is no single gold answer."""
        return json.dumps({"numbers": list(self.numbers), "target": self.target})


def apply(left: int, operator: str, right: int) -> int:
    """The value of `left operator right`, for one of + - *."""
    return left + right if operator == "+" else left - right if operator == "-" else left * right


def random_steps(numbers: tuple[int, ...], rng: random.Random) -> list[tuple[int, str, int, int]] | None:
    """A random derivation `(left, operator, right, value)` that uses all numbers, each value in 0..99.

    Returns None if it reached a pair that no operator can combine within those bounds.
    """
    pool, steps = list(numbers), []
    while len(pool) > 1:
        left, right = (pool.pop(rng.randrange(len(pool))) for _ in range(2))
        operators = [o for o in _OPERATORS if 0 <= apply(left, o, right) <= _LARGEST_VALUE]
        if not operators:
            return None
        weights = [_OPERATOR_WEIGHTS[_OPERATORS.index(o)] for o in operators]
        operator = rng.choices(operators, weights)[0]
        value = apply(left, operator, right)
        steps.append((left, operator, right, value))
        pool.append(value)
    return steps


def generate(split: str, numbers: int, low: int, high: int, count: int, seed: int) -> Iterator[Problem]:
    """Draws `count` distinct solvable problems of a split.

    Args:
        split: one of `SPLITS`.
        numbers: how many numbers a problem has (2 to 6).
        low, high: the smallest and the largest number (0 to 99).
        count: how many problems.
        seed: random seed; the same arguments give the same problems.

    Raises:
        ValueError: an argument is out of range, or the split has too few such problems.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if not (2 <= numbers <= 6 and 0 <= low <= high <= _LARGEST_VALUE and count >= 1):
        raise ValueError("expected numbers from 2 to 6, 0 <= low <= high <= 99, count >= 1")
    rng = random.Random(f"{seed}/{numbers}/{low}/{high}")
    seen: set[tuple[tuple[int, ...], int]] = set()
    fruitless = 0
    while len(seen) < count:
        drawn = tuple(rng.randint(low, high) for _ in range(numbers))
        steps = random_steps(drawn, rng)
        problem = Problem(drawn, steps[-1][3]) if steps else None
        if problem is None or problem.key in seen or problem.split != split:
            fruitless += 1
            if fruitless > 50_000:
                raise ValueError(f"found only {len(seen)} of {count} problems in split {split!r}")
            continue
        fruitless = 0
        seen.add(problem.key)
        yield problem


def score(answer: str, completion: str) -> bool:
    """Whether the completion is a derivation of the target that uses every number exactly once.

    Args:
        answer: `Problem.answer` of the problem.
        completion: the policy's text, without special tokens.

    Raises:
        ValueError: the answer is not that of a problem.
    """
    problem = json.loads(answer)
    if not isinstance(problem, dict) or not isinstance(problem.get("numbers"), list) or "target" not in problem:
        raise ValueError(f"expected JSON with numbers and a target, got {answer[:80]!r}")
    text = completion.strip()
    if not text.endswith(".") or len(text) > _LONGEST_COMPLETION:
        return False
    available = list(problem["numbers"])
    for step in text[:-1].split(","):
        match = _STEP.fullmatch(step.strip())
        if not match:
            return False
        left, operator, right, value = int(match[1]), match[2], int(match[3]), int(match[4])
        for number in (left, right):
            if number not in available:
                return False
            available.remove(number)
        if apply(left, operator, right) != value:
            return False
        available.append(value)
    return available == [problem["target"]]
