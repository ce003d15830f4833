"""Normalizes answers: plain text, Unicode and LaTeX all become plain LaTeX.

Words become `⟦word⟧`, whether they were in `\\text{}` or bare, so later steps need not distinguish; degree and percent
signs become ⟦degree⟧ and ⟦percent⟧. Insignificant whitespace is removed.
"""

import math
import re
from itertools import pairwise

from components.shared.grading.latex import notations
from components.shared.grading.latex.characters import TO_LATEX
from components.shared.grading.latex.number_words import replace_number_words

_SUPERSCRIPTS = re.compile(r"(\^\d)((?:\^\d)+)")
_FUNCTIONS = (
    "arcsin|arccos|arctan|arccot|arcsec|arccsc|asin|acos|atan|sinh|cosh|tanh|coth|sin|cos|tan|cot|sec|csc|log|ln|exp|"
    "sqrt|cbrt|max|min|gcd|lcm|abs|det"
)
_GREEK = (
    "pi|theta|alpha|beta|gamma|delta|lambda|sigma|omega|phi|rho|tau|epsilon|infty|infinity|mu|psi|eta|zeta|kappa|Gamma|"
    "Delta|Omega|Sigma|Phi|Psi|Theta|Lambda"
)
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|md|up)?|mathrm|mathbf|mathit|mathsf|mathtt|mathcal|mbox|hbox|operatorname\*?|emph|"
    r"bf|boldsymbol|bm|textcolor\{\w+\}|underline|mathop|ensuremath)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_ANSWER_IS = re.compile(
    r"^\s*(\\text\s*\{)?\s*(?:so\s+|thus,?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is|:|=)\s*", re.IGNORECASE
)
# A trailing quantifier, as in `f(x) = x^2 for all x`.
_FOR_ALL = re.compile(
    r"[,;]?\s*(?:⟦for⟧\s*⟦(?:all|any|every)⟧|for (?:all|any|every)|\\forall)(?:\s|⟦(?:real|constant|numbers?)⟧)*"
    r"[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?[RZNQ]\}?)?$"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SPACING = re.compile(
    r"(?<!\\)\\[,;:!> ]|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|quad|qquad"
    r"|hspace\{[^{}]*\}|enspace|thinspace|phantom\{[^{}]*\}|rm|bf|it|hfill|mathrm|mathbf|text)(?![a-zA-Z])|~"
)
_DECIMAL_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))")
_UNIT_WORDS = (
    r"percent(?:age)?|degrees?|deg|dollars?|cents?|units?|sq|square|cubic|mm|cm|dm|km|kg|mg|lbs?|oz|ft|yd|mi|mph|kmh|hrs?|"
    r"hours?|mins?|minutes?|secs?|seconds?|days?|weeks?|months?|years?|miles?|feet|foot|inch(?:es)?|in|met(?:er|re)s?|"
    r"(?:kilo|centi|milli)met(?:er|re)s?|grams?|kilograms?|lit(?:er|re)s?|ml|mL|Hz|rad|radians?|ways?|items?|am|pm|AM|PM|eV|"
    r"keV|MeV|yen|won|baht|Rs|mmol|mol|Pa|kPa|MPa|GPa|kJ|MJ|kW|MW|kWh|Ohm|ohms?|erg|usd|USD|eur|EUR|gbp|GBP|inr|INR|nm|um|kN|mN|mA|mV|kV|"
    r"kHz|MHz|GHz|kB|KB|MB|GB|TB|atm|psi|rpm|kph|kmph|kcal|gal|tsp|tbsp|lit|pcs"
)
# After a number, bare m/s, m s^{-1} and kg m/s are units; bare a/b is not.
_BARE_COMPOUND = re.compile(
    r"(?<=[\d})])\s+((?:kg\s+)?(?:[kcm]?m|g|kg|N|J|W|C|V|mol|rad)(?:\s?\^\s?\{?[23]\}?)?\s*"
    r"(?:/\s*(?:m|s|h|L|mL|kg|K|mol|min|cm)(?:\s?\^\s?\{?[23]\}?)?|s\s?\^\s?\{-[12]\}))(?![a-zA-Z(^])"
)
_UNIT_WORD = re.compile(rf"(?<![\\a-zA-Z⟦])(?:{_UNIT_WORDS})(?![a-zA-Z⟧])\.?")
_WORD = re.compile(
    rf"(?<![\\a-zA-Z⟦])(?!(?:{_FUNCTIONS}|{_GREEK}|and|or|inf|frac)(?![a-zA-Z]))(?:[A-Za-z]{{4,}}|[A-Za-z]{{3,}}(?=-[A-Za-z]{{3}}))(?:-[A-Za-z]{{3,}}|'[A-Za-z]+)*(?![a-zA-Z⟧(])"
)
# As in `2 k \pi, k \in \mathbb{Z}`.
_RANGE_OF_PARAMETER = re.compile(
    r"(?:[,;]|\s\(|[,;]?\s(?:⟦where⟧|⟦with⟧|for)\s)\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\\in\s*\\mathbb\s*\{?[ZN]\}?\S*$"
)
_MODULUS = re.compile(r"\(?\s*\\?[pb]?mod(?![a-zA-Z])\s*\{?\s*(\d+|[a-z])\s*\}?\s*\)?")
_UNIT_LETTERS = "mgshLlNJKVWFCAT"
# What precedes a unit: a number, or another unit and an operator.
_MEASURED = re.compile(r"[\d})⟧]$|\}(?:\s*\^\s*\{?-?\d\}?)?\s*(?:\\cdot|/|\\times|\*)$")
# As in `2 red balls`.
_SHORT_WORD = re.compile(
    rf"(?:(?<=\d\s)|(?<=\d\s\s))(?!(?:{_FUNCTIONS}|{_GREEK}|and|mod|inf)(?![a-zA-Z]))[A-Za-z]{{3}}(?=\s*⟦(?!percent|degree))"
)
_LOGIC = {"and": " and ", "or": " or ", "or equivalently": " or ", "&": " and "}


