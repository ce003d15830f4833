"""Sets of real numbers as intervals: union, intersection, and removing points."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from sympy import oo

INFINITY = oo


class Interval(NamedTuple):
    """One interval, or a point if both ends are equal and closed. The ends are SymPy expressions."""

    low: Any
    high: Any
    low_closed: bool
    high_closed: bool


REAL_LINE = (Interval(-INFINITY, INFINITY, False, False),)


def _number(end: Any) -> float:
    return float(end.evalf(15))


def _is_ordered(intervals: Sequence[Interval]) -> bool:
    return all(
        end in (oo, -oo) or (not end.free_symbols and end.is_extended_real is not False)
        for p in intervals
        for end in p[:2]
    )


def union(parts: Sequence[Sequence[Interval]]) -> tuple[Interval, ...]:
    """Returns the union in as few intervals as possible, in order; unchanged if an end contains symbols."""
    intervals = [interval for part in parts for interval in part]
    if not _is_ordered(intervals):
        return tuple(intervals)
    joined: list[Interval] = []
    for interval in sorted(intervals, key=lambda p: (_number(p.low), not p.low_closed)):
        last = joined[-1] if joined else None
        if last and (
            _number(interval.low) < _number(last.high)
            or (_number(interval.low) == _number(last.high) and (interval.low_closed or last.high_closed))
        ):
            further = max((last, interval), key=lambda p: (_number(p.high), p.high_closed))
            joined[-1] = Interval(last.low, further.high, last.low_closed, further.high_closed)
        else:
            joined.append(interval)
    return tuple(joined)


def intersection(parts: Sequence[Sequence[Interval]]) -> tuple[Interval, ...]:
    """Returns the intersection, or all intervals if an end contains symbols."""
    if not _is_ordered([interval for part in parts for interval in part]):
        return tuple(interval for part in parts for interval in part)
    found = []
    for chosen in product(*parts):
        low = max(chosen, key=lambda p: (_number(p.low), not p.low_closed))
        high = min(chosen, key=lambda p: (_number(p.high), p.high_closed))
        a, b = _number(low.low), _number(high.high)
        if a < b or (a == b and low.low_closed and high.high_closed):
            found.append(Interval(low.low, high.high, low.low_closed, high.high_closed))
    return union([found])


def without_points(intervals: Sequence[Interval], points: Sequence[Any]) -> tuple[Interval, ...]:
    """Returns the intervals without the given points."""
    rays = [[Interval(-INFINITY, point, False, False), Interval(point, INFINITY, False, False)] for point in points]
    return intersection([list(intervals), *rays])
