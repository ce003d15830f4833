"""Answers of a real API server: Kubeflow Pipelines 2.17.0 with Argo 4.0.5, on Kubernetes 1.34.

`run-*.json.gz` are runs as `GET /apis/v2beta1/runs/ID?view=FULL` gave them, `versions.json.gz` the pipeline versions
that they name, by id. All were taken with KFP's own manifests and defaults.
"""

import functools
import gzip
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import kfp_server_api as api

FOLDER = Path(__file__).resolve().parent / "recorded"
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("run-*.json.gz"))


def answer(name: str) -> dict[str, Any]:
    """What the server sent."""
    return dict(json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes())))


def run(name: str) -> Any:
    """A recorded run, as the client reads it."""
    return api.ApiClient()._ApiClient__deserialize(answer(name), "V2beta1Run")


@functools.cache
def versions() -> dict[str, Any]:
    """The pipeline versions by id, as the server sent them."""
    return dict(json.loads(gzip.decompress((FOLDER / "versions.json.gz").read_bytes())))


def version(recorded: Any) -> Any:
    """The pipeline version that a run names, as the client reads it."""
    sent = versions()[recorded.pipeline_version_reference.pipeline_version_id]
    return api.ApiClient()._ApiClient__deserialize(sent, "V2beta1PipelineVersion")


def taken_at(recorded: Any) -> datetime:
    """About when a run was asked for: just after the last thing that it tells of."""
    times = [recorded.created_at]
    for row in recorded.run_details.task_details:
        times += [row.start_time, row.end_time, *(entry.update_time for entry in row.state_history or [])]
    return max(time for time in times if time) + timedelta(seconds=5)
