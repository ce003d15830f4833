"""More properties of grading, on generated answers: letters, repeating decimals, floats, boxes side by side."""

from fractions import Fraction
from random import Random

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from components.shared.grading import TRUNCATED, Grader, GradingRow, GradingSettings
from components.shared.grading.answer import committed_answer
from components.shared.grading.mathematics.verdict import math_verdict
from components.shared.grading.verifiers import fast_verdict

law = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
integers = st.one_of(st.integers(-2000, 2000), st.integers(-(10**40), 10**40))


def judged(gold: str, answer: str) -> bool | None:
    return math_verdict(gold, answer, GradingSettings())[0]


@law
@given(
    st.lists(st.sampled_from("abcdkmnpqrtuvwxyz"), min_size=2, max_size=4, unique=True),
    st.integers(1, 99),
    st.randoms(),
)
def test_letters_with_signs_are_no_word(letters: list[str], number: int, random: Random) -> None:
    terms = [f"{random.choice('+-')}{term}" for term in (*letters, str(number))]
    gold = "".join(terms).lstrip("+")
    assert judged(gold, "".join(random.sample(terms, len(terms))).lstrip("+")) is True
    at = random.randrange(len(terms))
    terms[at] = terms[at].translate(str.maketrans("+-", "-+"))
    assert judged(gold, "".join(terms).lstrip("+")) is False


@law
@given(st.integers(0, 40), st.text("0123456789", max_size=3), st.text("0123456789", min_size=1, max_size=4))
def test_a_repeating_decimal_is_its_fraction(whole: int, fixed: str, period: str) -> None:
    scale = 10 ** len(fixed)
    value = whole + Fraction(int(fixed or "0"), scale) + Fraction(int(period), (10 ** len(period) - 1) * scale)
    repeating, fraction = f"{whole}.{fixed}\\overline{{{period}}}", f"{value.numerator}/{value.denominator}"
    assert judged(fraction, repeating) is True
    assert judged(repeating, fraction) is True
    assert judged(repeating, f"{value.numerator + 1}/{value.denominator}") is False


@law
@given(st.integers(1, 99), st.integers(1, 99))
def test_a_printed_float_is_right_on_either_side(p: int, q: int) -> None:
    for exact, value in ((f"\\frac{{{p}}}{{{q}}}", p / q), (f"{p}\\sqrt{{{q}}}", p * q**0.5)):
        assert judged(exact, repr(value)) is True
        assert judged(f"{value * (1 + 1e-7):.15f}", exact) is False


@law
@given(integers, st.integers(0, 3), integers, st.integers(0, 3))
def test_the_fast_path_takes_leading_zeros_as_the_slow_one_does(n: int, zeros: int, m: int, others: int) -> None:
    one, other = ("-" * (k < 0) + "0" * z + str(abs(k)) for k, z in ((n, zeros), (m, others)))
    assert fast_verdict("math", one, other) is (n == m) is judged(one, other)


@law
@given(integers, integers, st.sampled_from(["/", " / ", " | ", " $\\lor$ ", " \\vee ", " vs "]))
def test_boxes_side_by_side_are_no_choice_of_the_last(n: int, m: int, between: str) -> None:
    assume(n != m)
    answer = committed_answer(f"It is \\boxed{{{n}}}{between}\\boxed{{{m}}}.").answer or ""
    assert judged(str(n), answer) is not True and judged(str(m), answer) is not True


def test_a_truncated_row_never_passes(grader: Grader) -> None:
    row = GradingRow("math", "1", "The answer is \\boxed{1}.")
    verdicts = grader.judge([row, row._replace(truncated=True)])
    assert [verdict[:2] for verdict in verdicts] == [(True, "equal"), (False, TRUNCATED)]
