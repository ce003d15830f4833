"""The stand-in's Argo: a run's workflow as KFP compiles it, walked node by node on a clock that tests move.

As in a recorded workflow, each level is a node for all attempts (`rft`), one for each attempt (`rft(0)`), and, for a
stage, the same for its pod within it (`executor`, `executor(0)`). KFP's controller gives every template
`retryPolicy: OnError`: only what was deleted or lost is started again, unless its configuration says `Always`.
`backoff.maxDuration` is a deadline for all attempts, counted from the start of the first.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from tests.launch.kfp_driver import Dag, Driven, drive_container, taken_in
from tests.launch.kfp_metadata import AlreadyExists, CacheEntry, Metadata, Outputs

FINAL = ("SUCCEEDED", "FAILED", "SKIPPED", None)  # None: left out
_DRIVER, _POLL = timedelta(seconds=4), timedelta(seconds=6)


class Cluster(Protocol):
    """What workflows share, and how the cluster is configured."""

    clock: datetime
    metadata: Metadata
    retry_policy: str
    returns: Callable[[str, str], object]


@dataclass
class Node:
    """A node of a workflow. `error` tells Argo's Error (a pod that was lost) from its Failed."""

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
    """How a template's attempts follow each other; the defaults are those of KFP's controller."""

    limit: int = 2
    pause: timedelta = timedelta(0)
    factor: float = 1.0
    deadline: timedelta | None = None


@dataclass
class Pod:
    """A pod that has not ended."""

    node: Node
    path: str  # of its stage or nested pipeline: iteration-2/rft
    driver: bool
    work: Callable[[], None]  # of a driver; of a stage, what it makes
    strategy: Strategy
    began: datetime


Task = tuple[str, list[str], Callable[[str, list[str]], Node]]


