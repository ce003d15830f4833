import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.data.gold import Damaged, gold_answer, is_no_answer, repaired, without_float_noise
from components.shared.data.sources import RawProblem, Source, read_source
from components.shared.grading import Grader, GradingRow

NONE = [
    "proof", "Proof.", "notfound", "N/A", "n/a", "NA", "none", "None", "null", "nan", "unknown", "not found",
    "Not Found", "see solution", "See above", "\\text{proof}", "\\text{N/A}", "No answer", "Q.E.D.", "QED", "omitted",
    "(see solution)", "$\\text{Proof}$", "-", "?", "...", "Not applicable", "PROOF!", "[proof omitted]",
]  # fmt: skip
ANSWERS = [
    "0", "-1", "x", "n", "A", "No", "Yes", "no solution", "\\emptyset", "\\text{no real solutions}", "undefined",
    "does not exist", "\\infty", "Anne", "naan", "\\text{none of the above}", "N", "a/n", "\\text{impossible}", "...7",
]  # fmt: skip


@pytest.mark.parametrize("text", NONE)
def test_what_says_that_there_is_no_answer_is_none(text: str) -> None:
    assert is_no_answer(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_that_look_like_it_are_answers(text: str) -> None:
    assert not is_no_answer(text)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("0.30000001192", "0.3"),
        (0.30000001192092896, "0.3"),
        (0.1 + 0.2, "0.3"),
        ("-12.60000038147", "-12.6"),
        ("3.14159265", "3.14159265"),
        ("2.718281828459045", "2.718281828459045"),
        ("0.333333333", "0.333333333"),
        (1 / 3, "0.3333333333333333"),
        ("10.5", "10.5"),
        (27.0, "27"),
        (float("inf"), "\\infty"),
        (float("nan"), None),
        ("\frac{1}{2}", "\\frac{1}{2}"),
        ("5\text{ cm}", "5\\text{ cm}"),
        ("so \boxed{7}", "7"),
        ("3 \times 4", "3 \\times 4"),
        ("x \neq 2", "x \\neq 2"),
        ("2\right", "2\\right"),
        ("\x0bec{a}", "\\vec{a}"),
        ("42\0\0", "42"),
        (b"42", "42"),
        ("b'42'", "42"),
        (True, "True"),
        ({"value": 3}, "3"),
        ({"value": None}, None),
        ({"any_of": ["1", "2"]}, '{"any_of": ["1", "2"]}'),
        ({"any_of": ["$1$"]}, "1"),
        (["1", "2"], "1, 2"),
        ([["1,000"], "2"], "1000, 2"),
        ([], None),
    ],
)
def test_what_becomes_of_an_answer(value: Any, answer: str | None) -> None:
    assert gold_answer(value) == answer


def test_any_of_a_list_may_do() -> None:
    assert gold_answer(["1/2", "0.5", "1/2"], any_of=True) == '{"any_of": ["1/2", "0.5"]}'
    assert gold_answer(["7"], any_of=True) == "7"
    assert gold_answer([None, ""], any_of=True) is None


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("4\x002", "control character '\\\\x00'"),
        ("a\x07b", "control character"),
        ("\ud83d", "the unpaired surrogate"),
        (b"\xff", "not UTF-8"),
        ({"latex": "7"}, "an object with latex; expected value or any_of"),
    ],
)
def test_what_cannot_be_read_is_damaged(value: Any, what: str) -> None:
    with pytest.raises(Damaged, match=what):
        gold_answer(value)


COMMANDS = [
    "frac", "forall", "boxed", "beta", "binom", "begin", "bar", "times", "theta", "text", "tau", "triangle", "right",
    "rho", "neq", "notin", "vec", "varphi",
]  # fmt: skip


@given(st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=5))
def test_every_command_that_json_ate_comes_back(commands: list[str]) -> None:
    written = " + ".join(f"\\{command}{{x}}" for command in commands)
    eaten = json.loads('"' + written.replace("\\v", "\\u000b") + '"')
    assert eaten != written
    assert repaired(eaten) == written
    assert repaired(written) == written


@given(st.decimals(-1000, 1000, places=3))
def test_noise_of_single_precision_goes_and_nothing_else(value: Any) -> None:
    text = str(float(value))
    assert without_float_noise(text) == text
    noisy = f"{float(np.float32(text)):.12f}"
    if "e" not in text:
        assert float(without_float_noise(noisy)) == float(text)


def test_prose_keeps_its_lines_and_columns() -> None:
    text = "Solve\n\neq 1 of the sheet:\tau\tan\r\nand\tthe angle."
    assert repaired(text, prose=True) == text
    assert repaired("Find \frac{1}{2} \times \theta.", prose=True) == "Find \\frac{1}{2} \\times \\theta."


def read(path: Path, rows: list[dict[str, Any]], **more: Any) -> list[RawProblem]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_source(Source(uri=str(path), **more), "data.train.0"))


def test_sentinels_are_faults_of_mathematics_alone(tmp_path: Path) -> None:
    rows = [{"problem": "Q", "answer": "N/A"}]
    (problem,) = read(tmp_path / "a.jsonl", rows)
    assert (problem.fault, problem.detail) == ("answer_is_none", "N/A")
    (problem,) = read(tmp_path / "a.jsonl", rows, verifier="exact")
    assert problem.fault is None


@pytest.mark.parametrize(
    ("row", "more", "answer"),
    [
        ({"answer": ["1", "2"]}, {}, "1, 2"),
        ({"answer": ["1", "2"]}, {"answer_list": "any"}, '{"any_of": ["1", "2"]}'),
        ({"accepted_answers": ["1", "2"]}, {}, '{"any_of": ["1", "2"]}'),
        ({"accepted_answers": ["1", "2"]}, {"answer_list": "all"}, "1, 2"),
        ({"answer": {"aliases": ["1", "2"]}}, {"answer_column": "answer.aliases"}, '{"any_of": ["1", "2"]}'),
        ({"final_answer": ["1", "2"], "is_multiple_answer": True}, {}, "1, 2"),
        ({"final_answer": ["1", "2"], "is_multiple_answer": False}, {}, '{"any_of": ["1", "2"]}'),
    ],
)
def test_a_list_is_what_the_recipe_or_the_data_set_says(
    tmp_path: Path, row: dict[str, Any], more: dict[str, Any], answer: str
) -> None:
    (problem,) = read(tmp_path / "a.jsonl", [{"problem": "Q", **row}], **more)
    assert problem.answer == answer


@pytest.mark.parametrize("verifier", ["math", "exact", "choice"])
def test_one_of_several_answers_will_do(grader: Grader, verifier: str) -> None:
    gold = {"math": ["1/2", "7"], "exact": ["red", "crimson"], "choice": ["A", "C"]}[verifier]
    rows = [GradingRow(verifier, json.dumps({"any_of": gold}), f"\\boxed{{{text}}}") for text in [*gold, "D", ""]]
    assert grader.grade(rows) == [True, True, False, False]
    both = GradingRow(verifier, json.dumps({"any_of": gold}), f"\\boxed{{{', '.join(gold)}}}")
    assert grader.grade([both]) == [False]


def test_names_of_reasons_are_those_of_the_report() -> None:
    from components.data_preparation.clean import REASONS

    used = set(re.findall(r'fault="(\w+)"', Path("components/shared/data/sources.py").read_text()))
    assert used and used <= REASONS.keys()
