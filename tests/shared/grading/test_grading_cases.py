"""Gold answers, answers and the verdicts of a careful reader: one table, many kinds."""

import pytest

from components.shared.grading.answer import committed_answer
from components.shared.grading.mathematics.verdict import math_verdict
from components.shared.grading.settings import GradingSettings

RIGHT = [
    ("1/2", "0.5"),
    ("\\frac{3}{4}", ".75"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("(3, \\frac{\\pi}{2})", "(3, pi/2)"),
    ("1,2", "2,1"),
    ("x>2", "(2,\\infty)"),
    ("x<2 \\text{ or } x>3", "(-\\infty,2)\\cup(3,\\infty)"),
    ("(-\\infty,0)\\cup(0,\\infty)", "x\\neq 0"),
    ("\\mathbb{R}", "(-\\infty,\\infty)"),
    ("y=2x+1", "2x-y+1=0"),
    ("y=2x+1", "2x+1"),
    ("2x+1", "y=2x+1"),
    ("2x+3y=6", "4x+6y=12"),
    ("\\pm 2", "2, -2"),
    ("2,-2", "\\pm 2"),
    ("3\\pm\\sqrt{2}", "3+\\sqrt{2}, 3-\\sqrt{2}"),
    ("90^\\circ", "90"),
    ("90^\\circ", "\\frac{\\pi}{2}"),
    ("90", "90 degrees"),
    ("5", "5\\text{ cm}"),
    ("5\\text{ m}", "500 cm"),
    ("\\$18", "18 dollars"),
    ("18", "$18.00"),
    ("1,234", "1234"),
    ("1234567", "1,234,567"),
    ("100,200", "200, 100"),
    ("50\\%", "1/2"),
    ("0.5", "50%"),
    ("(C)", "C"),
    ("C", "c"),
    ("C", "(C) 12"),
    ("\\text{(C) } 12", "C"),
    ("yes", "Yes."),
    ("\\text{Evelyn}", "Evelyn"),
    ("52_8", "52_{8}"),
    ("52_8", "101010_2"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1,2)"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}"),
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("\\frac{1}{3}", "0.333333333"),
    ("\\pi", "3.14159265"),
    ("3.14", "\\pi"),
    ("x^2-1", "(x-1)(x+1)"),
    ("|x|", "\\sqrt{x^2}"),
    ("2^{100}", "1267650600228229401496703205376"),
    ("100!", "99!\\cdot 100"),
    ("1e-5", "0.00001"),
    ("3.0\\times 10^8", "300000000"),
    ("\\frac{-1}{2}", "-\\frac12"),
    ("-1/2", "\\frac{1}{-2}"),
    ("\\binom{10}{3}", "120"),
    ("\\log_2 8", "3"),
    ("\\ln e^2", "2"),
    ("e^{i\\pi}", "-1"),
    ("3+4i", "4i+3"),
    ("1:2", "2:4"),
    ("1:2", "\\frac{1}{2}"),
    ("12:00", "12:00 \\text{ PM}"),
    ("0.\\overline{3}", "\\frac13"),
    ("2 \\frac{1}{2}", "\\frac{5}{2}"),
    ("-1\\frac{1}{2}", "-1.5"),
    ("-1 1/2", "-\\frac{3}{2}"),
    ("1", "01"),
    ("1", "1.0"),
    ("10", "010"),
    ("007", "7"),
    ("\\sin^2 x + \\cos^2 x", "1"),
    ("\\sin(2x)", "2\\sin x\\cos x"),
    ("f(x) = x^2", "x^2"),
    ("f(x)=x, f(x)=2-x", "f(x)=2-x, f(x)=x"),
    ("x=1,y=2", "(1,2)"),
    ("(1,2)", "x=1, y=2"),
    ("(1,2)", "y=2, x=1"),
    ("x=1 \\text{ or } x=2", "1, 2"),
    ("-3<x\\le 5", "(-3,5]"),
    ("\\{x \\mid x > 2\\}", "(2,\\infty)"),
    ("\\emptyset", "\\{\\}"),
    ("\\text{no solution}", "no solution"),
    ("(0,1),(1,0)", "(1,0),(0,1)"),
    ("\\{(0,1),(1,0)\\}", "(1,0),(0,1)"),
    ("a^2+b^2", "b^2+a^2"),
    ("n(n+1)/2", "\\frac{n^2+n}{2}"),
    ("x(x+1)", "x^2+x"),
    ("\\frac{1}{x}+\\frac{1}{y}", "\\frac{x+y}{xy}"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("\\sqrt[3]{2}", "2^{1/3}"),
    ("\\tan^{-1}(1)", "\\pi/4"),
    ("\\arcsin\\frac{1}{2}", "\\frac{\\pi}{6}"),
    ("\\cos 60^\\circ", "\\frac12"),
    ("15", "15 apples"),
    ("9 (apples)", "9"),
    ("3", "3 hours"),
    ("3 hours", "180 minutes"),
    ("2:30", "2:30 pm"),
    ("-5", "-5."),
    ("5", "5,"),
    ("5", "\\boxed{5}"),
    ("4", "four"),
    ("10^{10^{10}}", "10^{10^{10}}"),
    ("6", "3!"),
    ("\\frac{7}{2}", "7/2"),
    ("\\infty", "infinity"),
    ("-\\infty", "-oo"),
    ("x \\le 3", "x \\leq 3"),
    ("x\\ge 3", "3 \\le x"),
    ("2x > 4", "x > 2"),
    ("\\frac{x}{2}", "0.5x"),
    ("3x^2y", "3yx^2"),
    ("(x-1)(x+2)", "(x+2)(x-1)"),
    ("1, 2, 3", "1, 2 and 3"),
    ("1,2,3", "\\{1,2,3\\}"),
    ("x=2k\\pi, k\\in\\mathbb{Z}", "2k\\pi"),
    ("\\frac{5}{6}", "5:6"),
    ("12 \\text{ m/s}", "12 m/s"),
    ("12", "12 \\text{ m/s}"),
    ("8\\sqrt{2}\\text{ units}", "8\\sqrt2"),
    ("\\text{May 5}", "May 5"),
    ("4.5e33", "4.5 \\times 10^{33}"),
    ("6.7e-8", "6.7\\times10^{-8}"),
    ("1.0", "1.00"),
    ("\\frac{22}{7}", "3.142857"),
    ("9.8", "9.80 m/s^2"),
    ("7", "The answer is 7!"),
    ("\\sqrt[3]{-8}", "-2"),
    ("|x|>1", "(-\\infty,-1)\\cup(1,\\infty)"),
    ("x^2 < 4", "-2 < x < 2"),
    ("\\mathbb{R}", "all real numbers"),
    ("(x,y)=(1,2)", "(1,2)"),
    ("\\frac{1}{2}", "P(X=1)=\\frac{1}{2}"),
    ("6 ft 2 in", "74 in"),
    ("2 hours 15 minutes", "135 minutes"),
    ("60 \\text{ mph}", "60 miles per hour"),
    ("\\begin{cases}x=1\\\\y=2\\end{cases}", "x=1, y=2"),
    ("n\\equiv 2 \\pmod 5", "n \\equiv 2 (mod 5)"),
    ("{10 \\choose 3}", "120"),
    ("5!!", "15"),
    ("1, 2, \\ldots, n", "1, 2, ..., n"),
    ("5", "{\\color{red}{5}}"),
    ("\\text{yes}", "Yes"),
    ("9", "3**2"),
    ("1200", "\\$1,200"),
    ("(1,2)\\cap(1.5,3)", "(1.5,2)"),
    ("\\langle 1,-2\\rangle", "(1,-2)"),
    ("work, so the total is 4.\n#### 4", "4"),
]
WRONG = [
    ("\\{1,2\\}", "(1,2)"),
    ("(1,2)", "(2,1)"),
    ("[1,2]", "(1,2)"),
    ("x^2+y^2=4", "x^2+y^2=2"),
    ("5\\text{ cm}", "5\\text{ m}"),
    ("10 \\text{ cm}^2", "10 cm"),
    ("B", "The answer is (C)."),
    ("east", "\\text{West}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&5\\end{bmatrix}"),
    ("\\frac{\\sqrt{3}}{3}", "0.577"),
    ("\\frac{1}{3}", "0.33"),
    ("\\pi", "3.14"),
    ("x^2-1", "(x-1)^2"),
    ("\\sqrt{x^2}", "x"),
    ("2^{100}", "1267650600228229401496703205377"),
    ("10^{-20}", "10^{-21}"),
    ("0.\\overline{3}", "0.3"),
    ("-3<x\\le 5", "[-3,5]"),
    ("1331", "1331, 1728"),
    ("R", "r"),
    ("E_1", "E_2"),
    ("x'", "x"),
    ("99.99", "100"),
    ("100", "99.99999"),
    ("|x|+|y|", "|x+y|"),
    ("\\sqrt{x^2y^2}", "xy"),
    ("11/2", "1 1/2"),
    ("12", "1 2"),
    ("6 ft 2 in", "6 ft 3 in"),
    ("10 \\text{ m/s}", "10 \\text{ km/h}"),
    ("3 \\text{ kJ}", "3 \\text{ J}"),
    ("\\$5", "5 cents"),
    ("5\\%", "5\\text{ cm}"),
    ("A", "A, C"),
    ("A", "(A) or (B)"),
    ("\\{2k : k\\in\\mathbb{Z}\\}", "\\{3k \\mid k \\in \\mathbb{Z}\\}"),
    ("0.1234567890123456789", "0.1234567890123456788"),
    ("5!!", "(5!)!"),
]
# What a completion commits to; None: nothing.
COMMITTED = [
    ("The answer is 5.", "5"),
    ("The final answer is $\\frac12$. I hope it is correct.", "\\frac12"),
    ("**Final Answer**\n73", "73"),
    ("So she makes 18 dollars every day.", "18"),
    ("first \\boxed{3}. No wait, \\boxed{4}.", "4"),
    ("\\boxed{C} is tempting but the answer is \\boxed{E}", "E"),
    ("<think>\\boxed{3}</think> The answer is \\boxed{4}", "4"),
    ("\\boxed{3} and \\boxed{4}", "3, 4"),
    ("#### 1,234\n", "1,234"),
    ("work <answer> 5 </answer>", "5"),
    ("Therefore, the answer is \\(\\frac{3}{4}\\).", "\\frac{3}{4}"),
    ("\\boxed{70}\\).</answer>", "70"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("\\boxed{3} or maybe \\boxed{4}", None),
    ("\\boxed{3}. It could also be \\boxed{4}", None),
    ("The answer is 3 or maybe 4", None),
    ("\\boxed{3", None),
    ("\\boxed{3}, so once more: \\boxed{", None),
    ("<think> it is 3", None),
    ("<answer>5", None),
    ("Let me compute 130 + 7 which is", None),
    ("The answer is", None),
    ("", None),
]


def verdict(gold: str, text: str, **settings: str) -> bool | None:
    answer = committed_answer(text).answer or ""
    return math_verdict(gold, answer, GradingSettings.check(settings, "grading"))[0]


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_right(gold: str, answer: str) -> None:
    assert verdict(gold, answer) is True
    assert verdict(gold, f"So we have it.\n\nThe answer is $\\boxed{{{answer}}}$.") is True or "The answer" in answer


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_wrong(gold: str, answer: str) -> None:
    assert verdict(gold, answer) is False


@pytest.mark.parametrize(("text", "answer"), COMMITTED)
def test_what_a_completion_commits_to(text: str, answer: str | None) -> None:
    assert committed_answer(text).answer == answer


@pytest.mark.parametrize("gold", ["", " ", "}", "9. Anya needs to climb the height of one floor", "\\frac{1}{", "[]"])
def test_a_gold_answer_that_cannot_be_used_judges_nothing(gold: str) -> None:
    assert verdict(gold, "\\boxed{9}") is None
    assert verdict(gold, f"\\boxed{{{gold}}}") is None


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ('["1/2", "50\\\\%"]', "0.5", True),
        ('["C", "12"]', "12", True),
        ('["C", "12"]', "B", False),
        ('["1", "2"]', "1, 2", True),
        ('["1", "2"]', "1", False),  # different numbers are all wanted
        ('{"any_of": ["1", "2"]}', "2", True),
        ('{"all_of": ["a", "b"]}', "b, a", True),
        ("['2']", "2", True),
        ('{"value": "4.2", "tolerance": 0.1}', "4.15", True),
        ('{"value": "4.2", "tolerance": 0.1}', "4.35", False),
        ('{"low": 1, "high": 2}', "\\frac{3}{2}", True),
        ('{"low": 1, "high": 2}', "2.01", False),
        ("4.2 \\pm 0.1", "4.3", True),
        ("4.2 \\pm 0.1", "4.4", False),
        ('{"unknown": 1}', "1", None),
    ],
)
def test_gold_answers_of_several_forms(gold: str, answer: str, expected: bool | None) -> None:
    assert verdict(gold, answer) is expected


@pytest.mark.parametrize(
    ("loose", "strict", "gold", "answer"),
    [
        ({"percent": "either"}, {}, "28\\%", "28"),
        ({}, {"rounded_gold": "refuse"}, "33.3", "\\frac{100}{3}"),
        ({}, {"order": "as_written"}, "1, 2", "2, 1"),
        ({"units": "optional"}, {}, "5 \\text{ cm}", "5"),
    ],
)
def test_a_key_chooses_where_graders_differ(
    loose: dict[str, str], strict: dict[str, str], gold: str, answer: str
) -> None:
    assert verdict(gold, answer, **loose) is True
    assert verdict(gold, answer, **strict) is False
