"""Grades completions in worker processes, which are killed when an answer takes too much time or memory."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from types import TracebackType
from typing import Any, NamedTuple, Self

from components.shared.errors import InputError
from components.shared.grading.answer import committed_answer
from components.shared.grading.cache import BoundedCache
from components.shared.grading.settings import GradingSettings
from components.shared.grading.user_function import FAILED
from components.shared.grading.verifiers import READS_ANSWERS, fast_verdict, is_user_function


class GradingRow(NamedTuple):
    """One completion to judge."""

    verifier: str
    answer: str  # the problem's `answer`
    completion: str
    truncated: bool = False  # cut at the length limit: it has given no answer


class Verdict(NamedTuple):
    """The verdict on a row."""

    correct: bool | None  # None: not scorable, because the problem's answer cannot be used
    reason: str
    seconds: float = 0.0  # wall-clock time of judging; 0 if an equal row was judged before
    explanation: str = ""  # how the gold answer and the answer were read, and by which rule compared

    @property
    def why(self) -> str:
        """Reason and explanation combined."""
        return f"{self.reason}: {self.explanation}" if self.explanation else self.reason


# Reasons that stages count.
TRUNCATED, TIMED_OUT, HEDGED, UNSCORABLE = "truncated", "timed out", "hedged", "not scorable"
_COUNTED_FROM = 100  # rows; the share of failures among fewer means little


class _Question(NamedTuple):
    verifier: str
    gold: str
    answer: str


class Grader:
    """Judges completions. A context manager, since it owns processes; thread-safe.

    Attributes:
        settings: limits and judgement calls.
        counts: rows so far by reason: `truncated`, `hedged`, `timed out`, `not scorable`, `verifier failed` and others.

    Args:
        settings: limits and judgement calls; defaults if omitted.
        workers: number of processes; if None, one per core, at most 8.
    """

    def __init__(self, settings: GradingSettings | None = None, workers: int | None = None) -> None:
        self.settings = settings or GradingSettings()
        self.counts: Counter[str] = Counter()
        count = workers or min(len(os.sched_getaffinity(0)), 8)
        self._workers = [_Worker(self.settings) for _ in range(count)]
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="grader")
        self._lock = Lock()
        self._warming: list[Future[None]] = []
        self._cache: BoundedCache[_Question, Verdict] = BoundedCache()
        self._graded_by_users = 0  # rows judged by users' functions

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the workers."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.stop()

    def warm_up(self, verifiers: Iterable[str]) -> None:
        """Starts the workers and lets them load what the verifiers need, in the background; the first rows wait for it.

        A verifier that cannot be run is reported by `judge`.
        """
        needed = sorted(set(verifiers))
        with self._lock:
            self._warming += [self._threads.submit(worker.warm_up, needed) for worker in self._workers]

    @property
    def timed_out(self) -> int:
        """Rows so far that were graded wrong because they took too much time or memory."""
        return self.counts[TIMED_OUT]

    @property
    def failed(self) -> int:
        """Rows so far on which a user's verifier failed."""
        return self.counts[FAILED]

    def grade(self, rows: Sequence[GradingRow]) -> list[bool | None]:
        """Returns the verdicts in the order of the rows: True, False, or None if a row cannot be scored."""
        return [verdict.correct for verdict in self.judge(rows)]

    def judge(self, rows: Sequence[GradingRow]) -> list[Verdict]:
        """Returns verdicts with reasons in the order of the rows; equal answers to a problem are judged once.

        Raises:
            InputError: a verifier cannot be run, for example a missing function; or a user's function has failed on
                more rows than `max_failed_share` allows.
        """
        with self._lock:
            verdicts: list[Verdict | None] = []
            asked: list[tuple[int, _Question, str]] = []  # row, question, how the answer was given
            for row in rows:
                verdict, question, how = _prepare(row)
                if question and (known := self._cache.get(question)):
                    verdict = _with_reason(known, how)._replace(seconds=0.0)
                elif question:
                    asked.append((len(verdicts), question, how))
                verdicts.append(verdict)
            judged = self._ask(list(dict.fromkeys(question for _, question, _ in asked)))
            told: set[_Question] = set()
            for number, question, how in asked:
                verdict = _with_reason(judged[question], how)
                verdicts[number] = verdict._replace(seconds=0.0) if question in told else verdict
                told.add(question)
            self._cache.add(judged)
            done = [verdict for verdict in verdicts if verdict]
            self.counts.update(reason_kind(verdict.reason) for verdict in done)
            self._check_failures(rows, done)
            return done

    def _check_failures(self, rows: Sequence[GradingRow], verdicts: Sequence[Verdict]) -> None:
        self._graded_by_users += sum(is_user_function(row.verifier) and not row.truncated for row in rows)
        if self.failed <= self.settings.max_failed_share * max(self._graded_by_users, _COUNTED_FROM):
            return
        row, verdict = next(pair for pair in zip(rows, verdicts, strict=True) if pair[1].reason.startswith(FAILED))
        raise InputError(
            f"verifier {row.verifier!r} failed on {self.failed} of {self._graded_by_users} completions, more than "
            f"grading.max_failed_share ({self.settings.max_failed_share:g}) allows. The last failure: "
            f"{verdict.reason.removeprefix(f'{FAILED}: ')}; on the answer {row.answer[:80]!r} and the completion "
            f"{row.completion[-80:]!r}. Fix the function"
        )

    def _ask(self, questions: list[_Question]) -> dict[_Question, Verdict]:
        """Distributes the questions; each worker takes the next one when it is free."""
        waiting = iter(questions)

        def work(worker: _Worker) -> list[tuple[_Question, Verdict]]:
            return [(question, worker.judge(question)) for question in _drain(waiting)]

        if not questions:
            return {}
        wait(self._warming)
        workers = self._workers[: len(questions)]
        return dict(pair for pairs in self._threads.map(work, workers) for pair in pairs)


