"""The progress of a run's stages when Kubeflow no longer reports them.

Beyond 1 MiB, Argo compresses a workflow's nodes. KFP's API does not read compressed nodes and stops reporting stages.
Its v1beta1 API returns the workflow as it is, compressed nodes included; the rows that the API would have reported are
reconstructed from them.
"""

from datetime import datetime
from typing import Any

import kfp_server_api as api

from components.shared.errors import InputError
from launch.continuation import workflow_nodes
from launch.kubeflow.cluster import Cluster
from launch.kubeflow.controller import get_run_v1beta1, workflow_of
from launch.kubeflow.status.stages import RunProgress, run_progress

# KFP's states for Argo's phases; an Omitted node has no row.
_STATES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Skipped": "SKIPPED",
    "Failed": "FAILED",
    "Error": "FAILED",
}


def progress_of(cluster: Cluster, run: Any, specification: dict[str, Any]) -> RunProgress:
    """Returns the progress of a run from KFP's reports, or from the run's workflow if KFP has stopped reporting.

    Args:
        cluster: cluster of the run.
        run: the run as the API returns it.
        specification: its pipeline specification.
    """
    progress = run_progress(run, specification)
    if not progress.notes:
        return progress
    try:
        response = cluster.read(f"reading the workflow of run {run.run_id}", get_run_v1beta1, cluster, run.run_id)
        nodes = workflow_nodes(workflow_of(response))
    except InputError:  # the API is missing or forbidden: the notes tell what is not reported
        return progress
    return run_progress(with_rows(run, nodes), specification) if nodes else progress


def with_rows(run: Any, nodes: list[dict[str, Any]]) -> Any:
    """Returns a copy of a run with rows made from its workflow's nodes instead of those that were reported.

    Args:
        run: the run as the API returns it; not modified.
        nodes: nodes of its Argo workflow.
    """
    details = (run.run_details and run.run_details.task_details) or []
    rows = [_row(run, node) for node in nodes if node["phase"] in _STATES]
    copy = api.V2beta1Run(**{name: getattr(run, name) for name in run.openapi_types})
    copy.run_details = api.V2beta1RunDetails(
        task_details=[*rows, *(row for row in details if not row.display_name)],
    )
    return copy


def _row(run: Any, node: dict[str, Any]) -> Any:
    started, ended, state = _time(node.get("startedAt")), _time(node.get("finishedAt")), _STATES[node["phase"]]
    last = ended or started
    return api.V2beta1PipelineTaskDetail(
        run_id=run.run_id,
        display_name=node["displayName"],
        create_time=run.created_at,
        start_time=started,
        end_time=ended,
        state=state,
        state_history=[api.V2beta1RuntimeStatus(update_time=last, state=state)] if last else None,
        child_tasks=[api.PipelineTaskDetailChildTask(pod_name=child) for child in node.get("children") or []] or None,
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