class Workflow:
    """The workflow of a run.

    Args:
        name: its name, with which Argo's node ids begin.
        run_id: of the run.
        specification: of the pipeline.
        parameters: that the run was given.
        cluster: where it runs.
    """

    def __init__(
        self, name: str, run_id: str, specification: dict[str, Any], parameters: dict[str, Any], cluster: Cluster
    ) -> None:
        self.name, self.run_id, self.cluster = name, run_id, cluster
        self.specification = specification
        self.pipeline = specification.get("pipeline_spec", specification)
        platforms = specification.get("platform_spec", {}).get("platforms", {})
        self.platform = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        declared = self.pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
        defaults = {key: each["defaultValue"] for key, each in declared.items() if "defaultValue" in each}
        self.root = Dag(self.pipeline["root"]["dag"], Outputs(parameters=defaults | parameters))
        self.nodes: dict[str, Node] = {}
        self.pods: list[Pod] = []
        self.dags: dict[str, Dag] = {}
        self.driven: dict[str, Driven] = {}
        self.ending = False

    @property
    def state(self) -> str | None:
        """Of the whole workflow."""
        return self.nodes[self.name].state if self.name in self.nodes else "PENDING"

    # What tests do

    def settle(self, hold: tuple[str, ...] = (), watch: Callable[[], None] = lambda: None) -> None:
        """Lets drivers do their work and pauses pass until stages' pods are all that is left to do.

        Args:
            hold: names of tasks whose drivers stay as they begin.
            watch: is called whenever Argo has looked at the nodes.
        """
        while True:
            self._operate()
            watch()
            drivers = [pod for pod in self.pods if pod.driver and pod.path.split("/")[-1] not in hold]
            if drivers:
                self.cluster.clock += _DRIVER
                for pod in drivers:
                    self._drive(pod)
                self.cluster.clock += _POLL
            elif self.pods or self.nodes[self.name].final:
                return
            else:
                self.cluster.clock += timedelta(seconds=10)  # a pause before another attempt, or before giving up

    def pod(self, stage: str, state: str) -> Pod:
        """The pod of a stage, by its path or its name, in a state."""
        found = [
            pod
            for pod in self.pods
            if not pod.driver and pod.node.state == state and stage in (pod.path, pod.path.split("/")[-1])
        ]
        assert found, f"no pod of {stage} is {state}: {[(pod.path, pod.node.state) for pod in self.pods]}"
        return found[0]

    def end(self, pod: Pod, state: str, lost: bool = False, ends_alone: bool = False) -> None:
        """A stage's pod ends; a lost one may have done its work all the same."""
        late = pod.strategy.deadline and self.cluster.clock > pod.began + pod.strategy.deadline
        if late:
            state, lost = "FAILED", True  # "Step exceeded its deadline"
        if (state == "SUCCEEDED" and not late) or ends_alone:
            pod.work()
        self._ended(pod, state, lost)

    def terminate(self) -> None:
        """Ends all pods, and starts none any more."""
        self.ending = True
        for pod in list(self.pods):
            self._ended(pod, "FAILED", False)
        self._operate()

    def retry(self) -> None:
        """What failed begins anew in place; what was done stays."""
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

    # Argo's controller

    def _operate(self) -> None:
        place = f"{self.name}(0)"

        def root_driver(name: str, parents: list[str]) -> Node:
            return self._retry(
                name, parents, Strategy(), lambda attempt: self._pod(attempt, "root", True, lambda: None)
            )

        def root(name: str, parents: list[str]) -> Node:
            return self._dag_task(name, parents, self.root, "")

        tasks: list[Task] = [("root-driver", [], root_driver), ("root", ["root-driver"], root)]
        self._retry(self.name, [], Strategy(), lambda attempt: self._dag(attempt, tasks))
        assert place in self.nodes

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
                break  # Argo lets the pause pass before it decides
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
                done[task] = run(full, parents)  # one failure keeps what has not begun from beginning
        begun = [done[task] for task, *_ in tasks if task in done]
        failed = [each for each in begun if each.state == "FAILED"]
        if all(each.final for each in begun) and (failed or len(begun) == len(tasks)):
            self._end_node(node, "FAILED" if failed else "SUCCEEDED", any(each.error for each in failed))
        return node

    def _dag_task(self, name: str, parents: list[str], dag: Dag, path: str) -> Node:
        """The node of a pipeline: KFP's root, or a nested one."""

        def attempt_at(attempt: str) -> Node:
            if attempt not in self.nodes:
                dag.made.clear()
            return self._dag(attempt, self._tasks(attempt, dag, path))

        return self._retry(name, parents, Strategy(), attempt_at)

    def _tasks(self, place: str, dag: Dag, path: str) -> list[Task]:
        tasks: list[Task] = []
        waiting = dict(sorted(dag.spec["tasks"].items()))
        while waiting:
            for name in [n for n, t in waiting.items() if not waiting.keys() & set(t.get("dependentTasks", ()))]:
                task = waiting.pop(name)
                here = f"{path}{'iteration-1' if name == 'iteration' else name}"
                needs = sorted(task.get("dependentTasks", ()))
                component = self.pipeline["components"][task["componentRef"]["name"]]
                executor = self.pipeline["deploymentSpec"]["executors"].get(component.get("executorLabel"), {})
                if "importer" in executor:
                    tasks.append((name, needs, self._importer(name, executor["importer"], task, dag, here)))
                    continue
                nested = component.get("dag")
                drive = self._drive_dag if nested else self._drive_container
                run = self._nested if nested else self._stage
                tasks.append((f"{name}-driver", needs, self._driver(place, name, task, dag, here, drive)))
                tasks.append((name, [f"{name}-driver"], self._bound(run, place, name, task, dag, here)))
        return tasks

    def _importer(
        self, name: str, importer: dict[str, Any], task: dict[str, Any], dag: Dag, path: str
    ) -> Callable[[str, list[str]], Node]:
        """The node of an importer: one pod, without a driver."""

        def work() -> None:
            uri = importer["artifactUri"]
            where = uri.get("constant") or taken_in(task, dag).parameters[uri["runtimeParameter"]]
            dag.made[name] = Outputs({"artifact": self.cluster.metadata.imported(str(where))})

        return lambda full, parents: self._retry(
            full, parents, Strategy(), lambda attempt: self._pod(attempt, path, True, work)
        )

    def _driver(
        self, place: str, name: str, task: dict[str, Any], dag: Dag, path: str, drive: Callable[..., None]
    ) -> Callable[[str, list[str]], Node]:
        def run(full: str, parents: list[str]) -> Node:
            def work() -> None:
                drive(f"{place}.{name}", task, dag)

            return self._retry(full, parents, Strategy(), lambda attempt: self._pod(attempt, path, True, work))

        return run

    @staticmethod
    def _bound(run: Callable[..., Node], *context: Any) -> Callable[[str, list[str]], Node]:
        return lambda full, parents: run(full, parents, *context)

    def _drive_dag(self, name: str, task: dict[str, Any], dag: Dag) -> None:
        inputs = taken_in(task, dag)
        self.cluster.metadata.execution(list(inputs.artifacts.values()))
        component = self.pipeline["components"][task["componentRef"]["name"]]
        self.dags[name] = Dag(component["dag"], inputs)

    def _drive_container(self, name: str, task: dict[str, Any], dag: Dag) -> None:
        self.driven[name] = drive_container(self.pipeline, self.platform, task, dag, self.cluster.metadata)

    def _nested(
        self, full: str, parents: list[str], place: str, name: str, task: dict[str, Any], dag: Dag, path: str
    ) -> Node:
        inner = self.dags[f"{place}.{name}"]
        node = self._dag_task(full, parents, inner, f"{path}/")
        if node.state == "SUCCEEDED":
            dag.made[name] = inner.outputs()
        return node

    def _stage(
        self, full: str, parents: list[str], place: str, name: str, task: dict[str, Any], dag: Dag, path: str
    ) -> Node:
        driven = self.driven[f"{place}.{name}"]
        policy = task.get("retryPolicy", {})
        strategy = Strategy()
        if policy:
            strategy = Strategy(
                int(policy.get("maxRetryCount", 0)),
                _seconds(policy.get("backoffDuration", "0s")),
                float(policy.get("backoffFactor", 2)),
                _seconds(policy["backoffMaxDuration"]) if "backoffMaxDuration" in policy else None,
            )

        def executor(attempt: str, over: list[str]) -> Node:
            if driven.cached:
                skipped = self._node(attempt, "Skipped", "SKIPPED", over)
                skipped.ended = skipped.started
                return skipped
            return self._retry(
                attempt,
                over,
                strategy,
                lambda pod: self._pod(pod, path, False, lambda: self._make(pod, path, driven), strategy, attempt),
            )

        node = self._retry(full, parents, Strategy(), lambda attempt: self._dag(attempt, [("executor", [], executor)]))
        if node.state == "SUCCEEDED":
            dag.made[name] = driven.execution.outputs
        return node

    def _make(self, pod: str, path: str, driven: Driven) -> None:
        """What a stage's launcher does when the stage has ended well."""
        outputs, metadata = driven.component.get("outputDefinitions", {}), self.cluster.metadata
        driven.execution.outputs = Outputs(
            {key: metadata.artifact() for key in outputs.get("artifacts", {})},
            {key: self.cluster.returns(path, key) for key in outputs.get("parameters", {})},
        )
        if driven.fingerprint:
            times = self.nodes[pod].started + timedelta(seconds=3), self.cluster.clock - timedelta(seconds=1)
            entry = CacheEntry(str(uuid.uuid4()), self.run_id, driven.fingerprint, driven.execution, *times)
            metadata.entries.append(entry)

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


def _seconds(text: str) -> timedelta:
    return timedelta(seconds=float(text.removesuffix("s")))
