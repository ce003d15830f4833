"""The `math` verifier: decides whether an answer equals a gold answer, by a few general rules around math-verify.

The rules where graders differ (`GradingSettings` holds those that users choose):

- The last committed answer counts; answers side by side are parts of one answer (answer.py).
- Equal values are right in any form: fractions, surds, mixed numbers, plain text, LaTeX, scientific notation.
- A decimal may stand for a number without a finite decimal form if it has at least six significant digits. Two finite
  decimals must be equal. A gold answer rounded to three or more digits accepts the exact number that rounds to it.
- 28 % is 0.28, and 28 only if the recipe says so.
- "Find all" requires all and nothing else. Lists are unordered, tuples are ordered, sets ignore order and duplicates.
- Open and closed endpoints differ. An interval equals the inequality that describes it.
- `x = 5` answers 5; an equation answers an equation if one is a multiple of the other.
- The gold answer's unit may not be omitted unless the recipe says so; a different unit is converted or wrong. If the
  gold answer has no unit, any unit is accepted. 90 degrees equals pi/2, and 90.
- A factor is not a unit: 3 x, 5 million and 5 squared are not 3 and 5.
- Labels belong to their values: x = 2, y = 3 is not x = 3, y = 2.
- A numeral with a base must have that base, or be the same number in another base.
- A letter answers a multiple-choice question, with or without the text of the choice.
- Words are compared as words, ignoring case and articles.

A gold answer is one text, or JSON: a list of texts (any is right, unless they are different numbers, which must then
all be given), `{"any_of": [...]}`, `{"all_of": [...]}`, `{"value": "4.2", "tolerance": 0.1}` (absolute) or
`{"low": "4.1", "high": "4.3"}`. `4.2 \\pm 0.1` in decimals is a tolerance too. A gold answer that is empty, prose or
self-contradictory cannot judge anything: the verdict is None.
"""

import ast
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

from components.shared.grading.answer import committed_answer
from components.shared.grading.latex.normalize import to_plain_latex
from components.shared.grading.mathematics.equality import equal
from components.shared.grading.mathematics.explanations import explanation
from components.shared.grading.mathematics.expressions import TooLargeError, check_size
from components.shared.grading.mathematics.readings import readings
from components.shared.grading.mathematics.values import Group, Quantity, Value, is_usable
from components.shared.grading.settings import GradingSettings

_CHOICE = re.compile(r"\(?\s*([A-J])\s*\)?")
_CHOICE_WITH_TEXT = re.compile(r"\(\s*([A-J])\s*\)\s*(.*)|([A-J])\s*[).:]\s*(.*)", re.DOTALL)
_CHOSEN = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)\s*(?:is)?\s*:?\s*)?"
    r"(?:\(\s*([A-Z])\s*\).*|([A-Z])\s*(?:[).:,].*)?)",
    re.IGNORECASE | re.DOTALL,
)
_SEVERAL_CHOICES = re.compile(r"[A-J]\s*\)?\s*(?:,|;|\band\b|\bor\b)\s*\(?\s*[A-J]\b")
_WORDS = ("yes", "no", "true", "false")
# Example: No, because the series diverges.
_WORD_WITH_REASON = re.compile(
    rf"\W*({'|'.join(_WORDS)})(?:\s*[,.;:!\u2013\u2014-].*|\s+(?:because|since|as|for)\b.*)?", re.I | re.DOTALL
)
_TOLERANCE = re.compile(r"(-?\d+(?:\.\d+)?)\s*(?:\\pm|±|\+/-|\+-)\s*(\d*\.\d+|\d+)")
_MAX_CHARACTERS = 5000  # characters; longer answers are not parsed
_WRAPPING = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}|\\left|\\right|[$*]|\\[\[\]() ,;]")


class Judged(NamedTuple):
    """A verdict; None if the gold answer cannot be used."""

    correct: bool | None
    reason: str  # one of a fixed few, counted in reports
    explanation: str = ""  # how the gold answer and the answer were read, and by which rule compared


