"""Parses an answer in plain LaTeX into values (values.py).

`readings` returns every plausible reading of a text ("100,200" is a number or a list). Expressions are parsed with
latex2sympy, math-verify's parser; nothing is evaluated here, so a power tower stays as small as its text.
"""

import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, TypeGuard

from components.shared.grading.latex.normalize import closing, to_plain_latex
from components.shared.grading.latex.number_words import COMPUTING
from components.shared.grading.mathematics.expressions import linear_root, solutions
from components.shared.grading.mathematics.intervals import (
    INFINITY,
    REAL_LINE,
    Interval,
    intersection,
    union,
    without_points,
)
from components.shared.grading.mathematics.sets_in_words import set_in_words
from components.shared.grading.mathematics.sympy_parser import DECIMAL, parse_expression, symbol_latex
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

_MAX_DEPTH = 12
_OPERATOR = re.compile(r"\\(?:le|ge|ne|in|approx|equiv|to)(?![a-zA-Z])|[<>=]")
_OPERATORS = {"\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\approx": "=", "\\equiv": "=", "\\to": "="}
_NAME = re.compile(
    r"(?:⟦[^⟧]+⟧\s*)+"
    r"|(?:[A-Za-z]|\\(?!sin|cos|tan|cot|sec|csc|arc|log|ln|sqrt|frac)[a-zA-Z]+)'*\s*"
    r"(?:_\s*(?:\w|\{[^{}]*\}))?(?:\^\{-1\})?\s*(?:\([A-Za-z0-9, ]{1,12}\))?"
    r"|(?:[EP]|\\Pr|\\mathbb\s*\{?[EP]\}?)\s*[\[(][^\[\]()]*[\])]"
    r"|\\(?:overrightarrow|vec|mathbf|hat|bar)\s*\{\w+\}|\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)"
    r"|[A-Z]{2,4}|m?\s*\\angle\s*\w+|\\overline\{\w+\}|\|\w{1,3}\||\[[A-Z]{3,4}\]"
)
_APPLIED = re.compile(r"[a-zA-Z]\s?\([a-z]\)")  # f(x)
_SUM_OF_NAMES = re.compile(r"[a-z](?:_\{?\w\}?)?(?:\s*\+\s*[a-z](?:_\{?\w\}?)?)+|[a-z]{2,3}")
_NAMED_POINT = re.compile(r"([A-Z]'{0,2}\s*(?:_\s*(?:\d|\{\s*\d+\s*\}))?)\s*\((?=[^()]*,)")
_CHOOSE = re.compile(r"([CP])\s?\(\s?(\d{1,4})\s?,\s?(\d{1,4})\s?\)")
_WITH_UNIT = re.compile(r"([^⟦]*[^⟦\s])\s*(⟦[^⟧]+⟧(?:⟦[^⟧]+⟧|[\s/{}.-]|\^\s?\{?\s?-?\d\}?|\\cdot)*)")
_EMPTY_SET = re.compile(
    r"(?:there (?:is|are) )?(?:no|zero) (?:real |integer |integral |possible |such )?(?:solutions?|values?|roots?)"
    r"(?: exists?)?"
    r"|(?:the )?empty set|none",
    re.IGNORECASE,
)
_BOUND = {"or", "more", "less", "fewer", "least", "most", "than", "not", "over", "under", "about", "to"}
_BASED = re.compile(r"\(?(\d[0-9A-Fa-f]*|[0-9]+)\)?\s?_\s?\{?\s?(\d{1,2})\s?\}?")


def readings(text: str) -> list[Value]:
    """Returns every plausible reading of an answer, the likeliest first; empty for an empty text."""
    latex = to_plain_latex(text)
    if not latex:
        return []
    texts = [latex]
    # Outside brackets, commas may separate thousands.
    if not re.search(r"[(\[{]", latex):
        joined = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", lambda m: m[0].replace(",", ""), latex)
        texts = [joined, latex] if joined != latex else [latex]
    elif match := _CHOOSE.fullmatch(latex):  # a binomial coefficient, or the point C
        texts = [*_count(match), latex]
    return [_read(text, 0) for text in texts]


