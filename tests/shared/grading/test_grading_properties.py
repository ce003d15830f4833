"""Properties of grading, on generated answers."""

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from components.shared.grading.answer import committed_answer
from components.shared.grading.mathematics.verdict import math_verdict
from components.shared.grading.settings import GradingSettings
from components.shared.grading.verifiers import fast_verdict

SETTINGS = GradingSettings()
law = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

integers = st.one_of(st.integers(-2000, 2000), st.integers(-(10**40), 10**40))
fractions = st.fractions(max_denominator=500).filter(lambda f: abs(f) < 10**6)
answers = st.one_of(
    integers.map(str),
    fractions.map(lambda f: f"\\frac{{{f.numerator}}}{{{f.denominator}}}"),
    st.tuples(st.integers(2, 30), st.integers(2, 30)).map(lambda t: f"{t[0]}\\sqrt{{{t[1]}}}"),
    st.tuples(st.integers(-9, 9), st.integers(1, 9)).map(lambda t: f"\\left({t[0]}, \\frac{{\\pi}}{{{t[1]}}}\\right)"),
    st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda t: f"{t[0]}x^2 + \\frac{{x}}{{{t[1]}}}"),
    st.tuples(st.integers(-9, 9), st.integers(1, 9)).map(lambda t: f"[{t[0]}, {t[0] + t[1]})"),
)


def judged(gold: str, answer: str) -> bool | None:
    return math_verdict(gold, answer, SETTINGS)[0]


brackets = st.sampled_from(["()", "[]", "(]", "[)"])


@law
@given(answers, answers)
def test_ways_of_writing_do_not_matter(gold: str, answer: str) -> None:
    verdict = judged(gold, answer)
    assert judged(gold, gold) is True
    for other in (
        f"  {answer} ",
        f"${answer}$",
        f"\\({answer}\\)",
        f"\\[ {answer} \\]",
        f"{answer}.",
        f"\\boxed{{{answer}}}",
        answer.replace("\\frac", "\\dfrac"),
        answer.replace("\\frac", "\\tfrac"),
        answer.replace("\\left", "").replace("\\right", ""),
        answer.replace(" ", ""),
        answer.replace(" + ", "\\, + \\;"),
        f"{{{answer}}}",
    ):
        assert judged(gold, other) is verdict, other
        assert judged(other.replace("\\boxed", ""), answer) is True, other


@law
@given(answers, answers)
def test_gold_and_answer_may_change_places(one: str, other: str) -> None:
    assert judged(one, other) is judged(other, one)


FORMS = [
    str,
    lambda n: f"{n}.0",
    lambda n: f"\\frac{{{2 * n}}}{{2}}",
    lambda n: f"{n:,}",
    lambda n: f"{n:,}".replace(",", "{,}"),
    lambda n: f"x = {n}",
    lambda n: f"\\text{{{n}}}",
    lambda n: f"{n} \\text{{ apples}}",
    lambda n: ("-" if n < 0 else "") + f"00{abs(n)}",
    lambda n: f"({n})",
    lambda n: f"+{n}" if n > 0 else str(n),
    lambda n: f"{n} \\cdot 1",
    lambda n: f"{n}e0",
]


@law
@example(2**50, 0, FORMS[1], 1)  # an integer with as many digits as a double, written as a decimal
@given(integers, integers, st.sampled_from(FORMS), st.integers(-3, 3))
def test_a_wrong_integer_never_passes_and_the_right_one_does(n: int, m: int, form, near: int) -> None:
    assert judged(str(n), form(n)) is True
    assert judged(form(n), str(n)) is True
    for other in (m, n + near, -n, 10 * n, 100 * n):
        assert judged(str(n), form(other)) is (other == n)


@law
@given(st.text("0123456789-+., \\$x/", max_size=8), st.text("0123456789-+., \\$x/", max_size=8))
def test_the_fast_path_says_what_the_slow_one_says(gold: str, answer: str) -> None:
    fast = fast_verdict("math", gold, answer)
    assert fast is None or fast is judged(gold, answer)


