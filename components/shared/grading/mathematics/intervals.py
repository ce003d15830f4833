"""Sets of real numbers as intervals: union, intersection, and taking points away."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from sympy import oo

INFINITY = oo


class Piece(NamedTuple):
    """One interval, or a point where both ends are the same and closed. The ends are SymPy expressions."""

    low: Any
    high: Any
    low_closed: bool
    high_closed: bool


EVERYTHING = (Piece(-INFINITY, INFINITY, False, False),)


def _number(end: Any) -> float:
    return float(end.evalf(15))


def _is_ordered(pieces: Sequence[Piece]) -> bool:
    return all(
        end in (oo, -oo) or (not end.free_symbols and end.is_extended_real is not False)
        for p in pieces
        for end in p[:2]
    )


def union(parts: Sequence[Sequence[Piece]]) -> tuple[Piece, ...]:
    """The union, as few pieces as can be, in order; pieces whose ends hold symbols stay as they are."""
    pieces = [piece for part in parts for piece in part]
    if not _is_ordered(pieces):
        return tuple(pieces)
    joined: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: (_number(p.low), not p.low_closed)):
        last = joined[-1] if joined else None
        if last and (
            _number(piece.low) < _number(last.high)
            or (_number(piece.low) == _number(last.high) and (piece.low_closed or last.high_closed))
        ):
            further = max((last, piece), key=lambda p: (_number(p.high), p.high_closed))
            joined[-1] = Piece(last.low, further.high, last.low_closed, further.high_closed)
        else:
            joined.append(piece)
    return tuple(joined)


def intersection(parts: Sequence[Sequence[Piece]]) -> tuple[Piece, ...]:
    """The intersection; of pieces whose ends hold symbols, all of them."""
    if not _is_ordered([piece for part in parts for piece in part]):
        return tuple(piece for part in parts for piece in part)
    found = []
    for chosen in product(*parts):
        low = max(chosen, key=lambda p: (_number(p.low), not p.low_closed))
        high = min(chosen, key=lambda p: (_number(p.high), p.high_closed))
        a, b = _number(low.low), _number(high.high)
        if a < b or (a == b and low.low_closed and high.high_closed):
            found.append(Piece(low.low, high.high, low.low_closed, high.high_closed))
    return union([found])


def without_points(pieces: Sequence[Piece], points: Sequence[Any]) -> tuple[Piece, ...]:
    """The pieces with single points taken away."""
    rays = [[Piece(-INFINITY, point, False, False), Piece(point, INFINITY, False, False)] for point in points]
    return intersection([list(pieces), *rays])
