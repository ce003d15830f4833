"""Of several runs of the very same, one holds the prefix, however their calls fall."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from components.shared.object_store import Store, open_store
from components.shared.progress import lease as module
from components.shared.progress.lease import Lease

ELSEWHERE = {"token": "x", "beats": 1, "host": "another", "process": 1, "started": 0.0}

# Two of these stop after they have looked (or before they write), until both are there; then both go on.
CONTENDER = """
import sys, time
from pathlib import Path
from components.shared.progress import lease
from components.shared.object_store import open_store

uri, folder, own, stops_at, conditional, sees_claims = sys.argv[1:]
store, folder = open_store(uri), Path(folder)
backend = store._backend

def meet():
    (folder / own).touch()
    deadline = time.monotonic() + 5
    while len(list(folder.glob("contender-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)

def wrapped(call, name):
    def with_stop(*arguments):
        if name == "write" and stops_at == "write" and "/lease-" in arguments[0]:
            meet()
        done = call(*arguments)
        if name == "list":
            done = [item for item in done if sees_claims == "yes" or "/claim-" not in item.name]
            if stops_at == "look" and arguments[0].endswith("/lease-"):
                meet()
        return done
    return with_stop

for name in ("list", "write", "create"):
    setattr(backend, name, wrapped(getattr(backend, name), "write" if name == "create" else name))
if conditional == "no":
    backend.create = lambda name, data: backend.write(name, data) or True
held = lease.Lease(store, "rft/abc")
print("holds" if held.prefix == "rft/abc" else "apart", flush=True)
sys.stdin.readline()
held.release()
"""


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "progress")
    server = request.getfixturevalue("s3")
    return f"s3://{server.bucket}/lease-{time.monotonic_ns()}"


@pytest.mark.parametrize(
    ("stops_at", "conditional", "sees_claims"),
    [
        ("look", "yes", "yes"),
        ("look", "no", "yes"),  # a store without conditional writes: the claims decide
        ("look", "yes", "no"),  # claims that come too late to be seen: the store decides
        ("write", "yes", "no"),
    ],
)
def test_of_two_that_start_at_the_same_moment_one_holds(
    uri: str, tmp_path: Path, stops_at: str, conditional: str, sees_claims: str
) -> None:
    (tmp_path / "meeting").mkdir()
    how = (stops_at, conditional, sees_claims)
    contenders = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                CONTENDER,
                uri,
                tmp_path / "meeting",
                f"contender-{i}",
                *how,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = []
    for contender in contenders:
        assert contender.stdout
        lines = iter(contender.stdout.readline, "")
        said.append(next(line.strip() for line in lines if line.strip() in ("holds", "apart")))
    for contender in contenders:
        contender.communicate("go\n")
    assert sorted(said) == ["apart", "holds"]
    again = Lease(open_store(uri), "rft/abc")
    assert again.prefix == "rft/abc", "whoever comes later has it"
    again.release()


def test_of_many_one_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.02)
    store, start, held = open_store(str(tmp_path)), threading.Barrier(12), list[Lease]()

    def contend() -> None:
        start.wait()
        held.append(Lease(store, "p"))

    for _ in range(3):
        held.clear()
        threads = [threading.Thread(target=contend) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(lease.prefix == "p" for lease in held) == 1 and len({lease.prefix for lease in held}) == 12
        for lease in held:
            lease.release()


def test_a_holder_elsewhere_is_known_by_its_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.1)
    store = open_store(str(tmp_path))
    for name in ("p/lease-000003.json", "p/claim-0.json"):
        store.write_bytes(name, json.dumps(ELSEWHERE).encode())
    silent = Lease(store, "p")
    assert silent.prefix == "p"
    silent.release()
    assert sorted(item.name for item in store.list("p/")) == ["p/lease-000004.json"], "what the dead left is gone"

    class Alive(Store):
        beats = 0

        def read_bytes(self, name: str) -> bytes | None:
            self.beats += 1
            return json.dumps({**ELSEWHERE, "beats": self.beats}).encode()

    alive = Lease(Alive(store.uri, store._backend), "p")
    assert alive.prefix.startswith("p-")
    alive.release()


def test_one_that_was_silent_for_long_sees_that_another_has_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HEARTBEAT_SECONDS", 0.1)
    store = open_store(str(tmp_path))
    slept = Lease(store, "p")
    store.write_bytes("p/lease-000002.json", json.dumps(ELSEWHERE).encode())
    deadline = time.monotonic() + 10
    while not slept.lost:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    slept.release()
    newest: Any = json.loads(store.read_bytes("p/lease-000002.json") or b"")
    assert newest == ELSEWHERE
