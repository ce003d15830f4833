"""A run's inputs in an object store: data sets and benchmarks as files, the base policy as a folder."""

import contextlib
import fnmatch
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from components.shared.errors import InputError
from components.shared.object_store.backend import StoredObject
from components.shared.object_store.store import MARKER, Store, open_store, split_uri


def is_stored(uri: str) -> bool:
    """Whether a URI points to an object store."""
    return uri.startswith(("s3://", "minio://"))


def _bucket_of(uri: str) -> tuple[Store, str]:
    """The bucket that a URI points to, as a store, and the key or key prefix in it."""
    scheme, bucket, key = split_uri(uri)
    return open_store(f"{scheme}://{bucket}"), key.strip("/")


def stored_objects(uri: str) -> dict[str, StoredObject]:
    """Lists the objects at a URI: one for a file, all objects below it for a folder or a bucket.

    Returns:
        The objects, with their full keys, by their names below the URI; a single file by its name without folders.

    Raises:
        InputError: there are none, or the store cannot be reached.
    """
    store, key = _bucket_of(uri)
    found = {_below(item.name, key): item for item in store.list(key) if _is_below(item.name, key)}
    if not found:
        raise InputError(f"{uri}: no such object or folder")
    return {name: item for name, item in sorted(found.items()) if not name.endswith(MARKER)}


def _is_below(name: str, key: str) -> bool:
    return not key or name == key or name.startswith(f"{key}/")


def _below(name: str, key: str) -> str:
    if name == key:
        return name.rpartition("/")[2]
    return name.removeprefix(f"{key}/") if key else name


def stored_version(uri: str) -> str:
    """Changes when the objects at a URI change: a digest of their names, sizes and modification times."""
    found = [(name, item.size, item.modified.isoformat()) for name, item in stored_objects(uri).items()]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def matching_uris(pattern: str) -> list[str]:
    """Lists the URIs of the objects that match a pattern with *, ? or [...], sorted; a * does not match a slash.

    Raises:
        InputError: the store cannot be reached.
    """
    scheme, bucket, key = split_uri(pattern)
    store = open_store(f"{scheme}://{bucket}")
    parts = key.split("/")
    fixed = next((number for number, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    prefix = "/".join(parts[:fixed])

    def matches(name: str) -> bool:
        given = name.split("/")
        return len(given) == len(parts) and all(map(fnmatch.fnmatchcase, given, parts))

    return sorted(f"{scheme}://{bucket}/{item.name}" for item in store.list(prefix) if matches(item.name))


@contextlib.contextmanager
def fetched_file(uri: str) -> Iterator[Path]:
    """Yields a local copy of a file, deleted when the block ends."""
    store, key = _bucket_of(uri)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / key.rpartition("/")[2]
        store.download_file(key, path)
        yield path


def stored_bytes(uri: str, offset: int, length: int) -> bytes:
    """Reads a range of bytes of an object without downloading the rest."""
    from components.shared.object_store.s3 import S3Backend

    _, bucket, key = split_uri(uri)
    return S3Backend(bucket, "").read_range(key, offset, length)


def fetch_folder(uri: str, folder: str | Path, suffixes: tuple[str, ...]) -> None:
    """Downloads the files directly in a folder, or at a bucket's root, that end in one of the suffixes.

    The folder need not have been uploaded by `Store.upload_folder`.

    Raises:
        InputError: the folder does not exist, or the store cannot be reached.
    """
    wanted = {name: item for name, item in stored_objects(uri).items() if name.endswith(suffixes) and "/" not in name}
    store, _ = _bucket_of(uri)
    store.download_files([(item.name, Path(folder) / name) for name, item in wanted.items()])
