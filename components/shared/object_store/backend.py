"""What the object store needs of the kinds of storage behind it: S3 (s3.py) and a local folder (folder.py)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

THREADS = 16  # files at once; connections are reused


class StoredObject(NamedTuple):
    """One object, by its name below the store's root."""

    name: str
    size: int  # bytes
    modified: datetime


class Backend(Protocol):
    """What a kind of store can do with single objects. Names are full keys or paths below the root."""

    def put(self, path: Path, name: str, digest: str) -> None:
        """Sends a file, with its digest beside it."""

    def get(self, name: str, path: Path, size: int) -> str:
        """Fetches an object of a known size into a file; returns the digest of what came."""

    def digest(self, name: str) -> str | None:
        """The digest that came with an object; None if there is none, or no object."""

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Writes a small object."""

    def create(self, name: str, data: bytes) -> bool:
        """Writes a small object unless there is one; whether it did. A store without conditional writes replaces it."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose name starts so."""

    def remove(self, names: Sequence[str]) -> None:
        """Removes objects; those that are not there are no error."""
