"""A run's workflow as KFP tells of it: which of its rows belongs to which task of the pipeline.

KFP hands on the nodes of the Argo workflow as rows that have a name such as `rft`, but neither an id nor a parent.
What they have is the ids of their children. Argo makes an id from a node's full name, which the pipeline's tasks
give: `WORKFLOW(0).root(0).iteration-2(0).rft(0).executor(0)` is the pod of RFT in iteration 2. Each level is there
twice, once for all its attempts (`rft`) and once an attempt (`rft(0)`). So the ids that the rows name tell which
nodes there are, and a row is that of a node whose child it names. Pods have no children: of them, only the name
(`executor(0)`) and the time are known.

Beside these, a finished stage that did not come from the cache has a row without a name, from KFP's cache.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from typing import Any

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_TOGETHER = timedelta(seconds=1)  # a pod begins in the second in which Argo begins its first attempt, or in the next


def node_id(workflow: str, name: str) -> str:
    """Argo's id of a node: the workflow's name, and the 32-bit FNV-1a hash of the node's full name."""
    if name == workflow:
        return workflow
    digest = 2166136261
    for byte in name.encode():
        digest = (digest ^ byte) * 16777619 & 0xFFFFFFFF
    return f"{workflow}-{digest}"


@dataclass(frozen=True)
class Node:
    """A node with all its attempts: its full name, its row if there is one, its attempts' names."""

    name: str
    row: Any | None
    attempts: tuple[str, ...]

    @property
    def state(self) -> str | None:
        """Its state; None if it has not begun or was left out."""
        return None if self.row is None else self.row.state


class Nodes:
    """The nodes of a run.

    Args:
        run: as the API gives it.
    """

    def __init__(self, run: Any) -> None:
        rows = (run.run_details and run.run_details.task_details) or []
        self.named = [row for row in rows if row.display_name]
        self.unnamed = [row for row in rows if not row.display_name]
        self._named_children = {child for row in self.named for child in _children(row)}
        self.workflow = next(iter(sorted(self._named_children)), "").rpartition("-")[0]

    def node(self, name: str, begins_with: Iterable[str]) -> Node:
        """The node of a full name.

        Args:
            name: without the number of an attempt.
            begins_with: names of what can come first in the node, or after it if it is a pod. Where a cluster's
                controller gives its templates no retries, one node stands for all attempts and for the only one, and
                these are its children.
        """
        attempts = tuple(takewhile(self._exists, (f"{name}({number})" for number in count())))
        if not attempts and self._exists(name):
            row = self._row(name, set(begins_with))
            return Node(name, row, (name,) if row is not None else ())
        return Node(name, self._row(name, set(attempts)), attempts)

    def root(self) -> str:
        """The full name of the workflow's entry point, in its last attempt; the pipeline's tasks are in its `root`."""
        return (self.node(self.workflow, ()).attempts or (self.workflow,))[-1]

    def top(self) -> Any | None:
        """The row of the workflow as a whole."""
        return next((row for row in self.named if row.display_name == self.workflow), None)

    def last_news(self) -> datetime | None:
        """When KFP last heard from Argo how a node is doing."""
        return max((entry.update_time for row in self.named for entry in row.state_history or []), default=None)

    def pods_of(self, executors: list[Node]) -> dict[str, list[Any]]:
        """The rows that may be the pod of the last attempt, for each executor that has not ended.

        Several executors that began in one second have pods of the same name. Those that have ended tell how
        their pods ended, which leaves the others' rows.
        """
        free = [row for row in self.named if row.display_name.startswith("executor") and not _children(row)]
        for executor in executors:
            for name in executor.attempts if _ended(executor) else executor.attempts[:-1]:
                state = executor.state if name == executor.attempts[-1] else "FAILED"
                fitting = [row for row in free if _fits(row, name, executor) and row.state == state]
                if fitting:
                    free.remove(min(fitting, key=lambda row: abs(_end(row) - _end(executor.row))))
        still_open = [executor for executor in executors if not _ended(executor)]
        return {each.name: [row for row in free if _fits(row, each.attempts[-1], each)] for each in still_open}

    def _exists(self, name: str) -> bool:
        return name == self.workflow or node_id(self.workflow, name) in self._named_children

    def _row(self, name: str, children: set[str]) -> Any | None:
        ids = {node_id(self.workflow, child) for child in children}
        return next((row for row in self._called(name) if ids & _children(row)), None)

    def _called(self, name: str) -> Iterator[Any]:
        display = name.rpartition(".")[2]
        return (row for row in self.named if row.display_name == display)


def time_of(moment: datetime | None) -> datetime | None:
    """A moment, or None for the year 1 and 1970, which the API gives for what has not happened."""
    return moment if moment is not None and moment.year > 1970 else None


def _children(row: Any) -> set[str]:
    return {child.pod_name for child in row.child_tasks or [] if child.pod_name}


def _ended(node: Node) -> bool:
    return node.state in ENDED


def _end(row: Any) -> datetime:
    return time_of(row.end_time) or datetime.max.replace(tzinfo=UTC)


def _fits(row: Any, pod: str, executor: Node) -> bool:
    """Whether a row can be that of a pod: it has its name, and began when the attempt can have begun."""
    if row.display_name != pod.rpartition(".")[2] or executor.row is None:
        return False
    since = row.start_time - executor.row.start_time
    first = pod == executor.attempts[0]
    return bool(abs(since) <= _TOGETHER if first else since > timedelta(0))
