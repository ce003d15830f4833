# ruff: noqa: RUF001

"""Answers that try to hang, crash, fool or break out of the grader."""

import random

_ATOMS = [
    "9^{9^{9^{9}}}",
    "(10^{9})!",
    "\\binom{10^9}{5}",
    "\\binom{100000000}{50000000}",
    "\\sum_{k=1}^{10^{12}} \\frac{1}{k}",
]
_ATOMS += [
    "\\prod_{k=1}^{10^7} k",
    "\\int_0^1 x^{x^{x}} dx",
    "\\log_{2^5}(\\log_{2^4}(\\log_{2^3}(x)))",
    "2^{10^{10}} + 1",
]
_ATOMS += ["\\sqrt{\\sqrt{\\sqrt{2^{2^{30}}}}}", "e^{e^{e^{e^{9}}}}", "\\sin(10^{100000})", "x^{100000}(x+1)^{100000}"]
_ATOMS += ["0.\\overline{" + "3" * 500 + "}", "1" * 5000, "1e999999999", "\\frac{1}{0}", "0^{-1}", "\\infty - \\infty"]
_CODE = [
    "__import__('os').system('true')",
    "eval('1+1')",
    "\\input{/etc/passwd}",
    "{{6*6}}",
    "${6*6}",
    "'; DROP TABLE x",
]
_TORN = [
    "\\frac{",
    "\\left(",
    "}{",
    "\\begin{pmatrix}",
    "\\sqrt[",
    "^^^",
    "___",
    "\\\\\\",
    "((((",
    "[[[[",
    "\\text{",
    "⟦",
    "⟪1&2",
]
_ODD = ["\x00", "\ud800", "\u202e", "\u0000\uffff", "𝟓", "٣", "Ⅷ", "🙂", "\x1b[31m", "\r\n", "\u2028", "ﷺ"]


def hostile_answers(count: int, seed: int) -> list[str]:
    """Returns answers, none equal to 7: huge numbers, broken LaTeX, code, odd characters, nested and joined."""
    draw = random.Random(seed)

    def piece() -> str:
        kind = draw.random()
        if kind < 0.3:
            return draw.choice(_ATOMS)
        if kind < 0.5:
            return draw.choice(_TORN) * draw.choice((1, 3, 50))
        if kind < 0.6:
            return draw.choice(_CODE)
        if kind < 0.75:
            return draw.choice(_ODD) * draw.choice((1, 20))
        return "".join(draw.choice("09xyz+-*/^_{}()[]\\,.;:!<>=|&%$ ") for _ in range(draw.randint(1, 60)))

    answers = []
    for _ in range(count):
        text = draw.choice(("", "8 + ", "x = ", "-")) + piece()
        for _ in range(draw.choice((0, 0, 0, 1, 2, 5, 40))):
            text = draw.choice(
                ("\\frac{{{0}}}{{3}}", "\\sqrt{{{0}}}", "({0})", "2^{{{0}}}", "\\left[{0},1\\right)", "{0}, {0}")
            ).format(text[:400])
        answers.append(draw.choice(("\\boxed{{{0}}}", "The answer is {0}.", "{0}")).format(text[:6000]))
    return answers
