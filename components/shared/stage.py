"""What every stage does around its work: messages without tracebacks, progress lines, whole files."""

import contextlib
import errno
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
KEPT_MARK = "[kept]"  # before where a stage that has finished left its outputs, for the launcher
_PROGRESS_SECONDS = 1.0


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Runs a stage's work: a user error or a full disk ends it with a message instead of a traceback.

    Meanwhile its use of memory is watched: a pod that is killed for it can say nothing any more.

    Args:
        name: of the stage, for the messages.

    Raises:
        SystemExit: with status 1, after the message was printed.
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


_DISK_PROBLEMS = {
    errno.ENOSPC: "the disk is full. Free some space, or choose another output folder",
    errno.EDQUOT: "the disk quota is used up. Free some space, or choose another output folder",
    errno.EACCES: "permission denied. Change the folder's permissions, or choose another output folder",
    errno.EROFS: "the file system is read-only. Choose another output folder",
}


def disk_problem(error: Exception) -> str | None:
    """What an error says about a disk that cannot be written, and the remedy; None for any other error.

    Some libraries wrap the system's error and leave its number in the text alone.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"\[Errno (\d+)\]|os error (\d+)", str(error))):
        number = int(match[1] or match[2])
    if number not in _DISK_PROBLEMS:
        return None
    name = f"cannot write {error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return f"{name}{_DISK_PROBLEMS[number]}"


def result(text: str) -> None:
    """Prints the one line that tells what the stage came to; the launcher shows it beside the stage."""
    print(f"{RESULT_MARK} {text}", flush=True)


def note(text: str) -> None:
    """Prints something that whoever watches the run should know; the launcher shows it at once."""
    print(f"{NOTE_MARK} {text}", flush=True)


class Progress:
    """Prints `[progress] done/total text` at most once a second, for a pod's log and for the launcher.

    Of several processes that do the work together, all but one are silent.
    """

    def __init__(self, total: int, unit: str, silent: bool = False) -> None:
        self.total, self.unit, self.done, self._printed, self._silent = total, unit, 0, 0.0, silent

    def resume(self, done: int) -> None:
        """Counts what an earlier attempt has done."""
        self.done = done

    def advance(self, by: int = 1, text: str = "") -> None:
        """Counts `by` more units as done; `text` may add a figure or two."""
        self.done += by
        now = time.monotonic()
        if not self._silent and (now - self._printed >= _PROGRESS_SECONDS or self.done >= self.total):
            self._printed = now
            print(f"{PROGRESS_MARK} {self.done}/{self.total} {self.unit}{', ' + text if text else ''}", flush=True)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write, and renames it into place when the block succeeds."""
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
    """Gives a temporary folder beside `path` to fill, and renames it into place when the block succeeds."""
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
    """Writes a value as indented JSON, whole."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file that another stage wrote."""
    return json.loads(Path(path).read_text())


def repeat() -> str:
    """What `retry RUN --from STAGE` gave this stage so that it runs again; empty if it was not asked to.

    It is an input that the stage's function does not have, so that it is in what Kubeflow hands to the process alone.
    """
    if "--executor_input" not in sys.argv[:-1]:
        return ""
    given = json.loads(sys.argv[sys.argv.index("--executor_input") + 1])
    return str(given.get("inputs", {}).get("parameterValues", {}).get("repeat", ""))


def files_digest(files: Iterable[Path]) -> str:
    """A digest of files' names and contents, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(f"{file.name}\0".encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def log_metrics(metrics: Any, values: dict[str, float | int]) -> None:
    """Logs figures to a KFP `Metrics` artifact and writes them to its file, which kfp.local's cache needs."""
    for name, value in values.items():
        metrics.log_metric(name, value)
    write_json(metrics.path, values)
