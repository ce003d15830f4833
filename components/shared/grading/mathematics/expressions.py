"""Decides whether two SymPy expressions are equal, without letting either grow without bound.

Numbers are compared exactly, or to 75 digits if they have no finite form; never as floats, for which 2^-98 and 2^-99
are the same. Expressions are compared at exact sample points, which refutes equality in a millisecond where
simplification may never finish. Whatever cannot be compared this way goes to math-verify.
"""

from collections.abc import Iterator, Sequence
from typing import Any

_MAX_DIGITS = 200_000  # decimal digits; larger numbers are not evaluated
_TOLERANCE = 1e-75  # relative to numbers of size 1; evalf raises its precision up to 100 digits to find a difference
_POINT_COUNT = 10  # sample points at which expressions are compared


class TooLargeError(ValueError):
    """A number has too many digits to be evaluated."""


def same(a: Any, b: Any) -> bool:
    """Whether two expressions are equal for all values of their symbols.

    Raises:
        TooLargeError: a number in either has more than 200,000 digits.
    """
    check_size(a)
    if a == b:
        return True
    check_size(b)
    if a.free_symbols or b.free_symbols:
        return _same_everywhere(*_with_unknowns_as_symbols(a, b))
    return _same_number(a, b)


def _with_unknowns_as_symbols(a: Any, b: Any) -> tuple[Any, Any]:
    """Replaces u(t), dM/dt and the like by symbols: they cannot be evaluated at a point, only equal themselves."""
    from sympy import Derivative, DiracDelta, Heaviside, Symbol
    from sympy.core.function import AppliedUndef

    found = a.atoms(AppliedUndef, Derivative, DiracDelta, Heaviside) | b.atoms(
        AppliedUndef, Derivative, DiracDelta, Heaviside
    )
    unknown = {
        part: Symbol(f"unknown {part}")
        for part in found
        if not isinstance(part, Derivative) or part.expr.has(AppliedUndef) or not part.expr.has(*part.variables)
    }
    return (a.xreplace(unknown), b.xreplace(unknown)) if unknown else (a, b)


def _same_number(a: Any, b: Any) -> bool:
    a, b = a.doit(), b.doit()
    if (a.is_Rational and b.is_Rational) or a.is_finite is False or b.is_finite is False:
        return bool(a == b)
    difference = (a - b).evalf(10)
    if not difference.is_number or difference.is_finite is not True:
        return _math_verify(a, b)
    return bool(abs(difference) <= _TOLERANCE * (1 + abs(a.evalf(10))))


def _same_everywhere(a: Any, b: Any) -> bool:
    """Whether two expressions agree at every sample point or, if meant to be real, wherever both are real."""
    from sympy import I

    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    a, b = a.doit(), b.doit()
    real = not (a.has(I) or b.has(I))
    compared, elsewhere = 0, []  # elsewhere: agreement at points where a root or logarithm is not real
    for point in _sample_points(symbols):
        left, right = a.subs(point), b.subs(point)
        value, difference = left.evalf(10), (left - right).evalf(10)
        if not difference.is_number or difference.is_finite is not True:
            continue
        agree = bool(abs(difference) <= _TOLERANCE * (1 + abs(value)))
        if real and not (value.is_real and difference.is_real):
            elsewhere.append(agree)
        elif not agree:
            if not real or (_is_real_throughout(a, point) and _is_real_throughout(b, point)):
                return False
            elsewhere.append(agree)
        else:
            compared += 1
    if compared >= 3:
        return True
    if not all(elsewhere):
        return False
    return compared + len(elsewhere) >= 3 or (compared + len(elsewhere) == 0 and _math_verify(a, b))


def _is_real_throughout(tree: Any, point: dict[Any, Any]) -> bool:
    """Whether every part of an expression is real; for negative a and b, only the product sqrt(a) sqrt(b) is."""
    from sympy import Pow, log

    return all(part.subs(point).evalf(5).is_real is not False for part in tree.atoms(Pow, log))


def proportional(a: Any, b: Any, positive: bool) -> bool:
    """Whether a is a nonzero constant times b, so that `a = 0` and `b = 0` are the same equation.

    Args:
        a: an expression.
        b: another expression.
        positive: require a positive constant, as for `a < 0` and `b < 0` to be the same inequality.

    Raises:
        TooLargeError: a number in either has more than 200,000 digits.
    """
    from sympy import I, fraction, together

    check_size(a)
    check_size(b)
    a, b = _with_unknowns_as_symbols(a, b)
    a, b = a.doit(), b.doit()
    if not positive:
        a, b = fraction(together(a))[0], fraction(together(b))[0]
    first, real = None, not (a.has(I) or b.has(I))
    for point in _sample_points(sorted(a.free_symbols | b.free_symbols, key=str)):
        x, y = a.subs(point), b.subs(point)
        if not y.evalf(10).is_number:
            return False
        if y.evalf(10) == 0 and x.evalf(10) == 0:
            continue
        if y.evalf(10) == 0:
            return False
        if real and not (x.evalf(10).is_real and y.evalf(10).is_real):
            continue  # outside the domain of a root or logarithm
        ratio = x / y
        value = ratio.evalf(10)
        if not value.is_comparable or value == 0 or (positive and value < 0):
            return False
        if first is not None and abs((ratio - first).evalf(10)) > _TOLERANCE * (1 + abs(value)):
            return False
        first = ratio
    return first is not None


