"""Files and folders in an object store: parallel, checked, resumable.

A folder is complete when its marker is there and right: names, sizes and digests of its files. It is written last, and
removed before anything below it changes. Sending a folder again sends only what is not there with the right digest;
fetching it checks every file against the marker.
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
    """A store by its URI.

    Args:
        uri: s3://BUCKET/PREFIX or minio://BUCKET/PREFIX, at AWS_ENDPOINT_URL_S3 or AWS, with the credentials of the
            environment, the AWS files, a web identity or the machine's role; or a folder, which is made.

    Raises:
        InputError: no such scheme, no credentials, no bucket, or the endpoint does not answer.
    """
    scheme, bucket, key = split_uri(uri)
    if scheme in ("s3", "minio"):
        from components.shared.object_store.s3 import S3

        if not bucket:
            raise InputError(f"{uri!r} names no bucket; expected s3://BUCKET/PREFIX")
        return Store(uri, S3(bucket, key.strip("/")))
    if scheme not in ("", "file"):
        raise InputError(
            f"{uri!r}: unknown kind of store; expected s3://BUCKET/PREFIX, minio://BUCKET/PREFIX or a folder"
        )
    if bucket not in ("", "localhost"):
        raise InputError(f"{uri!r} names the machine {bucket!r}; a folder of this one is file:///{bucket}/{key}")
    from components.shared.object_store.folder import Folder

    return Store(uri, Folder(Path(f"/{key}") if scheme else Path(uri).expanduser()))


def split_uri(uri: str) -> tuple[str, str, str]:
    """Scheme, bucket and key of a URI as they stand: in a key, `#`, `?`, `%` and spaces mean nothing.

    Of a path without a scheme, all three are empty.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return "", "", ""
    bucket, _, key = rest.partition("/")
    return scheme.lower(), bucket, key


class Store:
    """Objects below one root.

    Attributes:
        uri: of the root.
    """

    def __init__(self, uri: str, backend: Backend) -> None:
        self.uri, self._backend = uri, backend

    def upload_file(self, path: str | Path, name: str) -> None:
        """Sends a file, in parts where it is large."""
        self._backend.put(Path(path), name, digest_of(Path(path)))

    def download_file(self, name: str, path: str | Path) -> None:
        """Fetches a file, checked against the digest that came with it, and renames it into place.

        Raises:
            InputError: there is no such object, or it is corrupt.
        """
        item = next((item for item in self._backend.list(name) if item.name == name), None)
        if item is None:
            raise InputError(f"{self.uri}: there is no {name}")
        self._fetch(name, Path(path), item.size, self._backend.digest(name))

    def download_files(self, files: Iterable[tuple[str, str | Path]]) -> None:
        """Fetches several files, several at once, each checked and renamed into place."""
        with _threads() as run:
            for name, path in files:
                run(self.download_file, name, path)

    def upload_files(self, files: Iterable[tuple[str | Path, str]]) -> None:
        """Sends several files, several at once: paths and names."""
        with _threads() as run:
            for path, name in files:
                run(self.upload_file, path, name)

    def fetch_files(self, files: Iterable[tuple[str, str | Path, dict[str, Any]]]) -> None:
        """Fetches objects of known `size` and `digest`: names, paths and entries; each is renamed into place."""
        with _threads() as run:
            for name, path, entry in files:
                run(self._fetch, name, Path(path), entry["size"], entry["digest"])

    def upload_folder(self, folder: str | Path, prefix: str, title: str = "") -> None:
        """Sends a folder: what is there with the right digest is not sent again, what is too much is removed.

        Args:
            folder: to send, with all below it.
            prefix: where to.
            title: of the progress lines, such as `MiB of policy sent`; none if empty.
        """
        files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
        there = {item.name: item.size for item in self._backend.list(f"{prefix}/")}
        progress = Progress(sum(path.stat().st_size for path in files.values()) // _MIB, title) if title else None
        entries: dict[str, dict[str, Any]] = {}
        marker, changing, lock = f"{prefix}/{MARKER}", False, Lock()

        def change() -> None:
            """The marker goes first and comes last: what changes in between is not taken for whole."""
            nonlocal changing
            with lock:
                if not changing and marker in there:
                    self._backend.remove([marker])
                changing = True

        def send(name: str, path: Path) -> None:
            size, digest = path.stat().st_size, digest_of(path)
            entries[name] = entry = {"size": size, "digest": digest}
            if not self._has(f"{prefix}/{name}", entry, there):
                change()
                self._backend.put(path, f"{prefix}/{name}", digest)
            if progress:
                progress.advance(size // _MIB)

        with _threads() as run:
            for name, path in files.items():
                run(send, name, path)
        if changing or self._marker(prefix) != entries:
            change()
            self._backend.write(marker, json.dumps({"files": dict(sorted(entries.items()))}).encode())
        self._backend.remove([key for key in there if key != marker and key.removeprefix(f"{prefix}/") not in entries])

    def _has(self, key: str, entry: dict[str, Any], sizes: dict[str, int]) -> bool:
        """Whether an object is there in the right size and with the right digest."""
        return sizes.get(key) == entry["size"] and bool(self._backend.digest(key) == entry["digest"])

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
            right = path.is_file() and path.stat().st_size == entry["size"] and digest_of(path) == entry["digest"]
            if not right:
                self._fetch(f"{prefix}/{name}", path, entry["size"], entry["digest"])
            if progress:
                progress.advance(entry["size"] // _MIB)

        Path(folder).mkdir(parents=True, exist_ok=True)
        with _threads() as run:
            for name, entry in files.items():
                run(fetch, name, entry)

    def complete(self, prefix: str) -> bool:
        """Whether a folder is there as a whole: its marker, and every file with the size and digest that it says."""
        files = self._marker(prefix)
        return files is not None and not self.missing({f"{prefix}/{name}": entry for name, entry in files.items()})

    def missing(self, entries: Mapping[str, dict[str, Any]]) -> set[str]:
        """Of objects by name, each with `size` and `digest`: those that are not there, or not so."""
        folders = {name.rpartition("/")[0] for name in entries}
        tops = [folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)]
        sizes = {item.name: item.size for top in tops for item in self._backend.list(f"{top}/")}
        missing: set[str] = set()

        def check(name: str, entry: dict[str, Any]) -> None:
            if not self._has(name, entry, sizes):
                missing.add(name)

        with _threads() as run:
            for name, entry in entries.items():
                run(check, name, entry)
        return missing

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

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Writes a small object unless there is one, at once; whether it did.

        A store without conditional writes replaces what is there.
        """
        return self._backend.create(name, data)

    def delete(self, prefix: str, last: str = "") -> None:
        """Removes an object, or a folder with all below it: markers of complete folders first, an object `last`."""
        names = [
            item.name
            for item in self._backend.list(prefix)
            if item.name == prefix or item.name.startswith(f"{prefix}/")
        ]
        turns: tuple[list[str], ...] = ([], [], [])
        for name in names:
            turns[0 if name.endswith(f"/{MARKER}") else 2 if name == last else 1].append(name)
        for turn in turns:
            self._backend.remove(turn)

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
            for attempt in (1, 2):  # a transfer may go wrong, and an object may be replaced meanwhile
                if self._backend.get(name, temporary, size) == digest or digest is None:
                    break
                if attempt == 2:
                    raise InputError(f"{self.uri}/{name} is corrupt: its digest is wrong; remove it and send it again")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


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
