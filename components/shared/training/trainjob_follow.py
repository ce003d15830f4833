"""Following a TrainJob until its nodes have ended: their output, what they wait for, and why they failed."""

import time
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.stage import note
from components.shared.training import trainjob_api
from components.shared.training.launching import MESSAGE
from components.shared.training.node_folder import RESULT, node_failed, node_log, node_started
from components.shared.training.trainjob_api import QUEUE_LABEL, SUSPENDED, Cluster

START_SECONDS = 180.0  # after which the stage says what nodes wait for that have not started; and how often it looks
_REPEAT_SECONDS = 1800.0  # after which it says the same again
_LOG_TAIL = 30


def follow(cluster: Cluster, job: dict[str, Any], folder: Path, nodes: int) -> None:
    """Prints the first node's output until all nodes have ended.

    Raises:
        InputError: A process raised one, or a node's pod was deleted.
        RuntimeError: A node failed otherwise, or the TrainJob lost its quota.
    """
    name, queued = job["metadata"]["name"], False
    log, start = _Tail(folder / node_log(0)), _Start(cluster, name, nodes)
    failure_files = {MESSAGE, *(node_failed(node) for node in range(nodes))}
    state, failed = "", set[str]()
    while state in ("", SUSPENDED) and not failed:
        # Listed each time: a network file system caches for a while that a name does not exist.
        names = _names(folder)
        failed = failure_files & names
        state, message = cluster.state(name)
        if state != SUSPENDED:
            start.look(names)
        elif any(node_log(node) in names for node in range(nodes)):
            message = "it was suspended after its nodes had started, as Kueue does with what it preempts"
            break
        else:
            start.postpone()
            if not queued:
                queued = True
                note(_queued(job))
        time.sleep(trainjob_api.POLL_SECONDS)  # for what the nodes wrote last
        log.print()
    present = _names(folder)
    failed |= failure_files & present
    if state == "Complete" and RESULT in present and not failed:
        return
    if MESSAGE in present:
        raise InputError((folder / MESSAGE).read_text())
    for node in range(1, nodes):
        if node_log(node) in present:
            lines = (folder / node_log(node)).read_text(errors="replace").splitlines()[-_LOG_TAIL:]
            print(f"the log of node {node} ends with:", *lines, sep="\n")
    # The TrainJob of a node that has failed may be Complete, since its container ends with status 0 when restarted.
    ended = (
        state if state in ("Failed", "Deleted", SUSPENDED) else "a node failed" if failed else "ended without a result"
    )
    reasons = [f"TrainJob {name}: {ended}", message if state in ("Failed", SUSPENDED) else ""]
    for node in range(nodes):
        if node_failed(node) in present:
            reasons.append(f"node {node}: {(folder / node_failed(node)).read_text()}")
    raise RuntimeError("; ".join(filter(None, reasons)))


def _queued(job: dict[str, Any]) -> str:
    name, queue = job["metadata"]["name"], job["metadata"]["labels"].get(QUEUE_LABEL)
    if queue:
        return f"TrainJob {name} waits in queue {queue} until Kueue admits it"
    return f"TrainJob {name} is suspended, and names no queue: if Kueue has to admit it, set pools.training.queue"


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class _Start:
    """Says what the nodes wait for if they do not start: the TrainJob itself may not."""

    def __init__(self, cluster: Cluster, name: str, nodes: int) -> None:
        self._cluster, self._name, self._nodes = cluster, name, nodes
        self._began = self._looked = self._said_at = time.monotonic()
        self._said = ""

    def postpone(self) -> None:
        """Begins to count from now: the TrainJob waits in a queue."""
        self._began = self._looked = time.monotonic()

    def look(self, names: set[str]) -> None:
        """Notes what keeps nodes from starting, now and then while that is so; `names` are the folder's files."""
        now, missing = time.monotonic(), sum(node_started(node) not in names for node in range(self._nodes))
        if not missing or now - self._looked < START_SECONDS:
            return
        self._looked, obstacles = now, self._cluster.obstacles(self._name)
        if obstacles == self._said and now - self._said_at < _REPEAT_SECONDS:
            return
        self._said, self._said_at = obstacles, now
        note(
            f"{missing} of {self._nodes} nodes have not started after {(now - self._began) / 60:.0f} min; TrainJob "
            f"{self._name}: {obstacles}"
        )


class _Tail:
    """Prints a file's complete lines as they are written."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def print(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            lines, newline, _ = file.read().rpartition(b"\n")
        self._at += len(lines) + len(newline)
        if newline:
            print(lines.decode(errors="replace"), flush=True)
