"""Who is at work on a prefix of the object store, so that two runs of the very same do not write into each other.

A prefix is held through numbered leases, `lease-000001.json` and so on. The one with the highest number counts; whoever
takes over from a holder that died or let go writes the next number, unless there is one, as a store with conditional
writes decides. For stores without, each contender first writes a claim, an object of its own, and then looks. Of two
that start at the same moment one at least sees the other; the one with the smaller token waits until the other
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

_BEAT_SECONDS = 5.0
_POLL_SECONDS = 1.0
_LEASE, _CLAIM = re.compile(r"lease-(\d+)\.json"), re.compile(r"claim-(\w+)\.json")


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
        self._signs = _Signs()
        self.prefix = prefix
        number = self._acquired()
        if number is None:
            self.prefix = f"{prefix}-{self._token[:8]}"
            note(f"another run of the very same is at work; this one keeps its progress apart, in {self.prefix}")
            number = 1
            self._store.write_bytes(self._name(number), self._life())
        self._number, self._taken_over = number, False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another one has taken the prefix, after this one gave no sign of life for long; then it is theirs."""
        return self._taken_over

    def release(self) -> None:
        """Lets go of the prefix. Its number stays, so that two that look at this moment cannot both have the next."""
        self._stopped.set()
        self._thread.join()
        if not self.lost:
            self._store.write_bytes(self._name(self._number), b"{}")

    def _keep(self) -> None:
        while not self._stopped.wait(_BEAT_SECONDS):
            own = self._read(self._name(self._number))
            if own.get("token") != self._token or self._read(self._name(self._number + 1)):
                self._taken_over = True
                return
            self._store.write_bytes(self._name(self._number), self._life())

    def _acquired(self) -> int | None:
        """The number of the lease on the prefix; None where somebody alive holds it or is first."""
        claim = f"{self.prefix}/claim-{self._token}.json"
        try:
            while True:
                self._store.write_bytes(claim, self._life())
                leases, claims = self._look()
                newest = max(leases, default=0)
                holder = self._signs.of("lease", leases.get(newest, {}))
                others = {token: self._signs.of(token, life) for token, life in claims.items() if token != self._token}
                first = min((token for token, alive in others.items() if alive is not False), default="")
                if holder or (first and first < self._token and others[first]):
                    return None
                if holder is False and not first:
                    created = self._store.create_bytes(self._name(newest + 1), self._life())
                    if created:
                        for number in leases:
                            self._store.delete(self._name(number))
                        for token in others:  # of those that died
                            self._store.delete(f"{self.prefix}/claim-{token}.json")
                    return newest + 1 if created else None
                time.sleep(_POLL_SECONDS)
        finally:
            self._store.delete(claim)

    def _look(self) -> tuple[dict[int, dict[str, Any]], dict[str, dict[str, Any]]]:
        """The leases on the prefix by number, and the claims by token.

        Claims first: whoever has withdrawn one meanwhile has written a lease before, if it got it.
        """
        claims = {token: self._read(name) for token, name in self._found(_CLAIM).items()}
        leases: dict[int, dict[str, Any]] = {}
        for number, name in self._found(_LEASE).items():
            data = self._store.read_bytes(name)
            if data is None:  # removed meanwhile: there is a newer one, which was not listed yet
                return self._look()
            leases[int(number)] = json.loads(data)
        return leases, {token: life for token, life in claims.items() if life}

    def _found(self, pattern: re.Pattern[str]) -> dict[str, str]:
        kind = pattern.pattern.partition("-")[0]
        names = [item.name for item in self._store.list(f"{self.prefix}/{kind}-")]
        matches = ((name, pattern.fullmatch(name.removeprefix(f"{self.prefix}/"))) for name in names)
        return {match[1]: name for name, match in matches if match}

    def _read(self, name: str) -> dict[str, Any]:
        """What is in an object; nothing where there is none."""
        life: dict[str, Any] = json.loads(self._store.read_bytes(name) or b"{}")
        return life

    def _name(self, number: int) -> str:
        return f"{self.prefix}/lease-{number:06d}.json"

    def _life(self) -> bytes:
        self._beats += 1
        life = {
            "token": self._token,
            "beats": self._beats,
            "host": _host(),
            "process": os.getpid(),
            "started": psutil.Process().create_time(),
        }
        return json.dumps(life).encode()


class _Signs:
    """Signs of life of others, from one look to the next."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[dict[str, Any], float]] = {}

    def of(self, name: str, life: dict[str, Any]) -> bool | None:
        """Whether a holder or contender is alive; None as long as that is not known."""
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
        return False if time.monotonic() - since >= 3 * _BEAT_SECONDS else None


def _host() -> str:
    """Where process ids mean the same: this machine, and in it this container."""
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
