"""Checks that the artifacts' bucket can be reached, written and read with this shell's credentials."""

import io
import uuid

from components.shared.errors import InputError
from components.shared.object_store.store import split_uri


def check_bucket(pipeline_root: str, endpoint: str | None) -> None:
    """Writes a small object under a pipeline root, reads it back and deletes it.

    Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the AWS files, or the machine's role.

    Args:
        pipeline_root: s3://BUCKET/PREFIX or minio://BUCKET/PREFIX.
        endpoint: URL of the object store; None for AWS.

    Raises:
        InputError: names the endpoint, the bucket and the key id, never the secret.
    """
    from minio.error import MinioException, S3Error
    from urllib3.exceptions import HTTPError

    from components.shared.object_store.s3 import describe, new_client

    scheme, bucket, key = split_uri(pipeline_root)
    if scheme not in ("s3", "minio") or not bucket:
        raise InputError(f"--pipeline-root {pipeline_root!r}: expected s3://BUCKET/PREFIX or minio://BUCKET/PREFIX")
    client, where = new_client(endpoint), describe(bucket, endpoint)
    name = f"{key.strip('/')}/rloop-check-{uuid.uuid4().hex}".lstrip("/")
    content = b"written by the rloop bucket check; safe to delete"
    try:
        if not client.bucket_exists(bucket):  # some stores create it on the first write
            raise InputError(f"{where}: no such bucket")
        client.put_object(bucket, name, io.BytesIO(content), len(content))
        with client.get_object(bucket, name) as response:
            read = response.read()
        client.remove_object(bucket, name)
    except S3Error as error:
        raise InputError(f"{where}: {error.code}: {error.message}") from None
    except (HTTPError, MinioException, ValueError, OSError) as error:
        raise InputError(f"{where}: {type(error).__name__}: {str(error)[:200]}") from None
    if read != content:
        raise InputError(f"{where}: the object read back differs from the one written")
