"""S3 and what speaks like it, through the minio client."""

import contextlib
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import xxhash
from minio import Minio
from minio.credentials import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error, ServerError
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from components.shared.errors import InputError
from components.shared.object_store.backend import THREADS, StoredObject
from components.shared.object_store.digests import PART, composed
from components.shared.stage import note

_T = TypeVar("_T")
_RANGES_AT_ONCE = 4  # of one large file at a time
_PIECE = 1 << 20  # bytes read and written at a time
_PATIENCE = 600.0  # seconds that a store which has answered before may be away
_FIRST_PATIENCE = 6.0  # the same before it has answered once: a wrong address should be said soon
_AGAIN = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling"}
_DIGEST = "x-amz-meta-digest"
# Of a conditional write: there is an object, another such write is under way, or the store has none.
_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "NotImplemented")


class S3:
    """The objects of a bucket below a prefix.

    Raises:
        InputError: names endpoint, bucket and key id, never the secret.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        endpoint = shell_endpoint()
        self.client = new_client(endpoint)
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self.where = describe(bucket, endpoint)
        self._answered, self._large = False, threading.Lock()
        if not self._persist(lambda: self.client.bucket_exists(bucket)):
            raise InputError(f"{self.where}: no such bucket")

    def put(self, path: Path, name: str, digest: str) -> None:
        """Sends a file, with its digest as metadata; the client sends a large one in parts, three at once."""
        with self._large if path.stat().st_size > PART else contextlib.nullcontext():
            self._persist(
                lambda: self.client.fput_object(
                    self._bucket,
                    self._prefix + name,
                    str(path),
                    metadata={_DIGEST: digest},
                )
            )

    def get(self, name: str, path: Path, size: int) -> str:
        """Fetches an object, in ranges at once where it is large; returns its digest."""
        with path.open("wb", buffering=0) as file:

            def fetch(offset: int) -> str:
                length = min(PART, size - offset)
                return self._persist(lambda: self._range(name, file.fileno(), offset, length))

            if size == 0:
                return xxhash.xxh3_128_hexdigest(b"")
            if size <= PART:
                return fetch(0)
            with self._large, ThreadPoolExecutor(_RANGES_AT_ONCE) as pool:
                return composed(list(pool.map(fetch, range(0, size, PART))))

    def _range(self, name: str, file: int, offset: int, length: int) -> str:
        """Fetches a part into its place in a file, piece by piece; returns its digest."""
        part, end = xxhash.xxh3_128(), offset + length
        with self.client.get_object(self._bucket, self._prefix + name, offset, length) as response:
            while piece := response.read(_PIECE, decode_content=False):  # as stored, whatever its Content-Encoding
                part.update(piece)
                os.pwrite(file, piece, offset)
                offset += len(piece)
        if offset != end:
            raise HTTPError(f"{name}: {end - offset} bytes are missing")
        return part.hexdigest()

    def digest(self, name: str) -> str | None:
        """The digest that came with an object as metadata."""
        found = self._persist(
            lambda: self._unless_missing(lambda: self.client.stat_object(self._bucket, self._prefix + name))
        )
        return found.metadata.get(_DIGEST) if found else None

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None if there is none."""

        def fetch() -> bytes:
            with self.client.get_object(self._bucket, self._prefix + name) as response:
                return bytes(response.read(decode_content=False))

        return self._persist(lambda: self._unless_missing(fetch))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Some bytes of an object."""

        def fetch() -> bytes:
            with self.client.get_object(self._bucket, self._prefix + name, offset, length) as response:
                return bytes(response.read(decode_content=False))

        return self._persist(fetch) if length else b""

    def write(self, name: str, data: bytes) -> None:
        """Writes a small object."""
        self._persist(lambda: self.client.put_object(self._bucket, self._prefix + name, io.BytesIO(data), len(data)))

    def create(self, name: str, data: bytes) -> bool:
        """Writes a small object unless there is one, by If-None-Match (AWS, MinIO, SeaweedFS and others)."""
        key = self._prefix + name
        try:
            # The client's put_object takes no such header.
            self._persist(lambda: self.client._put_object(self._bucket, key, data, {"If-None-Match": "*"}), _REFUSED)
        except S3Error as error:
            if error.code == "NotImplemented":
                self.write(name, data)
                return True
            # What was asked again, since no answer came, may find its own.
            return self.read(name) == data
        return True

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose name starts so."""
        found = self._persist(lambda: [*self.client.list_objects(self._bucket, self._prefix + prefix, recursive=True)])
        for item in found:
            yield StoredObject(item.object_name.removeprefix(self._prefix), item.size, item.last_modified)

    def remove(self, names: Sequence[str]) -> None:
        """Removes objects, a thousand a request, in the order given."""
        for start in range(0, len(names), 1000):
            batch = [DeleteObject(self._prefix + name) for name in names[start : start + 1000]]
            errors = self._persist(lambda batch=batch: [*self.client.remove_objects(self._bucket, batch)])  # type: ignore[misc]
            if errors:
                raise InputError(f"{self.where}: {errors[0].name} cannot be removed: {errors[0].message}")

    @staticmethod
    def _unless_missing(call: Callable[[], _T]) -> _T | None:
        try:
            return call()
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return None
            raise

    def _persist(self, call: Callable[[], _T], passed_on: Sequence[str] = ()) -> _T:
        """Makes a call again, with growing pauses, where it failed for a reason that may pass.

        Errors whose code is in `passed_on` are raised as they are.
        """
        began, pause = time.monotonic(), 0.5
        while True:
            try:
                done = call()
                self._answered = True
                return done
            except S3Error as error:
                if error.code in passed_on:
                    raise
                if error.code not in _AGAIN:
                    raise InputError(f"{self.where}: {error.code}: {error.message}") from None
                problem: Exception = error
            except (HTTPError, ServerError, ConnectionError) as error:
                problem = error
            except (MinioException, ValueError) as error:
                raise InputError(f"{self.where}: {type(error).__name__}: {str(error)[:300]}") from None
            waited = time.monotonic() - began
            if waited > (_PATIENCE if self._answered else _FIRST_PATIENCE):
                raise InputError(f"{self.where}: no answer for {waited:.0f} s: {str(problem)[:300]}") from None
            if self._answered and pause > 2:
                note(f"{self.where} does not answer; trying again")
            time.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(2 * pause, 15.0)


