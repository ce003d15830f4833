"""The interface between a store and what is behind it: S3 (s3.py) or a local folder (folder.py)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

THREADS = 16  # files transferred at once; connections are reused


class StoredObject(NamedTuple):
    """One object, by its name below the store's root."""

    name: str
    size: int  # bytes
    modified: datetime


class Backend(Protocol):
    """Operations on single objects. Names are full keys or paths below the root."""

    def put(self, path: Path, name: str, digest: str) -> None:
        """Uploads a file together with its digest."""

    def get(self, name: str, path: Path, size: int) -> str:
        """Downloads an object of a known size to a file; returns the digest of the bytes received."""

    def digest(self, name: str) -> str | None:
        """Returns the digest stored with an object; None if there is no digest or no object."""

    def read(self, name: str) -> bytes | None:
        """Returns the content of a small object; None if it does not exist."""

    def write(self, name: str, data: bytes) -> None:
        """Writes a small object."""

    def create(self, name: str, data: bytes) -> bool:
        """Writes a small object unless it exists; returns whether it did. Overwrites without conditional writes."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Lists all objects whose names start with a prefix."""

    def remove(self, names: Sequence[str]) -> None:
        """Deletes objects; missing ones are not an error."""
