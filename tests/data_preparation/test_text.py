import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data_preparation.text import normalise, problem_id


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("What is $x+y$?", "what is x + y"),
        ("Compute\n\\[|\\pi - |\\pi - 7||.\\]", "Compute $\\left|\\pi - |\\pi - 7|\\right|$."),
        ("Evaluate $\\log_8 2$.", "Evaluate $\\log_82$."),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("  spaced \t out ", "Spaced out."),
    ],
)
def test_what_only_looks_different_is_the_same_problem(a: str, b: str) -> None:
    assert normalise(a) == normalise(b)
    assert problem_id(a) == problem_id(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("where $k > 0$", "where $k < 0$"),
        ("$\\sin 60^\\circ$", "$\\sin(-60^\\circ)$"),
        ("$88 \\div (4 \\div 2)$", "$88 \\div 4 \\div 2$"),
        ("$\\arcsin (-1)$", "$\\arcsin 1$"),
        ("\\frac{2n - 1}{n}", "\\frac{2n + 1}{n}"),
        ("Use 1 23 to make 4.", "Use 12 3 to make 4."),
        ("0.5", "05"),
        ("Compute 5!", "Compute 5"),
        ("Compute 2²", "Compute 22"),
        ("Find $f(A)$", "Find $f(a)$"),
    ],
)
def test_what_means_something_else_is_another_problem(a: str, b: str) -> None:
    assert problem_id(a) != problem_id(b)


@given(st.text())
def test_normalising_again_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
