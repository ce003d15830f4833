"""The object store, on a real S3 server and on a local folder alike."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import certifi
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from minio import Minio, S3Error
from urllib3 import HTTPResponse

from components.shared.errors import InputError
from components.shared.object_store import Store, open_store
from components.shared.object_store.digests import PART, digest_of
from components.shared.object_store.inputs import fetched_file, stored_bytes, stored_objects
from components.shared.object_store.s3 import new_client
from components.shared.object_store.store import MARKER
from launch.local.s3_server import S3Server


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    server = request.getfixturevalue("s3")
    return open_store(f"s3://{server.bucket}/{request.node.name.replace('[', '-').replace(']', '')}")


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FILES = {"config.json": b"{}", "a/b/weights.safetensors": b"w" * 100_000, "empty": b"", "with space é.txt": b"x"}


def test_a_folder_goes_and_comes_whole(store: Store, tmp_path: Path) -> None:
    assert not store.complete("policy")
    store.upload_folder(tree(tmp_path / "in", FILES), "policy")
    assert store.complete("policy")
    store.download_folder("policy", tmp_path / "out")
    assert content(tmp_path / "out") == FILES
    assert sorted(item.name for item in store.list("policy/")) == sorted(f"policy/{n}" for n in [*FILES, MARKER])
    store.delete("policy")
    assert list(store.list()) == [] and not store.complete("policy")


def test_what_is_there_is_not_sent_again_and_what_changed_is(store: Store, tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", FILES)
    store.upload_folder(folder, "p")
    before = {item.name: item.modified for item in store.list("p/")}
    time.sleep(1.1)  # S3 knows whole seconds
    tree(folder, {"config.json": b"[]"})
    (folder / "empty").unlink()
    store.upload_folder(folder, "p")
    after = {item.name: item.modified for item in store.list("p/")}
    assert {name for name in after if before.get(name) != after[name]} == {"p/config.json", f"p/{MARKER}"}
    assert "p/empty" not in after
    store.download_folder("p", tmp_path / "out")
    assert content(tmp_path / "out") == content(folder)


def test_a_corrupt_or_half_object_is_found_and_replaced(store: Store, tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", FILES)
    store.upload_folder(folder, "p")
    store.write_bytes("p/a/b/weights.safetensors", b"v" * 100_000)
    with pytest.raises(InputError, match="weights.safetensors is corrupt"):
        store.download_folder("p", tmp_path / "out")
    assert not (tmp_path / "out" / "a" / "b" / "weights.safetensors").exists()
    store.write_bytes("p/config.json", b"{")
    assert not store.complete("p")
    store.upload_folder(folder, "p")
    store.download_folder("p", tmp_path / "out")
    assert content(tmp_path / "out") == FILES


def test_a_folder_that_is_being_replaced_is_not_whole_whatever_the_sizes(store: Store, tmp_path: Path) -> None:
    """Killed after any of its changes: the store looks as it did after that one."""
    old = {"model-1.safetensors": b"a" * 100, "model-2.safetensors": b"a" * 100}
    new = dict.fromkeys(old, b"b" * 100)
    store.upload_folder(tree(tmp_path / "old", old), "p")
    backend, seen = store._backend, []

    def looked_after(call: Any) -> Any:
        def then_look(*arguments: Any) -> None:
            call(*arguments)
            seen.append((store.complete("p"), backend.read(f"p/{MARKER}") is not None))

        return then_look

    for name in ("put", "write"):
        setattr(backend, name, looked_after(getattr(backend, name)))
    store.upload_folder(tree(tmp_path / "new", new), "p")
    assert seen == [(False, False), (False, False), (True, True)]
    store.upload_folder(tmp_path / "new", "p")
    assert len(seen) == 3, "what is there as a whole is not touched"
    (tmp_path / "new" / "model-2.safetensors").unlink()
    store.upload_folder(tmp_path / "new", "p")
    assert seen[3:] == [(True, True)]
    store.download_folder("p", tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "new")


def test_another_content_of_the_same_size_is_not_the_whole_folder(store: Store, tmp_path: Path) -> None:
    store.upload_folder(tree(tmp_path / "in", FILES), "p")
    (tmp_path / "other").write_bytes(b"[]")
    store.upload_file(tmp_path / "other", "p/config.json")
    assert not store.complete("p")


def test_an_object_is_created_once(store: Store) -> None:
    answers: list[bool] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        answers.append(store.create_bytes("one", b"%d" % number))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]
    before = store.read_bytes("one")
    assert not store.create_bytes("one", b"later") and store.read_bytes("one") == before
    assert [item.name for item in store.list()] == ["one"]


def test_local_files_that_are_right_are_left_alone(store: Store, tmp_path: Path) -> None:
    store.upload_folder(tree(tmp_path / "in", FILES), "p")
    tree(tmp_path / "out", {"config.json": b"{}", "a/b/weights.safetensors": b"other"})
    before = (tmp_path / "out" / "config.json").stat().st_ino
    store.download_folder("p", tmp_path / "out")
    assert content(tmp_path / "out") == FILES and (tmp_path / "out" / "config.json").stat().st_ino == before


def test_an_incomplete_folder_is_said_to_be(store: Store, tmp_path: Path) -> None:
    store.write_bytes("p/config.json", b"{}")
    with pytest.raises(InputError, match="is not complete"):
        store.download_folder("p", tmp_path / "out")
    with pytest.raises(InputError, match="no such object: nothing"):
        store.download_file("nothing", tmp_path / "x")


def test_names_that_point_out_of_the_folder_are_refused(store: Store, tmp_path: Path) -> None:
    entry = {"size": 1, "digest": "0" * 64}
    for name in ("../escaped", "/escaped", "a/../../escaped", "a\\b"):
        store.write_bytes(f"p/{MARKER}", json.dumps({"files": {name: entry}}).encode())
        with pytest.raises(InputError, match="lists a file outside"):
            store.download_folder("p", tmp_path / "out" / "deep")
    assert not (tmp_path / "escaped").exists() and not (tmp_path / "out" / "escaped").exists()


def test_large_files_go_in_parts(s3: Any, tmp_path: Path) -> None:
    data = os.urandom(3 * PART + 1)
    store = open_store(f"s3://{s3.bucket}/large")
    store.upload_folder(tree(tmp_path / "in", {"model.safetensors": data}), "p", "MiB sent")
    etag = store._backend.client.stat_object(s3.bucket, "large/p/model.safetensors").etag  # type: ignore[attr-defined]
    assert int(etag.rpartition("-")[2]) > 1, "in parts"
    store.download_folder("p", tmp_path / "out", "MiB fetched")
    assert content(tmp_path / "out") == {"model.safetensors": data}


def test_a_digest_tells_every_change(tmp_path: Path) -> None:
    data = bytearray(os.urandom(2 * PART + 1))
    path, digests = tmp_path / "file", set()
    for size in (0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1):
        path.write_bytes(data[:size])
        digests.add(digest_of(path))
    for at in (0, PART - 1, PART, 2 * PART):
        changed = data.copy()
        changed[at] ^= 1
        path.write_bytes(changed)
        digests.add(digest_of(path))
    path.write_bytes(data[PART : 2 * PART] + data[:PART] + data[2 * PART :])
    digests.add(digest_of(path))
    assert len(digests) == 12


characters = st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/\\%+")
names = st.lists(st.text(characters, min_size=1, max_size=12), min_size=1, max_size=3).map("/".join)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(names, st.binary(max_size=300), max_size=6))
def test_any_tree_comes_back_as_it_was(store: Store, tmp_path_factory: Any, files: dict[str, bytes]) -> None:
    paths = [tuple(name.split("/")) for name in files]
    assume(not any({".", ".."} & set(path) for path in paths))
    assume(not any(p != q and q[: len(p)] == p for p in paths for q in paths))  # a file is no folder
    folder = tmp_path_factory.mktemp("tree")
    store.upload_folder(tree(folder / "in", files) if files else folder, "t")
    store.download_folder("t", folder / "out")
    assert content(folder / "out") == files


@pytest.mark.parametrize(
    ("changes", "uri", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}, "s3://artifacts/x", "SignatureDoesNotMatch|AccessDenied"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "s3://artifacts/x", "key id nobody: .*InvalidAccessKeyId|AccessDenied"),
        ({}, "s3://nowhere/x", "bucket nowhere at http://127.0.0.1:.*: no such bucket"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, "s3://artifacts/x", "http://127.0.0.1:1, key id .*no response"),
        ({"AWS_ENDPOINT_URL_S3": "127.0.0.1:1"}, "s3://artifacts/x", "expected a URL"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:x"}, "s3://artifacts/x", "expected a URL"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1/bucket"}, "s3://artifacts/x", "expected only http://HOST:PORT"),
        ({"AWS_ENDPOINT_URL_S3": "http://id:a-wrong-secret@127.0.0.1:1"}, "s3://artifacts/x", "S3 endpoint http://...@127"),
        ({"AWS_CA_BUNDLE": "/no/such.pem"}, "s3://artifacts/x", "AWS_CA_BUNDLE: /no/such.pem does not exist"),
        ({}, "file://host/x", "is on the host 'host'"),
        ({}, "s3:///x", "has no bucket"),
        ({}, "gs://bucket/x", "unknown kind of store"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_within_seconds(
    s3: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], uri: str, message: str
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(InputError, match=message) as raised:
        open_store(uri)
    assert time.monotonic() - began < 15
    assert s3.secret_key not in str(raised.value) and "a-wrong-secret" not in str(raised.value)


def test_a_server_in_trouble_is_asked_again_and_what_it_answers_is_told(
    s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(f"s3://{s3.bucket}/troubled")
    store.write_bytes("object", b"content")
    read, troubles = Minio.get_object, [S3Error(HTTPResponse(), "InternalError", "", "", "", "")] * 4

    def get_object(*arguments: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return read(*arguments)

    monkeypatch.setattr(Minio, "get_object", get_object)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert store.read_bytes("object") == b"content" and troubles == []
    assert capsys.readouterr().out.rstrip().endswith("answers InternalError; retrying")


SENDER = (
    "import re, sys; from pathlib import Path; from components.shared.object_store import open_store\n"
    "open_store(sys.argv[1]).upload_folder(Path(sys.argv[2]), 'p')"
)


def test_a_sender_that_is_killed_leaves_nothing_that_looks_whole(s3: Any, tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", {f"{i:04d}.bin": os.urandom(50_000) for i in range(1500)})
    uri = f"s3://{s3.bucket}/killed"
    process = subprocess.Popen([sys.executable, "-c", SENDER, uri, str(folder)])
    store = open_store(uri)
    while sum(1 for _ in store.list("p/")) < 100:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {item.name: item.modified for item in store.list("p/")}
    assert not store.complete("p") and 100 <= len(there) < 1500
    time.sleep(1.1)
    store.upload_folder(folder, "p")
    after = {item.name: item.modified for item in store.list("p/")}
    assert store.complete("p") and all(after[name] == modified for name, modified in there.items())


@pytest.mark.slow
def test_a_server_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server(tmp_path / "server", "bucket")
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    folder = tree(tmp_path / "in", {f"{i:04d}.bin": os.urandom(20_000) for i in range(1200)})
    store = open_store("s3://bucket/x")
    sending = threading.Thread(target=store.upload_folder, args=(folder, "p"))
    sending.start()
    time.sleep(0.4)
    server.stop()
    time.sleep(20)
    server.start()
    sending.join(120)
    assert not sending.is_alive() and store.complete("p")
    store.download_folder("p", tmp_path / "out")
    assert content(tmp_path / "out") == content(folder)
    server.stop()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_folder(s3: Any, tmp_path: Path) -> None:
    peaks = []
    for size in (256, 1024):
        folder = tmp_path / f"in{size}"
        folder.mkdir()
        for i in range(2):  # files with more parts than are held at once
            with (folder / f"{i}.bin").open("wb") as file:
                for _ in range(size // 2):
                    file.write(os.urandom(1 << 20))
        program = SENDER + (
            "\nopen_store(sys.argv[1]).download_folder('p', Path(sys.argv[3]))\n"
            # Not getrusage, whose peak begins with that of the process that started this one.
            "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
        )
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                f"s3://{s3.bucket}/memory{size}",
                str(folder),
                str(tmp_path / f"out{size}"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] * 1.3 + 50 and peaks[1] < 600, peaks


KEYS = st.text(st.sampled_from("ab #?%&+=;,@()[]~'20é/"), min_size=1, max_size=12).filter(
    lambda key: "//" not in key and not key.startswith("/") and not key.endswith(("/", " ")) and key.strip()
)


@given(KEYS, KEYS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_character_of_a_key_counts(s3: Any, tmp_path: Path, prefix: str, name: str) -> None:
    """Against a real server: what is written under a URI is read under the very same, and under no other."""
    content = f"{prefix}\n{name}".encode()
    open_store(f"s3://artifacts/keys/{prefix}").write_bytes(name, content)
    assert open_store("s3://artifacts").read_bytes(f"keys/{prefix}/{name}") == content
    assert any(item.name == f"keys/{prefix}/{name}" for item in open_store("s3://artifacts").list("keys/"))
    with fetched_file(f"s3://artifacts/keys/{prefix}/{name}") as path:
        assert path.read_bytes() == content
    assert stored_bytes(f"s3://artifacts/keys/{prefix}/{name}", 1, 3) == content[1:4]
    assert list(stored_objects(f"s3://artifacts/keys/{prefix}/{name}")) == [name.rpartition("/")[2]]


def test_a_bundle_of_certificates_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    bundle = tmp_path / "ca.pem"
    bundle.write_text(Path(certifi.where()).read_text())
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    assert new_client("https://127.0.0.1:1")._http.connection_pool_kw["ca_certs"] == str(bundle)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path))
    assert new_client("https://127.0.0.1:1")._http.connection_pool_kw["ca_cert_dir"] == str(tmp_path)
