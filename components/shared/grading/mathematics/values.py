"""The kinds of values: quantity, words, list, set, tuple, interval, relation, ratio, matrix, numeral with base."""

import re
from dataclasses import dataclass
from typing import Any

from components.shared.grading.mathematics.intervals import Interval, union


@dataclass(frozen=True)
class Quantity:
    """A number or an expression, with a unit."""

    text: str
    tree: Any  # a SymPy expression
    unit: str = ""  # as written, for example cm^2; "percent" and "degree" are units too
    decimals: int | None = None  # decimal places of a plain decimal
    is_noted: bool = False  # the unit is in parentheses: 9 (apples)

    @property
    def is_percent(self) -> bool:
        """Whether the unit is percent."""
        return self.unit.startswith("percent")


@dataclass(frozen=True)
class Words:
    """An answer in words, or one that cannot be parsed; compared as text."""

    text: str

    @property
    def is_usable(self) -> bool:
        """Whether it can be a gold answer: neither a sentence nor broken LaTeX."""
        words = re.findall(r"[A-Za-z']{2,}", re.sub(r"\\[A-Za-z]+", "", self.text))
        return len(words) <= 5 and bool(re.search(r"\w", self.text)) and self.text.count("{") == self.text.count("}")


@dataclass(frozen=True)
class Group:
    """Several values; kind is list, set, or the brackets around a tuple or an interval, such as `(]`."""

    kind: str
    items: tuple["Value", ...]


@dataclass(frozen=True)
class RealSet:
    """A set of real numbers: intervals and points."""

    variable: str | None
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Relation:
    """An equation or an inequality with two sides."""

    operator: str  # = < <= !=
    left: Any  # SymPy expressions; None if a side is not an expression
    right: Any
    name: str | None = None  # left side of an assignment, such as x or f(x)
    value: "Value | None" = None  # the assigned value


@dataclass(frozen=True)
class Ratio:
    """a:b or a:b:c; also a time of day."""

    parts: tuple["Value", ...]
    text: str
    half_day: str = ""  # am or pm

    @property
    def is_clock(self) -> bool:
        """Whether it may be a time of day."""
        return bool(re.fullmatch(r"\d{1,2}:\d{2}(?::\d{2})?", self.text))


@dataclass(frozen=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple["Value", ...], ...]


@dataclass(frozen=True)
class Based:
    """A numeral with a base, such as 52_8."""

    digits: str
    base: int


Value = Quantity | Words | Group | RealSet | Relation | Ratio | Matrix | Based


def is_usable(value: Value) -> bool:
    """Whether a value can be a gold answer: no part of it is prose."""
    if isinstance(value, Group | Ratio):
        return all(is_usable(item) for item in (value.items if isinstance(value, Group) else value.parts))
    return not isinstance(value, Words) or value.is_usable


def as_real_set(value: Value) -> RealSet | None:
    """Converts an interval or a set of numbers to a RealSet; None for anything else."""
    if isinstance(value, RealSet):
        return value
    if not isinstance(value, Group) or not all(isinstance(item, Quantity) for item in value.items):
        return None
    trees = [item.tree for item in value.items if isinstance(item, Quantity)]
    if value.kind in ("set", "list"):
        return RealSet(None, union([[Interval(tree, tree, True, True)] for tree in trees]))
    if len(trees) == 2 and value.kind != "list":
        return RealSet(None, (Interval(trees[0], trees[1], value.kind[0] == "[", value.kind[1] == "]"),))
    return None
