"""Decides whether an answer equals a gold answer, value by value."""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from components.shared.grading.mathematics.expressions import proportional, same, terminates
from components.shared.grading.mathematics.intervals import Interval
from components.shared.grading.mathematics.readings import rational, readings
from components.shared.grading.mathematics.units import conversion, is_unit
from components.shared.grading.mathematics.values import (
    Based,
    Group,
    Matrix,
    Quantity,
    Ratio,
    RealSet,
    Relation,
    Value,
    Words,
    as_real_set,
)
from components.shared.grading.settings import GradingSettings

_SIGNIFICANT = 6  # digits; a decimal with at least these may stand for a number without a finite decimal form
_FLOAT = 15  # digits; a decimal with at least these is treated as a printed float, whose last digits may be off


def equal(gold: Value, answer: Value, settings: GradingSettings) -> bool:
    """Whether two values are the same answer.

    Raises:
        TooLargeError: a number on either side has more than 200,000 digits.
    """
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _relations(gold, answer, settings)
    if isinstance(gold, Words) or isinstance(answer, Words):
        a, b = _words(gold), _words(answer)
        return a is not None and b is not None and _letters(a) == _letters(b)
    if isinstance(gold, RealSet) or isinstance(answer, RealSet):
        return _real_sets(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _matrices(gold, answer, settings)
    if isinstance(gold, Group) and isinstance(answer, Group):
        return _groups(gold, answer, settings)
    for group, other in ((gold, answer), (answer, gold)):
        if isinstance(group, Group):  # {5} and 5 are the same answer; (5, 6) and 5 are not
            alone = group.kind in ("set", "list") and len(group.items) == 1
            return alone and equal(group.items[0], other, settings)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return isinstance(gold, Based) and isinstance(answer, Based) and _number_of(gold) == _number_of(answer)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _ratios(gold, answer, settings)
    return _quantities(gold, answer, settings)


def _words(value: Value) -> str | None:
    """Returns a value as words: short words parse as products of symbols (yes, no, odd)."""
    if isinstance(value, Words):
        return value.text
    return value.text if isinstance(value, Quantity) and value.text.isalpha() and len(value.text) > 1 else None


def _letters(text: str) -> str:
    text = re.sub(r"^(?:the|a|an)\s", "", text.strip().casefold())
    if re.search(r"\d", text):  # 1, 2 is not 12
        return re.sub(r"['\"⟦⟧.]|(?<!\w)\s+|\s+(?!\w)", "", text)
    return re.sub(r"['\"⟦⟧\s.,]", "", text)


def _relations(gold: Value, answer: Value, settings: GradingSettings) -> bool:
    if not isinstance(answer, Relation):
        return isinstance(gold, Relation) and gold.value is not None and equal(gold.value, answer, settings)
    if not isinstance(gold, Relation):
        return answer.value is not None and equal(gold, answer.value, settings)
    if gold.operator != answer.operator:
        return False
    names = [re.fullmatch(r"(\w+)\((\w)\)", re.sub(r"\s", "", side.name or "")) for side in (gold, answer)]
    if names[0] and names[1] and names[0][1] == names[1][1] and names[0][2] != names[1][2]:
        from sympy import Symbol  # f(x) = x^2 is f(t) = t^2

        if gold.value is None or not isinstance(answer.value, Quantity):
            return False
        tree = answer.value.tree.subs(Symbol(names[1][2]), Symbol(names[0][2]))
        return equal(gold.value, replace(answer.value, tree=tree), settings)
    if gold.value is not None and answer.value is not None and _same_name(gold.name, answer.name):
        return equal(gold.value, answer.value, settings)
    if any(side is None for side in (gold.left, gold.right, answer.left, answer.right)):
        return False
    return proportional(gold.left - gold.right, answer.left - answer.right, positive=gold.operator != "=")


def _same_name(a: str | None, b: str | None) -> bool:
    a, b = (re.sub(r"[⟦⟧{}\s]", "", name or "") for name in (a, b))
    return a == b or all(name == "y" or re.fullmatch(r"[a-zA-Z]\([a-z]\)", name) for name in (a, b))


def _groups(gold: Group, answer: Group, settings: GradingSettings) -> bool:
    golds, answers = _sorted_assignments(gold, answer)
    kinds = {gold.kind, answer.kind}
    if "set" in kinds:
        if not kinds <= {"set", "list"} or _only_one_is_labelled(gold, answer):
            return False
        golds, answers = _distinct(golds, settings), _distinct(answers, settings)
        return _in_any_order(golds, answers, settings)
    if "list" not in kinds and gold.kind != answer.kind and len(golds) == 2:
        return False  # open and closed ends; brackets around three or more are only brackets
    if gold.kind == "list" and settings.order == "any" and not _only_one_is_labelled(gold, answer):
        return _in_any_order(golds, answers, settings)
    return _in_order(golds, answers, settings)


def _only_one_is_labelled(gold: Group, answer: Group) -> bool:
    """Whether order on one side stands for labels on the other: `x = 1, y = 2` and 1, 2; 3 boys, 5 girls and 3, 5."""
    labels = [_labels(side) for side in (gold, answer)]
    return bool(labels[0]) != bool(labels[1])


def _labels(group: Group) -> set[str]:
    """Returns the names or units of a list's items if they differ, else an empty set."""
    names = {
        item.name or "" if isinstance(item, Relation) else item.unit if isinstance(item, Quantity) else ""
        for item in group.items
    }
    return names if len(names) > 1 and "" not in names else set()


def _sorted_assignments(gold: Group, answer: Group) -> tuple[list[Value], list[Value]]:
    """Returns the items, sorting `y = 2, x = 1` by name and dropping the names if the other side is a tuple."""
    sides = []
    for group, other in ((gold, answer), (answer, gold)):
        items = list(group.items)
        named = [item for item in items if isinstance(item, Relation) and item.name and item.value is not None]
        if named and len(named) == len(items):
            if any(isinstance(item.value, Group) for item in named):
                pass  # points stay in the order written
            elif other.kind == "list" or {item.name for item in named} <= {"x", "y", "z"}:
                named.sort(key=lambda item: item.name or "")
            items = list(named) if other.kind == "list" else [item.value for item in named if item.value is not None]
        sides.append(items)
    return sides[0], sides[1]


def _in_order(golds: Sequence[Value], answers: Sequence[Value], settings: GradingSettings) -> bool:
    return len(golds) == len(answers) and all(equal(g, a, settings) for g, a in zip(golds, answers, strict=True))


def _in_any_order(golds: Sequence[Value], answers: Sequence[Value], settings: GradingSettings) -> bool:
    left = list(answers)
    if len(left) != len(golds):
        return False
    for gold in golds:
        match = next((i for i, answer in enumerate(left) if equal(gold, answer, settings)), None)
        if match is None:
            return False
        del left[match]
    return True


def _distinct(items: Sequence[Value], settings: GradingSettings) -> list[Value]:
    found: list[Value] = []
    for item in items:
        if not any(equal(other, item, settings) for other in found):
            found.append(item)
    return found


def _matrices(gold: Value, answer: Value, settings: GradingSettings) -> bool:
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        return len(gold.rows) == len(answer.rows) and all(
            _in_order(g, a, settings) for g, a in zip(gold.rows, answer.rows, strict=True)
        )
    # A vector may be written as a tuple, and a matrix as a list of lists.
    matrix, other = (gold, answer) if isinstance(gold, Matrix) else (answer, gold)
    if not isinstance(matrix, Matrix) or not isinstance(other, Group):
        return False
    rows = [item.items for item in other.items if isinstance(item, Group)]
    if other.kind == "[]" and len(rows) == len(other.items):
        return _matrices(matrix, Matrix(tuple(rows)), settings)
    if other.kind != "()":
        return False
    is_vector = len(matrix.rows) == 1 or all(len(row) == 1 for row in matrix.rows)
    return is_vector and _in_order([cell for row in matrix.rows for cell in row], other.items, settings)


def _number_of(based: Based) -> int | str:
    try:
        return int(based.digits, based.base)
    except ValueError:  # a digit that does not exist in the base
        return based.digits


def _ratios(gold: Value, answer: Value, settings: GradingSettings) -> bool:
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        if gold.is_clock or answer.is_clock:
            halves = {gold.half_day, answer.half_day} - {""}
            return _clock(gold.text) == _clock(answer.text) and len(halves) < 2
        if _in_order(gold.parts, answer.parts, settings):
            return True
        g, a = ([part.tree for part in side.parts if isinstance(part, Quantity)] for side in (gold, answer))
        if not len(g) == len(a) == len(gold.parts) == len(answer.parts):
            return False
        return all(same(x * a[0], y * g[0]) for x, y in zip(g[1:], a[1:], strict=True))
    ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    # 1:2 equals one half; 2:1 does not equal 2, nor 12:00 equal 12.
    if not isinstance(ratio, Ratio) or not isinstance(other, Quantity) or not re.search(r"/|\\frac", other.text):
        return False
    parts = [part.tree for part in ratio.parts if isinstance(part, Quantity)]
    return len(parts) == len(ratio.parts) == 2 and same(parts[0], other.tree * parts[1])


def _clock(text: str) -> list[int] | str:
    return [int(part) for part in text.split(":")] if re.fullmatch(r"[\d:]+", text) else text


def _real_sets(gold: Value, answer: Value) -> bool:
    a, b = as_real_set(gold), as_real_set(answer)
    if a is None or b is None or len(a.intervals) != len(b.intervals):
        return False
    if a.variable and b.variable and a.variable != b.variable:
        return False
    return all(_same_interval(p, q) for p, q in zip(a.intervals, b.intervals, strict=True))


def _same_interval(a: Interval, b: Interval) -> bool:
    return a[2:] == b[2:] and same(a.low, b.low) and same(a.high, b.high)


def _quantities(gold: Value, answer: Value, settings: GradingSettings) -> bool:
    if not isinstance(gold, Quantity) or not isinstance(answer, Quantity):
        return False
    if gold.text.isalpha() and len(gold.text) > 1 and gold.text.casefold() == answer.text.casefold():
        return True  # yes, no, odd: short words that parse as products of symbols
    if gold.is_percent or answer.is_percent:
        return _percentages(gold, answer, settings)
    gold, answer = _with_letters_as_unit(gold, answer), _with_letters_as_unit(answer, gold)
    if _are_angles(gold, answer):
        return _angles(gold, answer, settings)
    found = conversion(gold.unit, answer.unit, settings.units == "required" and not gold.is_noted)
    if found is None:
        return False
    factor, offset = found
    if factor == 1 and offset == 0:
        return _numbers(gold, answer, settings)
    converted = _converted(answer, factor, offset)
    # A gold answer's rounding applies in its own unit, not after conversion: 601 minutes is not 10.0 hours.
    return same(gold.tree, converted.tree) or (gold.decimals is None and _numbers(gold, converted, settings))


def _with_letters_as_unit(quantity: Quantity, other: Quantity) -> Quantity:
    """Reads `5 m`, which could be a product, as five metres if the other side has a unit of measurement."""
    if quantity.unit or not is_unit(other.unit):
        return quantity
    match = re.fullmatch(r"(.*[\d})])\s*([a-zA-Zµ]{1,3}(?:\s?[/^ ]\s?(?:[a-zA-Z]{1,3}|\{?-?\d\}?))*)", quantity.text)
    if not match or not is_unit(match[2]):
        return quantity
    values = [value for value in readings(match[1]) if isinstance(value, Quantity)]
    return replace(values[0], unit=match[2]) if values else quantity


def _percentages(gold: Quantity, answer: Quantity, settings: GradingSettings) -> bool:
    from sympy import Rational

    if any(side.unit and not side.is_percent for side in (gold, answer)):
        return False  # 5 % and 5 cm
    same_kind = gold.is_percent == answer.is_percent or settings.percent == "either"
    if same_kind and _numbers(gold, answer, settings):
        return True
    shares = [_scaled(side, Rational(1, 100)) if side.is_percent else side for side in (gold, answer)]
    return _numbers(shares[0], shares[1], settings)


def _are_angles(gold: Quantity, answer: Quantity) -> bool:
    """Whether one side is in degrees and the other in radians, by unit or by a factor pi: 90 degrees is pi/2."""
    from sympy import pi

    for one, other in ((gold, answer), (answer, gold)):
        if one.unit.startswith("deg") and not re.search(r"[CF]", one.unit[3:]):
            return other.unit.startswith("rad") or (not other.unit and other.tree.has(pi))
    return False


def _angles(gold: Quantity, answer: Quantity, settings: GradingSettings) -> bool:
    from sympy import pi

    radians = [
        replace(side, tree=side.tree * pi / 180, decimals=None, unit="") if side.unit.startswith("deg") else side
        for side in (gold, answer)
    ]
    return _numbers(radians[0], radians[1], settings)


def _converted(quantity: Quantity, factor: Fraction, offset: Fraction) -> Quantity:
    tree = quantity.tree * rational(factor) + rational(offset)
    return replace(quantity, tree=tree, decimals=None if quantity.decimals is None else quantity.decimals + 2, unit="")


def _scaled(quantity: Quantity, factor: Any) -> Quantity:
    decimals = None if quantity.decimals is None else quantity.decimals + 2
    return replace(quantity, tree=quantity.tree * factor, decimals=decimals, unit="")


def _numbers(gold: Quantity, answer: Quantity, settings: GradingSettings) -> bool:
    """Whether two quantities are equal apart from units; decimals may stand for numbers without a finite form."""
    if same(gold.tree, answer.tree):
        return True
    if gold.tree.free_symbols or answer.tree.free_symbols:
        return False
    if answer.decimals is not None:
        digits = _significant(answer)
        if digits >= _FLOAT and (gold.decimals is None or _significant(gold) < _FLOAT):
            return _within(gold.tree, answer, 5) or _is_float_of(gold.tree, answer.tree)
        return digits >= _SIGNIFICANT and not terminates(gold.tree) and _within(gold.tree, answer, 1)
    if gold.decimals is not None and not terminates(answer.tree):
        return settings.rounded_gold == "accept" and _significant(gold) >= 3 and _within(answer.tree, gold, 0.5)
    return False


def _is_float_of(exact: Any, decimal: Any) -> bool:
    """Whether a decimal is the number as computed in double precision, allowing for a few rounding errors."""
    if exact.is_integer and decimal.is_integer:
        return False  # integers are not rounded: these two differ
    difference = (abs(exact - decimal) - abs(exact) * 2.0**-50).evalf(20)
    return bool(difference.is_comparable and difference <= 0)


def _significant(decimal: Quantity) -> int:
    return len(re.sub(r"\D", "", decimal.text).lstrip("0"))


def _within(exact: Any, decimal: Quantity, units: float) -> bool:
    """Whether an exact number is within the given units of a decimal's last place."""
    assert decimal.decimals is not None
    difference = abs((exact - decimal.tree).evalf(20))
    return bool(difference.is_comparable and difference <= (units + 1e-9) * 10.0**-decimal.decimals)
