"""Reads sets of reals in words: `all real numbers`, `all reals except 0`, `greater than 2`, `between 0 and 1`."""

import re
from collections.abc import Callable

from sympy import Integer

from components.shared.grading.mathematics.intervals import INFINITY, REAL_LINE, Interval, intersection, without_points
from components.shared.grading.mathematics.values import Group, Quantity, RealSet, Value, as_real_set

_REALS = re.compile(
    r"(?P<all>(?:the set of )?(?:all |the |any |every )*(?P<sign>(?:non-?)?(?:positive|negative|zero) )?"
    r"(?:real numbers?|reals?(?: values)?|numbers?)(?: of)?"
    r"|(?:all|every|any) (?:real )?(?=[a-z](?![a-z])))?"
    r"\s?(?P<variable>[a-z](?![a-z]))?(?(all)|(?: is| are)?)\s?"
    r"(?:,?\s?(?P<except>except(?: for)?|other than|excluding|but not|apart from|not equal to|besides|without)"
    r"\s?|,?\s?(?:(?:that|which) (?:is|are) )?"
    r"(?P<than>(?:no |not )?(?:greater|more|larger|bigger|less|smaller|fewer) than(?: or equal to)?"
    r"|at least|at most|above|below)\s?|,?\s?"
    r"(?P<between>(?:strictly )?(?:between|from)(?P<inclusive> inclusive)?)\s|,?\s?(?:such that|with|where)\s)?"
    r"(?P<rest>(?:[-\d\\(.+]|[a-z]\s?(?:[=<>]|\\[lg]e|\\ne)).*)?",
    re.IGNORECASE,
)
_ZERO = Integer(0)


def set_in_words(text: str, read: Callable[[str], Value]) -> RealSet | None:
    """Reads a set of real numbers given in words; returns None for anything else.

    Args:
        text: the answer in plain LaTeX.
        read: parses a part of it.
    """
    words = " ".join(re.sub(r"[⟦⟧]", " ", text).split())
    match = _REALS.fullmatch(words)
    if not match or not (match["all"] or match["than"] or match["between"]):
        return None
    intervals: tuple[Interval, ...] = REAL_LINE
    if sign := (match["sign"] or "").lower().strip():
        closed = sign.startswith("non")
        low = sign.endswith("positive") != closed
        intervals = (Interval(_ZERO, INFINITY, closed, False),) if low else (Interval(-INFINITY, _ZERO, False, closed),)
        if sign.endswith("zero"):
            intervals = without_points(REAL_LINE, [_ZERO])
    rest = match["rest"]
    if rest is None:
        return RealSet(match["variable"], intervals)
    if match["except"]:
        taken = read(re.sub(r"^[a-z]\s*=\s*", "", rest))
        items = taken.items if isinstance(taken, Group) else (taken,)
        points = [item.tree for item in items if isinstance(item, Quantity)]
        return RealSet(match["variable"], without_points(intervals, points)) if len(points) == len(items) else None
    if match["than"]:
        bound = read(rest)
        if not isinstance(bound, Quantity) or bound.tree.free_symbols:
            return None
        than = match["than"].lower()
        closed = bool(re.search(r"equal|least|most|no |not ", than))
        above = bool(re.search(r"greater|more|larger|bigger|least|above", than)) != than.startswith(("no ", "not "))
        ray = Interval(bound.tree, INFINITY, closed, False) if above else Interval(-INFINITY, bound.tree, False, closed)
        return RealSet(match["variable"], intersection([intervals, [ray]]))
    if match["between"]:
        ends = [read(part) for part in re.split(r"\sand\s", rest)]
        trees = [end.tree for end in ends if isinstance(end, Quantity) and not end.tree.free_symbols]
        if len(trees) != 2 or len(ends) != 2:
            return None
        closed = match["inclusive"] is not None
        return RealSet(match["variable"], intersection([intervals, [Interval(trees[0], trees[1], closed, closed)]]))
    condition = as_real_set(read(rest))
    return RealSet(condition.variable, intersection([intervals, condition.intervals])) if condition else None
