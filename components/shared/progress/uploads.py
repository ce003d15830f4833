"""Background uploads of a stage's progress."""

import shutil
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from components.shared.stage import note

# One checkpoint being uploaded, one waiting, and one that the trainer is writing.
CHECKPOINTS_ON_DISK = 3


class _Task(NamedTuple):
    path: Path
    checkpoint: int | None  # its number; None for a shard


class Uploads:
    """Uploads shards and checkpoints in order: a checkpoint is complete only once the shards before it are stored.

    At most one checkpoint waits, the newest, so that the disk does not fill up if the store is slow.

    Args:
        send_shard: uploads a file.
        send_checkpoint: uploads a folder as the checkpoint with a number; the folder is deleted afterwards.
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
        """Queues a shard; the file stays in place. Raises the error of an earlier upload."""
        self._put(_Task(file, None))

    def save(self, folder: Path, number: int) -> None:
        """Queues a checkpoint, whose folder is deleted after the upload. Raises the error of an earlier upload."""
        self._put(_Task(folder, number))

    def busy(self) -> bool:
        """Whether anything queued has not been uploaded yet."""
        with self._changed:
            return self._sending or bool(self._waiting)

    def close(self, send: bool) -> None:
        """Stops the uploads, after finishing what is queued, or else dropping it."""
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
                    f"skipping checkpoint {earlier.checkpoint} in favour of {task.checkpoint}: uploading one takes "
                    f"longer than store.minutes"
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
            except Exception as error:  # raised at the stage's next call
                self._error = error
