"""Files and folders in an object store: parallel, verified, resumable transfers.

A folder is complete if it has a marker, with the names, sizes and digests of its files, and they match. The marker is
written last, and deleted before anything below it changes. Uploading a folder again uploads only files that are missing
or have another digest; downloading it verifies every file against the marker.
"""

import contextlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from components.shared.errors import InputError
from components.shared.object_store.backend import THREADS, Backend, StoredObject
from components.shared.object_store.digests import digest_of
from components.shared.stage import Progress

MARKER = ".complete.json"
_MIB = 1 << 20


def open_store(uri: str) -> "Store":
    """Opens a store by its URI.

    Args:
        uri: s3://BUCKET/PREFIX or minio://BUCKET/PREFIX, at AWS_ENDPOINT_URL_S3 or AWS, with credentials from the
            environment, the AWS files, a web identity or the machine's role; or a folder, created if missing.

    Raises:
        InputError: unknown scheme, no credentials, no such bucket, or the endpoint does not respond.
    """
    scheme, bucket, key = split_uri(uri)
    if scheme in ("s3", "minio"):
        from components.shared.object_store.s3 import S3Backend

        if not bucket:
            raise InputError(f"{uri!r} has no bucket; expected s3://BUCKET/PREFIX")
        return Store(uri, S3Backend(bucket, key.strip("/")))
    if scheme not in ("", "file"):
        raise InputError(
            f"{uri!r}: unknown kind of store; expected s3://BUCKET/PREFIX, minio://BUCKET/PREFIX or a folder"
        )
    if bucket not in ("", "localhost"):
        raise InputError(f"{uri!r} is on the host {bucket!r}; a local folder is file:///{bucket}/{key}")
    from components.shared.object_store.folder import FolderBackend

    return Store(uri, FolderBackend(Path(f"/{key}") if scheme else Path(uri).expanduser()))


