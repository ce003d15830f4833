"""Uploads of progress that go on in the background while a stage works."""

import shutil
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from components.shared.stage import note

# A checkpoint that is being sent, one that waits, and one that the trainer is writing.
CHECKPOINTS_ON_DISK = 3


class _Task(NamedTuple):
    path: Path
    checkpoint: int | None  # its number; None for a shard


class Uploads:
    """Sends shards and checkpoints in order: a checkpoint is whole only after the shards before it are there.

    At most one checkpoint waits, so that the disk does not fill up where the store is slow: the newest.

    Args:
        send_shard: sends a file.
        send_checkpoint: sends a folder as the checkpoint of a number; it is removed afterwards.
    """

    def __init__(self, send_shard: Callable[[Path], None], send_checkpoint: Callable[[Path, int], None]) -> None:
        self._send_shard, self._send_checkpoint = send_shard, send_checkpoint
        self._waiting: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._sending = self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        self._thread.start()

    def add(self, file: Path) -> None:
        """Takes a shard; it is left where it is. Raises what an earlier upload failed with."""
        self._put(_Task(file, None))

    def save(self, folder: Path, number: int) -> None:
        """Takes a checkpoint; it is removed when it is sent. Raises what an earlier upload failed with."""
        self._put(_Task(folder, number))

    def busy(self) -> bool:
        """Whether something that was handed over has not been sent yet."""
        with self._changed:
            return self._sending or bool(self._waiting)

    def close(self, send: bool) -> None:
        """Ends, after what waits has been sent, or has been given up."""
        with self._changed:
            if not send:
                self._waiting.clear()
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, task: _Task) -> None:
        with self._changed:
            if self._error:
                raise self._error
            for earlier in [one for one in self._waiting if None not in (one.checkpoint, task.checkpoint)]:
                self._waiting.remove(earlier)
                shutil.rmtree(earlier.path, ignore_errors=True)
                note(
                    f"checkpoint {earlier.checkpoint} is skipped for {task.checkpoint}: the object store takes longer "
                    f"for one than store.minutes"
                )
            self._waiting.append(task)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting or self._error:
                    self._waiting.clear()
                    return
                path, number = self._waiting.popleft()
                self._sending = True
            try:
                if number is None:
                    self._send_shard(path)
                else:
                    self._send_checkpoint(path, number)
                    shutil.rmtree(path, ignore_errors=True)
            except Exception as error:  # handed to the stage at its next call
                self._error = error
