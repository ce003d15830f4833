"""The nodes of a run's workflow as KFP reports them, matched to the tasks of the pipeline.

KFP returns the nodes of the Argo workflow as rows that have a display name such as `rft`, but neither an ID nor a
parent. They do have the IDs of their children. Argo derives an ID from a node's full name, which follows from the
pipeline's tasks: `WORKFLOW(0).root(0).iteration-2(0).rft(0).executor(0)` is the pod of RFT in iteration 2. Each level
occurs twice, once for all its attempts (`rft`) and once per attempt (`rft(0)`). So the child IDs in the rows tell which
nodes exist, and a row belongs to the node whose child it lists. Pods have no children: only their name (`executor(0)`)
and their times are known.

In addition, each completed stage that was not taken from the cache has a row without a name, from KFP's cache.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from typing import Any

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_START_TOLERANCE = timedelta(seconds=1)  # a pod starts in the same second as its first attempt, or in the next


def node_id(workflow: str, name: str) -> str:
    """Returns Argo's ID of a node: the workflow's name and the 32-bit FNV-1a hash of the node's full name."""
    if name == workflow:
        return workflow
    digest = 2166136261
    for byte in name.encode():
        digest = (digest ^ byte) * 16777619 & 0xFFFFFFFF
    return f"{workflow}-{digest}"


@dataclass(frozen=True)
class Node:
    """A node with all its attempts: its full name, its row if any, and the names of its attempts."""

    name: str
    row: Any | None
    attempts: tuple[str, ...]

    @property
    def state(self) -> str | None:
        """Its state; None if it has not started or was omitted."""
        return None if self.row is None else self.row.state


class Nodes:
    """The nodes of a run.

    Args:
        run: the run as the API returns it.
    """

    def __init__(self, run: Any) -> None:
        rows = (run.run_details and run.run_details.task_details) or []
        self.named = [row for row in rows if row.display_name]
        self.unnamed = [row for row in rows if not row.display_name]
        self._named_children = {child for row in self.named for child in _children(row)}
        self.workflow = next(iter(sorted(self._named_children)), "").rpartition("-")[0]

    def node(self, name: str, first_children: Iterable[str]) -> Node:
        """Returns the node with a full name.

        Args:
            name: full name, without the number of an attempt.
            first_children: names of the nodes that can come first in this node, or that follow it if it is a pod. If
                the cluster's controller sets no retries on its templates, a single node represents all attempts and
                the only one, and these are its children.
        """
        attempts = tuple(takewhile(self._exists, (f"{name}({number})" for number in count())))
        if not attempts and self._exists(name):
            row = self._row(name, set(first_children))
            return Node(name, row, (name,) if row is not None else ())
        return Node(name, self._row(name, set(attempts)), attempts)

    def entry_point(self) -> str:
        """Returns the full name of the workflow's entry point, in its last attempt; its `root` has the tasks."""
        return (self.node(self.workflow, ()).attempts or (self.workflow,))[-1]

    def workflow_row(self) -> Any | None:
        """Returns the row of the workflow itself."""
        return next((row for row in self.named if row.display_name == self.workflow), None)

    def last_update(self) -> datetime | None:
        """Returns when KFP last received the state of a node from Argo."""
        return max((entry.update_time for row in self.named for entry in row.state_history or []), default=None)

    def pods_of(self, executors: list[Node]) -> dict[str, list[Any]]:
        """Returns, for each executor that has not ended, the rows that may be the pod of its last attempt.

        Executors that started in the same second have pods with the same name. The executors that have ended determine
        how their pods ended, which leaves the rows of the others.
        """
        free = [row for row in self.named if row.display_name.startswith("executor") and not _children(row)]
        for executor in executors:
            for name in executor.attempts if _has_ended(executor) else executor.attempts[:-1]:
                state = executor.state if name == executor.attempts[-1] else "FAILED"
                candidates = [row for row in free if _may_be_pod(row, name, executor) and row.state == state]
                if candidates:
                    free.remove(min(candidates, key=lambda row: abs(_end(row) - _end(executor.row))))
        running = [executor for executor in executors if not _has_ended(executor)]
        return {each.name: [row for row in free if _may_be_pod(row, each.attempts[-1], each)] for each in running}

    def _exists(self, name: str) -> bool:
        return name == self.workflow or node_id(self.workflow, name) in self._named_children

    def _row(self, name: str, children: set[str]) -> Any | None:
        ids = {node_id(self.workflow, child) for child in children}
        return next((row for row in self._rows_named(name) if ids & _children(row)), None)

    def _rows_named(self, name: str) -> Iterator[Any]:
        display = name.rpartition(".")[2]
        return (row for row in self.named if row.display_name == display)


def time_of(moment: datetime | None) -> datetime | None:
    """Returns a time, or None for year 1 and 1970, which the API returns for events that have not happened."""
    return moment if moment is not None and moment.year > 1970 else None


def _children(row: Any) -> set[str]:
    return {child.pod_name for child in row.child_tasks or [] if child.pod_name}


def _has_ended(node: Node) -> bool:
    return node.state in ENDED


def _end(row: Any) -> datetime:
    return time_of(row.end_time) or datetime.max.replace(tzinfo=UTC)


def _may_be_pod(row: Any, pod: str, executor: Node) -> bool:
    """Whether a row may be that of a pod: it has its name, and started when the attempt may have started."""
    if row.display_name != pod.rpartition(".")[2] or executor.row is None:
        return False
    since = row.start_time - executor.row.start_time
    first = pod == executor.attempts[0]
    return bool(abs(since) <= _START_TOLERANCE if first else since > timedelta(0))