def split_uri(uri: str) -> tuple[str, str, str]:
    """Splits a URI into scheme, bucket and key, verbatim: `#`, `?`, `%` and spaces have no meaning in a key.

    For a path without a scheme, all three are empty.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return "", "", ""
    bucket, _, key = rest.partition("/")
    return scheme.lower(), bucket, key


class Store:
    """The objects below one root.

    Attributes:
        uri: URI of the root.
    """

    def __init__(self, uri: str, backend: Backend) -> None:
        self.uri, self._backend = uri, backend

    def upload_file(self, path: str | Path, name: str) -> None:
        """Uploads a file, a large one in parts."""
        self._backend.put(Path(path), name, digest_of(Path(path)))

    def download_file(self, name: str, path: str | Path) -> None:
        """Downloads a file, verified against the digest stored with it; it is renamed into place.

        Raises:
            InputError: the object does not exist, or is corrupt.
        """
        item = next((item for item in self._backend.list(name) if item.name == name), None)
        if item is None:
            raise InputError(f"{self.uri}: no such object: {name}")
        self._fetch(name, Path(path), item.size, self._backend.digest(name))

    def download_files(self, files: Iterable[tuple[str, str | Path]]) -> None:
        """Downloads files in parallel, each verified and renamed into place."""
        with _thread_pool() as run:
            for name, path in files:
                run(self.download_file, name, path)

    def upload_files(self, files: Iterable[tuple[str | Path, str]]) -> None:
        """Uploads files in parallel, given as pairs of path and name."""
        with _thread_pool() as run:
            for path, name in files:
                run(self.upload_file, path, name)

    def fetch_files(self, files: Iterable[tuple[str, str | Path, dict[str, Any]]]) -> None:
        """Downloads objects of known `size` and `digest` in parallel, given as triples of name, path and entry."""
        with _thread_pool() as run:
            for name, path, entry in files:
                run(self._fetch, name, Path(path), entry["size"], entry["digest"])

    def upload_folder(self, folder: str | Path, prefix: str, title: str = "") -> None:
        """Uploads a folder: skips files already stored with the right digest, and deletes stored files it lacks.

        Args:
            folder: folder to upload, recursively.
            prefix: where to store it.
            title: title of the progress lines, such as `MiB of policy sent`; no lines if empty.
        """
        files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
        stored = {item.name: item.size for item in self._backend.list(f"{prefix}/")}
        progress = Progress(sum(path.stat().st_size for path in files.values()) // _MIB, title) if title else None
        entries: dict[str, dict[str, Any]] = {}
        marker, changing, lock = f"{prefix}/{MARKER}", False, Lock()

        def before_change() -> None:
            """Deletes the marker before the first change, so that a half-updated folder does not look complete."""
            nonlocal changing
            with lock:
                if not changing and marker in stored:
                    self._backend.remove([marker])
                changing = True

        def upload(name: str, path: Path) -> None:
            size, digest = path.stat().st_size, digest_of(path)
            entries[name] = entry = {"size": size, "digest": digest}
            if not self._has(f"{prefix}/{name}", entry, stored):
                before_change()
                self._backend.put(path, f"{prefix}/{name}", digest)
            if progress:
                progress.advance(size // _MIB)

        with _thread_pool() as run:
            for name, path in files.items():
                run(upload, name, path)
        if changing or self._marker(prefix) != entries:
            before_change()
            self._backend.write(marker, json.dumps({"files": dict(sorted(entries.items()))}).encode())
        self._backend.remove([key for key in stored if key != marker and key.removeprefix(f"{prefix}/") not in entries])

    def _has(self, key: str, entry: dict[str, Any], sizes: dict[str, int]) -> bool:
        """Whether an object exists with the right size and digest."""
        return sizes.get(key) == entry["size"] and bool(self._backend.digest(key) == entry["digest"])

    def download_folder(self, prefix: str, folder: str | Path, title: str = "") -> None:
        """Downloads a complete folder; local files that already match are left alone.

        Args:
            prefix: where it is stored.
            folder: folder to download to, created if missing.
            title: title of the progress lines; no lines if empty.

        Raises:
            InputError: the folder is incomplete, a file is corrupt, or a name points outside the folder.
        """
        files = self._marker(prefix)
        if files is None:
            raise InputError(f"{self.uri}/{prefix} is not complete: it has no {MARKER}; upload it again")
        progress = Progress(sum(entry["size"] for entry in files.values()) // _MIB, title) if title else None

        def fetch(name: str, entry: dict[str, Any]) -> None:
            path = Path(folder) / _checked_name(name)
            matches = path.is_file() and path.stat().st_size == entry["size"] and digest_of(path) == entry["digest"]
            if not matches:
                self._fetch(f"{prefix}/{name}", path, entry["size"], entry["digest"])
            if progress:
                progress.advance(entry["size"] // _MIB)

        Path(folder).mkdir(parents=True, exist_ok=True)
        with _thread_pool() as run:
            for name, entry in files.items():
                run(fetch, name, entry)

    def complete(self, prefix: str) -> bool:
        """Whether a folder is complete: it has a marker, and every file with the size and digest given there."""
        files = self._marker(prefix)
        return files is not None and not self.missing({f"{prefix}/{name}": entry for name, entry in files.items()})

    def missing(self, entries: Mapping[str, dict[str, Any]]) -> set[str]:
        """Returns which objects are missing or differ, given by name with their `size` and `digest`."""
        folders = {name.rpartition("/")[0] for name in entries}
        tops = [folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)]
        sizes = {item.name: item.size for top in tops for item in self._backend.list(f"{top}/")}
        missing: set[str] = set()

        def check(name: str, entry: dict[str, Any]) -> None:
            if not self._has(name, entry, sizes):
                missing.add(name)

        with _thread_pool() as run:
            for name, entry in entries.items():
                run(check, name, entry)
        return missing

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Lists all objects whose names start with a prefix."""
        return self._backend.list(prefix)

    def exists(self, name: str) -> bool:
        """Whether an object exists."""
        return any(item.name == name for item in self._backend.list(name))

    def read_bytes(self, name: str) -> bytes | None:
        """Returns the content of a small object; None if it does not exist."""
        return self._backend.read(name)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a small object."""
        self._backend.write(name, data)

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Writes a small object atomically unless it exists; returns whether it did.

        A store without conditional writes overwrites it.
        """
        return self._backend.create(name, data)

    def delete(self, prefix: str, last: str = "") -> None:
        """Deletes an object, or a folder recursively: markers of complete folders first, the object `last` last."""
        names = [
            item.name
            for item in self._backend.list(prefix)
            if item.name == prefix or item.name.startswith(f"{prefix}/")
        ]
        batches: tuple[list[str], ...] = ([], [], [])
        for name in names:
            batches[0 if name.endswith(f"/{MARKER}") else 2 if name == last else 1].append(name)
        for batch in batches:
            self._backend.remove(batch)

    def _marker(self, prefix: str) -> dict[str, Any] | None:
        data = self._backend.read(f"{prefix}/{MARKER}")
        if data is None:
            return None
        files: dict[str, Any] = json.loads(data)["files"]
        return files

    def _fetch(self, name: str, path: Path, size: int, digest: str | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            for attempt in (1, 2):  # a transfer may go wrong, and an object may be replaced during it
                if self._backend.get(name, temporary, size) == digest or digest is None:
                    break
                if attempt == 2:
                    raise InputError(f"{self.uri}/{name} is corrupt (wrong digest); delete it and upload it again")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _checked_name(name: str) -> str:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise InputError(f"a stored folder lists a file outside itself: {name!r}")
    return name


@contextlib.contextmanager
def _thread_pool() -> Iterator[Callable[..., None]]:
    """Yields a function that runs calls in a thread pool; on exit, waits for them and raises the first error."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="store") as pool:
        calls: list[Future[Any]] = []
        yield lambda call, *arguments: calls.append(pool.submit(call, *arguments))
        try:
            for call in calls:
                call.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