def to_plain_latex(text: str) -> str:
    """Converts an answer to plain LaTeX with marked words."""
    text = text.translate(TO_LATEX)
    text = _SUPERSCRIPTS.sub(lambda m: "^{" + (m[1] + m[2]).replace("^", "") + "}", text)
    if "\\begin" in text:
        text = notations.environments(text)
    if "frac" in text:
        text = notations.unit_fractions(text)
    text = notations.money(text)
    text = notations.scientific(notations.repeating(notations.decimal_comma(text)))
    text = notations.outward_brackets(text)
    text = notations.combinations(notations.polar(text))
    text = re.sub(r"√\s*(?=\()", "sqrt", text)
    text = re.sub(r"√\s*(\w+|\{[^{}]*\})", r"\\sqrt{\1}", text)
    text = _ANSWER_IS.sub(lambda m: m[1] or "", text)
    text = re.sub(r"\\(min|max|gcd)\s*\\\{([^{}]*)\\\}", r"\\\1(\2)", text)
    text = re.sub(r"\\begin\{cases\}(.*?)\\end\{cases\}", _cases, text, flags=re.DOTALL)
    text = re.sub(r"\\color\{\w+\}|\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])|\{\}", " ", text)
    text = re.sub(r"\.\.\.|\\c?dots(?![a-zA-Z])", r"\\ldots ", text)
    text = re.sub(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}", text)
    text = re.sub(r"\\lg(?![a-zA-Z])", r"\\log_{10}", text)
    text = re.sub(r"\\log_\{?e\}?(?![a-zA-Z])", r"\\ln", text)
    text = re.sub(r"(?<!\d)(\d{1,3})!!", lambda m: str(math.prod(range(int(m[1]), 0, -2))), text)
    text = re.sub(r"(?<![a-zA-Z\\])(floor|ceil)\(([^()]*)\)", r"\\l\1 \2 \\r\1", text)
    text = re.sub(r"\b([aApP])\.\s?([mM])\.", r"\1\2", text)
    text = re.sub(r"\bper\s+cent\b", "percent", text)
    text = re.sub(r"(?<=\d)\s*(?:\\text\{\s*)?\bto\b(?:\s*\})?\s*(?=\d)", ":", text)
    text = text.replace("\\langle", "(").replace("\\rangle", ")")
    text = re.sub(r"\b([a-z])\s+in\s+(?=[(\[])", r"\1 \\in ", text)
    text = _MODULUS.sub(r" ⟦mod⟧\1", text)
    while match := _BOX.search(text):
        text = text[: match.start()] + "{" + text[match.end() :]
    text = re.sub(r"\\begin\{[vV]matrix\}", r"\\det ⟪", text)
    text = re.sub(r"\\begin\s*\{(?:array|small|[bBp]?(?:small)?)(?:matrix)?\*?\}(?:\{[^{}]*\}|\[\w\])?", "⟪", text)
    text = re.sub(r"\\end\s*\{(?:array|small|[bBpvV]?(?:small)?)(?:matrix)?\*?\}", "⟫", text)
    text = re.sub(r"\b(?:np|numpy|math|sympy|sp)\.(?=[a-z])", "", text)
    text = _numerals(text)
    text = re.sub(r"\\\$|(?<![\w}])USD?\s?\$", " ", text)
    text = re.sub(r"(?<!\\)\\[\[\]()]|\$", " ", text)
    text = text.replace("\\%", "⟦percent⟧").replace("%", "⟦percent⟧")
    text = _words(text)
    text = _operators(text)
    text = _arguments(text)
    return _tidy(text)


