"""Converts English number words and calculations: twenty-one, two and a half, 5 million, 3 out of 4, 2 squared.

Runs on a text in which only some words are marked as `⟦word⟧` yet (normalize.py); the others are bare.
"""

import re
from collections.abc import Iterable
from fractions import Fraction

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_CARDINALS = (
    {word: n for n, word in enumerate(_ONES)} | {word: 10 * n for n, word in enumerate(_TENS, 2)} | {"fourty": 40}
)
_SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15,
    "dozen": 12, "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
_SCALES |= {f"{word}s": size for word, size in _SCALES.items()}
_DENOMINATORS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15, "sixteenth": 16,
    "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30, "fortieth": 40,
    "fiftieth": 50, "sixtieth": 60, "hundredth": 100, "thousandth": 1000, "millionth": 10**6,
}  # fmt: skip
_PLURALS = {"halves": 2} | {f"{word}s": size for word, size in _DENOMINATORS.items() if word != "half"}
_NUMBER_WORDS = {*_CARDINALS, *_SCALES, *_DENOMINATORS, *_PLURALS, "minus", "negative", "point"}
_OPERATIONS = {
    "squared", "cubed", "times", "multiplied", "divided", "plus", "over", "out", "per", "choose", "factorial", "power",
    "square", "cube", "root", "raised", "every", "the", "to", "of", "by", "in", "a", "an", "and",
}  # fmt: skip
# Words that change a number's value. If not understood, they must not be treated as a unit that may be omitted.
COMPUTING = frozenset({
    *_NUMBER_WORDS, "squared", "cubed", "multiplied", "divided", "plus", "over", "choose", "factorial", "doubled",
    "tripled", "halved", "twice", "thrice", "double", "triple", "quadruple", "fold", "remainder", "mod", "modulo",
    "inverse", "inverted", "negated", "score", "permille", "nth", "kilo", "mega", "giga", "milli", "centi", "micro",
    "nano",
})  # fmt: skip


def _any_of(words: Iterable[str]) -> str:
    """Returns a pattern that matches any of the words, the longest first."""
    return "|".join(sorted(words, key=len, reverse=True))


_VOCABULARY = _any_of({*_NUMBER_WORDS, *_OPERATIONS})
_TOO_COMMON = {"a", "an", "and", "the", "of", "by", "to", "every"}
_HAS_NUMBER_WORD = re.compile(
    rf"(?<![\\a-zA-Z])(?:{_any_of({*_NUMBER_WORDS, *_OPERATIONS} - _TOO_COMMON)})(?![a-zA-Z])", re.IGNORECASE
)
_MARKED = re.compile(rf"⟦((?:{_VOCABULARY})(?:[- ](?:{_VOCABULARY}))*)⟧", re.IGNORECASE)
_NUMBER = r"\d{1,3}(?:,\d{3})+(?![\d,])|\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\}"
_TOKEN = (
    rf"(?:(?<![\d.,\\a-zA-Z])(?:{_NUMBER})"
    rf"|(?<![\\a-zA-Z⟦])(?:{_any_of({*_NUMBER_WORDS, 'and', 'a', 'an'})})(?![a-zA-Z⟧]))"
)
_RUN = re.compile(rf"{_TOKEN}(?:[\s~-]+{_TOKEN})*", re.IGNORECASE)
_LEFT_OVER = re.compile(
    rf"(?<![\\a-zA-Z⟦])(?:{_any_of(word for word in COMPUTING if len(word) > 3)})(?![a-zA-Z⟧])", re.IGNORECASE
)
_OPERAND = r"(?:\\frac\{[^{}]*\}\{[^{}]*\}|\\sqrt\{[^{}]*\}|\d+(?:\.\d+)?|(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])|\\pi)"
_MAX_RUN = 200  # characters


def replace_number_words(text: str) -> str:
    """Replaces numbers and calculations in words by LaTeX."""
    if len(text) > 2000 or not _HAS_NUMBER_WORD.search(text):
        return text
    text = re.sub(r" {2,}", " ", _MARKED.sub(r" \1 ", text))
    text = _RUN.sub(_replace_run, text)
    text = _calculations(text)
    return _LEFT_OVER.sub(lambda m: f"⟦{m[0]}⟧", text)


def _replace_run(match: re.Match[str]) -> str:
    """Converts a run of number words and digits; leaves it unchanged if it is not a number."""
    words = re.findall(rf"{_NUMBER}|[a-zA-Z]+", match[0])
    if len(match[0]) > _MAX_RUN or not any(word.lower() in _NUMBER_WORDS for word in words):
        return match[0]
    lowered = [word.lower() for word in words]
    # "two and a half" is one number, "two and three" is two numbers, "and a half" is none.
    if (whole := _number(lowered)) is not None:
        return f" {whole} "
    parts: list[list[str]] = [[]]
    for word in lowered:
        if word == "and":
            parts.append([])
        else:
            parts[-1].append(word)
    numbers = [_number(part) for part in parts]
    if len(parts) > 1 and all(numbers):
        return " " + " and ".join(str(number) for number in numbers) + " "
    return match[0]


