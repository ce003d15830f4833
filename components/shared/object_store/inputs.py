"""Inputs of a run that lie in an object store: data sets and benchmarks as files, the base policy as a folder."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from components.shared.errors import InputError
from components.shared.object_store.store import MARKER, StoredObject, open_store


def is_stored(uri: str) -> bool:
    """Whether a URI points into an object store."""
    return uri.startswith(("s3://", "minio://"))


def stored_objects(uri: str) -> list[StoredObject]:
    """The objects at a URI: one for a file, all below it for a folder.

    Raises:
        InputError: there is none, or the store cannot be reached.
    """
    root, _, name = uri.rstrip("/").rpartition("/")
    found = [item for item in open_store(root).list(name) if item.name == name or item.name.startswith(f"{name}/")]
    if not found:
        raise InputError(f"{uri}: there is nothing under this name")
    return [item for item in found if not item.name.endswith(MARKER)]


def stored_version(uri: str) -> str:
    """What changes when the objects at a URI change: a digest of names, sizes and times."""
    found = sorted((item.name, item.size, item.modified.isoformat()) for item in stored_objects(uri))
    return hashlib.sha256(repr(found).encode()).hexdigest()


@contextlib.contextmanager
def fetched_file(uri: str) -> Iterator[Path]:
    """Gives a local copy of a file, for as long as the block runs."""
    root, _, name = uri.rpartition("/")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        open_store(root).download_file(name, path)
        yield path


def fetch_folder(uri: str, folder: str | Path, suffixes: tuple[str, ...]) -> None:
    """Fetches the files of a folder that end so, whoever put them there.

    Raises:
        InputError: there is none, or the store cannot be reached.
    """
    root, _, name = uri.rstrip("/").rpartition("/")
    wanted = [item.name for item in stored_objects(uri) if item.name.endswith(suffixes) and item.name.count("/") == 1]
    open_store(root).download_files([(item, Path(folder) / item.removeprefix(f"{name}/")) for item in wanted])
