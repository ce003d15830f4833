"""Gold answers in data sets: what is read as an answer, what is repaired, and what is not an answer.

`gold_answer` returns the answer as stored in the Problems table. The entries of a list together make the answer, joined
by commas, unless any one of them is accepted: then it is JSON, `{"any_of": [...]}`, which the verifiers understand.
"""

import ast
import json
import math
import re
from typing import Any

import numpy as np

from components.shared.grading.answer import boxed_answers

ANY_OF = "any_of"
_NUMBER_WITH_UNIT = re.compile(r"(-?[\d.,/:]+)\s*\([^()]*\)")  # `9 (apples)`
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
_PYTHON_BYTES = re.compile(r"b(['\"]).*\1", re.DOTALL)
_DECIMAL = re.compile(r"-?\d+\.\d+")
# LaTeX in JSON whose backslash was not escaped: `\frac` becomes a form feed and `rac`. Lists the commands that begin
# with the letter of a JSON escape and whose remainder is not a word; \n and \t may be a real line break or tab.
_UNESCAPED = {
    "\f": ("f", r"rac|orall|loor|lat|box|rown|ootnotesize|box"),
    "\b": (
        "b",
        r"oxed|oxminus|oxplus|oxtimes|eta|egin|inom|ar|mod|ig|igg|igl|igr|igcup|igcap|ullet|ecause|ot|f|m|oldsymbol|ack"
        r"slash|igoplus|igstar|igtriangleup|lacksquare|reve|race|rack",
    ),
    "\t": ("t", r"ext|extbf|extit|extrm|imes|heta|frac|binom|riangle|au|herefore|ilde|anh|extsc"),
    "\r": ("r", r"ight|ho|floor|ceil|ightarrow|angle|brace|brack"),
    "\n": ("n", r"eq|abla|otin"),
    "\v": ("v", r"ec|arphi|artheta|dots|ee|arepsilon|arnothing"),
}
_UNESCAPED_PATTERN = {char: re.compile(rf"{char}(?=({rest})(?![A-Za-z]))") for char, (_, rest) in _UNESCAPED.items()}
# In prose, where lines and columns start with words.
_UNESCAPED_IN_PROSE = {
    **{char: _UNESCAPED_PATTERN[char] for char in "\f\b\v"},
    "\t": re.compile(r"\t(?=(ext\{|imes(?![A-Za-z])|heta(?![A-Za-z])|frac\{))"),
}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NONE = {
    "proof", "proofs", "qed", "na", "none", "null", "nil", "nan", "unknown", "notfound", "noanswer", "noanswerfound",
    "answernotfound", "nofinalanswer", "notavailable", "notapplicable", "notprovided", "notgiven", "notspecified",
    "noanswerprovided", "omitted", "omit", "proofomitted", "solutionomitted", "answeromitted", "seesolution",
    "seethesolution", "seesolutions", "seeabove", "seebelow", "seeproof", "seeexplanation", "seetheproof", "seefigure",
    "proofquestion", "proofproblem", "theproof", "proved", "proven", "provedabove", "asrequired", "asdesired", "tbd",
    "todo", "missing", "missinganswer", "error", "failed", "solution", "answer", "seeanswer",
}  # fmt: skip


class Damaged(ValueError):
    """A text whose original content cannot be recovered."""


def repaired(text: str, prose: bool = False) -> str:
    """Restores LaTeX commands whose backslash was lost to JSON escapes, and strips NUL padding.

    Args:
        text: an answer, or a problem's text.
        prose: whether it is a problem's text, where a line break before `eq` is a real line break.

    Raises:
        Damaged: it contains control characters or unpaired surrogates, whose meaning is lost.
    """
    text = text.strip("\0")
    if text.isprintable() and text.isascii():
        return text
    for char, pattern in (_UNESCAPED_IN_PROSE if prose else _UNESCAPED_PATTERN).items():
        if char in text:
            text = pattern.sub(rf"\\{_UNESCAPED[char][0]}", text)
    if match := _CONTROL.search(text):
        raise Damaged(f"contains the control character {match[0]!r}")
    if match := _SURROGATE.search(text):
        raise Damaged(f"contains the unpaired surrogate {match[0]!r}")
    return text.replace("\f", " ").replace("\v", " ")


