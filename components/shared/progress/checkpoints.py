"""Keeps the progress of a long stage in the object store, so that a restarted stage resumes instead of starting over.

Progress is stored at CHECKPOINT_URI/STAGE/FINGERPRINT, where the fingerprint covers the stage's code, parameters and
input contents: whoever computes the same thing finds it, be it a restarted pod, a retried run or a cloned one, and
nobody else does. It consists of checkpoints (folders, of which the newest complete one counts) and shards (files with
finished work). Uploads run in the background. A finished stage replaces its checkpoints with its outputs.

Only folders marked as progress are ever deleted: other things may be stored at the same place.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from components.shared.errors import InputError
from components.shared.imports import VERSION_FILE, stage_code
from components.shared.object_store import Store, open_store
from components.shared.progress.finished import FINISHED, SHARDS, Outputs, fetch_outputs, inputs_digest, save_outputs
from components.shared.progress.lease import Lease
from components.shared.progress.uploads import Uploads
from components.shared.settings import Settings
from components.shared.stage import KEPT_MARK, files_digest, note, repeat, result

_ROOT = Path(__file__).resolve().parents[3]  # the folder that contains `components`
_MARK = "rloop-progress.json"  # marks each progress folder
_MARK_CONTENT = b'{"what": "progress of a stage of rloop, which rloop removes when it is old"}'


def fingerprint(stage: str, parameters: dict[str, Any], inputs: Sequence[str | Path]) -> str:
    """Returns 24 hex digits that identify what a stage's result depends on: its code, parameters and input contents."""
    code = files_digest(file for file in stage_code(stage, _ROOT) if file != _ROOT / VERSION_FILE)
    return hashlib.sha256(f"{code}\0{inputs_digest(parameters, inputs)}".encode()).hexdigest()[:24]


class CheckpointSettings(Settings):
    """Where progress is stored, and how often it is saved."""

    uri: str = Field("", description="s3://BUCKET/PREFIX or a folder; empty: do not keep progress.")
    minutes: float = Field(10.0, ge=0, description="Minutes between checkpoints: at most this much work is lost.")
    keep_days: float = Field(14.0, gt=0, description="Progress is deleted after this many days without changes.")
    repeat: str = Field(
        default_factory=repeat, description="Token of a stage that is run again although nothing has changed."
    )


NOWHERE = CheckpointSettings()


