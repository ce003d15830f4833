"""What an answer can be: a quantity, words, a list, set, tuple, interval, relation, ratio, matrix."""

import re
from dataclasses import dataclass
from typing import Any

from components.shared.grading.mathematics.intervals import Interval, union


@dataclass(frozen=True)
class Quantity:
    """A number or an expression, with its unit."""

    text: str
    tree: Any  # a SymPy expression
    unit: str = ""  # as written, such as cm^2; "percent" and "degree" are units too
    decimals: int | None = None  # digits behind the point of a plain decimal
    is_noted: bool = False  # the unit stands in brackets: 9 (apples)

    @property
    def is_percent(self) -> bool:
        """Whether it is so many in a hundred."""
        return self.unit.startswith("percent")


@dataclass(frozen=True)
class Words:
    """An answer in words, or one that cannot be read: compared as text."""

    text: str

    @property
    def is_usable(self) -> bool:
        """Whether it can be a gold answer: neither a sentence nor a torn piece of LaTeX."""
        words = re.findall(r"[A-Za-z']{2,}", re.sub(r"\\[A-Za-z]+", "", self.text))
        return len(words) <= 5 and bool(re.search(r"\w", self.text)) and self.text.count("{") == self.text.count("}")


@dataclass(frozen=True)
class Group:
    """Several values: kind is list, set, or the brackets that enclose a tuple or an interval, such as `(]`."""

    kind: str
    items: tuple["Value", ...]


@dataclass(frozen=True)
class RealSet:
    """Real numbers: intervals and points."""

    variable: str | None
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Relation:
    """An equation or an inequality of two sides."""

    operator: str  # = < <= !=
    left: Any  # SymPy expressions; None where a side is no expression
    right: Any
    name: str | None = None  # what an equation assigns to, such as x or f(x)
    value: "Value | None" = None  # what it assigns


@dataclass(frozen=True)
class Ratio:
    """a:b or a:b:c; a time of the day too."""

    parts: tuple["Value", ...]
    text: str
    half_day: str = ""  # am or pm

    @property
    def is_clock(self) -> bool:
        """Whether it may be a time of the day."""
        return bool(re.fullmatch(r"\d{1,2}:\d{2}(?::\d{2})?", self.text))


@dataclass(frozen=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple["Value", ...], ...]


@dataclass(frozen=True)
class Based:
    """A numeral with its base, such as 52_8."""

    digits: str
    base: int


Value = Quantity | Words | Group | RealSet | Relation | Ratio | Matrix | Based


def is_usable(value: Value) -> bool:
    """Whether a value can be a gold answer: nothing in it is prose."""
    if isinstance(value, Group | Ratio):
        return all(is_usable(item) for item in (value.items if isinstance(value, Group) else value.parts))
    return not isinstance(value, Words) or value.is_usable


def as_real_set(value: Value) -> RealSet | None:
    """An interval or a set of numbers as a region; None if it is neither."""
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
