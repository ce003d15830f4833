"""Leases on prefixes of the object store, so that two identical runs do not overwrite each other's progress.

A prefix is held through numbered leases, `lease-000001.json` and so on. The highest number counts; whoever takes over
from a holder that died or released it creates the next number, which a store with conditional writes grants only once.
For stores without them, each contender first writes a claim, an object of its own, and then reads the others' claims.
Of two that start at the same moment, at least one sees the other; the one with the smaller token waits until the other
withdraws.
"""

import json
import os
import re
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from components.shared.object_store import Store
from components.shared.stage import note

_HEARTBEAT_SECONDS = 5.0
_POLL_SECONDS = 1.0
_LEASE, _CLAIM = re.compile(r"lease-(\d+)\.json"), re.compile(r"claim-(\w+)\.json")


class Lease:
    """Holds a prefix, or a separate one if a live process holds it already; renewed in the background.

    A holder writes a heartbeat every five seconds. A dead holder is recognised at once on the same machine, by its
    process, and elsewhere by missing heartbeats.

    Attributes:
        prefix: the prefix that is held.

    Args:
        store: the object store.
        prefix: the prefix to acquire.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._token, self._beats = store, uuid.uuid4().hex, 0
        self._liveness = _Liveness()
        self.prefix = prefix
        number = self._acquire()
        if number is None:
            self.prefix = f"{prefix}-{self._token[:8]}"
            note(f"an identical run is active; this one keeps its progress separately, in {self.prefix}")
            number = 1
            self._store.write_bytes(self._name(number), self._heartbeat())
        self._number, self._lost = number, False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another process has taken over the prefix, after this one missed its heartbeats for too long."""
        return self._lost

    def release(self) -> None:
        """Releases the prefix. The lease's number stays, so that two contenders cannot both get the next one."""
        self._stopped.set()
        self._thread.join()
        if not self.lost:
            self._store.write_bytes(self._name(self._number), b"{}")

    def _renew(self) -> None:
        while not self._stopped.wait(_HEARTBEAT_SECONDS):
            own = self._read(self._name(self._number))
            if own.get("token") != self._token or self._read(self._name(self._number + 1)):
                self._lost = True
                return
            self._store.write_bytes(self._name(self._number), self._heartbeat())

    def _acquire(self) -> int | None:
        """Returns the number of the acquired lease; None if a live process holds the prefix or comes first."""
        claim = f"{self.prefix}/claim-{self._token}.json"
        try:
            while True:
                self._store.write_bytes(claim, self._heartbeat())
                leases, claims = self._leases_and_claims()
                newest = max(leases, default=0)
                holder = self._liveness.is_alive("lease", leases.get(newest, {}))
                others = {
                    token: self._liveness.is_alive(token, life)
                    for token, life in claims.items()
                    if token != self._token
                }
                first = min((token for token, alive in others.items() if alive is not False), default="")
                if holder or (first and first < self._token and others[first]):
                    return None
                if holder is False and not first:
                    created = self._store.create_bytes(self._name(newest + 1), self._heartbeat())
                    if created:
                        for number in leases:
                            self._store.delete(self._name(number))
                        for token in others:  # of dead contenders
                            self._store.delete(f"{self.prefix}/claim-{token}.json")
                    return newest + 1 if created else None
                time.sleep(_POLL_SECONDS)
        finally:
            self._store.delete(claim)

    def _leases_and_claims(self) -> tuple[dict[int, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Returns the leases on the prefix by number, and the claims by token.

        Reads claims first: a contender that withdraws its claim in between has written its lease before, if it got one.
        """
        claims = {token: self._read(name) for token, name in self._found(_CLAIM).items()}
        leases: dict[int, dict[str, Any]] = {}
        for number, name in self._found(_LEASE).items():
            data = self._store.read_bytes(name)
            if data is None:  # deleted meanwhile: a newer lease exists, which was not listed yet
                return self._leases_and_claims()
            leases[int(number)] = json.loads(data)
        return leases, {token: life for token, life in claims.items() if life}

    def _found(self, pattern: re.Pattern[str]) -> dict[str, str]:
        kind = pattern.pattern.partition("-")[0]
        names = [item.name for item in self._store.list(f"{self.prefix}/{kind}-")]
        matches = ((name, pattern.fullmatch(name.removeprefix(f"{self.prefix}/"))) for name in names)
        return {match[1]: name for name, match in matches if match}

    def _read(self, name: str) -> dict[str, Any]:
        """Returns the content of an object; empty if it does not exist."""
        life: dict[str, Any] = json.loads(self._store.read_bytes(name) or b"{}")
        return life

    def _name(self, number: int) -> str:
        return f"{self.prefix}/lease-{number:06d}.json"

    def _heartbeat(self) -> bytes:
        self._beats += 1
        life = {
            "token": self._token,
            "beats": self._beats,
            "host": _host(),
            "process": os.getpid(),
            "started": psutil.Process().create_time(),
        }
        return json.dumps(life).encode()


class _Liveness:
    """Tells whether other processes are alive, by comparing their successive heartbeats."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[dict[str, Any], float]] = {}

    def is_alive(self, name: str, life: dict[str, Any]) -> bool | None:
        """Whether a holder or contender is alive; None while that is unknown."""
        if not life:
            return False
        if life["host"] == _host():
            try:
                return bool(psutil.Process(life["process"]).create_time() == life["started"])
            except psutil.NoSuchProcess:
                return False
        seen, since = self._first.setdefault(name, (life, time.monotonic()))
        if seen != life:
            return True
        return False if time.monotonic() - since >= 3 * _HEARTBEAT_SECONDS else None


def _host() -> str:
    """Identifies where process ids are comparable: the machine and its PID namespace, such as a container's."""
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