class Checkpoints:
    """The progress of one stage; a context manager.

    On an exception, it finishes its uploads and keeps the progress.

    Args:
        settings: where and how often to save; without a URI nothing is saved or found.
        stage: the stage's folder under components.
        parameters: everything that the stage's result depends on besides its inputs.
        inputs: files and folders that the stage reads.
    """

    def __init__(
        self, settings: CheckpointSettings, stage: str, parameters: dict[str, Any], inputs: Sequence[str | Path]
    ) -> None:
        self._store: Store | None = None
        self._seconds, self._saved_at = settings.minutes * 60, time.monotonic()
        self._newest = ""
        if not settings.uri:
            return
        store = open_store(settings.uri)
        _expire(store, stage, settings.keep_days)
        if settings.repeat:  # do not find earlier progress
            parameters = {**parameters, "repeat": settings.repeat}
        self._wanted = f"{stage}/{fingerprint(stage, parameters, inputs)}"
        store.write_bytes(f"{self._wanted}/{_MARK}", _MARK_CONTENT)
        self._lease = Lease(store, self._wanted)
        self._prefix = self._lease.prefix  # a separate one while an identical run is alive
        if self._prefix != self._wanted:
            store.write_bytes(f"{self._prefix}/{_MARK}", _MARK_CONTENT)
        self._store = store
        self._uploads = Uploads(self._send_shard, self._send_checkpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._store:
            self._uploads.close(send=error is not None)  # on success the outputs follow at once
            self._lease.release()

    def hand_over(self, outputs: Outputs) -> dict[str, float] | None:
        """Restores the outputs of an earlier attempt that finished, and prints its result line.

        Returns:
            The return value of the stage's function in that attempt; None if no attempt has finished.
        """
        found = fetch_outputs(self._store, self._prefix, outputs) if self._store else None
        if found is None:
            return None
        note("an earlier attempt already finished; reusing its outputs")
        result(found[1])
        return found[0]

    def restore(self, folder: str | Path) -> int | None:
        """Downloads the newest complete checkpoint.

        Args:
            folder: folder to create and fill; untouched if there is no checkpoint.

        Returns:
            The number of the checkpoint; None if there is none.
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
        """Downloads shards, all or the named ones, and returns their names in order."""
        if not self._store:
            return []
        found = sorted(name.removeprefix(f"{SHARDS}/") for name in self._names() if name.startswith(f"{SHARDS}/"))
        wanted = found if names is None else [name for name in found if name in set(names)]
        self._store.download_files([(f"{self._prefix}/{SHARDS}/{name}", Path(folder) / name) for name in wanted])
        return wanted

    def due(self) -> bool:
        """Whether the next checkpoint is due."""
        return self._store is not None and time.monotonic() - self._saved_at >= self._seconds

    def save(self, folder: str | Path, number: int) -> None:
        """Uploads a folder as checkpoint `number` in the background, and then deletes it.

        Replaces an earlier checkpoint that is still waiting.

        Raises:
            OSError or InputError: an earlier upload failed.
        """
        if self._store:
            self._saved_at = time.monotonic()
            self._uploads.save(Path(folder), number)

    def add(self, file: str | Path) -> None:
        """Uploads a shard in the background; the file stays in place.

        Raises:
            OSError or InputError: an earlier upload failed.
        """
        if self._store:
            self._uploads.add(Path(file))

    def finish(self, outputs: Outputs, figures: dict[str, float], summary: str) -> None:
        """Prints the stage's result line, and replaces its checkpoints with its outputs.

        A pod may be lost before Kubeflow has its outputs; a retry attempt then takes them from here. They are deleted
        after `store.keep_days`, or by `remove_finished`. Call this after the block of this context manager.

        Args:
            outputs: the complete outputs.
            figures: the return value of the stage's function.
            summary: the stage's result line.
        """
        if self._store:
            try:
                self._save_outputs(self._store, outputs, figures, summary)
            except (InputError, OSError) as error:  # the local outputs are complete, so the stage has not failed
                note(f"could not save the outputs for a retry attempt: {error}")
        result(summary)

    def busy(self) -> bool:
        """Whether any upload is still pending."""
        return self._store is not None and self._uploads.busy()

    def _save_outputs(self, store: Store, outputs: Outputs, figures: dict[str, float], summary: str) -> None:
        if self._prefix != self._wanted:  # separate from an identical run: nobody looks there
            _remove(store, self._prefix)
            return
        lease = Lease(store, self._prefix)
        ours = lease.prefix == self._prefix
        try:
            if ours:
                save_outputs(store, self._prefix, outputs, figures, summary)
                for name in {name.split("/")[0] for name in self._names() if name.startswith("checkpoint-")}:
                    store.delete(f"{self._prefix}/{name}")
                print(f"{KEPT_MARK} {self._prefix}", flush=True)
        finally:
            lease.release()
        if not ours:  # an identical run has started in the meantime
            _remove(store, lease.prefix)

    def _names(self) -> list[str]:
        assert self._store
        return [item.name.removeprefix(f"{self._prefix}/") for item in self._store.list(f"{self._prefix}/")]

    def _send_shard(self, file: Path) -> None:
        if self._store and self._is_ours():
            self._store.upload_file(file, f"{self._prefix}/{SHARDS}/{file.name}")

    def _send_checkpoint(self, folder: Path, number: int) -> None:
        if self._store and self._is_ours():
            name = f"checkpoint-{number:09d}"
            self._store.upload_folder(folder, f"{self._prefix}/{name}")
            if self._newest and self._newest != name:
                self._store.delete(f"{self._prefix}/{self._newest}")
            self._newest = name

    def _is_ours(self) -> bool:
        return not self._lease.lost


def remove_finished(uri: str, prefixes: Iterable[str] | None = None) -> None:
    """Deletes the progress of finished stages; for the launcher, once it has their outputs.

    Args:
        uri: where progress is stored.
        prefixes: the stages' prefixes, as their logs name them; None for all finished ones, if one run owns the place.
    """
    store = open_store(uri)
    if prefixes is None:
        prefixes = {"/".join(item.name.split("/")[:2]) for item in store.list()}
    for prefix in sorted(prefixes):
        if _is_progress(store, prefix) and any(True for _ in store.list(f"{prefix}/{FINISHED}")):
            _remove(store, prefix)


def _expire(store: Store, stage: str, keep_days: float) -> None:
    """Deletes a stage's progress that has not changed for `keep_days`."""
    newest: dict[str, datetime] = {}
    for item in store.list(f"{stage}/"):
        if item.name.count("/") >= 2:  # STAGE/FINGERPRINT/...
            prefix = "/".join(item.name.split("/")[:2])
            newest[prefix] = max(newest.get(prefix, item.modified), item.modified)
    for prefix, modified in newest.items():
        if datetime.now(UTC) - modified > timedelta(days=keep_days) and _is_progress(store, prefix):
            _remove(store, prefix)


def _is_progress(store: Store, prefix: str) -> bool:
    return store.read_bytes(f"{prefix}/{_MARK}") == _MARK_CONTENT


def _remove(store: Store, prefix: str) -> None:
    store.delete(prefix, last=f"{prefix}/{_MARK}")