def _numerals(text: str) -> str:
    """Rewrites thousands, repeating decimals and powers of ten while the spacing that marks them is still there."""
    text = re.sub(r"(?<=\d)\s*(?:,\\!|\{,\}\\?!?|\\,|\\!,|,\\,)\s*(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<![\d.,/])\d{1,3}(?:[ _]\d{3})+(?![\d/])", lambda m: re.sub(r"[ _]", "", m[0]), text)
    text = _DECIMAL_REPEATING.sub(_repeating, text)
    text = re.sub(r"(?<![\w.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,9})(?![\w.])", r"\1\\cdot 10^{\2}", text)
    text = re.sub(r"(?<![\d])\.(?=\d)", "0.", text)
    return re.sub(r"(\d)\.(?=$|[^\d.\w])", r"\1", text)


def _cases(match: re.Match[str]) -> str:
    rows = [row.split("&") for row in match[1].split("\\\\") if row.strip()]
    if all(len(row) == 1 or re.match(r"\s*(?:[=<>]|\\[lgn]eq?(?![a-z]))", row[1]) for row in rows):
        return ", ".join(" ".join(row).strip(" ,;.") for row in rows)
    condition = r"\\text\s*\{\s*(?:if|for|when)\s*\}|\b(?:if|when)\b"  # each row is a pair of value and condition
    return ", ".join("(" + ", ".join(re.sub(condition, "", part).strip(" ,;.") for part in row) + ")" for row in rows)


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, period = match[1] or "0", match[2], match[3] or match[4]
    if len(whole) + len(fixed) + len(period) > 100:
        return match[0]
    numerator = int(whole + fixed + period) - int(whole + fixed)
    return f"\\frac{{{numerator}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def _words(text: str) -> str:
    """Marks words, except `and` and `or`."""
    text = re.sub(r"\\(?:tfrac|dfrac|cfrac)(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\[td]binom(?![a-zA-Z])", r"\\binom", text)
    for _ in range(4):  # nested \text{}
        text, count = _TEXT_COMMAND.subn(_text_command, text)
        if not count:
            break
    text = re.sub(
        r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])|\\circ(?![a-zA-Z])", "⟦degree⟧", text
    )
    text = _SPACING.sub(lambda m: "" if m[0] == "\\!" else " ", text)
    text = replace_number_words(text)
    text = re.sub(r"⟦degree⟧\s*([CF])(?![a-zA-Z])", r"⟦degree⟧⟦\1⟧", text)
    text = re.sub(r"(?<=\d)\s*\\mu\s*(?:⟦([a-zA-Z]+)⟧|([mgsFAVLCTW])(?![a-zA-Z]))", _micro, text)
    text = re.sub(r"(?<=[\d)}])\s*(?:⟦([kMmG])⟧|([kMmG]))?\s*\\Omega(?![a-zA-Z_])", _ohm, text)
    text = _BARE_COMPOUND.sub(lambda m: re.sub(r"[A-Za-z]+", lambda w: f"⟦{w[0]}⟧", m[1]), text)
    if re.search(r"[\d})]", text):
        text = _UNIT_WORD.sub(lambda m: _mark(m[0]), text)
    text = _WORD.sub(lambda m: m[0] if _is_product(m[0]) else _mark(m[0]), text)
    return _SHORT_WORD.sub(lambda m: _mark(m[0]), text)


