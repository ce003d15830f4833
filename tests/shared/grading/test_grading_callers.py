"""The grader called from unusual places, killed and interrupted."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.shared.grading import Grader, GradingRow, GradingSettings

EASY = [GradingRow("math", str(i), f"\\boxed{{{i % 3}.0}}") for i in range(6)]
VERDICTS = [True, True, True, False, False, False]
ENDLESS = GradingRow("math", "5", "\\boxed{\\binom{100000000}{50000000}}")


def test_a_killed_fork_may_be_followed_by_another_verifier() -> None:
    with Grader(GradingSettings(seconds=3.0), workers=1) as grader:
        assert grader.grade(EASY) == VERDICTS
        process = grader._workers[0]._process
        assert process
        os.kill(psutil.Process(process.pid).children()[0].pid, signal.SIGKILL)
        time.sleep(0.5)
        assert grader.grade([GradingRow("exact", text, text) for text in "abcd"]).count(True) >= 3


def test_with_more_descriptors_than_select_takes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Grader(workers=1) as grader:
            assert grader.grade(EASY) == VERDICTS
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_no_worker_outlives_a_parent_that_is_killed_while_an_answer_hangs() -> None:
    program = (
        "from components.shared.grading import Grader, GradingRow, GradingSettings\n"
        "grader = Grader(GradingSettings(seconds=1.0), workers=1)\n"
        "grader.grade([GradingRow('math', '1', '\\\\boxed{1.0}')])\n"
        "print(grader._workers[0]._process.pid, flush=True)\n"
        f"grader.grade([GradingRow('math', '5', {ENDLESS.completion!r})])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    worker = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        worker.wait(20)  # the fork ends itself 6 seconds after the question
    except psutil.TimeoutExpired:
        pytest.fail("the worker keeps forking without a parent")
    finally:
        if worker.is_running():
            left = [worker, *worker.children()]
            for process in left:
                process.kill()


@pytest.mark.slow
def test_from_a_task_of_kfp(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "from kfp import dsl, local\n"
        "@dsl.component(install_kfp_package=False)\n"
        "def judge() -> str:\n"
        "    from components.shared.grading import Grader, GradingRow\n"
        "    with Grader(workers=1) as grader:\n"
        "        rows = [GradingRow('math', '2', '\\\\boxed{2.0}'), GradingRow('math', '2', '\\\\boxed{3.0}')]\n"
        "        return str(grader.grade(rows))\n"
        "local.init(local.SubprocessRunner(use_venv=False), pipeline_root='root')\n"
        "print('verdicts', judge().output)\n"
    )
    done = subprocess.run([sys.executable, "task.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "verdicts [True, False]" in done.stdout, done.stdout + done.stderr