def decode(value: Any) -> Any:
    """Decodes bytes, and text that is the repr of bytes; returns anything else unchanged.

    Raises:
        Damaged: the bytes are not valid UTF-8.
    """
    if isinstance(value, str) and _PYTHON_BYTES.fullmatch(value):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise Damaged("is bytes that are not UTF-8") from None
    return value


def gold_answer(value: Any, worked: bool = False, any_of: bool = False) -> str | None:
    """Returns the gold answer as stored in the Problems table; None if there is none.

    Args:
        value: the column's value: text, a number, a list, or an object with `value` or `any_of`.
        worked: whether it is a worked solution, whose answer cannot be found without a box or `####`.
        any_of: whether each entry of a list is an acceptable answer.

    Raises:
        Damaged: there is an answer, but it cannot be read.
    """
    value = decode(value)
    if isinstance(value, dict):
        if ANY_OF in value and isinstance(value[ANY_OF], list):
            return gold_answer(value[ANY_OF], worked, any_of=True)
        inner = next((value[name] for name in ("value", "answer", "text") if name in value), None)
        if inner is None and any(entry is not None for entry in value.values()):
            raise Damaged(f"is an object with {', '.join(map(str, value))}; expected value or {ANY_OF}")
        return gold_answer(inner, worked, any_of)
    if isinstance(value, list | tuple):
        parts = list(dict.fromkeys(part for item in value if (part := gold_answer(item, worked, any_of))))
        if any_of and len(parts) > 1:
            return json.dumps({ANY_OF: parts}, ensure_ascii=False)
        whole = [part for item in value if (part := gold_answer(item, worked))]
        return (parts[0] if any_of and parts else ", ".join(whole)) or None
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    return _plain(repaired(str(value)), worked)


def _plain(text: str, worked: bool) -> str | None:
    """Extracts the answer from a text: after `####` or in the last box, without a unit in brackets or dollar signs."""
    text = text.strip()
    if "####" in text:
        text = text.rsplit("####", 1)[1].strip()
    elif boxes := boxed_answers(text):
        text = boxes[-1]
    elif worked:
        return None
    if match := _NUMBER_WITH_UNIT.fullmatch(text):
        text = match[1]
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if len(text) > 1 and text.startswith("$") and text.endswith("$") and text.count("$") == 2:
        text = text[1:-1].strip()
    return (without_float_noise(text) if _DECIMAL.fullmatch(text) else text) or None


def _number(value: float) -> str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "\\infty" if value > 0 else "-\\infty"
    if value.is_integer():
        return str(int(value))
    return without_float_noise(repr(value))


def without_float_noise(text: str) -> str:
    """Removes the rounding error of single or double precision from a decimal: 0.30000001192 becomes 0.3."""
    digits = sum(char.isdigit() for char in text.lstrip("-0."))
    if digits < 9 or "e" in text:
        return text
    with np.errstate(over="ignore"):
        single = np.float32(text)
    if np.isfinite(single):
        places = len(text.partition(".")[2])
        short = np.format_float_positional(single, trim="0")
        if len(short) + 3 <= len(text) and _rounded(float(single), places) == _rounded(float(text), places):
            return short.removesuffix(".0")
    short = f"{float(text):.15g}"
    return short if digits > 15 and len(short) + 3 <= len(text) and "e" not in short else text


def _rounded(value: float, places: int) -> str:
    return f"{value:.{min(places, 17)}f}"


def is_no_answer(answer: str) -> bool:
    """Whether a text in place of an answer says that there is none: `proof`, `N/A`, `see solution`."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox|boxed)\s*\{([^{}]*)\}", r"\1", answer)
    return bool(text.strip()) and (re.sub(r"[\W_]+", "", text).lower() in _NONE or not re.search(r"[^\s.\-?_*]", text))