def _random_fraction(rng: Any, sign: int) -> Any:
    from sympy import Rational

    denominator = rng.choice((7, 11, 13, 17, 19, 23))
    numerator = rng.randint(1, 400)
    return Rational(sign * (numerator + (numerator % denominator == 0)), denominator)  # never an integer


def _sample_points(symbols: Sequence[Any]) -> Iterator[dict[Any, Any]]:
    """Yields exact points that avoid special values: equal and mixed signs, in every order, small and large."""
    from random import Random

    for number in range(_POINT_COUNT):
        rng = Random(number)  # deterministic
        # The first three are positive, where logarithms and roots are real; then all negative, then mixed.
        signs = (1,) if number < 3 else (-1,) if number == 3 else (1, -1)
        yield {s: _random_fraction(rng, rng.choice(signs)) for s in symbols}


def _math_verify(a: Any, b: Any) -> bool:
    from math_verify import verify

    # Its timeouts are SIGALRM-based: no use in threads or against huge powers. The worker's own limit applies.
    return bool(verify(a, b, timeout_seconds=None))


def linear_root(tree: Any) -> tuple[Any, Any, bool] | None:
    """For an expression a*x + b, returns the symbol x, the root -b/a and whether a > 0; None for anything else."""
    if len(tree.free_symbols) != 1 or len(tree.atoms()) > 20:
        return None
    check_size(tree)
    symbol = next(iter(tree.free_symbols))
    if not tree.is_polynomial(symbol):
        return None
    slope = tree.diff(symbol).doit()
    if slope.free_symbols or not slope.is_comparable or slope == 0:
        return None
    return symbol, (symbol - tree / slope).doit().expand(), bool(slope > 0)


def solutions(relation: Any) -> list[tuple[Any, Any, bool, bool]] | None:
    """Returns the real solutions of an inequality in one symbol as (low, high, low closed, high closed).

    None for an inequality in several symbols, or whose solutions are not a union of a few intervals.
    """
    from sympy import FiniteSet, Interval, S, Union, solveset
    from sympy.functions.elementary.trigonometric import TrigonometricFunction

    # SymPy solves periodic inequalities over a single period only.
    if len(relation.free_symbols) != 1 or len(relation.atoms()) > 20 or relation.has(TrigonometricFunction):
        return None
    check_size(relation.lhs - relation.rhs)
    symbol = next(iter(relation.free_symbols))
    try:
        found = solveset(relation.doit(), symbol, S.Reals)
    except (NotImplementedError, ValueError, TypeError):  # SymPy cannot solve it
        return None
    intervals = []
    for part in found.args if isinstance(found, Union) else [found]:
        if isinstance(part, Interval):
            intervals.append((part.start, part.end, not part.left_open, not part.right_open))
        elif isinstance(part, FiniteSet):
            intervals += [(point, point, True, True) for point in part]
        else:
            return None
    return intervals


def terminates(number: Any) -> bool:
    """Whether a number has a finite decimal expansion."""
    value = number.doit()
    if not value.is_Rational:
        return False
    denominator = value.q
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return bool(denominator == 1)


def check_size(tree: Any) -> None:
    """Raises TooLargeError if evaluating an expression would produce a number with more than 200,000 digits."""
    if _digits(tree) > _MAX_DIGITS:
        raise TooLargeError("a number has more than 200,000 digits")


def _digits(tree: Any) -> float:
    """Upper estimate of the decimal digits of the largest number in an expression, including intermediate ones."""
    from sympy import Rational, binomial, factorial, log

    if isinstance(tree, Rational):  # integers too
        return float(max(tree.p.bit_length(), tree.q.bit_length())) * 0.30103
    inner = [_digits(argument) for argument in tree.args]
    largest = max(inner, default=0.0)
    if largest > _MAX_DIGITS:
        return largest
    if tree.is_Pow and not tree.exp.free_symbols:
        if inner[1] > 9:
            return float("inf")
        exponent = abs(tree.exp.evalf(5))
        size = float(exponent) if exponent.is_comparable else 0.0
        if tree.base.free_symbols:  # expanding such a power yields that many terms
            return float("inf") if size > 1e4 else largest
        return max(largest, size * max(inner[0], 0.3))
    if isinstance(tree, factorial | binomial) and not tree.args[0].free_symbols:
        if inner[0] > 7:
            return float("inf")
        count = float(abs(tree.args[0].evalf(5)))
        return max(largest, count * max(inner[0], 1.0))
    if tree.is_Mul:
        return max(largest, sum(inner))
    if tree.is_Function and not isinstance(tree, log) and largest > 50:
        return float("inf")  # sin(10^100) and the like need that many digits
    return largest