def _count(match: re.Match[str]) -> list[str]:
    n, k = int(match[2]), int(match[3])
    if k > n:
        return []
    return [f"\\binom{{{n}}}{{{k}}}" if match[1] == "C" else f"\\frac{{{n}!}}{{{n - k}!}}"]


def _read(text: str, depth: int) -> Value:
    text = text.strip(" ,;")
    if "⟦mod⟧" in text:
        return Words(re.sub(r"\s", "", text))
    if (total := _compound(text)) is not None:
        return total
    if depth > _MAX_DEPTH or not text or "\\ldots" in text or "\\dots" in text or "\\cdots" in text:
        return Words(text) if ":" not in text else _ratio(text, depth) or Words(text)
    if re.fullmatch(r"(?:⟦[^⟧]*⟧|[A-Za-z'\s-])*⟦[^⟧]*⟧(?:⟦[^⟧]*⟧|[A-Za-z'\s.-])*", text):
        words = " ".join(re.sub(r"⟧\s*⟦|[⟦⟧]", " ", text).split())
        if (real_set := set_in_words(text, lambda part: _read(part, depth + 1))) is not None:
            return real_set
        if _EMPTY_SET.fullmatch(words):
            return Group("set", ())
        return Words(words)
    if (real_set := set_in_words(text, lambda part: _read(part, depth + 1))) is not None:
        return real_set
    for read in (_list, _set_operations, _relation, _plus_minus, _named_point, _bracketed, _matrix, _based, _ratio):
        value = read(text, depth)
        if value is not None:
            return value
    return _quantity(text)


