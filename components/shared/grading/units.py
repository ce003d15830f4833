"""Units of measurement: which are the same, and how those of one kind convert."""

import re
from typing import Any

# A unit's kind and how many of the kind's base unit it is, as a fraction (numerator, denominator).
_UNITS: dict[str, tuple[str, tuple[int, int]]] = {}
for _kind, _names in {
    "length": {
        "mm millimeter millimetre": (1, 1000), "cm centimeter centimetre": (1, 100), "dm": (1, 10),
        "m meter metre": (1, 1), "km kilometer kilometre": (1000, 1), "in inch inche": (254, 10_000),
        "ft foot feet": (3048, 10_000), "yd yard": (9144, 10_000), "mi mile": (1_609_344, 1000),
    },
    "mass": {
        "mg": (1, 1_000_000), "g gram": (1, 1000), "kg kilogram": (1, 1), "lb pound": (45_359_237, 100_000_000),
        "oz ounce": (45_359_237, 1_600_000_000),
    },
    "time": {
        "s sec second": (1, 1), "min minute": (60, 1), "h hr hour": (3600, 1), "day": (86_400, 1), "week": (604_800, 1),
    },
    "calendar": {"month": (1, 1), "year": (12, 1)},
    "volume": {"ml milliliter millilitre": (1, 1000), "l liter litre": (1, 1)},
    "liquid": {"cup": (1, 16), "pint": (1, 8), "quart": (1, 4), "gallon": (1, 1)},
    "money": {"cent": (1, 100), "dollar usd": (1, 1)},
    "euro": {"euro eur": (1, 1)},
    "angle": {"degree deg": (1, 1)},
    "energy": {"j joule": (1, 1), "kj kilojoule": (1000, 1)},
    "pressure": {"pa pascal": (1, 1), "kpa": (1000, 1)},
    "power": {"w watt": (1, 1), "kw": (1000, 1)},
    "frequency": {"hz": (1, 1), "khz": (1000, 1), "mhz": (1_000_000, 1)},
}.items():  # fmt: skip
    for _spellings, _factor in _names.items():
        _UNITS |= dict.fromkeys(_spellings.split(), (_kind, _factor))

Measure = tuple[tuple[tuple[str, int], ...], Any]  # kinds with their powers, and the size in base units


def conversion(gold: str, answer: str) -> Any:
    """What to multiply a number in the answer's unit by to have it in the gold's.

    Args:
        gold: the unit as written, such as `cm`, `square feet`, `m/s` or `miles per hour`; empty for none.
        answer: the answer's.

    Returns:
        1 where either has no unit or one that is not a measure, such as `apples`; None where the two differ in kind.
    """
    a, b = _measure(gold), _measure(answer)
    if a is None or b is None:
        return 1
    return b[1] / a[1] if a[0] == b[0] else None


def is_unit(unit: str) -> bool:
    """Whether it is a unit of measurement that is known here."""
    return _measure(unit) is not None


def _measure(unit: str) -> Measure | None:
    """Kinds and size of a unit; None for none or for one that is not known."""
    from sympy import Rational

    text = unit.lower().strip(" .").replace("squared", "^2").replace("cubed", "^3").replace("mph", "mi/h")
    text = re.sub(r"\bkmh\b", "km/h", re.sub(r"\s*\bper\b\s*", "/", text))
    powers: dict[str, int] = {}
    size: Any = Rational(1)
    for place, part in enumerate(text.split("/")):
        for word, power in (("square ", "^2"), ("sq ", "^2"), ("cubic ", "^3")):
            if part.startswith(word):
                part = part.removeprefix(word) + power
        name, _, exponent = part.replace(" ", "").partition("^")
        spelling = name if name in _UNITS else name.removesuffix("s")
        if spelling not in _UNITS or (exponent and not exponent.isdigit()):
            return None
        kind, factor = _UNITS[spelling]
        signed = int(exponent or 1) * (-1 if place else 1)
        powers[kind] = powers.get(kind, 0) + signed
        size *= Rational(*factor) ** signed
    return tuple(sorted(powers.items())), size
