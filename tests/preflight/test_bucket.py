"""The bucket check against a real S3 server: SeaweedFS, as Kubeflow ships it."""

import time
from pathlib import Path
from typing import Any

import pytest

from components.preflight.bucket import check_bucket
from components.shared.errors import InputError
from components.shared.object_store.s3 import new_client


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no AWS files of whoever runs the tests


def test_a_bucket_that_works_is_left_as_it_was(s3: Any) -> None:
    check_bucket("s3://artifacts/runs", s3.endpoint)
    client = new_client(s3.endpoint)
    assert list(client.list_objects("artifacts", "runs/", recursive=True)) == []


def test_what_is_wrong_is_named_and_the_secret_is_not(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"bucket nowhere at {s3.endpoint}, key id {s3.access_key}"
    with pytest.raises(InputError, match=f"{where}: no such bucket"):
        check_bucket("s3://nowhere/runs", s3.endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(InputError, match="SignatureDoesNotMatch|AccessDenied") as raised:
        check_bucket("s3://artifacts/runs", s3.endpoint)
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
