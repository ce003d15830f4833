"""S3 and compatible stores, through the minio client."""

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
from components.shared.object_store.digests import PART, combined_digest
from components.shared.stage import note

_T = TypeVar("_T")
_PARALLEL_RANGES = 4  # of one large file
_CHUNK = 1 << 20  # bytes read and written at a time
_RETRY_SECONDS = 600.0  # to retry requests to a store that has answered before
_FIRST_RETRY_SECONDS = 6.0  # to retry the first request: a wrong address should be reported soon
_RETRYABLE = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling"}
_DIGEST = "x-amz-meta-digest"
# Errors of a conditional write: the object exists, another such write is in progress, or the store supports none.
_CONDITION_FAILED = ("PreconditionFailed", "ConditionalRequestConflict", "NotImplemented")


class S3Backend:
    """The objects of a bucket below a prefix.

    Raises:
        InputError: names the endpoint, the bucket and the key id, never the secret.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        endpoint = shell_endpoint()
        self.client = new_client(endpoint)
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self.where = describe(bucket, endpoint)
        self._answered, self._large = False, threading.Lock()
        if not self._retry(lambda: self.client.bucket_exists(bucket)):
            raise InputError(f"{self.where}: no such bucket")

    def put(self, path: Path, name: str, digest: str) -> None:
        """Uploads a file with its digest as metadata; the client uploads a large one in parts, three at a time."""
        with self._large if path.stat().st_size > PART else contextlib.nullcontext():
            self._retry(
                lambda: self.client.fput_object(
                    self._bucket,
                    self._prefix + name,
                    str(path),
                    metadata={_DIGEST: digest},
                )
            )

    def get(self, name: str, path: Path, size: int) -> str:
        """Downloads an object, a large one in parallel ranges; returns its digest."""
        with path.open("wb", buffering=0) as file:

            def fetch(offset: int) -> str:
                length = min(PART, size - offset)
                return self._retry(lambda: self._range(name, file.fileno(), offset, length))

            if size == 0:
                return xxhash.xxh3_128_hexdigest(b"")
            if size <= PART:
                return fetch(0)
            with self._large, ThreadPoolExecutor(_PARALLEL_RANGES) as pool:
                return combined_digest(list(pool.map(fetch, range(0, size, PART))))

    def _range(self, name: str, file: int, offset: int, length: int) -> str:
        """Downloads a part to its place in a file, chunk by chunk; returns its digest."""
        part, end = xxhash.xxh3_128(), offset + length
        with self.client.get_object(self._bucket, self._prefix + name, offset, length) as response:
            while chunk := response.read(_CHUNK, decode_content=False):  # as stored, whatever its Content-Encoding
                part.update(chunk)
                os.pwrite(file, chunk, offset)
                offset += len(chunk)
        if offset != end:
            raise HTTPError(f"{name}: {end - offset} bytes are missing")
        return part.hexdigest()

    def digest(self, name: str) -> str | None:
        """Returns the digest stored as an object's metadata; None if there is no digest or no object."""
        found = self._retry(
            lambda: self._none_if_missing(lambda: self.client.stat_object(self._bucket, self._prefix + name))
        )
        return found.metadata.get(_DIGEST) if found else None

    def read(self, name: str) -> bytes | None:
        """Returns the content of a small object; None if it does not exist."""

        def fetch() -> bytes:
            with self.client.get_object(self._bucket, self._prefix + name) as response:
                return bytes(response.read(decode_content=False))

        return self._retry(lambda: self._none_if_missing(fetch))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Reads a range of bytes of an object."""

        def fetch() -> bytes:
            with self.client.get_object(self._bucket, self._prefix + name, offset, length) as response:
                return bytes(response.read(decode_content=False))

        return self._retry(fetch) if length else b""

    def write(self, name: str, data: bytes) -> None:
        """Writes a small object."""
        self._retry(lambda: self.client.put_object(self._bucket, self._prefix + name, io.BytesIO(data), len(data)))

    def create(self, name: str, data: bytes) -> bool:
        """Writes a small object unless it exists, with If-None-Match (AWS, MinIO, SeaweedFS and others)."""
        key = self._prefix + name
        try:
            # The client's put_object does not accept this header.
            self._retry(
                lambda: self.client._put_object(self._bucket, key, data, {"If-None-Match": "*"}), _CONDITION_FAILED
            )
        except S3Error as error:
            if error.code == "NotImplemented":
                self.write(name, data)
                return True
            # A retried request whose first answer was lost may find its own object.
            return self.read(name) == data
        return True

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Lists all objects whose names start with a prefix."""
        found = self._retry(lambda: [*self.client.list_objects(self._bucket, self._prefix + prefix, recursive=True)])
        for item in found:
            yield StoredObject(item.object_name.removeprefix(self._prefix), item.size, item.last_modified)

    def remove(self, names: Sequence[str]) -> None:
        """Deletes objects in the given order, a thousand per request."""
        for start in range(0, len(names), 1000):
            batch = [DeleteObject(self._prefix + name) for name in names[start : start + 1000]]
            errors = self._retry(lambda batch=batch: [*self.client.remove_objects(self._bucket, batch)])  # type: ignore[misc]
            if errors:
                raise InputError(f"{self.where}: cannot delete {errors[0].name}: {errors[0].message}")

    @staticmethod
    def _none_if_missing(call: Callable[[], _T]) -> _T | None:
        try:
            return call()
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return None
            raise

    def _retry(self, call: Callable[[], _T], passed_on: Sequence[str] = ()) -> _T:
        """Makes a call, and retries it with growing pauses if it failed for a reason that may be transient.

        Errors with a code in `passed_on` are raised as they are.
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
                if error.code not in _RETRYABLE:
                    raise InputError(f"{self.where}: {error.code}: {error.message}") from None
                problem: Exception = error
            except (HTTPError, ServerError, ConnectionError) as error:
                problem = error
            except (MinioException, ValueError) as error:
                raise InputError(f"{self.where}: {type(error).__name__}: {str(error)[:300]}") from None
            waited = time.monotonic() - began
            if waited > (_RETRY_SECONDS if self._answered else _FIRST_RETRY_SECONDS):
                raise InputError(f"{self.where}: no response for {waited:.0f} s: {str(problem)[:300]}") from None
            if self._answered and pause > 2:
                answer = f"answers {problem.code}" if isinstance(problem, S3Error) else "is not responding"
                note(f"{self.where} {answer}; retrying")
            time.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(2 * pause, 15.0)


def shell_endpoint() -> str | None:
    """The endpoint set in this process's environment; None for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def new_client(endpoint: str | None) -> Minio:
    """Returns a client for an endpoint, with credentials from the environment, the AWS files, or a role.

    Args:
        endpoint: URL of the object store; None for AWS.

    Raises:
        InputError: the endpoint is not a URL.
    """
    try:
        url = urlsplit(endpoint or "https://s3.amazonaws.com")
        named = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is not a number, unclosed brackets
        named = False
    if not named:
        raise InputError(f"S3 endpoint {endpoint!r}: expected a URL such as http://seaweedfs:8333")
    if url.path.strip("/") or url.query or url.fragment or url.username:
        shown = f"{url.scheme}://{'...@' if url.username else ''}{url.netloc.rpartition('@')[2]}{url.path}"
        raise InputError(
            f"S3 endpoint {shown}: expected only http://HOST:PORT; put buckets and prefixes in the URIs, and "
            f"keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle and not Path(bundle).exists():
        raise InputError(f"AWS_CA_BUNDLE: {bundle} does not exist; expected a file or folder with PEM certificates")
    # Without a bundle, the system's certificates are trusted.
    trusted: dict[str, Any] = {"ca_cert_dir" if Path(bundle).is_dir() else "ca_certs": bundle} if bundle else {}
    providers = [EnvAWSProvider(), AWSConfigProvider()]
    if not endpoint or "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ:
        providers.append(IamAwsProvider())  # queries the instance metadata service, which only clouds have
    return Minio(
        url.netloc,
        secure=url.scheme == "https",
        credentials=ChainedProvider(providers),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        http_client=PoolManager(
            maxsize=THREADS * _PARALLEL_RANGES,
            block=False,
            timeout=Timeout(connect=5, read=60),
            retries=False,
            **trusted,
        ),
    )


def describe(bucket: str, endpoint: str | None) -> str:
    """Bucket, endpoint and key id, for error messages."""
    key = os.environ.get("AWS_ACCESS_KEY_ID", "from a file or role")
    return f"bucket {bucket} at {endpoint or 'https://s3.amazonaws.com'}, key id {key}"
