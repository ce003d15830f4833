"""Inputs of a run that lie in an object store: data sets and benchmarks as files, the base policy as a folder."""

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
    """Whether a URI points into an object store."""
    return uri.startswith(("s3://", "minio://"))


def _bucket_of(uri: str) -> tuple[Store, str]:
    """The bucket that a URI points into, as a store, and the key or the beginning of keys in it."""
    scheme, bucket, key = split_uri(uri)
    return open_store(f"{scheme}://{bucket}"), key.strip("/")


def stored_objects(uri: str) -> dict[str, StoredObject]:
    """The objects at a URI: one for a file, all below it for a folder or a bucket.

    Returns:
        Each object, named by its key, by its name below the URI; that of a file is its own, without folders.

    Raises:
        InputError: there is none, or the store cannot be reached.
    """
    store, key = _bucket_of(uri)
    found = {_below(item.name, key): item for item in store.list(key) if _is_below(item.name, key)}
    if not found:
        raise InputError(f"{uri}: there is nothing under this name")
    return {name: item for name, item in sorted(found.items()) if not name.endswith(MARKER)}


def _is_below(name: str, key: str) -> bool:
    return not key or name == key or name.startswith(f"{key}/")


def _below(name: str, key: str) -> str:
    if name == key:
        return name.rpartition("/")[2]
    return name.removeprefix(f"{key}/") if key else name


def stored_version(uri: str) -> str:
    """What changes when the objects at a URI change: a digest of names, sizes and times."""
    found = [(name, item.size, item.modified.isoformat()) for name, item in stored_objects(uri).items()]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def matching_uris(pattern: str) -> list[str]:
    """The URIs of the objects that a pattern with *, ? or [...] matches, in order; a * stops at a slash.

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
    """Gives a local copy of a file, for as long as the block runs."""
    store, key = _bucket_of(uri)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / key.rpartition("/")[2]
        store.download_file(key, path)
        yield path


def stored_bytes(uri: str, offset: int, length: int) -> bytes:
    """Some bytes of an object, without fetching the rest."""
    from components.shared.object_store.s3 import S3

    _, bucket, key = split_uri(uri)
    return S3(bucket, "").read_range(key, offset, length)


def fetch_folder(uri: str, folder: str | Path, suffixes: tuple[str, ...]) -> None:
    """Fetches the files of a folder or at a bucket's root that end so, whoever put them there, and none below.

    Raises:
        InputError: there is none, or the store cannot be reached.
    """
    wanted = {name: item for name, item in stored_objects(uri).items() if name.endswith(suffixes) and "/" not in name}
    store, _ = _bucket_of(uri)
    store.download_files([(item.name, Path(folder) / name) for name, item in wanted.items()])
