"""The stand-in's workflow of a run: KFP's templates, generated from the specification of the pipeline.

A task has a driver node followed by its own node. A stage's node contains the pod, `executor`, unless the driver found
the result in the cache; a nested pipeline's node contains its tasks. As in recorded workflows, all of these have
attempts: see argo.py.
"""

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tests.launch.stand_in.argo import Argo, Cluster, Node, Pod, Strategy, Task
from tests.launch.stand_in.driver import Dag, Driven, drive_container, taken_in
from tests.launch.stand_in.metadata import CacheEntry, Outputs

_DRIVER, _POLL = timedelta(seconds=4), timedelta(seconds=6)


class Workflow(Argo):
    """The workflow of a run.

    Args:
        name: name of the workflow, the prefix of Argo's node IDs.
        run_id: ID of the run.
        specification: specification of the pipeline.
        parameters: parameters passed to the run.
        cluster: cluster that the workflow runs on.
    """

    def __init__(
        self, name: str, run_id: str, specification: dict[str, Any], parameters: dict[str, Any], cluster: Cluster
    ) -> None:
        super().__init__(name, cluster)
        self.run_id = run_id
        self.specification = specification
        self.pipeline = specification.get("pipeline_spec", specification)
        platforms = specification.get("platform_spec", {}).get("platforms", {})
        self.platform = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        declared = self.pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
        defaults = {key: each["defaultValue"] for key, each in declared.items() if "defaultValue" in each}
        self.root = Dag(self.pipeline["root"]["dag"], Outputs(parameters=defaults | parameters))
        self.dags: dict[str, Dag] = {}
        self.driven: dict[str, Driven] = {}

    # Controls for tests

    def settle(self, hold: tuple[str, ...] = (), watch: Callable[[], None] = lambda: None) -> None:
        """Runs drivers and lets back-off periods pass until only stages' pods remain.

        Args:
            hold: names of tasks whose drivers do not proceed.
            watch: callback after each reconciliation by Argo.
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
                self.cluster.clock += timedelta(seconds=10)  # back-off before another attempt, or before giving up

    def pod(self, stage: str, state: str) -> Pod:
        """Returns the pod of a stage, given by path or name, that is in a state."""
        found = [
            pod
            for pod in self.pods
            if not pod.driver and pod.node.state == state and stage in (pod.path, pod.path.split("/")[-1])
        ]
        assert found, f"no pod of {stage} is {state}: {[(pod.path, pod.node.state) for pod in self.pods]}"
        return found[0]

    def end(self, pod: Pod, state: str, lost: bool = False, ends_alone: bool = False) -> None:
        """Ends a stage's pod; a lost pod may still have completed its work (`ends_alone`)."""
        late = pod.strategy.deadline and self.cluster.clock > pod.began + pod.strategy.deadline
        if late:
            state, lost = "FAILED", True  # "Step exceeded its deadline"
        if (state == "SUCCEEDED" and not late) or ends_alone:
            pod.work()
        self._ended(pod, state, lost)

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

    def _dag_task(self, name: str, parents: list[str], dag: Dag, path: str) -> Node:
        """Returns the node of a pipeline: KFP's root, or a nested one."""

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
        """Returns the node of an importer: a single pod without a driver."""

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
        driven = drive_container(self.pipeline, self.platform, task, dag, self.cluster.metadata)
        stage = re.sub(r"\(\d+\)$", "", name.rpartition(".")[2])
        driven.folder = f"minio://mlpipeline/v2/artifacts/rloop/{self.run_id}/{stage}/{uuid.uuid4()}"
        self.driven[name] = driven

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
        """Does what a stage's launcher does after the stage has succeeded."""
        outputs, metadata = driven.component.get("outputDefinitions", {}), self.cluster.metadata
        driven.execution.outputs = Outputs(
            {key: metadata.artifact(f"{driven.folder}/{key}") for key in outputs.get("artifacts", {})},
            {key: self.cluster.returns(path, key) for key in outputs.get("parameters", {})},
        )
        if driven.fingerprint:
            times = self.nodes[pod].started + timedelta(seconds=3), self.cluster.clock - timedelta(seconds=1)
            entry = CacheEntry(str(uuid.uuid4()), self.run_id, driven.fingerprint, driven.execution, *times)
            metadata.entries.append(entry)


def _seconds(text: str) -> timedelta:
    return timedelta(seconds=float(text.removesuffix("s")))
