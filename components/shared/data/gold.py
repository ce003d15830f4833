"""Gold answers as data sets have them: what is read as an answer, what is repaired, and what is none.

`gold_answer` gives the answer as the Problems table holds it. Of a list all entries belong to the answer, joined by
commas, unless any one of them will do: then it is JSON, `{"any_of": [...]}`, which the verifiers know.
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
# LaTeX in JSON whose backslash was not doubled: `\frac` is a form feed and `rac`. Of commands that begin with a letter
# that JSON knows, those whose rest is no word of its own; \n and \t may as well be a line break and a tab.
_EATEN = {
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
_EATEN_PATTERN = {char: re.compile(rf"{char}(?=({rest})(?![A-Za-z]))") for char, (_, rest) in _EATEN.items()}
# In prose, where lines and columns begin with words.
_EATEN_IN_PROSE = {
    **{char: _EATEN_PATTERN[char] for char in "\f\b\v"},
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
    """A text that cannot be read as what it once was."""


def mended(text: str, prose: bool = False) -> str:
    """A text with LaTeX commands whose backslash a JSON reader has eaten, and without padding by NUL.

    Args:
        text: an answer, or a problem's text.
        prose: it is a problem's text, where a line break before `eq` is one.

    Raises:
        Damaged: it holds control characters or half characters, whose meaning is lost.
    """
    text = text.strip("\0")
    if text.isprintable() and text.isascii():
        return text
    for char, pattern in (_EATEN_IN_PROSE if prose else _EATEN_PATTERN).items():
        if char in text:
            text = pattern.sub(rf"\\{_EATEN[char][0]}", text)
    if match := _CONTROL.search(text):
        raise Damaged(f"holds the control character {match[0]!r}")
    if match := _SURROGATE.search(text):
        raise Damaged(f"holds {match[0]!r}, half of a character")
    return text.replace("\f", " ").replace("\v", " ")


def decoded(value: Any) -> Any:
    """Bytes as the text that they are, and text that was printed as bytes; anything else as it is.

    Raises:
        Damaged: they are no UTF-8.
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
            raise Damaged("is bytes that are no UTF-8") from None
    return value


def gold_answer(value: Any, worked: bool = False, any_of: bool = False) -> str | None:
    """The gold answer as the Problems table holds it; None if there is none.

    Args:
        value: as the column holds it: text, a number, a list, or an object with `value` or `any_of`.
        worked: it is a worked solution: without a box or `####` there is no telling the answer in its prose.
        any_of: of a list, each entry is an answer that will do.

    Raises:
        Damaged: it is there, and cannot be read.
    """
    value = decoded(value)
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
    return _plain(mended(str(value)), worked)


def _plain(text: str, worked: bool) -> str | None:
    """The answer in a text: a solution's last box, behind `####`, without a unit in brackets or dollar signs."""
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
    return (without_noise(text) if _DECIMAL.fullmatch(text) else text) or None


def _number(value: float) -> str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "\\infty" if value > 0 else "-\\infty"
    if value.is_integer():
        return str(int(value))
    return without_noise(repr(value))


def without_noise(text: str) -> str:
    """A decimal fraction without what single or double precision added: 0.30000001192 is 0.3."""
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


def is_none(answer: str) -> bool:
    """Whether a text in an answer's place says that there is none: `proof`, `N/A`, `see solution`."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox|boxed)\s*\{([^{}]*)\}", r"\1", answer)
    return bool(text.strip()) and (re.sub(r"[\W_]+", "", text).lower() in _NONE or not re.search(r"[^\s.\-?_*]", text))
