"""Grades completions in worker processes that are killed when an answer takes too long or too much memory."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self


class GradingRow(NamedTuple):
    """One completion to judge."""

    verifier: str
    answer: str
    completion: str


class Grader:
    """Judges completions; a context manager, for it holds processes.

    Attributes:
        timed_out: answers that were graded wrong because their worker had to be killed or died.

    Args:
        workers: processes; one for each core if None, at most 8.
        seconds: an answer may take; past it the worker is killed and the answer is wrong.
        memory_bytes: a worker may take.
    """

    def __init__(self, workers: int | None = None, seconds: float = 5.0, memory_bytes: int = 2 << 30) -> None:
        count = workers or min(os.cpu_count() or 1, 8)
        self._workers = [_Worker(seconds, memory_bytes) for _ in range(count)]
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="grader")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers."""
        self._threads.shutdown()
        for worker in self._workers:
            worker.stop()

    @property
    def timed_out(self) -> int:
        """Answers so far that were graded wrong because they took too long or too much memory."""
        return sum(worker.timed_out for worker in self._workers)

    def grade(self, rows: Sequence[GradingRow]) -> list[bool | None]:
        """The verdicts of the rows, in their order; equal rows are judged once."""
        distinct = list(dict.fromkeys(rows))
        shares = [distinct[i :: len(self._workers)] for i in range(len(self._workers))]
        verdicts: dict[GradingRow, bool | None] = {}
        for share, judged in zip(shares, self._threads.map(_Worker.judge_all, self._workers, shares), strict=True):
            verdicts.update(zip(share, judged, strict=True))
        return [verdicts[row] for row in rows]


class _Worker:
    """One worker process, started at its first answer and again after it had to be killed."""

    _IMPORT_SECONDS = 120.0

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._selector: selectors.BaseSelector | None = None
        self._warm: set[str] = set()
        self.timed_out = 0

    def judge_all(self, rows: Sequence[GradingRow]) -> list[bool | None]:
        return [self._judge(row) for row in rows]

    def _judge(self, row: GradingRow) -> bool | None:
        if row.verifier not in self._warm:
            # Without a completion the worker imports what the verifier needs, outside the answer's own time.
            if not self._ask((row.verifier, None, None), self._IMPORT_SECONDS):
                raise RuntimeError(f"the grading worker cannot run verifier {row.verifier!r}")
            self._warm.add(row.verifier)
        reply = self._ask(tuple(row), self._seconds)
        if not reply:
            self.stop()
            self.timed_out += 1
            return False
        judged: bool | None = json.loads(reply)
        return judged

    def _ask(self, question: tuple[str | None, ...], seconds: float) -> bytes:
        """The worker's reply, empty where it died or was too slow."""
        process = self._start()
        assert process.stdin and process.stdout and self._selector
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return b""
        return process.stdout.readline() if self._selector.select(seconds) else b""

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "components.shared.grading.worker",
                    str(self._memory_bytes),
                    str(self._seconds),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            self._selector = selectors.DefaultSelector()
            assert self._process.stdout
            self._selector.register(self._process.stdout, selectors.EVENT_READ)
        return self._process

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin and self._process.stdout and self._selector
            self._selector.close()
            with contextlib.suppress(BrokenPipeError):  # the worker died with a question unread
                self._process.stdin.close()
            self._process.stdout.close()
            self._process, self._selector, self._warm = None, None, set()
