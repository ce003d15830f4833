"""Kinds of answers: generated equal forms of one value, changed values, and texts that are no such form."""

from fractions import Fraction
from itertools import product
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.shared.grading.answer import committed_answer
from components.shared.grading.mathematics.verdict import math_verdict
from components.shared.grading.settings import GradingSettings

SETTINGS = GradingSettings()
law = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Kind(NamedTuple):
    """One value in several forms, and texts that are another value."""

    forms: list[str]
    changed: list[str]


def judged(gold: str, text: str, **keys: str) -> bool | None:
    """The verdict on a text that commits to an answer."""
    given = GradingSettings.check(keys, "grading") if keys else SETTINGS
    return math_verdict(gold, committed_answer(text).answer or "", given)[0]


def box(text: str) -> str:
    return f"\\boxed{{{text}}}"


# Kinds, each as a strategy.

number = st.integers(2, 97)
two = st.lists(number, min_size=2, max_size=2, unique=True)
letter = st.sampled_from("xynktabcm")
_UNITS = [  # a unit, another of its dimension with how many of it make one, and one of another dimension
    ("m", "cm", 100, "kg"), ("km", "meters", 1000, "s"), ("kg", "grams", 1000, "N"), ("hours", "minutes", 60, "m"),
    ("days", "hours", 24, "J"), ("feet", "inches", 12, "pounds"), ("kN", "N", 1000, "J"), ("L", "mL", 1000, "g"),
    ("kJ", "J", 1000, "W"), ("W", "J/s", 1, "J"), ("GB", "MB", 1000, "Hz"), ("mol", "mmol", 1000, "g"),
    ("m^2", "cm^2", 10_000, "m"), ("gallons", "quarts", 4, "feet"), ("MHz", "kHz", 1000, "m"),
    ("km/h", "m/h", 1000, "km"),
    ("V", "mV", 1000, "A"), ("dollars", "cents", 100, "euros"), ("N", "kg m/s^2", 1, "kg m/s"), ("Pa", "N/m^2", 1, "N"),
    ("weeks", "days", 7, "m"), ("hectares", "m^2", 10_000, "m"), ("yards", "feet", 3, "square feet"),
]  # fmt: skip
_CURRENCIES = [
    "\\${}",
    "{} dollars",
    "{} USD",
    "€{}",
    "{} euros",
    "£{}",
    "₹{}",
    "{} rupees",
    "Rs {}",
    "¥{}",
    "{} yen",
    "₽{}",
]
_WORDS_OF_SCALE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}
_PARTS = {
    2: "halves",
    3: "thirds",
    4: "fourths",
    5: "fifths",
    7: "sevenths",
    8: "eighths",
    10: "tenths",
    100: "hundredths",
}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
_ONES += " eighteen nineteen"
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety"