@dataclass(frozen=True)
class _Gold:
    """A parsed gold answer: any of the alternatives is right."""

    texts: tuple[str, ...]
    alternatives: tuple[tuple[Value, ...], ...]  # the readings of each text
    choice: str | None = None  # the letter of a multiple-choice answer
    word: str | None = None  # yes, no, true or false
    within: tuple[Any, Any] | None = None  # the smallest and the largest accepted number


def math_verdict(gold: str, answer: str, settings: GradingSettings) -> Judged:
    """Judges whether an answer equals a gold answer.

    Args:
        gold: one answer, or JSON for several or for a tolerance.
        answer: the answer that the completion committed to.
        settings: the judgement calls.

    Returns:
        The verdict (None if the gold answer cannot be used), the reason, and how both were read and compared.
    """
    known = _read_gold(gold)
    if known is None:
        return Judged(None, "not scorable")
    if not answer:
        return Judged(False, "no answer")
    if _without_spaces(answer) in {_without_spaces(text) for text in (gold, *known.texts)}:
        return Judged(True, "the same text")
    if len(answer) > _MAX_CHARACTERS:
        return Judged(False, "longer than an answer")
    try:
        return _compare(known, answer, settings)
    except TooLargeError:
        return Judged(False, "too large to work out")


def _compare(known: _Gold, answer: str, settings: GradingSettings) -> Judged:
    if known.choice and (chosen := choice_of(answer)):
        right = chosen == known.choice and not _contradicts(known, answer, settings)
        return Judged(right, "choice", f"choice {known.choice} and choice {chosen}: by letter")
    answers = [answer]
    if match := _CHOICE_WITH_TEXT.fullmatch(_unwrapped(answer)):
        answers.append((match[2] or match[4] or "").strip())  # the 12 of (B) 12
    if known.word and (match := _WORD_WITH_REASON.fullmatch(_unwrapped(answer))):
        return Judged(match[1].casefold() == known.word, "word", f"words {known.word!r} and {match[1]!r}: as words")
    if _normalized(answer) in {_normalized(text) for text in known.texts}:
        return Judged(True, "the same text", "the same up to notation")
    found = [value for text in answers if text for value in readings(text)]
    if known.within:
        low, high = known.within
        right = any(_is_within(value, known.within) for value in found)
        return Judged(right, "range", f"from {str(low)[:40]} to {str(high)[:40]}")
    pairs = [(g, a) for alternative in known.alternatives for g in alternative for a in found]
    if pair := next((pair for pair in pairs if equal(*pair, settings)), None):
        return Judged(True, "equal", explanation(*pair, settings))
    return Judged(False, "different", explanation(*pairs[0], settings) if pairs else "")


def _contradicts(known: _Gold, answer: str, settings: GradingSettings) -> bool:
    """Whether the right letter comes with a number other than the gold answer's."""
    match = _CHOICE_WITH_TEXT.fullmatch(_unwrapped(answer))
    found = readings((match[2] or match[4] or "").strip()) if match else []
    golds = [value for alternative in known.alternatives for value in alternative]
    if not all(isinstance(value, Quantity) and not value.tree.free_symbols for value in (*found, *golds)):
        return False
    return bool(found and golds) and not any(equal(g, a, settings) for g in golds for a in found)


def choice_of(answer: str) -> str | None:
    """Returns the multiple-choice letter that an answer names, with or without the choice's text; None if none."""
    text = _unwrapped(answer)
    if _SEVERAL_CHOICES.search(text):
        return None
    chosen = _CHOSEN.fullmatch(text)
    return (chosen[1] or chosen[2]).upper() if chosen else None


def _normalized(text: str) -> str:
    return _without_spaces(to_plain_latex(text))


def _without_spaces(text: str) -> str:
    return re.sub(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])", "", text)  # 1 1/2 is not 11/2


def _unwrapped(text: str) -> str:
    return _WRAPPING.sub(lambda m: m[1] or " ", text).strip()