def _is_product(letters: str) -> bool:
    """Whether consecutive letters are symbols rather than a word: `sinx`, `abcd`, `wxyz`."""
    if re.fullmatch(rf"(?:{_FUNCTIONS})[xyzt]", letters):
        return True
    in_a_row = all(ord(b) - ord(a) == 1 for a, b in pairwise(letters))
    return in_a_row or not re.search(r"[aeiouyAEIOUY]|[A-Z]{2}|rhs|lhs", letters)


def _micro(match: re.Match[str]) -> str:
    return f"⟦u{match[1] or match[2]}⟧"


def _ohm(match: re.Match[str]) -> str:
    return f"⟦{match[1] or match[2] or ''}ohm⟧"


def _text_command(match: re.Match[str]) -> str:
    content = re.sub(r"\\[,;:! ]|~|\\cdot(?![a-zA-Z])\s*", " ", match[1]).strip()
    logic = content.strip(" ,;:").lower()
    if logic in _LOGIC:
        return _LOGIC[logic]
    before = match.string[: match.start()].rstrip(" \\,;:!~")
    is_unit = re.fullmatch(rf"(?:[a-zA-Z]{{2,}}|[{_UNIT_LETTERS}])[a-zA-Z/^ 0-9.{{}}-]*", content)
    if is_unit and _MEASURED.search(before) and not re.search(r"\b(?:and|or)\b", content):
        return "".join(_mark(part) for part in re.findall(r"[A-Za-z]+|[/^]|-?\d", content))
    if re.fullmatch(rf"{_FUNCTIONS}|{_GREEK}|inf", content):
        return f"\\{content} "
    if not re.search(r"[A-Za-z]{2}", content) or re.search(r"\d|\\|\b(?:and|or)\b", content):
        return f" {content} "  # read as if outside \text{}
    return "".join(_mark(word) for word in re.findall(r"[A-Za-z'-]+|[/^]", content))


def _mark(word: str) -> str:
    return word if not word[0].isalpha() else f"⟦{word.strip('.')}⟧"


def _operators(text: str) -> str:
    text = text.replace("**", "^")
    text = re.sub(r"<=|=<|\\leqslant(?![a-zA-Z])|\\leqq?(?![a-zA-Z])", r"\\le ", text)
    text = re.sub(r">=|\\geqslant(?![a-zA-Z])|\\geqq?(?![a-zA-Z])", r"\\ge ", text)
    text = re.sub(r"!=|\\neq(?![a-zA-Z])|\\not\s*=", r"\\ne ", text)
    text = text.replace("==", "=").replace("\\lt ", "<").replace("\\gt ", ">")
    text = re.sub(r"\\(?:lor|vee)(?![a-zA-Z])", " or ", text)
    text = re.sub(r"\\(?:land|wedge)(?![a-zA-Z])", " and ", text)
    text = re.sub(r"\*", r"\\cdot ", text)
    text = re.sub(rf"(?<![\\a-zA-Z⟦])({_FUNCTIONS}|{_GREEK}|inf|oo)(?![a-zA-Z⟧])", r"\\\1 ", text)
    text = re.sub(rf"(?<![\\a-zA-Z⟦])({_FUNCTIONS})(?=[xyzt](?![a-zA-Z]))", r"\\\1 ", text)
    text = re.sub(r"\\(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty ", text)
    for short, full in (("asin", "arcsin"), ("acos", "arccos"), ("atan", "arctan")):
        text = re.sub(rf"\\{short}(?![a-zA-Z])", rf"\\{full} ", text)
    text = re.sub(r"\+\s*-", "-", text)
    text = re.sub(r"-\s*-(?=\s*\d)", "+", text)
    return re.sub(r"\+/-|\+-", r"\\pm ", text)


