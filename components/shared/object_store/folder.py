"""A local folder as an object store."""

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from components.shared.object_store.store import StoredObject, digest_of


class Folder:
    """Objects as files below a root, renamed into place; digests are those of the files themselves."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, path: Path, name: str, digest: str) -> None:
        """Copies a file."""
        temporary = self._temporary(name)
        shutil.copyfile(path, temporary)
        os.replace(temporary, self._root / name)

    def get(self, name: str, path: Path, size: int) -> str:
        """Copies an object to a file; returns its digest."""
        shutil.copyfile(self._root / name, path)
        return digest_of(path)

    def digest(self, name: str) -> str | None:
        """The digest of the file."""
        path = self._root / name
        return digest_of(path) if path.is_file() else None

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        path = self._root / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, whole."""
        temporary = self._temporary(name)
        temporary.write_bytes(data)
        os.replace(temporary, self._root / name)

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file unless there is one, whole."""
        temporary = self._temporary(name)
        temporary.write_bytes(data)
        try:
            os.link(temporary, self._root / name)  # fails where there is one, also over NFS
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All files whose path below the root starts so."""
        folder = self._root / prefix if not prefix or prefix.endswith("/") else (self._root / prefix).parent
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            name = path.relative_to(self._root).as_posix()
            if name.startswith(prefix) and path.is_file() and not path.name.endswith(".part"):
                status = path.stat()
                yield StoredObject(name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def remove(self, names: Sequence[str]) -> None:
        """Removes files, and folders that have become empty."""
        for name in names:
            path = self._root / name
            path.unlink(missing_ok=True)
            while (path := path.parent) != self._root and path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _temporary(self, name: str) -> Path:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
