"""A stage's log: written while the stage runs, then read for its result or its error."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from components.shared.stage import ERROR_MARK, KEPT_MARK, RESULT_MARK


class StageLog(io.TextIOBase):
    """Sends a stage's output to its log file and, line by line, to a listener.

    The file is created at the first line: a cached stage prints nothing.
    """

    def __init__(self, path: Path, on_line: Callable[[str], None]) -> None:
        self._path, self._on_line = path, on_line
        self._file: TextIO | None = None
        self._line = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been written."""
        return self._file is None

    def write(self, text: str) -> int:
        """Takes what kfp.local prints: the stage's lines, indented, and messages of its own."""
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        self._file.write(text)
        self._file.flush()
        self._line += text
        while "\n" in self._line:
            line, self._line = self._line.split("\n", 1)
            self._on_line(line.strip())
        return len(text)

    def writable(self) -> bool:
        """Returns True, as any output stream does."""
        return True

    def close(self) -> None:
        """Closes the log file."""
        if self._file:
            self._file.close()
        super().close()


def last_result(log_path: Path) -> str:
    """Returns the result that the stage printed last; empty if there is none."""
    lines = log_path.read_text(errors="replace").splitlines() if log_path.exists() else []
    return next((line.split(RESULT_MARK, 1)[1].strip() for line in reversed(lines) if RESULT_MARK in line), "")


def kept_progress(log_path: Path) -> list[str]:
    """Returns where a finished stage left its outputs for retry attempts, as prefixes below the progress URI."""
    lines = log_path.read_text(errors="replace").splitlines()
    return [line.split(KEPT_MARK, 1)[1].strip() for line in lines if KEPT_MARK in line]


def last_error(log_path: Path) -> str:
    """Returns the error message of a failed stage, or else the end of its log."""
    lines = log_path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines):
        if ERROR_MARK in line:
            message = [line.split(ERROR_MARK, 1)[1].strip()]
            for following in lines[number + 1 :]:
                if not following.strip():
                    break
                message.append(following.strip())
            return "\n".join(message)
    return "\n".join(line for line in lines if line.strip() and " - ERROR - " not in line)[-1500:]
