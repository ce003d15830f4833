"""Progress of a long stage, kept in the object store, so that a restarted one continues instead of beginning again.

Progress lies at CHECKPOINT_URI/STAGE/FINGERPRINT, where the fingerprint is of the stage's code, parameters and inputs'
content: whoever computes the same finds it, be it the same pod again, a retried run or a cloned one, and nobody else
does. It holds checkpoints (folders, of which the newest whole one counts) and shards (files that stand for finished
work). Uploads go on in the background. A stage that has finished removes its progress.
"""

import contextlib
import hashlib
import json
import math
import queue
import shutil
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from components.shared.imports import stage_code
from components.shared.lease import Lease
from components.shared.object_store import Store, open_store
from components.shared.settings import Settings
from components.shared.stage import files_digest

_ROOT = Path(__file__).resolve().parents[2]  # has the folder components
_SHARDS = "shards"
_FINISHED = "finished.json"
_FINISHED_HOURS = 1.0


def fingerprint(stage: str, parameters: dict[str, Any], inputs: Iterable[str | Path]) -> str:
    """What a stage's result depends on, as a name of 24 characters: code version, parameters, inputs' content."""
    digest = hashlib.sha256()
    for files in (
        stage_code(stage, _ROOT),
        *(Path(path).rglob("*") if Path(path).is_dir() else [Path(path)] for path in inputs),
    ):
        digest.update(files_digest(sorted(file for file in files if file.is_file())).encode())
    digest.update(json.dumps(parameters, sort_keys=True).encode())
    return digest.hexdigest()[:24]


class CheckpointSettings(Settings):
    """Where progress is kept, and how often it is saved."""

    uri: str = Field("", description="s3://BUCKET/PREFIX or a folder; empty: nowhere.")
    minutes: float = Field(10.0, ge=0, description="Between checkpoints: what a killed pod does again, at most.")
    keep_days: float = Field(
        14.0, gt=0, description="Progress of a stage that never finished is removed after so long."
    )


NOWHERE = CheckpointSettings()