@lru_cache(4096)
def _read_gold(text: str) -> _Gold | None:
    value = _structured(text.strip())
    if isinstance(value, dict):
        return _read_object(value)
    if isinstance(value, list):
        if not value:
            return None
        if len(value) == 1:
            return _one_of([str(value[0])])
        items = [readings(str(item)) for item in value]
        if not all(items):
            return None
        numbers = [found[0] for found in items if isinstance(found[0], Quantity) and not found[0].tree.free_symbols]
        different = len(numbers) == len(items) and not any(
            equal(a, b, GradingSettings()) for a, b in combinations(numbers, 2)
        )
        return _all_of(value) if different else _one_of([str(item) for item in value])
    if "####" in text or ("\\boxed" in text and not text.strip().startswith("\\boxed")):  # a worked solution
        text = committed_answer(text).answer or ""
    match = _TOLERANCE.fullmatch(_unwrapped(text.replace("\\pm", "±")))
    if match and "." in match[1] + match[2]:  # for integers, 3 ± 1 means 2 and 4
        return _read_object({"value": match[1], "tolerance": match[2]})
    return _one_of([text])


def _structured(text: str) -> Any:
    """Parses a JSON object, a JSON list of strings or such a list in Python syntax; else returns the text itself."""
    if not text.startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if not re.fullmatch(r"\[\s*(?:'[^']*'|\"[^\"]*\")(?:\s*,\s*(?:'[^']*'|\"[^\"]*\"))*\s*\]", text):
            return text
        value = ast.literal_eval(text)
    if isinstance(value, dict) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return value
    return text


def _read_object(value: dict[str, Any]) -> _Gold | None:
    if isinstance(value.get("any_of"), list):
        return _one_of([str(item) for item in value["any_of"]])
    if isinstance(value.get("all_of"), list):
        return _all_of(value["all_of"])
    if "value" in value and "tolerance" in value:
        middle, tolerance = _number(str(value["value"])), _number(str(value["tolerance"]))
        if middle is None or tolerance is None:
            return None
        return _Gold((str(value["value"]),), (), within=(middle - tolerance, middle + tolerance))
    if "low" in value and "high" in value:
        low, high = _number(str(value["low"])), _number(str(value["high"]))
        if low is None or high is None or not low <= high:
            return None
        return _Gold((), (), within=(low, high))
    return None


def _number(text: str) -> Any:
    for value in readings(text):
        if isinstance(value, Quantity) and not value.tree.free_symbols:
            check_size(value.tree)
            number = value.tree.doit()
            return number if number.is_comparable else None
    return None


def _one_of(texts: list[str]) -> _Gold | None:
    choice, alternatives, kept = None, [], []
    for text in texts:
        plain = _unwrapped(text)
        if match := _CHOICE.fullmatch(plain):
            choice = match[1]
        elif match := _CHOICE_WITH_TEXT.fullmatch(plain):
            choice = match[1] or match[3]
            if rest := (match[2] or match[4] or "").strip():
                text = rest
        if to_plain_latex(text).count("⟦") > 8:
            continue  # a sentence, even if parts of it could be read
        found = tuple(value for value in readings(text) if is_usable(value))
        if found or choice:
            alternatives.append(found)
            kept.append(text)
    word = _unwrapped(kept[0]).strip(" .").casefold() if len(kept) == 1 else ""
    return _Gold(tuple(kept), tuple(alternatives), choice, word if word in _WORDS else None) if kept else None


def _all_of(items: list[Any]) -> _Gold | None:
    found = [readings(str(item)) for item in items]
    if any(not values for values in found):
        return None
    text = ", ".join(str(item) for item in items)
    return _Gold((text,), ((Group("list", tuple(values[0] for values in found)),),))


def _is_within(value: Value, within: tuple[Any, Any]) -> bool:
    if not isinstance(value, Quantity) or value.tree.free_symbols:
        return False
    check_size(value.tree)
    number = value.tree.doit()
    return bool(number.is_comparable and within[0] <= number <= within[1])
