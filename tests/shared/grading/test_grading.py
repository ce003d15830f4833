import gc
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow, GradingSettings, boxed_answers, check_verifier
from components.shared.grading.verifiers import RUNS_ANSWERS

ENDLESS = "\\boxed{\\binom{100000000}{50000000}}"  # runs for more than half a minute if allowed to


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


def test_warming_up_starts_the_workers_before_the_first_row() -> None:
    others = worker_processes()
    with Grader(workers=2) as grader:
        assert worker_processes() == others
        grader.warm_up(["countdown", "math"])
        deadline = time.monotonic() + 60
        while len(started := worker_processes() - others) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert grader.grade([GradingRow("math", "1/2", f"\\boxed{{{n}/2}}") for n in (1, 2, 3)]) == [True, False, False]
        assert worker_processes() - others == started


def test_a_verifier_that_cannot_be_warmed_up_is_reported_with_its_first_row() -> None:
    with Grader(workers=1) as grader:
        grader.warm_up(["json:no_such_function", "math"])
        with pytest.raises(InputError, match="json:no_such_function"):
            grader.grade([GradingRow("json:no_such_function", "1", "1")])
        assert grader.grade([GradingRow("math", "1/2", "\\boxed{0.5}")]) == [True]


def worker_processes() -> set[psutil.Process]:
    """The grading workers that this process has started, without the forks that judge."""
    return {child for child in psutil.Process().children() if "components.shared.grading.worker" in child.cmdline()}


def test_an_endless_answer_costs_itself_alone() -> None:
    with Grader(GradingSettings(seconds=1.0), workers=1) as grader:
        rows = [
            GradingRow("math", "1", "\\boxed{1}"),
            GradingRow("math", "5", ENDLESS),
            GradingRow("math", "2", "\\boxed{2}"),
        ]
        began = time.monotonic()
        assert grader.grade(rows) == [True, False, True]
        assert grader.timed_out == 1
        assert time.monotonic() - began < 30


def test_memory_is_limited_in_the_worker() -> None:
    program = (
        "import components.shared.grading.verifiers as v; v.verdict = lambda *_: (bool(bytearray(3 << 30)), '')\n"
        "from components.shared.grading.worker import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, GradingSettings().model_dump_json()],
        input='[1, "math", "1", "1"]\n',
        capture_output=True,
        text=True,
    )
    # No verdict; the next fork announces itself and finds the end of the input.
    assert [json.loads(line)[0] for line in done.stdout.splitlines()] == ["judging", "judging"]


def test_order_is_kept_and_equal_rows_are_judged_once(grader: Grader) -> None:
    rows = [GradingRow("math", str(i % 7), f"\\boxed{{{i % 5}}}") for i in range(200)]
    assert grader.grade(rows) == [i % 7 == i % 5 for i in range(200)]
    assert grader.grade([]) == []


def test_works_from_other_threads() -> None:
    with Grader(workers=1) as grader, ThreadPoolExecutor(1) as pool:
        assert pool.submit(grader.grade, [GradingRow("math", "4", "\\boxed{4}")]).result() == [True]


def test_no_process_or_descriptor_is_left_behind() -> None:
    gc.collect()  # close now what earlier tests left open, not while this test counts
    process = psutil.Process()
    descriptors, children = process.num_fds(), len(process.children(recursive=True))
    for _ in range(3):
        with Grader(GradingSettings(seconds=0.5), workers=2) as grader:
            grader.grade([GradingRow("math", "4", "\\boxed{4}"), GradingRow("math", "5", ENDLESS)])
    assert process.num_fds() <= descriptors
    assert len(process.children(recursive=True)) <= children


def test_text_is_never_executed(grader: Grader, tmp_path) -> None:
    flag = tmp_path / "executed"
    attack = f"__import__('pathlib').Path('{flag}').touch()"
    for verifier, answer in (("math", "1"), ("countdown", '{"numbers": [1, 2], "target": 3}')):
        assert grader.grade([GradingRow(verifier, answer, f"\\boxed{{{attack}}}")]) == [False]
    assert not flag.exists()