class Checkpoints:
    """The progress of one stage; a context manager.

    Left by an exception, it sends what it was given and keeps the progress.

    Args:
        settings: where and how often; without a URI nothing is kept or found.
        stage: folder of the stage under components.
        parameters: whatever the stage's result depends on besides its inputs.
        inputs: files and folders that the stage reads.
    """

    def __init__(
        self, settings: CheckpointSettings, stage: str, parameters: dict[str, Any], inputs: Iterable[str | Path]
    ) -> None:
        self._store: Store | None = None
        self._seconds, self._saved_at = settings.minutes * 60, time.monotonic()
        self._errors: list[Exception] = []
        self._uploads: queue.Queue[tuple[str, Path, str] | None] = queue.Queue()
        self._newest, self._pending = "", 0
        if not settings.uri:
            return
        root = open_store(settings.uri)
        _expire(root, _FINISHED_HOURS, settings.keep_days)
        self._prefix = f"{stage}/{fingerprint(stage, parameters, inputs)}"
        self._lease = Lease(root, self._prefix)
        self._prefix = self._lease.prefix  # another one while a run of the very same is alive
        self._store = root
        self._thread = threading.Thread(target=self._upload, name="checkpoints", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._store:
            if error is None:  # the outputs follow at once; what has not been sent is not needed
                with contextlib.suppress(queue.Empty):
                    while True:
                        self._uploads.get_nowait()
            self._uploads.put(None)
            self._thread.join()
            self._lease.release()

    def restore(self, folder: str | Path) -> int | None:
        """Brings the newest whole checkpoint.

        Args:
            folder: to make and fill; left alone where there is no checkpoint.

        Returns:
            The number it was saved under; None where there is none.
        """
        if not self._store:
            return None
        names = {name.split("/")[0] for name in self._names() if name.startswith("checkpoint-")}
        for name in sorted(names, reverse=True):
            if self._store.complete(f"{self._prefix}/{name}"):
                self._store.download_folder(f"{self._prefix}/{name}", folder)
                self._newest = name
                return int(name.removeprefix("checkpoint-"))
        return None

    def restore_shards(self, folder: str | Path, names: Iterable[str] | None = None) -> list[str]:
        """Brings shards, all or those named, and returns their names in order."""
        if not self._store:
            return []
        found = sorted(name.removeprefix(f"{_SHARDS}/") for name in self._names() if name.startswith(f"{_SHARDS}/"))
        wanted = found if names is None else [name for name in found if name in set(names)]
        self._store.download_files([(f"{self._prefix}/{_SHARDS}/{name}", Path(folder) / name) for name in wanted])
        return wanted

    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return self._store is not None and time.monotonic() - self._saved_at >= self._seconds

    def save(self, folder: str | Path, number: int) -> None:
        """Hands over a folder as checkpoint `number`; it is sent in the background and then removed.

        Raises:
            OSError or InputError: an earlier upload failed.
        """
        self._check()
        if self._store:
            self._saved_at = time.monotonic()
            self._pending += 1
            self._uploads.put(("checkpoint", Path(folder), f"checkpoint-{number:09d}"))

    def add(self, file: str | Path) -> None:
        """Hands over a shard; it is sent in the background and left where it is.

        Raises:
            OSError or InputError: an earlier upload failed.
        """
        self._check()
        if self._store:
            self._pending += 1
            self._uploads.put(("shard", Path(file), Path(file).name))

    def finish(self) -> None:
        """Marks the progress as not needed any more: the stage's outputs are complete.

        It is removed when another stage starts an hour later, or by `remove_finished`: until a pod has handed its
        outputs over, it may still die and have to do its last minutes again.
        """
        if self._store:
            self._store.write_bytes(f"{self._prefix}/{_FINISHED}", b"{}")

    def busy(self) -> bool:
        """Whether something that was handed over has not been sent yet."""
        return self._pending > 0

    def _check(self) -> None:
        if self._errors:
            raise self._errors[0]

    def _names(self) -> list[str]:
        assert self._store
        return [item.name.removeprefix(f"{self._prefix}/") for item in self._store.list(f"{self._prefix}/")]

    def _upload(self) -> None:
        """Sends what was handed over, in order: a checkpoint is whole only after the shards before it are there."""
        assert self._store
        while task := self._uploads.get():
            kind, path, name = task
            try:
                if self._errors:
                    break
                if kind == "shard":
                    self._store.upload_file(path, f"{self._prefix}/{_SHARDS}/{name}")
                else:
                    self._store.upload_folder(path, f"{self._prefix}/{name}")
                    shutil.rmtree(path, ignore_errors=True)
                    if self._newest and self._newest != name:
                        self._store.delete(f"{self._prefix}/{self._newest}")
                    self._newest = name
            except Exception as error:  # handed to the stage at its next call
                self._errors.append(error)
            self._pending -= 1


def remove_finished(uri: str) -> None:
    """Removes the progress of all stages that have finished; for the launcher, when it has their outputs."""
    _expire(open_store(uri), 0.0, math.inf)


def _expire(store: Store, finished_hours: float, keep_days: float) -> None:
    """Removes progress of stages that finished so long ago, or in which nothing has changed for so many days."""
    now = datetime.now(UTC)
    newest: dict[str, datetime] = {}
    for item in store.list(""):
        if item.name.count("/") >= 2:  # STAGE/FINGERPRINT/...
            name = "/".join(item.name.split("/")[:2])
            newest[name] = max(newest.get(name, item.modified), item.modified)
    for name, modified in newest.items():
        limit = finished_hours if store.exists(f"{name}/{_FINISHED}") else keep_days * 24
        if limit < math.inf and now - modified > timedelta(hours=limit):
            store.delete(name)
