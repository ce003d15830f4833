"""Files and folders in an object store: parallel, checked, resumable.

A folder is complete when its marker is there, which is written last: names, sizes and SHA-256 of its files. Sending
it again sends only what is not there with the right checksum; fetching it checks every file against the marker.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from components.shared.errors import InputError
from components.shared.stage import Progress

MARKER = ".complete.json"
THREADS = 16  # files at once; connections are reused
_MIB = 1 << 20


class StoredObject(NamedTuple):
    """One object, by its name below the store's root."""

    name: str
    size: int  # bytes
    modified: datetime


class Backend(Protocol):
    """What a kind of store can do with single objects. Names are full keys or paths below the root."""

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Sends a file, with its checksum beside it."""

    def get(self, name: str, path: Path, size: int) -> str:
        """Fetches an object of a known size into a file; returns the SHA-256 of what came."""

    def checksum(self, name: str) -> str | None:
        """The SHA-256 that came with an object; None if there is none, or no object."""

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Writes a small object."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose name starts so."""

    def remove(self, names: Sequence[str]) -> None:
        """Removes objects; those that are not there are no error."""


def open_store(uri: str) -> "Store":
    """A store by its URI.

    Args:
        uri: s3://BUCKET/PREFIX or minio://BUCKET/PREFIX, at AWS_ENDPOINT_URL_S3 or AWS, with the credentials of the
            environment, the AWS files, a web identity or the machine's role; or a folder, which is made.

    Raises:
        InputError: no such scheme, no credentials, no bucket, or the endpoint does not answer.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("s3", "minio"):
        from components.shared.object_store.s3 import S3

        if not parts.netloc:
            raise InputError(f"{uri!r} names no bucket; expected s3://BUCKET/PREFIX")
        return Store(uri, S3(parts.netloc, parts.path.strip("/")))
    if parts.scheme not in ("", "file"):
        raise InputError(
            f"{uri!r}: unknown kind of store; expected s3://BUCKET/PREFIX, minio://BUCKET/PREFIX or a folder"
        )
    from components.shared.object_store.folder import Folder

    return Store(uri, Folder(Path(parts.path if parts.scheme else uri)))


class Store:
    """Objects below one root.

    Attributes:
        uri: of the root.
    """

    def __init__(self, uri: str, backend: Backend) -> None:
        self.uri, self._backend = uri, backend

    def upload_file(self, path: str | Path, name: str) -> None:
        """Sends a file, in parts where it is large."""
        self._backend.put(Path(path), name, sha256_of(Path(path)))

    def download_file(self, name: str, path: str | Path) -> None:
        """Fetches a file, checked against the checksum that came with it, and renames it into place.

        Raises:
            InputError: there is no such object, or it is corrupt.
        """
        item = next((item for item in self._backend.list(name) if item.name == name), None)
        if item is None:
            raise InputError(f"{self.uri}: there is no {name}")
        self._fetch(name, Path(path), item.size, self._backend.checksum(name))

    def download_files(self, files: Iterable[tuple[str, str | Path]]) -> None:
        """Fetches several files, several at once, each checked and renamed into place."""
        with _threads() as run:
            for name, path in files:
                run(self.download_file, name, path)

    def upload_folder(self, folder: str | Path, prefix: str, title: str = "") -> None:
        """Sends a folder: what is there with the right checksum is not sent again, what is too much is removed.

        Args:
            folder: to send, with all below it.
            prefix: where to.
            title: of the progress lines, such as `MiB of policy sent`; none if empty.
        """
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        there = {item.name: item.size for item in self._backend.list(f"{prefix}/")}
        progress = Progress(sum(path.stat().st_size for path in files) // _MIB, title) if title else None
        entries: dict[str, dict[str, Any]] = {}

        def send(path: Path, name: str) -> None:
            size, digest = path.stat().st_size, sha256_of(path)
            key = f"{prefix}/{name}"
            if there.get(key) != size or self._backend.checksum(key) != digest:
                self._backend.put(path, key, digest)
            entries[name] = {"size": size, "sha256": digest}
            if progress:
                progress.advance(size // _MIB)

        names = {path: path.relative_to(folder).as_posix() for path in files}
        # The marker goes first and comes last: what changes in between is not taken for whole.
        marker = f"{prefix}/{MARKER}"
        if marker in there and self._differs(prefix, names):
            self._backend.remove([marker])
        with _threads() as run:
            for path, name in names.items():
                run(send, path, name)
        self._backend.write(marker, json.dumps({"files": dict(sorted(entries.items()))}).encode())
        self._backend.remove([key for key in there if key != marker and key.removeprefix(f"{prefix}/") not in entries])

    def _differs(self, prefix: str, names: dict[Path, str]) -> bool:
        files = self._marker(prefix) or {}
        return {name: path.stat().st_size for path, name in names.items()} != {n: f["size"] for n, f in files.items()}

    def download_folder(self, prefix: str, folder: str | Path, title: str = "") -> None:
        """Fetches a complete folder; local files that are right already are left alone.

        Args:
            prefix: where from.
            folder: to make and fill.
            title: of the progress lines; none if empty.

        Raises:
            InputError: the folder is not complete, a file is corrupt, or a name points out of the folder.
        """
        files = self._marker(prefix)
        if files is None:
            raise InputError(f"{self.uri}/{prefix} is not complete: it has no {MARKER}; send it again")
        progress = Progress(sum(entry["size"] for entry in files.values()) // _MIB, title) if title else None

        def fetch(name: str, entry: dict[str, Any]) -> None:
            path = Path(folder) / _checked_name(name)
            if not (path.is_file() and path.stat().st_size == entry["size"] and sha256_of(path) == entry["sha256"]):
                self._fetch(f"{prefix}/{name}", path, entry["size"], entry["sha256"])
            if progress:
                progress.advance(entry["size"] // _MIB)

        Path(folder).mkdir(parents=True, exist_ok=True)
        with _threads() as run:
            for name, entry in files.items():
                run(fetch, name, entry)

    def complete(self, prefix: str) -> bool:
        """Whether a folder is there as a whole: its marker, and every file in the size that the marker says."""
        files = self._marker(prefix)
        if files is None:
            return False
        sizes = {item.name.removeprefix(f"{prefix}/"): item.size for item in self._backend.list(f"{prefix}/")}
        return all(sizes.get(name) == entry["size"] for name, entry in files.items())

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects whose name starts so."""
        return self._backend.list(prefix)

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return any(item.name == name for item in self._backend.list(name))

    def read_bytes(self, name: str) -> bytes | None:
        """The content of a small object; None if there is none."""
        return self._backend.read(name)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a small object."""
        self._backend.write(name, data)

    def delete(self, prefix: str) -> None:
        """Removes an object, or a folder with all below it; its marker first."""
        names = [
            item.name
            for item in self._backend.list(prefix)
            if item.name == prefix or item.name.startswith(f"{prefix}/")
        ]
        self._backend.remove(sorted(names, key=lambda name: not name.endswith(MARKER)))

    def _marker(self, prefix: str) -> dict[str, Any] | None:
        data = self._backend.read(f"{prefix}/{MARKER}")
        if data is None:
            return None
        files: dict[str, Any] = json.loads(data)["files"]
        return files

    def _fetch(self, name: str, path: Path, size: int, sha256: str | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            for attempt in (1, 2):  # a transfer may go wrong, and an object may be replaced meanwhile
                if self._backend.get(name, temporary, size) == sha256 or sha256 is None:
                    break
                if attempt == 2:
                    raise InputError(
                        f"{self.uri}/{name} is corrupt: its checksum is wrong; remove it and send it again"
                    )
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """A file's SHA-256 in hexadecimal, read a piece at a time."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _checked_name(name: str) -> str:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise InputError(f"a stored folder names a file outside of it: {name!r}")
    return name


@contextlib.contextmanager
def _threads() -> Iterator[Callable[..., None]]:
    """Gives a function that runs calls in threads; at the end, waits for them and raises the first error."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="store") as pool:
        calls: list[Future[Any]] = []
        yield lambda call, *arguments: calls.append(pool.submit(call, *arguments))
        try:
            for call in calls:
                call.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