def shell_endpoint() -> str | None:
    """The endpoint that this process's environment names; None for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def new_client(endpoint: str | None) -> Minio:
    """A client for an endpoint, with the credentials of the environment, the AWS files, or a role.

    Args:
        endpoint: URL of the store; None for AWS.

    Raises:
        InputError: the endpoint is no URL.
    """
    try:
        url = urlsplit(endpoint or "https://s3.amazonaws.com")
        named = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number, brackets without an end
        named = False
    if not named:
        raise InputError(f"S3 endpoint {endpoint!r}: expected a URL such as http://seaweedfs:8333")
    if url.path.strip("/") or url.query or url.fragment or url.username:
        shown = f"{url.scheme}://{'...@' if url.username else ''}{url.netloc.rpartition('@')[2]}{url.path}"
        raise InputError(
            f"S3 endpoint {shown}: expected no more than http://HOST:PORT; buckets and prefixes stand in the URIs, "
            f"keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and not Path(bundle).exists():
        raise InputError(f"AWS_CA_BUNDLE: there is no {bundle}; expected a file or folder with certificates in PEM")
    trusted: dict[str, Any] = (
        {"ca_cert_dir" if Path(bundle).is_dir() else "ca_certs": bundle} if bundle else {}
    )  # else the system's
    providers = [EnvAWSProvider(), AWSConfigProvider()]
    if not endpoint or "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ:
        providers.append(IamAwsProvider())  # asks the machine's metadata service, which only a cloud has
    return Minio(
        url.netloc,
        secure=url.scheme == "https",
        credentials=ChainedProvider(providers),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        http_client=PoolManager(
            maxsize=THREADS * _RANGES_AT_ONCE,
            block=False,
            timeout=Timeout(connect=5, read=60),
            retries=False,
            **trusted,
        ),
    )


def describe(bucket: str, endpoint: str | None) -> str:
    """Where something went wrong, for messages: bucket, endpoint and key id."""
    key = os.environ.get("AWS_ACCESS_KEY_ID", "of a file or role")
    return f"bucket {bucket} at {endpoint or 'https://s3.amazonaws.com'}, key id {key}"