@law
@given(integers, integers)
def test_the_fast_path_takes_plain_integers(n: int, m: int) -> None:
    assert fast_verdict("math", str(n), str(m)) is (n == m) is judged(str(n), str(m))


@law
@given(fractions)
def test_a_fraction_has_many_forms(f: Fraction) -> None:
    gold = f"\\frac{{{f.numerator}}}{{{f.denominator}}}"
    whole, rest = divmod(abs(f.numerator), f.denominator)
    sign = "-" if f < 0 else ""
    forms = [f"{f.numerator}/{f.denominator}", f"{3 * f.numerator}/{3 * f.denominator}"]
    if rest and whole:
        forms += [f"{sign}{whole}\\frac{{{rest}}}{{{f.denominator}}}", f"{sign}{whole} {rest}/{f.denominator}"]
    forms.append(repr(float(f)) if 1e-3 < abs(f) < 100 else str(f))
    for form in forms:
        assert judged(gold, form) is True, form
    wrong = f + Fraction(1, 1000)
    assert judged(gold, f"{wrong.numerator}/{wrong.denominator}") is False


@law
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=5, unique=True), st.randoms())
def test_lists_sets_and_tuples(items: list[int], random) -> None:
    shuffled = random.sample(items, len(items))
    text, other = ", ".join(map(str, items)), ", ".join(map(str, shuffled))
    assert judged(text, other) is True
    assert judged(f"\\{{{text}\\}}", f"\\{{{other}\\}}") is True
    assert judged(f"({text})", f"({other})") is (items == shuffled)
    assert judged(text, ", ".join(map(str, items[:-1]))) is False
    assert judged(", ".join(map(str, items[:-1])), text) is False
    assert judged(text, f"{text}, 999") is False
    assert judged(text, " and ".join(map(str, shuffled))) is True


@law
@given(
    st.integers(-50, 50),
    st.integers(1, 50),
    st.sampled_from(["()", "[]", "(]", "[)"]),
    st.sampled_from(["()", "[]", "(]", "[)"]),
)
def test_ends_of_intervals_matter(low: int, length: int, a: str, b: str) -> None:
    one, other = (f"{k[0]}{low}, {low + length}{k[1]}" for k in (a, b))
    assert judged(one, other) is (a == b)
    left, right = "<" if b[0] == "(" else "\\le", "<" if b[1] == ")" else "\\le"
    assert judged(one, f"{low} {left} x {right} {low + length}") is (a == b)
    far = f"({low + length + 1}, \\infty)"
    assert judged(f"{one} \\cup {far}", f"{far} \\cup {other}") is (a == b)


@law
@given(integers, integers, st.sampled_from([" or ", ", maybe ", ". It could also be ", " or perhaps "]))
def test_a_hedge_never_passes(n: int, m: int, between: str) -> None:
    assume(n != m)
    text = f"It is \\boxed{{{n}}}{between}\\boxed{{{m}}}."
    answer = committed_answer(text).answer or ""
    assert judged(str(n), answer) is not True and judged(str(m), answer) is not True


@law
@given(integers, integers)
def test_the_last_box_corrects_the_ones_before(n: int, m: int) -> None:
    text = f"So it is \\boxed{{{n}}}. No, that counts one twice. In the end it is \\boxed{{{m}}}."
    assert committed_answer(text).answer == str(m)


@law
@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    committed = committed_answer(text)
    assert committed.answer is None or committed.answer.strip()
    assert judged("7", text) in (True, False)
    assert judged(text, "7") in (True, False, None)


@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "{",
        "}",
        "$",
        "*",
        " ",
        "answer is ",
        "\n",
        "1",
        "1,",
        "ab ",
        "\\boxed{3} or ",
        "\\",
        "#### ",
        "<think>",
    ],
)
def test_long_texts_take_time_in_proportion(piece: str) -> None:
    import time

    text = piece * (400_000 // len(piece))
    began = time.monotonic()
    committed_answer(text)
    assert judged("7", text) is False
    assert time.monotonic() - began < 2
