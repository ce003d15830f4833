"""The log of a stage: written while it runs, read for what it came to or failed with."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from components.shared.stage import ERROR_MARK, KEPT_MARK, RESULT_MARK


class StageLog(io.TextIOBase):
    """Where a stage's output goes: its log file, and line by line to a listener.

    The file is made at the first line: a stage that comes from the cache says nothing.
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
        """Takes what kfp.local prints: the stage's lines, indented, and its own messages."""
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
        """True, as for any output."""
        return True

    def close(self) -> None:
        """Closes the log file."""
        if self._file:
            self._file.close()
        super().close()


def last_result(log_path: Path) -> str:
    """What the stage came to when it ran, by its log."""
    lines = log_path.read_text(errors="replace").splitlines() if log_path.exists() else []
    return next((line.split(RESULT_MARK, 1)[1].strip() for line in reversed(lines) if RESULT_MARK in line), "")


def kept_progress(log_path: Path) -> list[str]:
    """Where a stage that has finished left its outputs for another attempt, below the URI of progress."""
    lines = log_path.read_text(errors="replace").splitlines()
    return [line.split(KEPT_MARK, 1)[1].strip() for line in lines if KEPT_MARK in line]


def last_error(log_path: Path) -> str:
    """The message a failed stage ended with, or the end of its log."""
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
