"""Units of measurement, based on Pint: which words are units, which are equal, and how they convert.

Pint knows sizes and dimensions. Which spellings count as units is decided here, because Pint reads `cats` as
hundredths of a technical atmosphere and `ab` as a small cross section.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, NamedTuple


class Measure(NamedTuple):
    """A unit of measurement: x of it equals x * factor + offset in base units."""

    dimension: tuple[tuple[str, int], ...]  # base units and their exponents
    factor: Fraction
    offset: Fraction = Fraction(0)  # for temperatures

    def times(self, other: "Measure", power: int) -> "Measure":
        """Returns this unit times a power of another."""
        powers = dict(self.dimension)
        for name, exponent in other.dimension:
            powers[name] = powers.get(name, 0) + power * exponent
        dimension = tuple(sorted((name, exponent) for name, exponent in powers.items() if exponent))
        return Measure(dimension, self.factor * other.factor**power)


_NO_UNIT = Measure((), Fraction(1))
# Symbols with the prefixes that they allow. Case matters (mm and Mm), except that KM is km.
_PREFIXED = re.compile(
    r"[fpnuµmcdkMGTP]?(?:m|g|s|[lL]|N|J|W|V|A|Pa|Hz|mol|eV|B|bits?|bytes?|cal|Wh|K|T|F|C|M|ohm|Ohm|ton)|"
    r"h(?:Pa|a|r|rs)?|"
    r"[mk]bar|in|ft|yd|mi|lbs?|oz|mins?|secs?|d|ha|mph|kph|rpm|atm|psi|gal|qt|pt|rad|ly|au|kn|mmHg|fl_oz|tsp|tbsp"
)
_WORDS = frozenset({
    "metre", "meter", "gram", "second", "minute", "hour", "day", "week", "fortnight", "month", "year", "century",
    "millennium", "litre", "liter", "newton", "joule", "watt", "volt", "ampere", "amp", "pascal", "hertz", "mole",
    "byte", "bit", "calorie", "kelvin", "tesla", "farad", "coulomb", "henry", "weber", "lumen", "lux", "candela",
    "becquerel", "sievert", "molar", "inch", "foot", "feet", "yard", "mile", "furlong", "league", "fathom",
    "nautical_mile", "angstrom", "parsec", "light_year", "astronomical_unit", "pound", "ounce", "stone", "ton",
    "tonne", "metric_ton", "carat", "acre", "hectare", "pint", "quart", "gallon", "cup", "teaspoon", "tablespoon",
    "fluid_ounce", "barrel", "bushel", "knot", "radian", "degree", "arcminute", "arcsecond", "steradian",
    "atmosphere", "torr", "psi", "erg", "dyne", "horsepower", "electron_volt", "celsius", "fahrenheit", "poise",
    "gauss", "watt_hour", "micron",
})  # fmt: skip
_PREFIX_WORDS = re.compile(
    r"(?:femto|pico|nano|micro|milli|centi|deci|deca|hecto|kilo|mega|giga|tera|peta)(?=[a-z]{3})"
)
# Spellings that Pint does not know or understands differently.
_SPELLINGS = {
    "inche": "inch", "lb": "pound", "lbs": "pound", "sec": "second", "secs": "second", "hr": "hour", "hrs": "hour",
    "min": "minute", "mins": "minute", "deg": "degree", "amp": "ampere", "kmh": "kph", "kmph": "kph", "kn": "knot",
    "celsius": "degC", "degC": "degC", "fahrenheit": "degF", "degF": "degF", "centigrade": "degC", "kelvin": "kelvin",
    "Ohm": "ohm", "C": "coulomb", "F": "farad", "T": "tesla", "M": "molar", "K": "kelvin", "A": "ampere", "d": "day",
    "h": "hour", "kcal": "kilocalorie", "cal": "calorie", "au": "astronomical_unit", "AU": "astronomical_unit",
    "millennia": "millennium", "centurie": "century", "henrie": "henry", "feet": "foot", "Calorie": "kilocalorie",
    "rpm": "revolutions_per_minute", "pt": "pint", "qt": "quart", "gal": "gallon", "ton": "ton", "mi": "mile",
    "ly": "light_year", "yr": "year", "yrs": "year", "mo": "month", "wk": "week", "cc": "milliliter", "fl_oz":
    "fluid_ounce", "acre": "whole_acre", "furlong": "whole_furlong", "fathom": "whole_fathom", "tsp": "teaspoon",
    "tbsp": "tablespoon",
}  # fmt: skip
_CURRENCIES: dict[str, tuple[str, int | Fraction]] = {
    "dollar": ("usd", 1), "usd": ("usd", 1), "buck": ("usd", 1), "cent": ("usd", Fraction(1, 100)),
    "penny": ("usd", Fraction(1, 100)), "pennie": ("usd", Fraction(1, 100)), "euro": ("eur", 1), "eur": ("eur", 1),
    "gbp": ("gbp", 1), "pence": ("gbp", Fraction(1, 100)), "rupee": ("inr", 1), "inr": ("inr", 1), "rs": ("inr", 1),
    "paise": ("inr", Fraction(1, 100)), "yen": ("jpy", 1), "jpy": ("jpy", 1), "yuan": ("cny", 1), "cny": ("cny", 1),
    "rmb": ("cny", 1), "ruble": ("rub", 1), "rouble": ("rub", 1), "rub": ("rub", 1), "won": ("krw", 1),
    "krw": ("krw", 1), "franc": ("chf", 1), "chf": ("chf", 1), "peso": ("mxn", 1), "lira": ("try", 1),
    "baht": ("thb", 1), "shekel": ("ils", 1), "dong": ("vnd", 1), "krona": ("sek", 1), "krone": ("nok", 1),
}  # fmt: skip
# Words that only express counting or how something is measured; they go with any unit.
_GENERIC = frozenset({
    "unit", "each", "long", "tall", "wide", "high", "deep", "old", "away", "apart", "total", "in", "of", "the", "a",
    "an", "all", "altogether",
})  # fmt: skip
_MAX_CHARACTERS = 60
_STERLING = Measure((("gbp", 1),), Fraction(1))


_report_loading: Callable[[bool], None] = lambda begins: None  # noqa: E731


def report_loading(loading: Callable[[bool], None]) -> None:
    """Registers a callback for before (True) and after (False) Pint is loaded, which takes a third of a second."""
    global _report_loading
    _report_loading = loading


@cache
def _registry() -> Any:
    _report_loading(True)
    import pint

    registry: Any = pint.UnitRegistry(non_int_type=Fraction)
    # Pint defines these by the survey foot, two millionths longer than the foot; an acre is 43,560 square feet.
    for definition in ("whole_acre = 43560 * foot ** 2", "whole_furlong = 660 * foot", "whole_fathom = 6 * foot"):
        registry.define(definition)
    registry.get_root_units("meter")  # triggers Pint's deferred loading
    _report_loading(False)
    return registry


def conversion(gold: str, answer: str, required: bool) -> tuple[Fraction, Fraction] | None:
    """Returns factor and offset that convert a number from the answer's unit to the gold answer's.

    Args:
        gold: the unit as written, such as `cm`, `square feet`, `m/s`, `miles per hour` or `apples`; empty for none.
        answer: the answer's unit.
        required: whether the gold answer's unit of measurement may not be omitted; degrees always may.

    Returns:
        (factor, offset): (1, 0) if the units are interchangeable; None if they are incompatible.
    """
    if gold == answer:
        return Fraction(1), Fraction(0)
    a, b = measure_of(gold), measure_of(answer)
    if a and b:
        if {gold, answer} & {"pound", "pounds"} and _STERLING in (a, b):
            a = b = _STERLING
        if a.dimension != b.dimension:
            return None
        return b.factor / a.factor, (b.offset - a.offset) / a.factor
    if not gold or not answer:
        missing = bool(a) and not answer and required and not re.match(r"deg(?:ree)?", gold)
        return None if missing else (Fraction(1), Fraction(0))
    if a or b:
        # 5 units may be 5 cm; 5 apples cannot.
        return (Fraction(1), Fraction(0)) if not _nouns(gold if b else answer) else None
    one, other = _nouns(gold), _nouns(answer)
    return (Fraction(1), Fraction(0)) if one <= other or other <= one else None


def is_unit(unit: str) -> bool:
    """Whether this is a known unit of measurement."""
    return measure_of(unit) is not None


def _nouns(unit: str) -> frozenset[str]:
    """Returns the words of a unit that name what is counted, in the singular."""
    words = re.findall(r"[A-Za-z]+", unit.lower().replace("-", ""))
    return frozenset(_singular(word) for word in words if _singular(word) not in _GENERIC)


def _singular(word: str) -> str:
    irregular = {
        "men": "man",
        "women": "woman",
        "children": "child",
        "people": "person",
        "mice": "mouse",
        "feet": "foot",
    }
    if word in irregular:
        return irregular[word]
    if word.endswith("ies"):
        return word[:-3] + "y"
    return re.sub(r"(?<=sh|ch|ss)es$|(?<=[a-z]{2})(?<!s)s$", "", word)


@lru_cache(4096)
def measure_of(unit: str) -> Measure | None:
    """Returns a unit's dimension and size; None for an empty or unknown unit."""
    if not unit or len(unit) > _MAX_CHARACTERS:
        return None
    text = re.sub(r"\\cdot(?![a-z])|·", "*", re.sub(r"[{}()]", "", unit))
    text = re.sub(r"(?<!\^)-", " ", re.sub(r"\^\s*(-?)\s*", r"^\1", text))
    text = re.sub(r"\bdegrees?\s*(?=(?:C|F|[Cc]elsius|[Ff]ahrenheit|[Cc]entigrade)\b)", "deg", text)
    text = re.sub(r"\bdeg(?:[Cc]elsius|[Cc]entigrade)\b", "degC", re.sub(r"\bdeg[Ff]ahrenheit\b", "degF", text))
    text = re.sub(r"\b(nautical|light|astronomical|metric|fluid|fl|electron|watt)[ -](?=[a-z])", r"\1_", text)
    text = re.sub(r"\bfl_ounce", "fluid_ounce", text)
    tokens = re.findall(r"[A-Za-zµ_]+|\^-?\d+|[/*]", text)
    found = _parsed(tokens)
    # `cm long` is cm, and `dollars each` is dollars.
    while found is None and len(tokens) > 1 and _singular(tokens[-1].lower()) in _GENERIC:
        tokens = tokens[:-1]
        found = _parsed(tokens)
    return found


