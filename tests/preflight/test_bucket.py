"""The bucket check against a real S3 server: SeaweedFS, as Kubeflow ships it."""

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio

from components.preflight.bucket import check_bucket
from components.shared.errors import InputError

KEY, SECRET = "rloop-key", "rloop-secret-value"


def free_port() -> int:
    """A free port whose twin is free too: SeaweedFS speaks gRPC at each of its ports plus 10,000."""
    while True:
        port = random.randrange(12_000, 50_000)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("seaweedfs")
    identity = {"name": "rloop", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = [free_port() for _ in range(4)]
    names = ("-s3.port", "-master.port", "-volume.port", "-filer.port")
    options = [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    weed = Path(sys.executable).parent / "weed"
    here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    server = subprocess.Popen(
        [weed, "server", f"-dir={folder}", *here, "-s3", f"-s3.config={folder}/s3.json", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = Minio(f"127.0.0.1:{ports[0]}", access_key=KEY, secret_key=SECRET, secure=False, region="us-east-1")
    deadline = time.monotonic() + 60
    while True:
        try:
            client.make_bucket("artifacts")
            break
        except Exception:  # whatever a server says that is not up yet
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.5)
    yield f"http://127.0.0.1:{ports[0]}"
    server.kill()
    server.wait()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_bucket_that_works_is_left_as_it_was(store: str) -> None:
    check_bucket("s3://artifacts/runs", store)
    client = Minio(store.removeprefix("http://"), KEY, SECRET, secure=False, region="us-east-1")
    assert list(client.list_objects("artifacts", recursive=True)) == []


def test_what_is_wrong_is_named_and_the_secret_is_not(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"bucket nowhere at {store}, key id {KEY}: there is no such bucket"):
        check_bucket("s3://nowhere/runs", store)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(InputError, match="SignatureDoesNotMatch|AccessDenied") as raised:
        check_bucket("s3://artifacts/runs", store)
    assert "wrong-secret" not in str(raised.value)


def test_a_wrong_endpoint_is_said_within_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match="bucket artifacts at http://127.0.0.1:1"):
        check_bucket("s3://artifacts/runs", "http://127.0.0.1:1")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("root", "endpoint"), [("artifacts/runs", None), ("s3://", None), ("s3://a/b", "seaweedfs:8333")]
)
def test_what_is_no_uri(root: str, endpoint: str | None) -> None:
    with pytest.raises(InputError, match="expected"):
        check_bucket(root, endpoint)
