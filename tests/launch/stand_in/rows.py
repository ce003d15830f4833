"""What KFP's API reports of a workflow: one row per node, without its ID, and a row without a name per cache entry.

Beyond 1 MiB, Argo compresses a workflow's nodes; KFP does not read them, and its rows no longer change.
"""

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api as api

from launch.kubeflow.status.nodes import node_id
from tests.launch.stand_in.argo import Node
from tests.launch.stand_in.driver import Driven
from tests.launch.stand_in.workflow import Workflow

NEVER = datetime(1, 1, 1, tzinfo=UTC)
READABLE = 1 << 20


@dataclass
class Rows:
    """The rows of a run, as of KFP's last read."""

    workflow: Workflow
    created: datetime
    rows: dict[str, Any] = field(default_factory=dict)
    _children: dict[str, list[str]] = field(default_factory=dict)
    _sizes: dict[str, tuple[float, float]] = field(default_factory=dict)

    def read(self) -> None:
        """Updates the rows, as KFP's persistence agent does."""
        if self._size() > READABLE:
            return
        seen = self.workflow.cluster.clock + timedelta(seconds=1)
        for node in self.workflow.nodes.values():
            row = self.rows.get(node.name)
            if row is None:
                row = self.rows[node.name] = self._row(node)
            if not row.state_history or row.state_history[-1].state != node.state:
                row.state_history.append(api.V2beta1RuntimeStatus(update_time=seen, state=node.state))
            row.state, row.start_time, row.end_time = node.state, node.started, node.ended or NEVER
            self._children[node.name] = list(node.children)

    def told(self) -> list[Any]:
        """Returns the rows that the API reports, ordered by ID."""
        for name, row in self.rows.items():
            ids = [node_id(self.workflow.name, child) for child in self._children[name]]
            row.child_tasks = [api.PipelineTaskDetailChildTask(pod_name=each) for each in ids] or None
        entries = [
            api.V2beta1PipelineTaskDetail(
                run_id=entry.run_id,
                task_id=entry.task_id,
                create_time=entry.started,
                start_time=entry.started,
                end_time=entry.ended,
                execution_id=str(entry.execution.id),
            )
            for entry in self.workflow.cluster.metadata.entries
            if entry.run_id == self.workflow.run_id
        ]
        return sorted([*self.rows.values(), *entries], key=lambda row: row.task_id)

    def _row(self, node: Node) -> Any:
        return api.V2beta1PipelineTaskDetail(
            run_id=self.workflow.run_id,
            task_id=str(uuid.uuid4()),
            display_name=node.name.rpartition(".")[2],
            create_time=self.created,
            state_history=[],
        )

    def _size(self) -> float:
        """Returns the approximate size of the workflow in bytes, fitted to a recorded one.

        It consists of the specification; the task with its component, container and platform configuration in the two
        nodes of a stage's driver; and the driver's pod spec patch in these and four more nodes.
        """
        workflow = self.workflow
        if "" not in self._sizes:
            self._sizes[""] = (1.06 * _bytes(workflow.specification), 0.0)
        for name in workflow.driven.keys() - self._sizes.keys():
            self._sizes[name] = _stage_size(workflow, workflow.driven[name])
        size = 450 * len(workflow.nodes) + self._sizes[""][0]
        for name, driven in workflow.driven.items():
            driver, patch = self._sizes[name]
            copies = 0 if driven.cached else 6 if f"{name}(0).executor" in workflow.nodes else 2
            size += 2 * driver + copies * patch
        return size


def _stage_size(workflow: Workflow, driven: Driven) -> tuple[float, float]:
    component, label = driven.component, driven.component["executorLabel"]
    container = workflow.pipeline["deploymentSpec"]["executors"][label]["container"]
    artifacts = 400 * len(component.get("inputDefinitions", {}).get("artifacts", {}))
    artifacts += 280 * len(component.get("outputDefinitions", {}).get("artifacts", {}))
    driver = 1.1 * sum(map(_bytes, (driven.task, component, container, workflow.platform.get(label, {}))))
    return driver, 2500 + 1.35 * (_bytes(container.get("command", [])) + _bytes(component) + artifacts)


def _bytes(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":")))