def _parsed(tokens: list[str]) -> Measure | None:
    size, sign, power, place = _NO_UNIT, 1, 1, 0
    while place < len(tokens):
        token = tokens[place]
        place += 1
        if token in ("/", "per"):
            sign = -1
            continue
        if token in ("*", "and") or (token == "a" and sign < 0):
            continue
        if token.lower() in ("square", "sq", "cubic"):
            power = 3 if token.lower() == "cubic" else 2
            continue
        measure = _named_unit(token)
        if measure is None:
            return None
        if (
            place < len(tokens)
            and (raised := tokens[place].lower())
            and (raised[0] == "^" or raised in ("squared", "cubed"))
        ):
            power = {"squared": 2, "cubed": 3}.get(raised) or int(raised[1:])
            place += 1
            if abs(power) > 9:
                return None
        if len(tokens) == 1:
            return measure
        size = size.times(measure, sign * power)
        # After a slash, everything is in the denominator: J / kg K.
        power = 1
    return size if size.dimension or size.factor != 1 else None


@lru_cache(4096)
def _named_unit(word: str) -> Measure | None:
    """Returns the unit with a single-word name."""
    singular = _singular(word.lower())
    if currency := _CURRENCIES.get(singular):
        return Measure(((currency[0], 1),), Fraction(currency[1]))
    for spelling in (word, word.lower(), singular):
        if spelling in _SPELLINGS:
            return _from_pint(_SPELLINGS[spelling])
        long = spelling.replace("metre", "meter").replace("litre", "liter")
        if long in _WORDS or _PREFIX_WORDS.sub("", long) in _WORDS:
            return _from_pint(long)
        if _PREFIXED.fullmatch(spelling) and (len(word) > 1 or spelling == word):
            return _from_pint(spelling)
    return None


def _from_pint(name: str) -> Measure | None:
    if name in ("degree", "arcminute", "arcsecond", "revolutions_per_minute"):  # in radians in Pint, an inexact decimal
        degrees = {"degree": Fraction(1), "arcminute": Fraction(1, 60), "arcsecond": Fraction(1, 3600)}
        if name in degrees:
            return Measure((("degree", 1),), degrees[name])
        return Measure((("revolution", 1), ("second", -1)), Fraction(1, 60))
    registry = _registry()
    if not registry.parse_unit_name(name):
        return None
    factor, units = registry.get_root_units(name)
    powers = {base: Fraction(power) for base, power in units._units.items()}
    if any(power.denominator != 1 for power in powers.values()):
        return None
    offset = {"degC": Fraction(27315, 100), "degF": Fraction(45967, 100) * Fraction(5, 9)}.get(name, Fraction(0))
    return Measure(tuple(sorted((base, int(power)) for base, power in powers.items())), Fraction(factor), offset)