def _split(text: str, separators: str) -> list[str]:
    """Splits a text at the separators (a pattern) that are outside all brackets."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(rf"[(\[{{⟪]|[)\]}}⟫]|{separators}", text):
        if token[0] in "([{⟪":
            depth += 1
        elif token[0] in ")]}⟫":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def _list(text: str, depth: int) -> Value | None:
    parts = _split(text, ";")
    if len(parts) == 1:
        parts = _split(text, r"\s(?:or|and)(?=\s)|^(?:or|and)\s|,")
    parts = [part.strip() for part in parts]
    parts = [re.sub(r"^(?:or|and)\s", "", part) for part in parts]
    parts = [part for part in parts if part]
    if len(parts) < 2:
        return None
    items = [item for part in parts for item in _items(part, depth + 1)]
    relations = [item for item in items if isinstance(item, Relation)]
    if relations and relations[0] is items[0] and items[0].operator == "=" and items[0].name and items[0].value:
        rest = items[1:]
        same = all(isinstance(i, Relation) and i.name == items[0].name and i.value is not None for i in rest)
        if same or len(relations) == 1:  # x = 1 or x = 2; x = 1, 2
            values = [i.value if isinstance(i, Relation) and i.value is not None else i for i in items]
            flat = [v for value in values for v in (value.items if _is_list(value) else (value,))]
            return replace(items[0], left=None, right=None, value=Group("list", tuple(flat)))
    real_sets = [item for item in items if isinstance(item, RealSet)]
    if real_sets:  # x = 0 or 1 <= x <= 2
        items = [_point(item, real_sets[0].variable) or item for item in items]
        real_sets = [item for item in items if isinstance(item, RealSet)]
    if len(real_sets) == len(items) and len({real_set.variable for real_set in real_sets}) == 1:
        intervals = [real_set.intervals for real_set in real_sets]
        joined = intersection(intervals) if re.search(r"\sand\s", text) else union(intervals)
        if joined == REAL_LINE:
            joined = intersection(intervals)  # x > 0, x < 5 are the bounds of one interval
        return RealSet(real_sets[0].variable, joined)
    return Group("list", tuple(items))


def _items(part: str, depth: int) -> tuple[Value, ...]:
    """Returns the list items that a text stands for: one, or two if it contains plus-minus."""
    value = _read(part, depth)
    return value.items if _is_list(value) and "\\pm" in part else (value,)


def _is_list(value: Value | None) -> TypeGuard[Group]:
    return isinstance(value, Group) and value.kind == "list"


def _point(item: Value, variable: str | None) -> RealSet | None:
    if not isinstance(item, Relation) or item.name != variable or not isinstance(item.value, Quantity):
        return None
    return RealSet(variable, (Interval(item.value.tree, item.value.tree, True, True),))


def _set_operations(text: str, depth: int) -> Value | None:
    minus = _split(text, r"\\(?:setminus|backslash)(?![a-zA-Z])")
    if len(minus) == 2:
        whole, taken = as_real_set(_read(minus[0], depth + 1)), _read(minus[1], depth + 1)
        points = [i.tree for i in taken.items if isinstance(i, Quantity)] if isinstance(taken, Group) else []
        if whole and points and isinstance(taken, Group) and len(points) == len(taken.items):
            return RealSet(whole.variable, without_points(whole.intervals, points))
        return None
    parts = _split(text, r"\\cup(?![a-zA-Z])")
    if text == "\\mathbb{R}":
        return RealSet(None, REAL_LINE)
    if len(both := _split(text, r"\\cap(?![a-zA-Z])")) > 1:
        found = [as_real_set(_read(part, depth + 1)) for part in both]
        return RealSet(None, intersection([r.intervals for r in found if r])) if all(found) else None
    if re.fullmatch(r"\\(?:emptyset|varnothing)", text):
        return Group("set", ())
    if len(parts) < 2:
        return None
    real_sets = [as_real_set(_read(part, depth + 1)) for part in parts]
    return RealSet(None, union([r.intervals for r in real_sets if r])) if all(real_sets) else None


def _relation(text: str, depth: int) -> Value | None:
    operators = [m for m in _OPERATOR.finditer(text) if _outside_brackets(text, m.start())]
    if not operators:
        return None
    marks = [_OPERATORS.get(m[0], m[0]) for m in operators]
    bounds = [0, *(p for m in operators for p in (m.start(), m.end())), len(text)]
    sides = [text[a:b].strip() for a, b in zip(bounds[::2], bounds[1::2], strict=True)]
    if any(not side for side in sides):
        return Words(text)
    if marks == ["\\in"]:
        within = _read(sides[1], depth + 1)
        real_set = as_real_set(within)
        if real_set and not (isinstance(within, Group) and within.kind == "set"):
            return RealSet(sides[0], real_set.intervals)
        return Relation(
            "=", None, None, sides[0], replace(within, kind="list") if isinstance(within, Group) else within
        )
    if set(marks) <= {"<", ">", "<=", ">=", "!="}:
        return _inequality(marks, sides) or Words(text)
    if set(marks) != {"="}:
        return Words(text)
    if len(sides) == 2 and not _NAME.fullmatch(sides[0]) and _NAME.fullmatch(sides[1]):
        sides.reverse()  # 5 = x
    # In a chain a = b = 5, the last side is the result.
    name = re.sub(r"\s", "", sides[0]) if _NAME.fullmatch(sides[0]) else None
    if name is None and operators[-1][0] == "\\to":
        return Words(text)
    value = _read(sides[-1], depth + 1)
    left = parse_expression(symbol_latex(name)) if name and re.search(r"[(⟦|\[]", name) else parse_expression(sides[0])
    if name is None and left is not None and not left.free_symbols:
        return value  # 2 + 3 = 5
    if (
        name is None
        and _SUM_OF_NAMES.fullmatch(sides[0])
        and isinstance(value, Quantity)
        and not value.tree.free_symbols
        and value.tree != 0
    ):
        name = re.sub(r"\s", "", sides[0])
    return Relation("=", left, value.tree if isinstance(value, Quantity) else None, name, value if name else None)


def _inequality(marks: list[str], sides: list[str]) -> Value | None:
    from sympy import LessThan, StrictLessThan

    trees = [parse_expression(symbol_latex(side) if re.fullmatch(_APPLIED, side) else side) for side in sides]
    if any(tree is None for tree in trees) or len(trees) > 3:
        return None
    if marks == ["!="]:
        variable = next((i for i in (0, 1) if re.fullmatch(r"[A-Za-z]\w?|\\[a-z]+", sides[i])), None)
        if variable is None:
            return None
        return RealSet(sides[variable], without_points(REAL_LINE, [trees[1 - variable]]))
    if "!=" in marks:
        return None
    if marks[0][0] == ">":  # in ascending order
        marks, sides, trees = [m.replace(">", "<") for m in marks[::-1]], sides[::-1], trees[::-1]
    if any(mark[0] == ">" for mark in marks):
        return None
    bare = [i for i, tree in enumerate(trees) if tree.is_Symbol]
    if len(trees) == 3 and 1 in bare:
        return RealSet(sides[1], (Interval(trees[0], trees[2], marks[0] == "<=", marks[1] == "<="),))
    if len(trees) == 2 and bare and trees[bare[0]] not in trees[1 - bare[0]].free_symbols:
        variable, bound, closed = bare[0], trees[1 - bare[0]], marks[0] == "<="
        if not bound.free_symbols:
            low, high = (-INFINITY, bound) if variable == 0 else (bound, INFINITY)
            return RealSet(sides[variable], (Interval(low, high, variable == 1 and closed, variable == 0 and closed),))
    if len(trees) == 3:  # 0 < x^2 < 4
        halves = _inequality(marks[:1], sides[:2]), _inequality(marks[1:], sides[1:])
        real_sets = [half for half in halves if isinstance(half, RealSet)]
        if len(real_sets) == 2 and real_sets[0].variable == real_sets[1].variable:
            return RealSet(real_sets[0].variable, intersection([real_set.intervals for real_set in real_sets]))
        return None
    if len({s for tree in trees for s in tree.free_symbols}) == 1 and not bare:
        relation = StrictLessThan(*trees) if marks[0] == "<" else LessThan(*trees)
        if getattr(relation, "free_symbols", None) and (intervals := solutions(relation)):
            return RealSet(
                str(next(iter(relation.free_symbols))), union([[Interval(*interval) for interval in intervals]])
            )
    if (root := linear_root(trees[0] - trees[1])) is not None:
        symbol, bound, rising = root
        ends = (-INFINITY, bound) if rising else (bound, INFINITY)
        closed = marks[0] == "<="
        return RealSet(str(symbol), (Interval(*ends, not rising and closed, rising and closed),))
    return Relation(marks[0], trees[0], trees[1])


def _outside_brackets(text: str, position: int) -> bool:
    return sum(text.count(b, 0, position) for b in "([{") == sum(text.count(b, 0, position) for b in ")]}")


def _plus_minus(text: str, depth: int) -> Value | None:
    if "\\pm" not in text and "\\mp" not in text:
        return None
    upper = re.sub(r"\\pm(?![a-zA-Z])", "+", re.sub(r"\\mp(?![a-zA-Z])", "-", text))
    lower = re.sub(r"\\pm(?![a-zA-Z])", "-", re.sub(r"\\mp(?![a-zA-Z])", "+", text))
    return Group("list", (_read(upper, depth + 1), _read(lower, depth + 1)))


def _bracketed(text: str, depth: int) -> Value | None:
    kind, inner = "", ""
    if text.startswith("\\{") and text.endswith("\\}") and closing(text, 1) == len(text) - 1:
        kind, inner = "set", text[2:-2]
    elif text.startswith("{") and text.endswith("}") and closing(text, 0) == len(text) - 1:
        kind, inner = "set", text[1:-1]
    elif text.startswith("\\langle") and text.endswith("\\rangle"):
        kind, inner = "()", text[len("\\langle") : -len("\\rangle")]
    elif text[0] in "([" and text[-1] in ")]" and closing(text, 0) == len(text) - 1:
        kind, inner = text[0] + text[-1], text[1:-1]
    if not kind:
        return None
    if kind == "set" and len(bar := _split(inner, r"\||\\mid(?![a-zA-Z])|:")) == 2:
        # { x | x > 2 } means its condition; { 2k | k in Z } is compared as text.
        bare = re.fullmatch(r"[a-z](?:\s*\\in\s*\\mathbb\s*\{?R\}?)?", bar[0].strip())
        return _read(bar[1], depth + 1) if bare else Words(re.sub(r"\\mid|[|:]", "|", text))
    separator = ";" if len(_split(inner, ";")) > 1 else ","
    parts = [part for part in _split(inner, separator) if part.strip()]
    if kind == "set" or len(parts) > 1:
        return Group(kind, tuple(_read(part, depth + 1) for part in parts))
    return _read(inner, depth + 1) if kind == "()" and parts else None


def _matrix(text: str, depth: int) -> Value | None:
    if not (text.startswith("⟪") and text.endswith("⟫")) or "⟪" in text[1:]:
        return None
    rows = [row for row in re.split(r"\\\\", text[1:-1]) if row.strip()]
    return Matrix(tuple(tuple(_read(cell, depth + 1) for cell in row.split("&")) for row in rows))


def _based(text: str, depth: int) -> Value | None:
    match = _BASED.fullmatch(text)
    if not match or not 2 <= int(match[2]) <= 36:
        return None
    return Based(match[1].upper().lstrip("0") or "0", int(match[2]))


def _ratio(text: str, depth: int) -> Value | None:
    if match := re.fullmatch(r"(\d{1,2}:\d{2}(?::\d{2})?)\s*⟦([ap])\.?m\.?⟧", text, re.IGNORECASE):
        text, half_day = match[1], match[2].lower()
    else:
        half_day = ""
    parts = _split(text, ":")
    if len(parts) < 2 or any(not part.strip() for part in parts):
        return None
    return Ratio(tuple(_read(part, depth + 1) for part in parts), re.sub(r"\s", "", text), half_day)


def _compound(text: str) -> Quantity | None:
    """Reads `6 ft 2 in` or `2 hours and 15 minutes` in the first unit; None for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*⟦([^⟧]+)⟧", text)
    if len(parts) < 2 or not re.fullmatch(r"(?:\d+(?:\.\d+)?\s*⟦[^⟧]+⟧\s*(?:,|and|⟦and⟧)?\s*)+", text):
        return None
    if not all(is_unit(unit) for _, unit in parts):
        return None
    factors = [found[0] for _, unit in parts if (found := conversion(parts[0][1], unit, True)) and not found[1]]
    # Units must descend; otherwise it is a list: 5 cm and 6 cm.
    if len(factors) < len(parts) or any(small >= large for large, small in pairwise(factors)):
        return None
    total = sum(parse_expression(number) * rational(factor) for (number, _), factor in zip(parts, factors, strict=True))
    return Quantity(text, total, parts[0][1])


