"""The stand-in's Argo workflow as KFP's v1beta1 API returns it: as text, with many nodes compressed."""

import base64
import gzip
import json
from typing import Any

from launch.kubeflow.status.nodes import node_id
from tests.launch.stand_in.argo import Node
from tests.launch.stand_in.driver import Driven
from tests.launch.stand_in.workflow import Workflow

_PHASES = {"SUCCEEDED": "Succeeded", "FAILED": "Failed", "SKIPPED": "Skipped", "PENDING": "Pending", None: "Omitted"}


def manifest(workflow: Workflow, packed: bool) -> dict[str, Any]:
    """Returns the response to `GET /apis/v1beta1/runs/ID`."""
    if not workflow.nodes:
        return {"run": {"id": workflow.run_id}, "pipeline_runtime": {}}
    nodes: dict[str, Any] = {node_id(workflow.name, n.name): _node(workflow, n) for n in workflow.nodes.values()}
    text = base64.b64encode(gzip.compress(json.dumps(nodes).encode())).decode()
    retries = {"limit": "2", "retryPolicy": workflow.cluster.retry_policy}
    written = {
        "metadata": {"name": workflow.name},
        "spec": {"templateDefaults": {"retryStrategy": retries}},
        "status": {
            "phase": _PHASES.get(workflow.state, "Running"),
            **({"compressedNodes": text} if packed else {"nodes": nodes}),
        },
    }
    return {"run": {"id": workflow.run_id}, "pipeline_runtime": {"workflow_manifest": json.dumps(written)}}


def _node(workflow: Workflow, node: Node) -> dict[str, Any]:
    phase = "Error" if node.error else _PHASES.get(node.state, "Running")
    told: dict[str, Any] = {
        "id": node_id(workflow.name, node.name),
        "name": node.name,
        "displayName": node.name.rpartition(".")[2],
        "type": node.kind,
        "phase": phase,
        "startedAt": f"{node.started:%Y-%m-%dT%H:%M:%SZ}",
        "finishedAt": f"{node.ended:%Y-%m-%dT%H:%M:%SZ}" if node.ended else None,
        "children": [node_id(workflow.name, child) for child in node.children],
    }
    place = node.name.removesuffix(")").rpartition("(")[0] if node.kind == "Pod" else node.name
    driven = workflow.driven.get(place.removesuffix("-driver")) if place.endswith("-driver") else None
    if driven and node.state == "SUCCEEDED":
        patch = "" if driven.cached else json.dumps(_patch(workflow, driven))
        parameters = [{"name": "pod-spec-patch", "value": patch}, {"name": "cached-decision", "value": "false"}]
        told["outputs"] = {"parameters": parameters}
    return told


def _patch(workflow: Workflow, driven: Driven) -> dict[str, Any]:
    places, outputs = workflow.cluster.metadata.places, driven.component.get("outputDefinitions", {})
    taken = {key: {"artifacts": [{"uri": places[number]}]} for key, number in driven.inputs.artifacts.items()}
    made = {key: {"artifacts": [{"uri": f"{driven.folder}/{key}"}]} for key in outputs.get("artifacts", {})}
    given = {"inputs": {"artifacts": taken}, "outputs": {"artifacts": made}}
    return {"containers": [{"name": "main", "command": ["launch", "--executor_input", json.dumps(given), "--"]}]}
