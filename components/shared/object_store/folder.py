"""A local folder as an object store."""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.shared.object_store.backend import StoredObject
from components.shared.object_store.digests import digest_of


class FolderBackend:
    """Objects as files below a root, renamed into place; digests are computed from the files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, path: Path, name: str, digest: str) -> None:
        """Copies a file into the folder."""
        self._place(name, lambda temporary: shutil.copyfile(path, temporary))

    def get(self, name: str, path: Path, size: int) -> str:
        """Copies an object to a file; returns its digest."""
        shutil.copyfile(self._root / name, path)
        return digest_of(path)

    def digest(self, name: str) -> str | None:
        """Returns the digest of a file; None if it does not exist."""
        path = self._root / name
        return digest_of(path) if path.is_file() else None

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file; None if it does not exist."""
        try:
            return (self._root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file atomically."""
        self._place(name, lambda temporary: temporary.write_bytes(data))

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file atomically unless it exists; returns whether it did."""
        try:
            self._place(name, lambda temporary: temporary.write_bytes(data), _link)
        except FileExistsError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Lists all files whose paths below the root start with a prefix."""
        folder = self._root / prefix if not prefix or prefix.endswith("/") else (self._root / prefix).parent
        paths = sorted(Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
        for path in paths:
            name = path.relative_to(self._root).as_posix()
            if name.startswith(prefix) and not path.name.endswith(".part"):
                with contextlib.suppress(FileNotFoundError):  # deleted in the meantime
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield StoredObject(name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def remove(self, names: Sequence[str]) -> None:
        """Deletes files, and folders that become empty."""
        for name in names:
            path = self._root / name
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another process has written to it, or deleted it
                while (path := path.parent) != self._root:
                    path.rmdir()

    def _place(self, name: str, fill: Callable[[Path], Any], move: Callable[[Path, Path], None] = os.replace) -> None:
        """Fills a temporary file and moves it into place; retries if its folder, once empty, was deleted meanwhile."""
        path = self._root / name
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        for attempt in range(10):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                fill(temporary)
                move(temporary, path)
                return
            except FileNotFoundError:
                if attempt == 9 or path.parent.is_dir():
                    raise
            finally:
                temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """Gives a file its name unless the name is taken; works over NFS too."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.replace(temporary, path)  # without hard links the file system has no conditional write