def _quantity(text: str) -> Quantity | Words:
    noted = re.sub(r"\(\s*((?:⟦[^⟧]+⟧\s*)+)\)$", r"\1", text)  # 9 (apples)
    is_noted, text = noted != text, noted
    value, unit = text, ""
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc).*⟦degree⟧", text):
        tree = parse_expression(text)
        return Words(re.sub(r"[⟦⟧]", " ", text)) if tree is None else Quantity(text, tree)
    if (match := _WITH_UNIT.fullmatch(text)) and len(words := re.findall(r"⟦([^⟧]+)⟧", match[2])) <= 4:
        if not is_noted and {part.lower() for word in words for part in word.split("-")} & (_BOUND | COMPUTING):
            return Words(" ".join(re.sub(r"[⟦⟧]", " ", text).split()))
        value = match[1].rstrip(" -~")
        unit = " ".join(re.sub(r"[⟦⟧{}]", " ", match[2]).split())
    tree = parse_expression(value)
    if tree is None:
        return Words(re.sub(r"⟧\s*⟦|[⟦⟧]", " ", text).strip())
    decimal = DECIMAL.fullmatch(value)
    return Quantity(value, tree, unit, len(decimal[3]) if decimal else None, is_noted)


def rational(number: Fraction) -> Any:
    """Converts a Python fraction to a SymPy rational."""
    from sympy import Rational

    return Rational(number.numerator, number.denominator)


def _named_point(text: str, depth: int) -> Value | None:
    """Reads `A(1, 2)`, the point A."""
    match = _NAMED_POINT.match(text)
    if not match or closing(text, match.end() - 1) != len(text) - 1:
        return None
    value = _read(text[match.end() - 1 :], depth + 1)
    if not isinstance(value, Group) or value.kind != "()":
        return None
    return Relation("=", None, None, re.sub(r"[\s{}]", "", match[1]), value)
