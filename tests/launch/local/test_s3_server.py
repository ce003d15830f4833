"""A run's S3 server ends with the run, and no other server is mistaken for it."""

import io
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from minio import Minio
from urllib3 import PoolManager

from components.shared.errors import InputError
from launch.local.s3_server import S3Server, _end_orphans

RUN = """
import sys, time
from pathlib import Path
from launch.local.s3_server import S3Server

server = S3Server(Path(sys.argv[1]), "bucket")
server.start()
print(server._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_it_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, tmp_path], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    server = psutil.Process(int(run.stdout.readline()))
    run.kill()
    run.communicate()
    psutil.wait_procs([server], timeout=15)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_once_started_again_it_serves_what_it_holds_at_the_first_request(tmp_path: Path) -> None:
    server = S3Server(tmp_path, "bucket")
    once = PoolManager(retries=False)
    for start in range(4):
        server.start()
        endpoint = server.endpoint.removeprefix("http://")
        client = Minio(endpoint, server.access_key, server.secret_key, secure=False, http_client=once)
        if start:
            with client.get_object("bucket", "object") as response:
                assert response.read() == b"content", f"start {start}"
        client.put_object("bucket", "object", io.BytesIO(b"content"), 7)
        assert [item.object_name for item in client.list_objects("bucket")] == ["object"]
        server.stop()


def test_one_that_was_left_behind_on_the_same_data_is_ended(tmp_path: Path) -> None:
    data = (tmp_path / "data").resolve()
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    orphans = [
        subprocess.Popen([*sleep, f"-dir={folder}"], stdout=subprocess.PIPE) for folder in (data, f"{data}-of-another")
    ]
    for orphan in orphans:
        assert orphan.stdout
        orphan.stdout.readline()
    _end_orphans(data)
    assert orphans[0].poll() is not None and orphans[1].poll() is None
    orphans[1].kill()
    for orphan in orphans:
        orphan.communicate()


def test_a_port_that_somebody_else_has_taken_is_left_to_them(tmp_path: Path) -> None:
    server = S3Server(tmp_path, "bucket")
    before = server.endpoint
    server._replace_taken_ports()
    assert server.endpoint == before
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(before.rpartition(":")[2])))
        taken.listen()
        server._replace_taken_ports()
    assert server.endpoint != before
    again = S3Server(tmp_path, "bucket")
    assert (again.endpoint, again.access_key) == (server.endpoint, server.access_key)


def test_a_server_that_dies_is_not_mistaken_for_one_that_answers(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = S3Server(tmp_path, "bucket")
    monkeypatch.setattr(server, "_ports", s3_server._ports)
    server.access_key, server.secret_key = s3_server.access_key, s3_server.secret_key
    monkeypatch.setattr("launch.local.s3_server._is_free", lambda _: True)
    with pytest.raises(InputError, match="the S3 server did not start"):
        server.start()
    assert s3_server._process and s3_server._process.poll() is None
