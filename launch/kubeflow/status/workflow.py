"""How a run's stages are doing where Kubeflow has stopped to report them.

Beyond 1 MiB Argo packs a workflow's nodes, which KFP's API does not read: it reports no stage any more. Its older API
hands out the workflow as it is, packed nodes and all; from these follow the rows that the API would have reported.
"""

from datetime import datetime
from typing import Any

import kfp_server_api as api

from components.shared.errors import InputError
from launch.continuation import workflow_nodes
from launch.kubeflow.cluster import Cluster
from launch.kubeflow.controller import older_answer, workflow_of
from launch.kubeflow.status.stages import RunProgress, run_progress

# Argo's phases in the words of KFP; a node that was left out, Omitted, has no row.
_STATES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Skipped": "SKIPPED",
    "Failed": "FAILED",
    "Error": "FAILED",
}


def progress_of(cluster: Cluster, run: Any, specification: dict[str, Any]) -> RunProgress:
    """How a run and its stages are doing, by KFP's reports, and by the run's workflow where these have stopped.

    Args:
        cluster: where the run is.
        run: as the API gives it.
        specification: what it runs.
    """
    progress = run_progress(run, specification)
    if not progress.notes:
        return progress
    try:
        answer = cluster.read(f"reading the workflow of {run.run_id}", older_answer, cluster, run.run_id)
        nodes = workflow_nodes(workflow_of(answer))
    except InputError:  # no such API, or no right to use it: the notes say what is missing
        return progress
    return run_progress(with_rows(run, nodes), specification) if nodes else progress


def with_rows(run: Any, nodes: list[dict[str, Any]]) -> Any:
    """A run with the rows of its workflow's nodes in place of those that were reported.

    Args:
        run: as the API gives it; left as it is.
        nodes: of its Argo workflow.
    """
    details = (run.run_details and run.run_details.task_details) or []
    rows = [_row(run, node) for node in nodes if node["phase"] in _STATES]
    copy = api.V2beta1Run(**{name: getattr(run, name) for name in run.openapi_types})
    copy.run_details = api.V2beta1RunDetails(
        task_details=[*rows, *(row for row in details if not row.display_name)],
    )
    return copy


def _row(run: Any, node: dict[str, Any]) -> Any:
    began, ended, state = _time(node.get("startedAt")), _time(node.get("finishedAt")), _STATES[node["phase"]]
    last = ended or began
    return api.V2beta1PipelineTaskDetail(
        run_id=run.run_id,
        display_name=node["displayName"],
        create_time=run.created_at,
        start_time=began,
        end_time=ended,
        state=state,
        state_history=[api.V2beta1RuntimeStatus(update_time=last, state=state)] if last else None,
        child_tasks=[api.PipelineTaskDetailChildTask(pod_name=child) for child in node.get("children") or []] or None,
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