def in_words(n: int) -> str:
    ones, tens = _ONES.split(), _TENS.split()
    if n < 20:
        return ones[n]
    if n < 100:
        return tens[n // 10] + (f"-{ones[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{ones[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")
    return f"{in_words(n // 1000)} thousand" + (f" {in_words(n % 1000)}" if n % 1000 else "")


@st.composite
def measured(draw: st.DrawFn) -> Kind:
    n, m = draw(two)
    unit, smaller, times, other = draw(st.sampled_from(_UNITS))
    forms = [
        f"{n} \\text{{ {unit}}}",
        f"{n}\\,\\mathrm{{{unit}}}",
        f"{times * n} \\text{{ {smaller}}}",
        f"{n}.0 \\text{{ {unit}}}",
    ]
    changed = [f"{m} \\text{{ {unit}}}", f"{n} \\text{{ {other}}}", f"{times * n + 1} \\text{{ {smaller}}}", str(n)]
    changed += [f"{n} \\text{{ {smaller}}}"] if times != 1 else []
    return Kind(forms, [*changed, f"{n} \\text{{ apples}}", f"{n} x"])


@st.composite
def plain_number(draw: st.DrawFn) -> Kind:
    """A unit may stand behind a number that has none; what multiplies may not."""
    n = draw(number)
    unit = draw(st.sampled_from(["cm", "\\text{ m}", "kg", "apples", "hours", "ways", "square units", "points"]))
    money = draw(st.sampled_from(_CURRENCIES)).format(n)
    scale = draw(
        st.sampled_from([*_WORDS_OF_SCALE, *_PARTS.values(), "percent", "\\%", "squared", "cubed", "doubled", "half"])
    )
    symbols = draw(
        st.sampled_from(["x", "n", "ab", "k^2", "a/b", "xy", "dx", "\\pi", "pi", "i", "e", "\\theta", "m", "x_1", "!"])
    )
    form = draw(st.sampled_from(["{} {}", "{}\\,{}", "{}\\ {}", "{}~{}"]))
    forms = [
        str(n),
        f"{n}.",
        f"{n} {unit}",
        money,
        f"x = {n}",
        f"{n} = x",
        in_words(n),
        f"\\text{{{in_words(n)}}}",
        f"(B) {n}",
    ]
    forms += [
        f"\\textbf{{(C)}}\\ {n}",
        f"\\approx {n}",
        f"\\text{{approximately }} {n}",
        f"about {n}",
        f"{n} \\text{{ (approximately)}}",
    ]
    changed = [form.format(n, scale), form.format(n, symbols), f"{n} \\text{{ {scale}}}", f"x = {n} {symbols}"]
    changed += [
        f"\\neq {n}",
        f"\\ge {n}",
        f"\\text{{not }} {n}",
        f"\\text{{at least }} {n}",
        f"\\text{{less than }} {n}",
    ]
    changed += [
        f"{n} \\pm 1",
        f"{n}, {n + 1}",
        f"{n} or {n + 1}",
        f"({n}, {n + 1})",
        f"{n}:{n + 1}",
        f"(B) {n + 1}",
        "B",
        "no solution",
    ]
    return Kind(
        forms, [*changed, in_words(n + 1), money.replace(str(n), str(n + 1)), f"\\text{{approximately }} {n + 1}"]
    )


@st.composite
def scaled(draw: st.DrawFn) -> Kind:
    n = draw(number)
    word, size = draw(st.sampled_from(list(_WORDS_OF_SCALE.items())))
    forms = [
        str(n * size),
        f"{n} {word}",
        f"{n} \\text{{ {word}}}",
        f"{in_words(n)} {word}" if word != "hundred" else str(n * 100),
    ]
    return Kind(forms, [str(n), f"{n}.{word}", f"{n + 1} {word}", f"\\frac{{{n}}}{{{size}}}", word, str(n * size * 10)])


@st.composite
def share(draw: st.DrawFn) -> Kind:
    n, (below, word) = draw(number), draw(st.sampled_from(list(_PARTS.items())))
    forms = [
        f"\\frac{{{n}}}{{{below}}}",
        f"{n}/{below}",
        f"{n} {word}",
        f"\\text{{{in_words(n)} {word}}}",
        f"{n} over {below}",
    ]
    forms += [f"{n} \\text{{ out of }} {below}", f"{n} \\text{{ in }} {below}", f"{n} divided by {below}"]
    changed = [
        str(n),
        f"{n + 1} {word}",
        f"{n} out of {below + 1}",
        str(n * below),
        f"{below}/{n}" if n != below else "0",
    ]
    return Kind(forms, [c for c in changed if below > 1])


@st.composite
def percentage(draw: st.DrawFn) -> Kind:
    n = draw(number)
    forms = [f"{n}\\%", f"{n} percent", f"{n} \\text{{ per cent}}", f"\\frac{{{n}}}{{100}}", f"{n / 100}"]
    return Kind(forms, [str(n), f"{n + 1}\\%", f"{n} \\text{{ cm}}", f"{100 * n}", f"0.{n:02d}\\%", f"\\${n}"])


@st.composite
def period(draw: st.DrawFn) -> Kind:
    fixed, digits = draw(st.from_regex(r"\A[0-9]{0,2}\Z")), draw(st.from_regex(r"\A[0-9]{1,3}\Z"))
    value = Fraction(int((fixed + digits) or 0) - int(fixed or 0), (10 ** len(digits) - 1) * 10 ** len(fixed))
    other = value + Fraction(1, 10 ** len(fixed + digits))
    forms = [
        f"0.{fixed}\\overline{{{digits}}}",
        f"0.{fixed}({digits})",
        f"\\frac{{{value.numerator}}}{{{value.denominator}}}",
    ]
    changed = [f"\\frac{{{other.numerator}}}{{{other.denominator}}}", f"1.{fixed}({digits})"]
    if set(digits) != {"0"}:  # the decimal that ends there
        changed.append(f"0.{fixed}{digits}")
    return Kind(forms, changed)


@st.composite
def interval(draw: st.DrawFn) -> Kind:
    low, length, brackets = draw(st.integers(-20, 20)), draw(number), draw(st.sampled_from(["()", "[]", "(]", "[)"]))
    high, (left, right) = low + length, brackets
    outward = ("]" if left == "(" else "[") + f"{low};{high}" + ("[" if right == ")" else "]")
    signs = ["<" if end in "()" else "\\le" for end in brackets]
    forms = [f"{left}{low}, {high}{right}", outward, outward.replace(";", ","), f"{low} {signs[0]} x {signs[1]} {high}"]
    forms.append(f"x \\in {left}{low},{high}{right}")
    changed = [f"{a}{low}, {high}{b}" for a, b in product("([", ")]") if a + b != brackets]
    flipped = ("[" if left == "(" else "]") + f"{low},{high}" + ("]" if right == ")" else "[")
    return Kind(forms, [*changed, flipped, f"{left}{low}, {high + 1}{right}", str(low), f"{low} {signs[0]} x"])


@st.composite
def reals(draw: st.DrawFn) -> Kind:
    n, m = draw(two)
    everything = f"(-\\infty,{n})\\cup({n},\\infty)"
    forms = [
        everything,
        f"\\text{{all real numbers except }} {n}",
        f"all reals except {n}",
        f"x \\neq {n}",
        f"\\mathbb{{R}}\\setminus\\{{{n}\\}}",
    ]
    changed = [
        f"\\text{{all real numbers except }} {m}",
        "\\mathbb{R}",
        f"\\text{{all real numbers greater than }} {n}",
        str(n),
    ]
    return Kind(forms, [*changed, f"\\{{{n}\\}}"])


@st.composite
def ray(draw: st.DrawFn) -> Kind:
    n, m = draw(two)
    forms = [
        f"({n}, \\infty)",
        f"x > {n}",
        f"{n} < x",
        f"\\text{{all real numbers greater than }} {n}",
        f"]{n}, \\infty[",
    ]
    changed = [
        f"[{n}, \\infty)",
        f"x \\ge {n}",
        f"x < {n}",
        f"all real numbers less than {n}",
        f"all real numbers greater than {m}",
    ]
    return Kind(forms, [*changed, f"\\text{{all real numbers greater than or equal to }} {n}", str(n)])


@st.composite
def assignments(draw: st.DrawFn) -> Kind:
    (n, m), (a, b) = draw(two), draw(st.sampled_from([("x", "y"), ("a", "b"), ("p", "q")]))
    forms = [f"{a}={n}, {b}={m}", f"{b} = {m}, {a} = {n}", f"{a}={n} \\text{{ and }} {b}={m}", f"{n} = {a}, {m} = {b}"]
    for name in ("aligned", "gathered", "align*", "cases"):
        forms.append(f"\\begin{{{name}}} {a} &= {n} \\\\ {b} &= {m} \\end{{{name}}}")
    forms.append(f"\\left\\{{\\begin{{array}}{{l}} {a} = {n} \\\\ {b} = {m} \\end{{array}}\\right.")
    return Kind(forms, [f"{a}={m}, {b}={n}", f"{a}={n}", f"{a}={n}, {b}={m + 1}", f"{b}={n}, {a}={m}"])


@st.composite
def counted(draw: st.DrawFn) -> Kind:
    n, m = draw(two)
    one, other = draw(
        st.sampled_from([("boys", "girls"), ("cats", "dogs"), ("chickens", "rabbits"), ("red balls", "blue balls")])
    )
    forms = [
        f"{n} \\text{{ {one} and }} {m} \\text{{ {other}}}",
        f"{n} {one} and {m} {other}",
        f"{m} \\text{{ {other}}}, {n} \\text{{ {one}}}",
    ]
    return Kind(forms, [f"{m} {one} and {n} {other}", f"{n} {one}", f"{n} {one} and {m + 1} {other}"])


@st.composite
def points(draw: st.DrawFn) -> Kind:
    n, m = draw(two)
    name = draw(st.sampled_from("PQMA"))
    forms = [
        f"({n},{m})",
        f"{name}({n},{m})",
        f"{name}\\left({n}, {m}\\right)",
        f"{name} = ({n},{m})",
        f"(x,y)=({n},{m})",
        f"x={n}, y={m}",
    ]
    return Kind(forms, [f"({m},{n})", f"{name}({m},{n})", f"({n},{m + 1})", str(n), f"\\{{{n},{m}\\}}"])


@st.composite
def both_signs(draw: st.DrawFn) -> Kind:
    k, (n, m) = draw(number), draw(two)
    forms = [f"{k + 200}, {n} \\pm \\sqrt{{{m}}}", f"{n}+\\sqrt{{{m}}}, {n}-\\sqrt{{{m}}}, {k + 200}"]
    forms.append(f"x = {k + 200}, x = {n} \\pm \\sqrt{{{m}}}")
    return Kind(
        forms, [f"{k + 200}, {n} + \\sqrt{{{m}}}", f"{k + 200}, {n} \\pm \\sqrt{{{m + 1}}}", f"{n} \\pm \\sqrt{{{m}}}"]
    )


@st.composite
def power_of_ten(draw: st.DrawFn) -> Kind:
    digit, exponent = draw(st.integers(11, 99)), draw(st.integers(2, 12))
    shown = f"{digit / 10}"
    forms = [
        f"{shown} \\times 10^{{-{exponent}}}",
        f"{shown} x 10^-{exponent}",
        f"{shown}*10^-{exponent}",
        f"{shown}e-{exponent}",
    ]
    forms.append(f"{shown} \\cdot 10^-{exponent}")
    return Kind(forms, [f"{shown} \\times 10^{exponent}", f"{shown} \\times 10^-{exponent + 1}", shown])


@st.composite
def decimal_comma(draw: st.DrawFn) -> Kind:
    whole, part = draw(number), draw(st.integers(1, 9))
    return Kind(
        [f"{whole}.{part}", f"{whole}{{,}}{part}"], [f"{whole}{part}", f"{whole}{{,}}{part + 10}", f"({whole},{part})"]
    )


@st.composite
def combination(draw: st.DrawFn) -> Kind:
    from math import comb

    n = draw(st.integers(6, 20))
    k = draw(st.integers(2, n - 2))
    forms = [
        str(comb(n, k)),
        f"\\binom{{{n}}}{{{k}}}",
        f"C({n},{k})",
        f"{n} choose {k}",
        f"{{}}_{{{n}}}C_{{{k}}}",
        f"C_{{{n}}}^{{{k}}}",
    ]
    return Kind(forms, [f"C({n + 1},{k})", f"\\frac{{{n}}}{{{k}}}", str(n), f"{n + 1} choose {k}"])


@st.composite
def polar(draw: st.DrawFn) -> Kind:
    r, (degrees, cosine, sine) = (
        draw(number),
        draw(
            st.sampled_from(
                [
                    (60, "\\frac{1}{2}", "\\frac{\\sqrt{3}}{2}"),
                    (30, "\\frac{\\sqrt{3}}{2}", "\\frac{1}{2}"),
                    (90, "0", "1"),
                ]
            )
        ),
    )
    forms = [
        f"{r}\\left({cosine} + {sine} i\\right)",
        f"{r} \\operatorname{{cis}} {degrees}^\\circ",
        f"{r}\\text{{cis}}({degrees}^\\circ)",
    ]
    forms += [
        f"{r}(\\cos {degrees}^\\circ + i \\sin {degrees}^\\circ)",
        f"{r} e^{{i\\pi \\cdot {degrees}/180}}",
        f"{r} \\angle {degrees}^\\circ",
    ]
    return Kind(
        forms,
        [f"{r} \\operatorname{{cis}} {degrees + 5}^\\circ", f"{r + 1} \\operatorname{{cis}} {degrees}^\\circ", str(r)],
    )


@st.composite
def angle(draw: st.DrawFn) -> Kind:
    n = draw(st.integers(1, 179))
    f = Fraction(n, 180)
    pi = f"\\frac{{{f.numerator}\\pi}}{{{f.denominator}}}"
    forms = [f"{n}^\\circ", f"{n}°", f"{n} \\text{{ degrees}}", pi, f"{pi} \\text{{ radians}}", f"{pi} \\text{{ rad}}"]
    return Kind(
        forms, [f"{n + 1}^\\circ", f"{n} \\text{{ radians}}", f"\\frac{{{f.numerator + 1}\\pi}}{{{f.denominator}}}"]
    )


@st.composite
def positive(draw: st.DrawFn) -> Kind:
    """Equal wherever both sides are real."""
    n, x = draw(st.integers(2, 9)), draw(st.sampled_from("xnt"))
    forms, changed = draw(
        st.sampled_from(
            [
                ([f"\\frac{{1}}{{\\sqrt{{{x}}}}}", f"sqrt(1/{x})", f"{x}^{{-1/2}}"], [f"\\sqrt{{{x}}}", f"1/{x}"]),
                ([f"\\ln({x}^{{{n}}})", f"{n}\\ln {x}"], [f"{n + 1}\\ln {x}", f"\\ln({n}{x})"]),
                ([f"{x}^{{2/3}}", f"(\\sqrt[3]{{{x}}})^2"], [f"{x}^{{3/2}}", f"\\sqrt{{{x}}}"]),
                ([f"\\sqrt{{{n * n}{x}}}", f"{n}\\sqrt{{{x}}}"], [f"{n}{x}", f"\\sqrt{{{n}{x}}}"]),
                ([f"\\sqrt{{{x}^2}}", f"|{x}|"], [x, f"-{x}"]),
            ]
        )
    )
    return Kind(forms, changed)


@st.composite
def matrix(draw: st.DrawFn) -> Kind:
    a, b, c, d = draw(st.lists(number, min_size=4, max_size=4, unique=True))
    inside, other = f"{a} & {b} \\\\ {c} & {d}", f"{a} & {c} \\\\ {b} & {d}"
    forms = [f"\\begin{{{name}}}{inside}\\end{{{name}}}" for name in ("pmatrix", "bmatrix", "matrix")]
    forms += [
        f"\\left(\\begin{{array}} {{ l l }} {inside} \\end{{array}}\\right)",
        f"A = \\begin{{pmatrix}}{inside}\\end{{pmatrix}}",
    ]
    forms.append(f"\\left(\\begin{{smallmatrix}}{inside}\\end{{smallmatrix}}\\right)")
    return Kind(forms, [f"\\begin{{pmatrix}}{other}\\end{{pmatrix}}", f"({a},{b},{c},{d})", str(a)])


@st.composite
def choice(draw: st.DrawFn) -> Kind:
    one, other = draw(st.lists(st.sampled_from("ABCDE"), min_size=2, max_size=2, unique=True))
    n = draw(number)
    forms = [one, f"({one})", f"\\text{{{one}}}", f"({one}) {n}", f"\\textbf{{({one})}}\\ {n}", one.lower()]
    return Kind(
        forms,
        [
            other,
            f"({other}) {n}",
            str(n),
            str("ABCDE".index(one) + 1),
            f"({one}) or ({other})",
            f"\\text{{not }} {one}",
        ],
    )


@st.composite
def truth(draw: st.DrawFn) -> Kind:
    one, other = (
        draw(st.permutations(["Yes", "No"])) if draw(st.booleans()) else draw(st.permutations(["True", "False"]))
    )
    reason = draw(st.sampled_from(["because the sum diverges", "since 3 is odd", "as shown", "for x = 2"]))
    return Kind(
        [one, f"\\text{{{one}}}", f"{one}, {reason}", f"\\text{{{one}, {reason}}}", f"{one}."],
        [other, f"{other}, {reason}"],
    )


@st.composite
def nothing(draw: st.DrawFn) -> Kind:
    forms = ["\\emptyset", "\\text{no solution}", "no solutions", "\\varnothing", "\\text{no real solutions}", "\\{\\}"]
    return Kind(forms, ["0", "\\{0\\}", str(draw(number)), "\\text{yes}"])


KINDS: dict[str, st.SearchStrategy[Kind]] = {
    function.__name__: function()
    for function in (
        measured, plain_number, scaled, share, percentage, period, interval, reals, ray, assignments, counted, points,
        both_signs, power_of_ten, decimal_comma, combination, polar, angle, positive, matrix, choice, truth, nothing,
    )
}  # fmt: skip
# A bare point does not say which of its names it has, a choice's text may differ: not every form answers every other.
ONE_WAY = {"plain_number", "choice", "truth"}


@pytest.mark.parametrize("name", KINDS)
@law
@given(data=st.data())
def test_equal_forms_are_right_and_changed_ones_wrong(name: str, data: st.DataObject) -> None:
    kind = data.draw(KINDS[name])
    gold = kind.forms[0]
    assert judged(gold, box(gold)) is True
    for form in kind.forms:
        assert judged(gold, box(form)) is True, (gold, form)
        assert judged(form, box(form)) is True, form
        if name not in ONE_WAY:
            assert judged(form, box(gold)) is True, (form, gold)
    for other in kind.changed:
        assert judged(gold, box(other)) is False, (gold, other)
    if name not in ONE_WAY:
        form, other = data.draw(st.sampled_from(kind.forms)), data.draw(st.sampled_from(kind.changed))
        assert judged(form, box(other)) is False, (form, other)


CLOSINGS = [
    "Result: {}", "Final: {}", "Answer - {}", "Ans: {}", "We add them up.\n{}", "The result:\n\n{}",
    "Final answer = {}",
    "So the total is {}.", "The total is {} clips in all.", "The final result is {}.", "Solution: {}", "Answer: **{}**",
    "It is not 3000, so it is {}.", "We get $x = {}$.", "\\boxed{{3000}} is a draft.\n\nAnswer: {}",
]  # fmt: skip
DENIALS = [
    "The answer is not {}.", "It cannot be {}.", "We do not know whether it is {}.", "It isn't {}.",
    "It is not \\boxed{{{}}}.",
    "I doubt that it is {}.", "It is false that x = {}.", "It is not true that the answer is {}.", "Thus x ≠ {}.",
    "Perhaps it is {}.", "It might be {}.", "Hence there are fewer than {}.", "Hence there are at least {}.",
    "The answer is less than {}.", "Nobody knows if it is {}.", "So {} cannot be the answer.",
]  # fmt: skip


@law
@given(number, st.sampled_from(CLOSINGS))
def test_what_closes_a_text_is_its_answer(n: int, closing: str) -> None:
    assert judged(str(n), closing.format(n)) is True
    assert judged(str(n), closing.format(n + 1)) is False


@law
@given(number, st.sampled_from(DENIALS))
def test_what_is_denied_bounded_or_guessed_is_no_answer(n: int, denial: str) -> None:
    assert judged(str(n), denial.format(n)) is False


@law
@given(number, letter)
def test_a_letter_behind_a_number_is_a_unit_only_where_the_gold_answer_has_one(n: int, symbol: str) -> None:
    assert judged(str(n), box(f"{n} {symbol}")) is False
    assert judged(f"{n} {symbol}", box(str(n))) is False
    assert judged(f"{n} \\text{{ m}}", box(f"{n} m")) is True


@law
@given(number, number)
def test_numbers_in_words(n: int, m: int) -> None:
    value = 1000 * n + m
    assert judged(str(value), box(in_words(value))) is True
    assert judged(str(value + 1), box(in_words(value))) is False


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("20 ^\\circ\\text{C}", "68^\\circ\\text{F}", True),
        ("20 ^\\circ\\text{C}", "293.15 \\text{ K}", True),
        ("20 ^\\circ\\text{C}", "20^\\circ\\text{F}", False),
        ("37 ^\\circ\\text{C}", "37", True),
        ("4 \\Omega", "4 \\text{ k}\\Omega", False),
        ("4 \\text{ k}\\Omega", "4000 \\Omega", True),
        ("5 \\mu m", "5000 \\text{ nm}", True),
        ("5 \\text{ kg} \\cdot \\text{m}^2", "5 \\text{ kg m}^2", True),
        ("9.8 \\text{ m/s}^2", "9.8 \\text{ m s}^{-2}", True),
        ("60 \\text{ mph}", "60 \\text{ km/h}", False),
        ("1 \\text{ acre}", "43560 \\text{ ft}^2", True),
        ("£5", "5 pounds", True),
        ("9 (apples)", "9", True),
        ("9 (inches)", "9", True),
        ("5 \\text{ apples}", "5 \\text{ oranges}", False),
        ("8 \\text{ a.m.}", "8 \\text{ p.m.}", False),
        ("5 feet 3 inches", "63 inches", True),
        ("2 \\text{ rad}", "2^\\circ", False),
        ("A(1,2), B(3,4)", "B(3,4), A(1,2)", True),
        ("x=2, y=3", "2, 3", True),
        ("x=2, y=3", "3, 2", False),
        ("x=2, y=3", "\\{2, 3\\}", False),
        ("3 \\text{ boys}, 5 \\text{ girls}", "3, 5", True),
        ("3 \\text{ boys}, 5 \\text{ girls}", "5, 3", False),
        ("A(1,2), B(3,4)", "A(3,4), B(1,2)", False),
        ("(1,2), (3,4)", "A(1,2) \\text{ and } B(3,4)", True),
        ("720", "P(10,3)", True),
        ("x_1 + x_2", "x₁ + x₂", True),
        ("3 \\times 2", "6", True),
        ("\\frac{1}{2}", "½", True),
        ("(\u2212∞, 3]", "x ≤ 3", True),
    ],
)  # fmt: skip
def test_units_labels_and_characters(gold: str, answer: str, expected: bool) -> None:
    assert judged(gold, box(answer)) is expected