def _number(words: list[str]) -> str | None:
    """Converts a number in words to LaTeX; None for anything else."""
    if words[:1] in (["minus"], ["negative"]):
        rest = _number(words[1:])
        return f"-{rest}" if rest and rest[0] != "-" else None
    if not words or words[-1] == "and" or words[0] == "and":
        return None
    if "point" in words:
        return _decimal(words)
    value = _value(words)
    if value is None:
        return None
    return str(value.numerator) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _decimal(words: list[str]) -> str | None:
    at = words.index("point")
    whole, digits = _cardinal(words[:at]) if at else Fraction(0), words[at + 1 :]
    if whole is None or whole.denominator != 1 or not digits or any(_CARDINALS.get(word, 10) > 9 for word in digits):
        return None
    return f"{whole}." + "".join(str(_CARDINALS[word]) for word in digits)


def _value(words: list[str]) -> Fraction | None:
    if words == ["half"]:
        return Fraction(1, 2)
    if words[0] == "half" and len(words) > 1 and words[1] in ("a", "an"):  # half a million; half an hour
        return Fraction(1, 2) if len(words) == 2 else _halved(words[2:])
    last = words[-1]
    if (denominator := _DENOMINATORS.get(last) or _PLURALS.get(last)) is None:
        return _cardinal(words)
    before, whole = words[:-1], Fraction(0)
    if "and" in before:  # two and three quarters; split at the last `and`: hundred and two has one too
        at = len(before) - 1 - before[::-1].index("and")
        found = _cardinal(before[:at])
        if found is None:
            return None
        whole, before = found, before[at + 1 :]
    count = Fraction(1) if before in (["a"], ["an"]) else _cardinal(before) if before else None
    if count is None or (last in _DENOMINATORS and count != 1):
        return None  # twenty fifth is an ordinal
    if whole and count >= denominator:
        return None
    return whole + count / denominator


def _halved(words: list[str]) -> Fraction | None:
    return Fraction(_SCALES[words[0]], 2) if len(words) == 1 and words[0] in _SCALES else None


def _cardinal(words: list[str]) -> Fraction | None:
    """Parses an integer in words, or a number with scale words: 5 million, two hundred and one."""
    total, group, smallest, before = Fraction(0), Fraction(0), 10**30, ""
    for place, word in enumerate(words):
        if word == "and":
            if before not in _SCALES:
                return None
            continue
        if word in ("a", "an"):
            if place or len(words) < 2 or words[1] not in _SCALES:
                return None
            group = Fraction(1)
        elif word in _SCALES:
            size = _SCALES[word]
            if word.startswith(("hundred", "dozen")):
                if before in _SCALES and not group:
                    return None
                group = (group or Fraction(1)) * size
            else:
                if size >= smallest:
                    if group or not total:
                        return None
                    total *= size  # a thousand million
                else:
                    total += (group or 1) * size
                group, smallest = Fraction(0), size
        else:
            found = _CARDINALS.get(word)
            number = Fraction(found) if found is not None else _figures(word)
            if number is None or (before and before not in _SCALES and not _may_follow(before, number)):
                return None
            group += number
        before = word
    return total + group


def _may_follow(before: str, number: Fraction) -> bool:
    """Whether a number may follow the word before, as one follows twenty."""
    return before in (*_TENS, "fourty") and 0 < number < 10


def _figures(word: str) -> Fraction | None:
    if match := re.fullmatch(r"\\frac\{(\d+)\}\{(\d+)\}", word):
        return Fraction(int(match[1]), int(match[2])) if int(match[2]) else None
    return Fraction(word.replace(",", "")) if word[0].isdigit() else None


def _calculations(text: str) -> str:
    text = re.sub(rf"(?:the )?square root of\s+({_OPERAND})", r"\\sqrt{\1}", text)
    text = re.sub(rf"(?:the )?cube root of\s+({_OPERAND})", r"\\sqrt[3]{\1}", text)
    text = re.sub(
        rf"(?<=[\d)}}a-zA-Z])\s+(?:raised )?to the (?:power (?:of )?)?({_OPERAND})"
        r"(?:st|nd|rd|th)?(?: power)?(?![a-zA-Z])",
        r"^{\1}",
        text,
    )
    for word, power in (("squared", 2), ("cubed", 3)):
        text = re.sub(rf"(\d|[)}}]|(?<![a-zA-Z\\])[a-zA-Z])\s+{word}(?![a-zA-Z])", rf"\1^{{{power}}}", text)
    text = re.sub(rf"({_OPERAND})\s+factorial(?![a-zA-Z])", r"\1!", text)
    text = re.sub(r"(\d+)\s+choose\s+(\d+)", r"\\binom{\1}{\2}", text)
    text = re.sub(
        rf"({_OPERAND})\s+(?:over|divided by|out of(?: every| a)?|per|in(?: every)?)\s+({_OPERAND})(?=\s*$|[\s,.;]|⟦)",
        lambda m: _fraction(m[0], m[1], m[2]),
        text,
    )
    for words, sign in (("times|multiplied by", r" \\cdot "), ("plus", " + "), ("minus", " - ")):
        text = re.sub(rf"(?<=[\d)}}a-zA-Z])\s+(?:{words})\s+(?=[-\\(\d]|[a-zA-Z](?![a-zA-Z]))", sign, text)
    return text


def _fraction(text: str, above: str, below: str) -> str:
    """Converts `9 over 4`, `3 out of 4`, `1 in 6`; symbols are divided only by `over` and `divided by`."""
    if not (above[0].isdigit() and below[0].isdigit()) and not re.search(r"\s(?:over|divided)\s", text):
        return text
    return f"\\frac{{{above}}}{{{below}}}"
