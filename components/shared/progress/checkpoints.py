"""Progress of a long stage, kept in the object store, so that a restarted one continues instead of beginning again.

Progress lies at CHECKPOINT_URI/STAGE/FINGERPRINT, where the fingerprint is of the stage's code, parameters and inputs'
content: whoever computes the same finds it, be it the same pod again, a retried run or a cloned one, and nobody else
does. It holds checkpoints (folders, of which the newest whole one counts) and shards (files that stand for finished
work). Uploads go on in the background. A stage that has finished leaves its outputs in place of its checkpoints.

Only folders that bear the mark of progress are ever removed: other things may lie at the same place.
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
from components.shared.progress.finished import FINISHED, SHARDS, Outputs, fetch_outputs, inputs_digest, leave_outputs
from components.shared.progress.lease import Lease
from components.shared.progress.uploads import Uploads
from components.shared.settings import Settings
from components.shared.stage import KEPT_MARK, files_digest, note, repeat, result

_ROOT = Path(__file__).resolve().parents[3]  # has the folder components
_MARK = "rloop-progress.json"  # in each folder of progress
_MARK_CONTENT = b'{"what": "progress of a stage of rloop, which rloop removes when it is old"}'


def fingerprint(stage: str, parameters: dict[str, Any], inputs: Sequence[str | Path]) -> str:
    """What a stage's result depends on, as a name of 24 characters: its code, parameters, inputs' content."""
    code = files_digest(file for file in stage_code(stage, _ROOT) if file != _ROOT / VERSION_FILE)
    return hashlib.sha256(f"{code}\0{inputs_digest(parameters, inputs)}".encode()).hexdigest()[:24]


class CheckpointSettings(Settings):
    """Where progress is kept, and how often it is saved."""

    uri: str = Field("", description="s3://BUCKET/PREFIX or a folder; empty: nowhere.")
    minutes: float = Field(10.0, ge=0, description="Between checkpoints: what a killed pod does again, at most.")
    keep_days: float = Field(14.0, gt=0, description="Progress is removed when nothing has changed in it for so long.")
    repeat: str = Field(
        default_factory=repeat, description="Of a stage that is to run again although nothing changed: what for."
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
        self, settings: CheckpointSettings, stage: str, parameters: dict[str, Any], inputs: Sequence[str | Path]
    ) -> None:
        self._store: Store | None = None
        self._seconds, self._saved_at = settings.minutes * 60, time.monotonic()
        self._newest = ""
        if not settings.uri:
            return
        store = open_store(settings.uri)
        _expire(store, stage, settings.keep_days)
        if settings.repeat:  # it is not to find what was made before
            parameters = {**parameters, "repeat": settings.repeat}
        self._wanted = f"{stage}/{fingerprint(stage, parameters, inputs)}"
        store.write_bytes(f"{self._wanted}/{_MARK}", _MARK_CONTENT)
        self._lease = Lease(store, self._wanted)
        self._prefix = self._lease.prefix  # another one while a run of the very same is alive
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
            self._uploads.close(send=error is not None)  # else the outputs follow at once
            self._lease.release()

    def hand_over(self, outputs: Outputs) -> dict[str, float] | None:
        """Brings the outputs of an earlier attempt that had finished, and says what it came to.

        Returns:
            What the stage's function returned then; None where no attempt has finished.
        """
        found = fetch_outputs(self._store, self._prefix, outputs) if self._store else None
        if found is None:
            return None
        note("an earlier attempt had finished; its outputs are handed over")
        result(found[1])
        return found[0]

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
        found = sorted(name.removeprefix(f"{SHARDS}/") for name in self._names() if name.startswith(f"{SHARDS}/"))
        wanted = found if names is None else [name for name in found if name in set(names)]
        self._store.download_files([(f"{self._prefix}/{SHARDS}/{name}", Path(folder) / name) for name in wanted])
        return wanted

    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return self._store is not None and time.monotonic() - self._saved_at >= self._seconds

    def save(self, folder: str | Path, number: int) -> None:
        """Hands over a folder as checkpoint `number`; it is sent in the background and then removed.

        One that still waits is skipped for it.

        Raises:
            OSError or InputError: an earlier upload failed.
        """
        if self._store:
            self._saved_at = time.monotonic()
            self._uploads.save(Path(folder), number)

    def add(self, file: str | Path) -> None:
        """Hands over a shard; it is sent in the background and left where it is.

        Raises:
            OSError or InputError: an earlier upload failed.
        """
        if self._store:
            self._uploads.add(Path(file))

    def finish(self, outputs: Outputs, figures: dict[str, float], said: str) -> None:
        """Says what the stage came to, and leaves its outputs in place of its checkpoints.

        Until a pod has handed its outputs over, it may still be lost; another attempt takes them from here. They go
        after `store.keep_days`, or by `remove_finished`.

        Args:
            outputs: complete; called after the block of this context manager.
            figures: what the stage's function returns.
            said: the line that tells what the stage came to.
        """
        if self._store:
            try:
                self._leave(self._store, outputs, figures, said)
            except (InputError, OSError) as error:  # the outputs themselves are whole, so the stage has not failed
                note(f"the outputs are not kept for another attempt: {error}")
        result(said)

    def busy(self) -> bool:
        """Whether something that was handed over has not been sent yet."""
        return self._store is not None and self._uploads.busy()

    def _leave(self, store: Store, outputs: Outputs, figures: dict[str, float], said: str) -> None:
        if self._prefix != self._wanted:  # kept apart from another run of the very same: nobody looks there
            _remove(store, self._prefix)
            return
        lease = Lease(store, self._prefix)
        ours = lease.prefix == self._prefix
        try:
            if ours:
                leave_outputs(store, self._prefix, outputs, figures, said)
                for name in {name.split("/")[0] for name in self._names() if name.startswith("checkpoint-")}:
                    store.delete(f"{self._prefix}/{name}")
                print(f"{KEPT_MARK} {self._prefix}", flush=True)
        finally:
            lease.release()
        if not ours:  # somebody has begun the very same meanwhile
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
    """Removes the progress of stages that have finished; for the launcher, when it has their outputs.

    Args:
        uri: where progress is kept.
        prefixes: of the stages, as their logs name them; all that have finished where None, for a place of one run.
    """
    store = open_store(uri)
    if prefixes is None:
        prefixes = {"/".join(item.name.split("/")[:2]) for item in store.list()}
    for prefix in sorted(prefixes):
        if _is_progress(store, prefix) and any(True for _ in store.list(f"{prefix}/{FINISHED}")):
            _remove(store, prefix)


def _expire(store: Store, stage: str, keep_days: float) -> None:
    """Removes a stage's progress in which nothing has changed for so many days."""
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
