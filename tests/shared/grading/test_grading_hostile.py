"""The grader under attack, and called from threads, event loops and other processes."""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from components.shared.grading import TIMED_OUT, Grader, GradingRow, GradingSettings
from tests.shared.grading.hostile import hostile_answers

EASY = [GradingRow("math", str(i), f"\\boxed{{{i % 3}.0}}") for i in range(6)]
VERDICTS = [True, True, True, False, False, False]


@pytest.mark.slow
def test_thousands_of_hostile_answers_leave_nothing_behind() -> None:
    process = psutil.Process()
    before = process.num_fds(), threading.active_count(), set(process.children(recursive=True))
    with Grader(GradingSettings(seconds=0.3, memory_mib=1024)) as grader:
        rows = [GradingRow("math", "7", text) for text in hostile_answers(2_000, seed=1)]
        verdicts = []
        for start in range(0, len(rows), 500):
            verdicts += grader.judge(rows[start : start + 500])
            assert grader.grade(EASY) == VERDICTS
            assert len(process.children(recursive=True)) <= len(before[2]) + 2 * len(grader._workers)
        assert [v.correct for v in verdicts].count(True) == 0
        assert max(v.seconds for v in verdicts) < 0.3 + 5
        assert sum(grader.counts.values()) == len(rows) + len(rows) // 500 * len(EASY)
        assert 0 < grader.counts[TIMED_OUT] < len(rows) / 5
    assert (process.num_fds(), threading.active_count(), set(process.children(recursive=True))) == before
    assert process.memory_info().rss < 1 << 30


def test_from_many_threads_at_once() -> None:
    with Grader(workers=2) as grader, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(grader.grade, [EASY] * 40)) == [VERDICTS] * 40


def test_from_an_event_loop() -> None:
    async def reward(grader: Grader) -> list[bool | None]:
        await asyncio.sleep(0)
        return await asyncio.to_thread(grader.grade, EASY) + grader.grade(EASY[::-1])

    with Grader(workers=1) as grader:
        assert asyncio.run(reward(grader)) == VERDICTS + VERDICTS[::-1]


def _grade_in_child(pipe: object) -> None:
    with Grader(workers=1) as grader:
        pipe.send(grader.grade(EASY))  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_from_another_process(method: str) -> None:
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=_grade_in_child, args=(theirs,))
    child.start()
    assert ours.poll(60) and ours.recv() == VERDICTS
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.parametrize("which", ["the fork that judges", "the process it is forked from", "both"])
def test_a_worker_that_is_killed_costs_one_answer_at_most(which: str) -> None:
    with Grader(GradingSettings(seconds=3.0), workers=1) as grader:
        assert grader.grade(EASY) == VERDICTS
        process = grader._workers[0]._process
        assert process
        worker = psutil.Process(process.pid)
        (fork,) = worker.children()
        for killed in {"the fork that judges": [fork], "both": [fork, worker]}.get(which, [worker]):
            os.kill(killed.pid, signal.SIGKILL)
        time.sleep(0.5)
        fresh = [GradingRow("math", str(i), f"\\boxed{{{i}.0}}") for i in range(100, 110)]
        assert grader.grade(fresh).count(True) >= 9
        assert grader.grade([*fresh, *EASY])[-6:] == VERDICTS


def test_odd_characters_reach_the_worker() -> None:
    rows = [GradingRow("exact", text, text) for text in ("\x00a", "\ud800", "🙂", "a\r\nb", "\u2028x")]
    with Grader(workers=1) as grader:
        assert grader.grade(rows) == [True] * 5