@pytest.mark.parametrize("word", ["cats", "bars", "points", "hands", "pins", "grades", "dates", "men"])
def test_what_pint_would_take_for_a_unit_is_counted(word: str) -> None:
    from components.shared.grading.mathematics.units import is_unit

    assert not is_unit(word)


def test_a_verdict_says_how_both_were_read_and_compared() -> None:
    def why(gold: str, answer: str) -> str:
        return math_verdict(gold, answer, SETTINGS).explanation

    assert (
        why("0.5 \\text{ m}", "50 \\text{ cm}")
        == "number 0.5 in m and number 50 in cm: converted to the gold answer's unit"
    )
    assert why("5 \\text{ N}", "5 \\text{ J}") == "number 5 in N and number 5 in J: incompatible units"
    assert why("5 \\text{ cm}", "5") == "number 5 in cm and number 5: the answer has no unit, units=required"
    assert why("28\\%", "28") == "number 28 in percent and number 28: percent as a fraction, percent=value"
    assert why("1, 2", "2, 1") == "list of 2 and list of 2: item by item in any order"
    assert why("x^2", "x") == "expression x^2 and expression x: compared at exact points"
    assert why("(2, \\infty)", "x > 2") == "tuple () of 2 and set of real numbers: as sets, including endpoints"


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("C", "(C) is correct.", True),
        ("C", "So A is the answer.", False),
        ("C", "I choose C.", True),
        ("C", "C is incorrect.", False),
        ("D", "The box \\boxed{x^2} is used.\n\n**Answer: D**", True),
        ("33", "Tom has 20+13 = 33 coins altogether in June.", True),
        ("13", "Tom has 20+13 = 33 coins altogether in June.", False),
    ],
)
def test_conclusions_in_a_sentence(gold: str, text: str, expected: bool) -> None:
    assert judged(gold, text) is expected


@law
@given(number, st.sampled_from(["u(t)", "f(t)", "\\frac{dM}{dt}", "\\delta(t)"]))
def test_a_function_that_is_not_known_is_no_joker(n: int, unknown: str) -> None:
    assert judged(f"(1 + {n}t) {unknown}", box(f"{unknown}({n}t + 1)")) is True
    assert judged(f"(1 + {n}t) {unknown}", box(f"(1 + {n + 1}t) {unknown}")) is False
