"""What every stage shares: error messages without tracebacks, progress lines, atomic writes."""

import contextlib
import errno
import gc
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from components.shared.errors import InputError
from components.shared.memory_watch import pool_of, watched_memory

PROGRESS_MARK = "[progress]"
RESULT_MARK = "[result]"
ERROR_MARK = "[error]"
NOTE_MARK = "[note]"
KEPT_MARK = "[kept]"  # precedes the place where a finished stage saved its outputs, for the launcher
_PROGRESS_SECONDS = 1.0


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Runs a stage's work: a user error or a full disk ends it with a message instead of a traceback.

    Also watches its memory usage, because an OOM-killed pod can no longer print an explanation.

    Args:
        name: the stage's name, for messages.

    Raises:
        SystemExit: with status 1, after printing the message.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # silences a warning after fork
    try:
        with watched_memory(f"pools.{pool_of(name)}.memory", note):
            yield
    except InputError as error:
        print(f"{ERROR_MARK} {name}: {error}", flush=True)
        sys.exit(1)
    except (OSError, shutil.Error, SafetensorError) as error:
        if (message := disk_problem(error)) is None:
            raise
        print(f"{ERROR_MARK} {name}: {message}", flush=True)
        sys.exit(1)
    finally:
        gc.freeze()  # the process ends now: the interpreter need not go through all objects of torch and others again


_DISK_PROBLEMS = {
    errno.ENOSPC: "the disk is full. Free some space, or choose another output folder",
    errno.EDQUOT: "the disk quota is used up. Free some space, or choose another output folder",
    errno.EACCES: "permission denied. Change the folder's permissions, or choose another output folder",
    errno.EROFS: "the file system is read-only. Choose another output folder",
}


def disk_problem(error: Exception) -> str | None:
    """Returns the message and remedy for an error about an unwritable disk; None for any other error.

    Some libraries wrap the system's error and keep its number only in the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"\[Errno (\d+)\]|os error (\d+)", str(error))):
        number = int(match[1] or match[2])
    if number not in _DISK_PROBLEMS:
        return None
    name = f"cannot write {error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return f"{name}{_DISK_PROBLEMS[number]}"


def result(text: str) -> None:
    """Prints the stage's result line; the launcher shows it next to the stage."""
    print(f"{RESULT_MARK} {text}", flush=True)


def note(text: str) -> None:
    """Prints something that anyone watching the run should know; the launcher shows it at once."""
    print(f"{NOTE_MARK} {text}", flush=True)


class Progress:
    """Prints `[progress] done/total text` at most once per second, for a pod's log and for the launcher.

    If several processes share the work, all but one are silent.
    """

    def __init__(self, total: int, unit: str, silent: bool = False) -> None:
        self.total, self.unit, self.done, self._printed, self._silent = total, unit, 0, 0.0, silent

    def resume(self, done: int) -> None:
        """Sets the number of units that an earlier attempt has done."""
        self.done = done

    def advance(self, by: int = 1, text: str = "") -> None:
        """Counts `by` more units as done; `text` may add a metric or two."""
        self.done += by
        now = time.monotonic()
        if not self._silent and (now - self._printed >= _PROGRESS_SECONDS or self.done >= self.total):
            self._printed = now
            print(f"{PROGRESS_MARK} {self.done}/{self.total} {self.unit}{', ' + text if text else ''}", flush=True)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path next to `path` to write to, and renames it into place when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder next to `path` to fill, and renames it into place when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file that another stage wrote."""
    return json.loads(Path(path).read_text())


def repeat() -> str:
    """Returns the token that `retry RUN --from STAGE` gave this stage to make it run again; empty if it did not.

    The stage's function has no such parameter, so the token is only in the executor input that Kubeflow passes to the
    process.
    """
    if "--executor_input" not in sys.argv[:-1]:
        return ""
    given = json.loads(sys.argv[sys.argv.index("--executor_input") + 1])
    return str(given.get("inputs", {}).get("parameterValues", {}).get("repeat", ""))


def files_digest(files: Iterable[Path]) -> str:
    """Digests the names and contents of files, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(f"{file.name}\0".encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def log_metrics(metrics: Any, values: dict[str, float | int]) -> None:
    """Logs metrics to a KFP `Metrics` artifact and writes them to its file, which kfp.local's cache needs."""
    for name, value in values.items():
        metrics.log_metric(name, value)
    write_json(metrics.path, values)
