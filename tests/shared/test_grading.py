import json
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow, check_verifier
from components.shared.grading.verifiers import boxed_answers

TOWER = "\\boxed{5^{5^{5^{5^5}}}}"  # runs for more than half a minute if it is let


@pytest.mark.parametrize(
    ("gold", "completion", "expected"),
    [
        ("1/2", "so it is \\boxed{\\frac{1}{2}}.", True),
        ("\\frac{1}{2}", "\\boxed{0.5}", True),
        ("72", "\\boxed{72}", True),
        ("72", "\\boxed{73}", False),
        ("72", "I do not know.", False),
        ("72", "", False),
        ("3", "\\boxed{3} or else \\boxed{4}", False),  # hedged
        ("3", "first \\boxed{3}, so again \\boxed{3}", True),
        ("3", "\\boxed{3", False),  # never closed
        ("", "\\boxed{3}", None),  # no gold, no reward
        ("336^\\circ", "\\boxed{336}", True),
        ("27.0", "\\boxed{27}", True),
    ],
)
def test_math(grader: Grader, gold: str, completion: str, expected: bool | None) -> None:
    assert grader.grade([GradingRow("math", gold, completion)]) == [expected]


def test_reasoning_gym_uses_the_tasks_own_scorer(grader: Grader) -> None:
    import reasoning_gym

    entry = reasoning_gym.create_dataset("chain_sum", size=1, seed=3)[0]
    answer = json.dumps(entry)
    rows = [
        GradingRow("reasoning-gym/chain_sum", answer, text)
        for text in (entry["answer"], f"\\boxed{{{entry['answer']}}}", "12345678")
    ]
    assert grader.grade(rows) == [True, True, False]


def test_an_endless_answer_costs_itself_alone() -> None:
    with Grader(workers=1, seconds=1.0) as grader:
        rows = [
            GradingRow("math", "1", "\\boxed{1}"),
            GradingRow("math", "5", TOWER),
            GradingRow("math", "2", "\\boxed{2}"),
        ]
        began = time.monotonic()
        assert grader.grade(rows) == [True, False, True]
        assert grader.timed_out == 1
        assert time.monotonic() - began < 30


def test_memory_is_limited_in_the_worker() -> None:
    with Grader(workers=1, seconds=20.0, memory_bytes=1 << 30) as grader:
        verdicts = grader.grade(
            [GradingRow("math", "5", "\\boxed{" + "9" * 10 + "!}"), GradingRow("math", "5", "\\boxed{5}")]
        )
    assert verdicts == [False, True]


def test_order_is_kept_and_equal_rows_are_judged_once(grader: Grader) -> None:
    rows = [GradingRow("math", str(i % 7), f"\\boxed{{{i % 5}}}") for i in range(200)]
    assert grader.grade(rows) == [i % 7 == i % 5 for i in range(200)]
    assert grader.grade([]) == []


def test_works_from_other_threads() -> None:
    with Grader(workers=1) as grader, ThreadPoolExecutor(1) as pool:
        assert pool.submit(grader.grade, [GradingRow("math", "4", "\\boxed{4}")]).result() == [True]


def test_no_process_or_descriptor_is_left_behind() -> None:
    process = psutil.Process()
    before = process.num_fds(), len(process.children(recursive=True))
    for _ in range(3):
        with Grader(workers=2, seconds=0.5) as grader:
            grader.grade([GradingRow("math", "4", "\\boxed{4}"), GradingRow("math", "5", TOWER)])
    assert (process.num_fds(), len(process.children(recursive=True))) == before


def test_text_is_never_executed(grader: Grader, tmp_path) -> None:
    flag = tmp_path / "executed"
    attack = f"__import__('pathlib').Path('{flag}').touch()"
    for verifier, answer in (("math", "1"), ("countdown", '{"numbers": [1, 2], "target": 3}')):
        assert grader.grade([GradingRow(verifier, answer, f"\\boxed{{{attack}}}")]) == [False]
    assert not flag.exists()


def test_boxes_are_matched_by_their_braces() -> None:
    assert boxed_answers("\\boxed{\\frac{1}{2}} and \\boxed{ 3 } and \\boxed{4") == ["\\frac{1}{2}", "3"]


def test_an_unknown_verifier_is_an_error_that_suggests_one() -> None:
    assert check_verifier("reasoning-gym/countdown")
    with pytest.raises(InputError, match="unknown verifier 'maths'. Did you mean 'math'"):
        check_verifier("maths")
