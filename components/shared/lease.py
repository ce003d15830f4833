"""Who is at work on a prefix of the object store, so that two runs of the very same do not write into each other."""

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from components.shared.object_store import Store
from components.shared.stage import note

_BEAT_SECONDS = 5.0
_NAME = "lease.json"


class Lease:
    """Holds a prefix, or another one of its own where somebody alive holds it; renewed in the background.

    Whoever holds a prefix writes a sign of life every five seconds. On the same machine a holder that died is seen at
    once by its process, elsewhere by its silence.

    Attributes:
        prefix: the one that is held.

    Args:
        store: the object store.
        prefix: the one that is wanted.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._token, self._beats = store, uuid.uuid4().hex, 0
        self.prefix = prefix
        if _is_held(store, prefix):
            self.prefix = f"{prefix}-{self._token[:8]}"
            note(f"another run of the very same is at work; this one keeps its progress apart, in {self.prefix}")
        self._stopped = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Lets go of the prefix."""
        self._stopped.set()
        self._thread.join()
        self._store.delete(f"{self.prefix}/{_NAME}")

    def _keep(self) -> None:
        while not self._stopped.wait(_BEAT_SECONDS):
            self._beat()

    def _beat(self) -> None:
        self._beats += 1
        process = psutil.Process()
        life = {
            "token": self._token,
            "beats": self._beats,
            "host": _host(),
            "process": os.getpid(),
            "started": process.create_time(),
        }
        self._store.write_bytes(f"{self.prefix}/{_NAME}", json.dumps(life).encode())


def _host() -> str:
    """Where process ids mean the same: this machine, and in it this container."""
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"


def _is_held(store: Store, prefix: str) -> bool:
    life = _read(store, prefix)
    if life is None:
        return False
    if life["host"] == _host():
        try:
            return bool(psutil.Process(life["process"]).create_time() == life["started"])
        except psutil.NoSuchProcess:
            return False
    deadline = time.monotonic() + 3 * _BEAT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1)
        if _read(store, prefix) != life:
            return True
    return False


def _read(store: Store, prefix: str) -> dict[str, Any] | None:
    name = f"{prefix}/{_NAME}"
    data = store.read_bytes(name)
    if data is None:
        return None
    life: dict[str, Any] = json.loads(data)
    return life
