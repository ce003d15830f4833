"""User functions as verifiers, run by the worker as in the stages."""

from collections.abc import Callable, Iterator

import pytest

from components.preflight.verifiers import try_verifier
from components.shared.data.sources import RawProblem
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow, GradingSettings, Verdict

MODULE = """
import asyncio
import numpy as np

def one(answer, completion): return 1.0 if answer in completion else 0
def numpy_bool(answer, completion): return np.bool_(answer in completion)
def numpy_number(answer, completion): return np.float32(answer in completion)
def array(answer, completion): return np.array([True])
def zero_dimensional(answer, completion): return np.array(answer in completion)
def half(answer, completion): return 0.5
def nan(answer, completion): return float("nan")
def listed(answer, completion): return [True]
def text(answer, completion): return "True"
def nothing(answer, completion): pass
def swapped(completion, gold): return completion.endswith(gold)
async def coroutine(answer, completion):
    await asyncio.sleep(0)
    return answer in completion
def trl(completions, answer, **kwargs): return [float(a in c[0]["content"]) for c, a in zip(completions, answer)]
def trl_prompts(prompts, completions, ground_truth): return [ground_truth[0] in completions[0][0]["content"]]
async def trl_async(completions, **kwargs): return [kwargs["solution"][0] in completions[0][0]["content"]]
def trl_short(completions, **kwargs): return []
def trl_reads_prompts(prompts, completions, **kwargs): return [prompts[0][0]["content"] == ""]
def trl_other(completions, difficulty): return [True]
def raises(answer, completion): raise RuntimeError("no such thing")
def always(answer, completion): return True
def never(answer, completion): return False
def hangs(answer, completion):
    import time
    time.sleep(60)
def too_many(data_source, solution, truth): return True
def too_few(completion): return True
VALUE = 3
class Judge: pass
"""
RIGHT, WRONG = "it is 5", "it is 6"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Verdict]]:
    folder = tmp_path_factory.mktemp("functions")
    (folder / "functions_of_mine.py").write_text(MODULE)
    (folder / "broken_of_mine.py").write_text("1 / 0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        with Grader(GradingSettings(seconds=2.0, max_failed_share=1.0), workers=1) as grader:
            yield lambda name, completion, module="functions_of_mine": grader.judge(
                [GradingRow(f"{module}:{name}", "5", completion)]
            )[0]


@pytest.mark.parametrize(
    "name",
    [
        "one", "numpy_bool", "numpy_number", "zero_dimensional", "swapped", "coroutine", "trl", "trl_prompts",
        "trl_async",
    ],
)  # fmt: skip
def test_verdicts_of_every_shape_are_taken(judge: Callable[..., Verdict], name: str) -> None:
    assert judge(name, RIGHT)[:2] == (True, "equal")
    assert judge(name, WRONG)[:2] == (False, "different")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("array", "returned an array of shape (1,), not one verdict"),
        ("half", "returned 0.5 (float), not True, False, 1, 0 or None"),
        ("nan", "returned nan (float)"),
        ("listed", "returned [True] (list)"),
        ("text", "returned 'True' (str)"),
        ("trl_short", "for one completion it returned []; expected a list of one verdict"),
        ("trl_reads_prompts", "TypeError"),
        ("raises", "RuntimeError: no such thing"),
    ],
)
def test_what_is_no_verdict_is_a_failure_and_not_a_wrong_answer(
    judge: Callable[..., Verdict], name: str, said: str
) -> None:
    verdict = judge(name, RIGHT)
    assert verdict.correct is None
    assert verdict.reason.startswith("verifier failed: ") and said in verdict.reason


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trl_other", "takes difficulty, which a verifier is not given"),
        ("too_many", r"takes \(data_source, solution, truth\); expected \(answer, completion\)"),
        ("too_few", r"takes \(completion\); expected"),
        ("VALUE", "it is a int; expected a function"),
        ("Judge", "it is a type; expected a function"),
        ("gone", "no attribute 'gone'"),
    ],
)
def test_what_cannot_be_called_is_refused(judge: Callable[..., Verdict], name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"cannot be run: .*{message}"):
        judge(name, RIGHT)
    with pytest.raises(InputError, match="cannot be run: ZeroDivisionError"):
        judge("x", RIGHT, module="broken_of_mine")


def test_a_share_of_failures_ends_the_stage(judge: Callable[..., Verdict]) -> None:
    def rows(failing: int, in_all: int) -> list[GradingRow]:
        names = ["raises"] * failing + ["one"] * (in_all - failing)
        return [GradingRow(f"functions_of_mine:{name}", "5", f"{i}") for i, name in enumerate(names)]

    with Grader(GradingSettings(max_failed_share=0.02), workers=1) as grader:
        assert grader.grade(rows(6, 300)).count(None) == grader.failed == 6
        with pytest.raises(
            InputError,
            match=r"'functions_of_mine:raises' failed on 7 of 301 completions, more than grading.max_failed_share "
            r"\(0.02\) allows. The last failure: RuntimeError: no such thing; on the answer '5'",
        ):
            grader.grade(rows(1, 1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "half",
            r"data.train.0: verifier 'functions_of_mine:half' returned no verdict on row 0: .*returned 0.5 \(float\)",
        ),
        ("raises", "returned no verdict on row 0: .*RuntimeError: no such thing.* called with the answer '5'"),
        ("nothing", "returned None for all of 2 problems"),
        ("always", "accepted every incorrect completion, even the empty one"),
        ("hangs", "returned no verdict on row 0: timed out"),
        ("too_few", "cannot be run"),
    ],
)
def test_preflight_calls_it_with_right_and_wrong_answers(
    judge: Callable[..., Verdict], name: str, message: str
) -> None:
    problems = [RawProblem(f"row {i}", "Q", str(5 + i), None, f"functions_of_mine:{name}") for i in range(2)]
    with pytest.raises(InputError, match=message):
        try_verifier("data.train.0", problems, GradingSettings(seconds=0.5))


def test_preflight_says_what_it_found(judge: Callable[..., Verdict]) -> None:
    def found(name: str) -> str:
        problem = RawProblem("row 0", "Q", "5", None, f"functions_of_mine:{name}")
        return try_verifier("data.train.0", [problem], GradingSettings())

    assert found("trl") == "accepted 5 of 5 of the ways to write the correct answer, and 0 of 3 incorrect ones"
    assert found("never").startswith("accepted none of the ways")
