"""Units of measurement: which are the same, and how those of one kind convert."""

from typing import Any

# A unit's kind and how many of the kind's base unit it is, as a fraction (numerator, denominator).
_UNITS: dict[str, tuple[str, tuple[int, int]]] = {}
for _kind, _names in {
    "length": {
        "mm millimeter millimetre": (1, 1000), "cm centimeter centimetre": (1, 100), "dm": (1, 10),
        "m meter metre": (1, 1), "km kilometer kilometre": (1000, 1), "in inch inche": (254, 10_000),
        "ft foot feet": (3048, 10_000), "yd yard": (9144, 10_000), "mi mile": (1_609_344, 1000),
    },
    "mass": {"mg": (1, 1_000_000), "g gram": (1, 1000), "kg kilogram": (1, 1), "lb pound": (45_359_237, 100_000_000)},
    "time": {
        "s sec second": (1, 1), "min minute": (60, 1), "h hr hour": (3600, 1), "day": (86_400, 1), "week": (604_800, 1),
    },
    "volume": {"ml milliliter millilitre": (1, 1000), "l liter litre": (1, 1)},
    "money": {"cent": (1, 100), "dollar usd": (1, 1)},
    "angle": {"degree deg": (1, 1)},
}.items():  # fmt: skip
    for _spellings, _factor in _names.items():
        _UNITS |= dict.fromkeys(_spellings.split(), (_kind, _factor))


def conversion(gold: str, answer: str) -> Any:
    """What to multiply a number in the answer's unit by to have it in the gold's.

    Args:
        gold, answer: units as written, such as `cm`, `square feet` or `m/s`; empty for none.

    Returns:
        1 where either has no unit or one that is not a measure, such as `apples`; None where the two differ in kind.
    """
    from sympy import Rational

    a, b = _measure(gold), _measure(answer)
    if a is None or b is None or a == b:
        return 1
    if a[0] != b[0] or a[2] != b[2]:
        return None
    return (Rational(*b[1]) / Rational(*a[1])) ** a[2]


def _measure(unit: str) -> tuple[str, tuple[int, int], int] | None:
    """Kind, size and power of a unit; None for none or for one that is not known."""
    text = unit.lower().strip(" .").replace("squared", "^2").replace("cubed", "^3")
    for word, power in (("square ", "^2"), ("sq ", "^2"), ("cubic ", "^3")):
        if text.startswith(word):
            text = text.removeprefix(word) + power
    name, _, power = text.replace(" ", "").partition("^")
    for spelling in (name, name.removesuffix("s")):
        if spelling in _UNITS and (not power or power.isdigit()):
            return *_UNITS[spelling], int(power or 1)
    return None
