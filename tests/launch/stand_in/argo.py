"""The stand-in's Argo: nodes, attempts, pods and deadlines, on a clock that tests advance.

Each level has a node for all attempts (`rft`) and one for each attempt (`rft(0)`). KFP's controller sets
`retryPolicy: OnError` on every template: only deleted or lost pods are retried, unless it is configured with `Always`.
`backoff.maxDuration` is a deadline for all attempts, counted from the start of the first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from tests.launch.stand_in.metadata import AlreadyExists, Metadata

FINAL = ("SUCCEEDED", "FAILED", "SKIPPED", None)  # None: omitted


class Cluster(Protocol):
    """What workflows share, and the configuration of the cluster."""

    clock: datetime
    metadata: Metadata
    retry_policy: str
    returns: Callable[[str, str], object]


@dataclass
class Node:
    """A node of a workflow; `error` distinguishes Argo's Error (a lost pod) from Failed."""

    name: str
    kind: str  # Retry, DAG, Pod, Skipped or Omitted
    state: str | None
    started: datetime
    ended: datetime | None = None
    children: list[str] = field(default_factory=list)
    error: bool = False

    @property
    def final(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True)
class Strategy:
    """Retry strategy of a template; the defaults are those of KFP's controller."""

    limit: int = 2
    pause: timedelta = timedelta(0)
    factor: float = 1.0
    deadline: timedelta | None = None


@dataclass
class Pod:
    """A pod that has not terminated."""

    node: Node
    path: str  # path of its stage or nested pipeline: iteration-2/rft
    driver: bool
    work: Callable[[], None]  # what the driver does, or creates the stage's outputs
    strategy: Strategy
    began: datetime


Task = tuple[str, list[str], Callable[[str, list[str]], Node]]


class Argo:
    """The nodes of a workflow.

    Args:
        name: name of the workflow, the prefix of node IDs.
        cluster: cluster that the workflow runs on.
    """

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name, self.cluster = name, cluster
        self.nodes: dict[str, Node] = {}
        self.pods: list[Pod] = []
        self.ending = False

    @property
    def state(self) -> str | None:
        """State of the entire workflow."""
        return self.nodes[self.name].state if self.name in self.nodes else "PENDING"

    def terminate(self) -> None:
        """Terminates all pods and starts no more."""
        self.ending = True
        for pod in list(self.pods):
            self._ended(pod, "FAILED", False)
        self._operate()

    def retry(self) -> None:
        """Restarts failed nodes in place and keeps the successful ones."""
        self.ending = False
        gone = {
            name
            for name, node in self.nodes.items()
            if node.kind == "Omitted" or (node.kind == "Pod" and node.state == "FAILED")
        }
        for name in gone:
            del self.nodes[name]
        for node in self.nodes.values():
            node.children = [child for child in node.children if child not in gone]
            if node.state == "FAILED":
                node.state, node.ended, node.error = "RUNNING", None, False
                if node.kind == "Retry":
                    node.started = self.cluster.clock

    def _operate(self) -> None:
        """The controller's reconciliation of all nodes, starting at the entry point."""
        raise NotImplementedError

    def _retry(self, name: str, parents: list[str], strategy: Strategy, attempt_at: Callable[[str], Node]) -> Node:
        node = self._node(name, "Retry", "RUNNING", parents)
        while not node.final:
            number = max(len([child for child in node.children if child.startswith(f"{name}(")]), 1) - 1
            attempt = attempt_at(f"{name}({number})")
            self._link(node, attempt.name)
            if not attempt.final:
                break
            if attempt.state == "SUCCEEDED":
                self._end_node(node, "SUCCEEDED")
                break
            pause = strategy.pause * strategy.factor**number
            if not self.ending and attempt.ended is not None and self.cluster.clock < attempt.ended + pause:
                break  # Argo waits out the back-off before it decides
            first = self.nodes[f"{name}(0)"].started
            in_time = strategy.deadline is None or self.cluster.clock <= first + strategy.deadline
            wanted = attempt.error or self.cluster.retry_policy == "Always"
            if self.ending or not wanted or not in_time or number >= strategy.limit:
                self._end_node(node, "FAILED", attempt.error)
                break
            self._link(node, f"{name}({number + 1})")
        return node

    def _dag(self, name: str, tasks: list[Task]) -> Node:
        node = self._node(name, "DAG", "RUNNING", [])
        if node.final:
            return node
        done: dict[str, Node] = {}
        for task, needs, run in tasks:
            full = f"{name}.{task}"
            if not all(need in done and done[need].final for need in needs):
                continue
            parents = [self._last(done[need]) for need in needs] or [name]
            if full not in self.nodes and any(done[need].state not in ("SUCCEEDED", "SKIPPED") for need in needs):
                done[task] = self._node(full, "Omitted", None, parents)
                done[task].ended = self.cluster.clock
            elif full in self.nodes and self.nodes[full].kind == "Omitted":
                done[task] = self.nodes[full]
            elif full in self.nodes or not any(each.state == "FAILED" for each in done.values()):
                done[task] = run(full, parents)  # after a failure, nothing else starts
        begun = [done[task] for task, *_ in tasks if task in done]
        failed = [each for each in begun if each.state == "FAILED"]
        if all(each.final for each in begun) and (failed or len(begun) == len(tasks)):
            self._end_node(node, "FAILED" if failed else "SUCCEEDED", any(each.error for each in failed))
        return node

    def _pod(
        self,
        name: str,
        path: str,
        driver: bool,
        work: Callable[[], None],
        strategy: Strategy | None = None,
        executor: str = "",
    ) -> Node:
        if name not in self.nodes:
            node = self._node(name, "Pod", "PENDING", [])
            first = self.nodes.get(f"{executor}(0)", node)
            self.pods.append(Pod(node, path, driver, work, strategy or Strategy(), first.started))
        return self.nodes[name]

    def _drive(self, pod: Pod) -> None:
        try:
            pod.work()
        except AlreadyExists:
            self._ended(pod, "FAILED", False)
        else:
            self._ended(pod, "SUCCEEDED", False)

    def _ended(self, pod: Pod, state: str, lost: bool) -> None:
        self._end_node(pod.node, state, lost)
        self.pods.remove(pod)

    def _node(self, name: str, kind: str, state: str | None, parents: list[str]) -> Node:
        if name not in self.nodes:
            self.nodes[name] = Node(name, kind, state, self.cluster.clock)
            for parent in parents:
                self._link(self.nodes[parent], name)
        return self.nodes[name]

    def _end_node(self, node: Node, state: str, error: bool = False) -> None:
        node.state, node.ended, node.error = state, self.cluster.clock, error

    @staticmethod
    def _link(node: Node, child: str) -> None:
        if child not in node.children:
            node.children.append(child)

    @staticmethod
    def _last(node: Node) -> str:
        return node.children[-1] if node.kind == "Retry" else node.name