def test_the_tasks_scorers_run_no_answer(grader: Grader, tmp_path: Path) -> None:
    """For every reasoning-gym task: attacks never run, and the gold answer, if there is one, is right."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    flag = tmp_path / "executed"
    attacks = [
        f"__import__('os').system('touch {flag}')",
        f"[__import__('os').system('touch {flag}')]",
        f"__import__('pathlib').Path('{flag}').touch()",
    ]
    no_gold = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
    lost_in_json = {"arc_agi", "rearc"}  # their scorers compare tuples, which JSON turns into lists
    garbage_is_right = {"game_of_life_halting"}
    judged = 0
    for task in sorted(set(DATASETS) - {"composite"}):
        if RUNS_ANSWERS.get(task, 1) is None:
            continue
        entry = reasoning_gym.create_dataset(task, size=1, seed=0)[0]
        texts = [*attacks, str(entry["answer"])]
        verdicts = grader.grade([GradingRow(f"reasoning-gym/{task}", json.dumps(entry, default=str), t) for t in texts])
        assert not flag.exists(), task
        if task not in garbage_is_right:
            assert verdicts[:3] == [False] * 3, task
        if task not in no_gold | lost_in_json:
            assert verdicts[3] is True, task
        judged += 1
    assert judged > 90


@pytest.mark.parametrize("task", ["countdown", "spiral_matrix", "polynomial_multiplication", "number_sorting"])
def test_should_a_scorer_run_an_answer_it_can_do_nothing(task: str, tmp_path: Path) -> None:
    """Second line of defence: without the first, the worker still starts no process and writes no file."""
    import reasoning_gym

    program = (
        "import components.shared.grading.verifiers as v; v.RUNS_ANSWERS = {}\n"
        "from components.shared.grading.worker import main; main()"
    )
    flag = tmp_path / "executed"
    entry = json.dumps(reasoning_gym.create_dataset(task, size=1, seed=0)[0], default=str)
    attacks = [f"__import__('os').system('touch {flag}')", f"__import__('pathlib').Path('{flag}').touch()"]
    name = f"reasoning-gym/{task}"
    questions = [[0, name, None, None], [1, name, entry, attacks[0]], [2, name, entry, attacks[1]]]
    done = subprocess.run(
        [sys.executable, "-c", program, GradingSettings(memory_mib=4096).model_dump_json()],
        input="".join(json.dumps(q) + "\n" for q in questions),
        capture_output=True,
        text=True,
    )
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [verdict[:2] for verdict in verdicts[1:]] == [[0, True], [1, False], [2, False]]
    assert not flag.exists()


def test_a_worker_ends_by_itself_when_its_parent_is_gone() -> None:
    settings = GradingSettings(seconds=0.5)  # the worker ends five seconds later
    process = subprocess.Popen(
        [sys.executable, "-m", "components.shared.grading.worker", settings.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin
    process.stdin.write(json.dumps([1, "math", "5", ENDLESS]).encode() + b"\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize(
    ("verifier", "answer"),
    [
        ("countdown", "13"),
        ("countdown", "not JSON"),
        ("countdown", '{"a": 1}'),
        ("reasoning-gym/chain_sum", "not JSON"),
        ("reasoning-gym/chain_sum", "[1]"),
        ("reasoning-gym/chain_sum", '{"numbers": [1], "target": 1}'),
    ],
)
def test_an_answer_that_is_not_the_tasks_is_not_scorable(grader: Grader, verifier: str, answer: str) -> None:
    assert grader.grade([GradingRow(verifier, answer, "1")]) == [None]


def test_golds_that_never_end_cost_themselves_alone() -> None:
    gold = "\\binom{100000000}{50000000}"
    with Grader(GradingSettings(seconds=1.0), workers=1) as grader:
        rows = [GradingRow("math", gold, "\\boxed{1}"), GradingRow("math", gold, "\\boxed{2}")]
        assert grader.grade([*rows, GradingRow("math", "3", "\\boxed{3}")]) == [False, False, True]
        assert grader.timed_out == 2


def test_boxes_are_matched_by_their_braces() -> None:
    assert boxed_answers("\\boxed{\\frac{1}{2}} and \\boxed{ 3 } and \\boxed{4") == ["\\frac{1}{2}", "3"]


def test_an_unknown_verifier_is_an_error_that_suggests_one() -> None:
    assert check_verifier("reasoning-gym/countdown")
    with pytest.raises(InputError, match="unknown verifier 'maths'. Did you mean 'math'"):
        check_verifier("maths")
    with pytest.raises(InputError, match="no task 'chain_sun'. Did you mean 'chain_sum'"):
        check_verifier("reasoning-gym/chain_sun")
    with pytest.raises(InputError, match="what a policy writes must not run"):
        check_verifier("reasoning-gym/simple_integration")


@pytest.mark.parametrize(
    ("verifier", "gold", "completion", "expected"),
    [
        ("exact", "red  fox", "\\boxed{red fox}", True),
        ("exact", "1/2", "\\boxed{0.5}", False),
        ("exact", "", "\\boxed{}", None),
        ("choice", "C", "The answer is (C) 12.", True),
        ("choice", "(C)", "\\boxed{\\text{c}}", True),
        ("choice", "C", "\\boxed{B}", False),
        ("choice", "12", "\\boxed{B}", None),
    ],
)
def test_other_verifiers_by_name(
    grader: Grader, verifier: str, gold: str, completion: str, expected: bool | None
) -> None:
    assert grader.grade([GradingRow(verifier, gold, completion)]) == [expected]


def test_a_users_function_judges_in_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "import subprocess, time\n"
        "def ends_with(answer, completion): return completion.endswith(answer) if answer else None\n"
        "def starts_a_process(answer, completion): return subprocess.run(['true']).returncode == 0\n"
        "def fails(answer, completion): raise KeyError(completion)\n"
        "def hangs(answer, completion): time.sleep(60)\n"
        "def is_no_verdict(answer, completion): return 'yes'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert check_verifier("my_rewards:ends_with")
    with Grader(GradingSettings(seconds=1.0, max_failed_share=1.0), workers=1) as grader:

        def judge(function: str, gold: str, completion: str) -> tuple[bool | None, str]:
            return grader.judge([GradingRow(f"my_rewards:{function}", gold, completion)])[0][:2]

        assert judge("ends_with", "5", "it is 5") == (True, "equal")
        assert judge("ends_with", "5", "it is 6") == (False, "different")
        assert judge("ends_with", "", "it is 6") == (None, "not scorable")
        assert judge("starts_a_process", "5", "x")[1].startswith("verifier failed: PermissionError: subprocess")
        assert judge("fails", "5", "x") == (None, "verifier failed: KeyError: 'x'")
        assert judge("hangs", "5", "x") == (False, "timed out")
        assert judge("is_no_verdict", "5", "x")[1].startswith(
            "verifier failed: TypeError: my_rewards:is_no_verdict returned 'yes' (str)"
        )
        assert judge("ends_with", "7", "it is 7") == (True, "equal")
        with pytest.raises(InputError, match="my_rewards:nothing' cannot be run: .*no attribute 'nothing'"):
            judge("nothing", "5", "x")
    with pytest.raises(InputError, match="there is no module 'no_such_rewards'"):
        check_verifier("no_such_rewards:judge")
