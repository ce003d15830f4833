"""Parses one LaTeX expression into a SymPy expression with latex2sympy, math-verify's parser; evaluates nothing."""

import hashlib
import re
from functools import cache, partial
from typing import Any

_INTEGER = re.compile(r"[+-]?\s?\d{1,4000}")
DECIMAL = re.compile(r"([+-]?)\s?(\d{1,2000})\.(\d{1,2000})")
_FRACTION = re.compile(
    r"([+-]?)\s?(?:\\frac\s?\{\s?([+-]?\d{1,4000})\s?\}\s?\{\s?(\d{1,4000})\s?\}|(\d{1,4000})\s?/\s?(\d{1,4000}))"
)
_MIXED = re.compile(
    r"([+-]?)\s?(\d{1,100})\s?"
    r"(?:\\frac\s?\{\s?(\d{1,100})\s?\}\s?\{\s?(\d{1,100})\s?\}|(?<=\s)(\d{1,100})\s?/\s?(\d{1,100}))"
)
# Symbols that latex2sympy cannot parse or would mistake: E_{1} for Euler's number, x' for x.
_SYMBOL = re.compile(
    r"((?<![A-Za-z\\])[A-Za-z]|\\(?!log|lim|sum|prod|int|max|min|frac|sqrt|binom)[a-zA-Z]+)\s?"
    r"(?:_\s?(\{[^{}]*\}|\w)('*)|('+)(?!\())|\\(?:hbar|ell|odot)(?![a-zA-Z])|\\(?:vec|hat|bar|dot|ddot|tilde)\s?\{[^{}]*\}"
)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|[a-z]|\\[a-z]+)\s?⟦degree⟧")
_MAX_CHARACTERS = 2000


def parse_expression(text: str) -> Any:
    """Parses LaTeX into an unevaluated SymPy expression with exact decimals; None if it cannot be parsed."""
    from sympy import Abs, Expr, Float, I, Integer, Product, Rational, Sum, Symbol, sign

    if _INTEGER.fullmatch(text):
        return Integer(text.replace(" ", ""))
    if match := DECIMAL.fullmatch(text):
        number = Rational(int(match[2] + match[3]), 10 ** len(match[3]))
        return -number if match[1] == "-" else number
    if (match := _FRACTION.fullmatch(text)) and int(match[3] or match[5]):
        number = Rational(int(match[2] or match[4]), int(match[3] or match[5]))
        return -number if match[1] == "-" else number
    if (match := _MIXED.fullmatch(text)) and int(match[3] or match[5]) < int(match[4] or match[6]):
        number = int(match[2]) + Rational(int(match[3] or match[5]), int(match[4] or match[6]))
        return -number if match[1] == "-" else number
    text = _DEGREES.sub(r"(\1\\cdot\\pi/180)", text)
    if re.search(r"\d\s?'", text):  # 3' is not 3
        return None
    if re.search(r"(?<![\^\d])\d+\s?_", text):  # latex2sympy reads 5_{11} as 5
        return None
    if "⟦" in text or len(text) > _MAX_CHARACTERS:
        return None
    text = _SYMBOL.sub(lambda m: symbol_latex(m[0]), text)
    try:
        tree = _parsed(text)
    except Exception:  # latex2sympy raises plain Exception on invalid input, and passes on whatever SymPy raises
        return None
    if not isinstance(tree, Expr):
        return None
    if "\\sqrt[" in text:
        tree = tree.replace(_is_odd_root, lambda root: sign(root.base) * Abs(root.base) ** root.exp)
    exact: dict[Any, Any] = {number: Rational(str(number)) for number in tree.atoms(Float)}
    if not tree.has(Sum, Product):
        exact[Symbol("i")] = I
    return tree.xreplace(exact)


def _parsed(text: str) -> Any:
    """Parses with latex2sympy. Raises Exception for what it cannot parse."""
    from antlr4 import PredictionMode, Token

    converter = _converter_class()()
    parser = converter.create_parser(text)
    # ANTLR's two-stage parsing: the fast SLL prediction handles nine of ten expressions in a third of the time, and
    # agrees with full prediction whenever it parses an expression to its end.
    parser._interp.predictionMode = PredictionMode.SLL
    try:
        found = parser.expr()
        if parser.getTokenStream().LA(1) == Token.EOF:
            return converter.convert_expr(found)
    except Exception:
        pass
    return converter.parse(text)


@cache
def _converter_class() -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
    from sympy import Integer

    class Converter(_Latex2Sympy):
        """latex2sympy, but creates integers without SymPy's parser, which takes a fifth of the time."""

        def parse_number(self, text: str) -> Any:
            return Integer(int(text)) if text.isdigit() and text.isascii() else super().parse_number(text)

    return partial(Converter, config=ConversionConfig(lowercase_symbols=False))


def _is_odd_root(tree: Any) -> bool:
    """Whether it is an odd root of a number, such as a cube root: negative for a negative number."""
    if not tree.is_Pow or tree.base.free_symbols or tree.exp.free_symbols:
        return False
    exponent = tree.exp.doit()
    return bool(exponent.is_Rational and exponent.p == 1 and exponent.q % 2)


def symbol_latex(name: str) -> str:
    """Returns LaTeX for a symbol that latex2sympy can parse; equal names give equal symbols."""
    plain = re.sub(r"[\s{}]|\\(?:text|rm|mathrm)", "", name).encode()
    return f" v_{{{int.from_bytes(hashlib.blake2b(plain, digest_size=6).digest(), 'big')}}} "