def _arguments(text: str) -> str:
    """Puts braces around the arguments of `sqrt(..)`, `^(..)`, `\\frac12`, `\\sqrt3`."""
    for command, opening in (("\\sqrt", "{"), ("\\cbrt", "{"), ("\\exp", "{"), ("\\abs", "|"), ("^", "{")):
        text = _parenthesised(text, command, opening)
    text = text.replace("\\cbrt", "\\sqrt[3]")
    text = re.sub(r"\\exp(?=\s*\{)", "e^", text)
    text = re.sub(r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z])|\\[a-zA-Z]+)(?!\])", r"\\sqrt{\1}", text)
    for _ in range(3):
        text = re.sub(r"\\frac\s*(\d|[a-zA-Z]|\\pi)\s*(?=[\d{a-zA-Z\\])", r"\\frac{\1}", text)
        text = re.sub(r"(\\frac\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})\s*(\d|[a-zA-Z]|\\pi)", r"\1{\2}", text)
    return re.sub(r"\\binom\s*(\d)\s*(\d)", r"\\binom{\1}{\2}", text)


def _parenthesised(text: str, command: str, opening: str) -> str:
    start = 0
    while (at := text.find(command, start)) >= 0:
        begin = at + len(command)
        while begin < len(text) and text[begin] == " ":
            begin += 1
        start = begin
        if begin < len(text) and text[begin] == "(" and (end := closing(text, begin)):
            if opening == "|":
                text = text[:at] + "|" + text[begin + 1 : end] + "|" + text[end + 1 :]
            else:
                text = text[:begin] + "{" + text[begin + 1 : end] + "}" + text[end + 1 :]
    return text


def closing(text: str, opened: int) -> int | None:
    """Returns where the bracket opened at a position closes; kinds may differ, as in half-open intervals."""
    depth = 0
    for position in range(opened, len(text)):
        character = text[position]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0:
                return position
    return None


_APPROXIMATELY = r"(?:⟦(?:approximately|approx|about|around|roughly|circa|exactly|precisely)⟧\.?|approx\\.)"


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = _RANGE_OF_PARAMETER.sub("", text)
    text = _FOR_ALL.sub("", text)
    text = re.sub(r"(?<=\S)[,;]?\s*(?:for (?:all|any|⟦every⟧)|\\forall)(?![a-zA-Z]).*$", "", text)
    text = re.sub(r"\s*(⟧)\s*(?=⟦)", r"\1", text)
    text = re.sub(r"⟧\s*per\s*⟦", "⟧/⟦", text)
    text = re.sub(r"[\[(]\s*(⟪[^⟪⟫]*⟫)\s*[\])]", r"\1", text)
    while True:
        bare = (
            re.sub(
                rf"^(?:=>?|\\(?:approx|sim|simeq|therefore|implies|Rightarrow)(?![a-zA-Z])|{_APPROXIMATELY}(?=.*\d))",
                "",
                text.strip(" .,;:"),
            )
            .removesuffix("\\\\")
            .strip()
        )
        bare = re.sub(rf"(?<=\d)\s*(?:{_APPROXIMATELY}|\(\s*{_APPROXIMATELY}\s*\))$", "", bare)
        if bare.startswith("{") and closing(bare, 0) == len(bare) - 1:
            bare = bare[1:-1].strip()
        if bare == text:
            return text
        text = bare