def reason_kind(reason: str) -> str:
    """Strips the details of a verifier failure from a reason; stages count by the result."""
    return FAILED if reason.startswith(FAILED) else reason


def _drain(waiting: Iterator[_Question]) -> Iterator[_Question]:
    while (question := next(waiting, None)) is not None:  # next() on a list iterator is atomic
        yield question


def _prepare(row: GradingRow) -> tuple[Verdict | None, _Question | None, str]:
    """Returns the verdict of a row that needs no worker, or else the question for one."""
    if row.truncated:
        return Verdict(False, TRUNCATED), None, ""
    if row.verifier not in READS_ANSWERS:
        return None, _Question(row.verifier, row.answer, row.completion), ""
    answer, how = committed_answer(row.completion)
    verdict = fast_verdict(row.verifier, row.answer, answer or "")
    if verdict is not None:
        reason = "equal" if verdict else "different" if answer else how
        return Verdict(verdict, reason, explanation="integers: compared exactly" if answer else ""), None, how
    # Without an answer, the worker still decides whether the problem can be scored at all.
    return None, _Question(row.verifier, row.answer, answer or ""), how if answer is None or how == "joined" else ""


def _with_reason(verdict: Verdict, how: str) -> Verdict:
    """Replaces the reason by what users look for: why there was no answer, or that it was a hedge."""
    if how and verdict.correct is False and verdict.reason != TIMED_OUT:
        return verdict._replace(reason=HEDGED if how == "joined" else how)
    return verdict


class _Worker:
    """One worker process, started at the first question; it forks again after a fork had to be killed."""

    _START_SECONDS = 120.0

    def __init__(self, settings: GradingSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._fork = 0  # process id of the fork that judges
        self._unread = b""
        self._question_number = 0
        self._loading = 0.0  # seconds that the last answer waited for a library to load
        self._warm: set[str] = set()

    def warm_up(self, verifiers: Sequence[str]) -> None:
        """Loads what the verifiers need, as far as it can be loaded."""
        with contextlib.suppress(InputError, RuntimeError):  # `judge` meets the same error and reports it
            for verifier in verifiers:
                self._load(verifier)

    def judge(self, question: _Question) -> Verdict:
        self._load(question.verifier)  # off the answer's clock
        began = time.monotonic()
        reply = self._ask(question, self._settings.seconds)
        seconds = time.monotonic() - began - self._loading
        return Verdict(reply[0], reply[1], seconds, reply[2]) if reply else Verdict(False, TIMED_OUT, seconds)

    def _load(self, verifier: str) -> None:
        """Makes the worker import what a verifier needs, unless it has."""
        if verifier in self._warm:
            return
        reply = self._ask((verifier, None, None), self._START_SECONDS)  # a question without a gold answer
        if reply != [True, ""]:
            reason = reply[1] if reply else "its process exited or did not respond within two minutes"
            raise InputError(f"verifier {verifier!r} cannot be run: {reason}")
        self._warm.add(verifier)

    def _ask(self, question: Sequence[str | None], seconds: float) -> list[Any] | None:
        """Returns the worker's verdict and reason; None if it died or had to be killed."""
        process = self._start()
        assert process.stdin
        self._question_number += 1
        try:
            process.stdin.write(json.dumps([self._question_number, *question]).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            self.stop()
            return None
        began, self._loading = time.monotonic(), 0.0
        deadline = began + seconds
        while (reply := self._reply(deadline)) is not None:
            if reply[0] == self._question_number:
                return reply[1:]
            if reply[0] == "loading":  # a library that many answers need is not on this one's clock
                began = time.monotonic()
                deadline = began + self._START_SECONDS
            if reply[0] == "loaded":
                self._loading += time.monotonic() - began
                deadline = time.monotonic() + seconds
            if reply[0] == "judging":  # the fork died and the next one announces itself
                self._fork, self._warm = reply[1], set()
                return None
        if self._process:
            self._kill_fork()
        return None

    def _reply(self, deadline: float) -> list[Any] | None:
        """Returns the next line from the worker; None after the deadline or if the worker is gone (and now stopped)."""
        assert self._process and self._process.stdout
        pipe = self._process.stdout.fileno()
        poll = select.poll()  # select() is limited to descriptors below 1,024
        poll.register(pipe, select.POLLIN)
        while b"\n" not in self._unread:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            data = os.read(pipe, 65_536)
            if not data:
                self.stop()
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        reply: list[Any] = json.loads(line)
        return reply

    def _kill_fork(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just died on its own
            os.kill(self._fork, signal.SIGKILL)
        deadline = time.monotonic() + self._START_SECONDS
        while reply := self._reply(deadline):
            if reply[0] == "judging":
                self._fork, self._warm = reply[1], set()
                return
        self.stop()

    def _start(self) -> subprocess.Popen[bytes]:
        while self._process and (reply := self._reply(0)):
            if reply[0] == "judging":  # the fork died between two questions
                self._fork, self._warm = reply[1], set()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "components.shared.grading.worker", self._settings.model_dump_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            hello = self._reply(time.monotonic() + self._START_SECONDS)
            if hello is None or self._process is None:
                self.stop()
                raise RuntimeError(
                    "the grading worker does not start; run `python -m components.shared.grading.worker {}` to see why"
                )
            self._fork = hello[1]
        return self._process

    def stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin and self._process.stdout
            self._process.kill()
            if self._fork:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._fork, signal.SIGKILL)
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):  # the worker died before reading a question
                self._process.stdin.close()
            self._process.stdout.close()
        self._process, self._fork, self._unread, self._warm = None, 0, b"", set()
