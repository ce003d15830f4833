"""The runs of the stand-in: their creation, progress, retry, termination and reporting."""

import random
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api as api

from tests.launch.stand_in.argo import Pod
from tests.launch.stand_in.manifest import manifest
from tests.launch.stand_in.metadata import Metadata
from tests.launch.stand_in.models import Refusal, checked, listed, next_token
from tests.launch.stand_in.rows import Rows
from tests.launch.stand_in.workflow import Workflow

_NOT_YET = datetime(1970, 1, 1, tzinfo=UTC)
_ENDED = ("SUCCEEDED", "FAILED")


@dataclass
class Runs:
    """The runs, and controls that advance them; stages are given by path (`iteration-2/rft`) or name (`rft`).

    `retry_policy` is the controller's configuration; `returns` computes the value of an output parameter from the
    stage's path and the output's name; `workflow_names` are used before random ones.
    """

    clock: datetime = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
    versions: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    scripts: dict[str, list[Callable[[], None]]] = field(default_factory=dict)
    metadata: Metadata = field(default_factory=Metadata)
    retry_policy: str = "OnError"
    returns: Callable[[str, str], object] = lambda path, output: f"{output} of {path}"
    workflow_names: list[str] = field(default_factory=list)
    older_api: bool = True  # v1beta1, which returns workflows
    packs: bool = False  # Argo compresses the nodes, whatever their number
    _rows: dict[str, Rows] = field(default_factory=dict)

    def workflow(self, run_id: str) -> Workflow:
        """Returns the workflow of a run."""
        return self._rows[run_id].workflow

    def spec(self, run_id: str) -> dict[str, Any]:
        """Returns the pipeline specification of a run."""
        spec = self.specification(self.runs[run_id])
        return dict(spec.get("pipeline_spec", spec))

    def specification(self, run: Any) -> dict[str, Any]:
        """Returns the specification of a run, with its platform part if any."""
        reference = run.pipeline_version_reference
        return dict(run.pipeline_spec or self.versions[reference.pipeline_version_id].pipeline_spec)

    # Events in the cluster

    def reach(self, run_id: str, hold: tuple[str, ...] = ()) -> None:
        """Runs drivers until only stages' pods remain; drivers of held tasks do not proceed."""
        self.workflow(run_id).settle(hold, lambda: self.read(run_id))

    def begin(self, run_id: str, stage: str) -> None:
        """Starts a stage's pod, which was waiting for a node."""
        self.reach(run_id)
        self.workflow(run_id).pod(stage, "PENDING").node.state = "RUNNING"
        self.read(run_id)

    def end(
        self,
        run_id: str,
        stage: str,
        state: str = "SUCCEEDED",
        seconds: int = 60,
        lost: bool = False,
        ends_alone: bool = False,
        hold: tuple[str, ...] = (),
    ) -> None:
        """Ends a running stage's pod; `lost` means that the pod or its node was deleted."""
        self.clock += timedelta(seconds=seconds)
        workflow = self.workflow(run_id)
        workflow.end(workflow.pod(stage, "RUNNING"), "FAILED" if lost else state, lost, ends_alone)
        self.reach(run_id, hold)

    def play(self, run_id: str, fails: Callable[[Pod], bool] = lambda pod: False) -> list[str]:
        """Plays a run to its end; returns the paths of the stages whose pods ran, in order."""
        ran, workflow = [], self.workflow(run_id)
        self.reach(run_id)
        while pods := list(workflow.pods):
            for pod in pods:
                pod.node.state = "RUNNING"
            self.clock += timedelta(seconds=60)
            for pod in pods:
                ran.append(pod.path)
                workflow.end(pod, "FAILED" if fails(pod) else "SUCCEEDED")
            self.reach(run_id)
        return ran

    def finish(self, run_id: str, state: str) -> None:
        """Ends a run in a state immediately, whatever its stages do."""
        workflow = self.workflow(run_id)
        workflow.pods.clear()
        for node in workflow.nodes.values():
            if not node.final:
                node.state, node.ended = state, self.clock
        self.read(run_id)
        self._enter(self.runs[run_id], state)

    def cancelled(self, run_id: str) -> None:
        """Ends the pods of a run that was terminated."""
        self.workflow(run_id).terminate()
        self.read(run_id)

    def read(self, run_id: str) -> None:
        """Updates a run from its workflow, as KFP's persistence agent does."""
        self._rows[run_id].read()
        run, state = self.runs[run_id], self.workflow(run_id).state
        if state in _ENDED or run.state != "CANCELING":
            self._enter(run, str(state))

    def _enter(self, run: Any, state: str) -> None:
        if run.state != state:
            run.state = state
            run.state_history.append(api.V2beta1RuntimeStatus(update_time=self.clock, state=state))
        run.finished_at = self.clock if state in _ENDED else _NOT_YET

    # The API

    def _list_runs(self, query: dict[str, str], body: Any) -> Any:
        self._check_namespace(query.get("namespace"))
        newest_first = sorted(self.runs.values(), key=lambda run: run.created_at, reverse=True)
        return api.V2beta1ListRunsResponse(
            runs=listed(newest_first, query), next_page_token=next_token(newest_first, query)
        )

    def _create_run(self, query: dict[str, str], body: Any) -> Any:
        run = checked(body, "V2beta1Run", {"display_name", "experiment_id"})
        self._check_source(run)
        self._check_parameters(run, self.specification(run))
        return self._started(run)

    def _started(self, run: Any) -> Any:
        run.run_id, run.created_at, run.scheduled_at = str(uuid.uuid4()), self.clock, self.clock
        run.state, run.state_history, run.storage_state = None, [], "AVAILABLE"
        self._enter(run, "PENDING")
        # KFP 2.17 sets this for every run, with or without MLflow.
        run.plugins_output = {
            "mlflow": api.V2beta1PluginOutput(
                entries={"experiment_name": api.V2beta1MetadataValue(value="KFP-Default")},
                state="PLUGIN_FAILED",
                state_message="failed to build MLflow request context",
            )
        }
        name = self.workflow_names.pop(0) if self.workflow_names else _random_name()
        parameters = dict((run.runtime_config and run.runtime_config.parameters) or {})
        workflow = Workflow(name, run.run_id, self.specification(run), parameters, self)
        self._rows[run.run_id] = Rows(workflow, self.clock)
        return self.runs.setdefault(run.run_id, run)

    def _get_run(self, run_id: str, query: dict[str, str], body: Any) -> Any:
        if self.scripts.get(run_id):
            self.scripts[run_id].pop(0)()
        run = self._run(run_id)
        if run_id in self._rows:
            run.run_details = api.V2beta1RunDetails(task_details=self._rows[run_id].told() or None)
        return run

    def _older_run(self, run_id: str, query: dict[str, str], body: Any) -> Any:
        if not self.older_api or run_id not in self._rows:  # a recorded run has no workflow here
            raise Refusal(404, "Not Found")
        self._run(run_id)
        return manifest(self.workflow(run_id), self.packs)

    def _retry(self, run_id: str, query: dict[str, str], body: Any) -> Any:
        run = self._run(run_id)
        if run.state != "FAILED":
            raise Refusal(409, f"Failed to retry run {run_id}: Workflow must be Failed/Error to retry")
        self.workflow(run_id).retry()
        self._enter(run, "RUNNING")
        return {}

    def _terminate(self, run_id: str, query: dict[str, str], body: Any) -> Any:
        run = self._run(run_id)
        if run.state not in ("PENDING", "RUNNING", "PAUSED"):
            raise Refusal(400, f"Invalid input error: Failed to terminate a run {run_id}. Row not found")
        self._enter(run, "CANCELING")
        return {}

    def _run(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise Refusal(404, f"Run {run_id} not found")
        return self.runs[run_id]

    def _check_namespace(self, namespace: str | None) -> None:
        raise NotImplementedError

    def _check_source(self, thing: Any) -> None:
        raise NotImplementedError

    def _check_parameters(self, thing: Any, spec: dict[str, Any]) -> None:
        raise NotImplementedError


def _random_name() -> str:
    return "rloop-" + "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
