"""What the pod of a stage requests, which nodes it selects and where it queues: why it may be pending."""

from typing import Any

from components.shared.training.train_job import NODE_QUEUE
from components.shared.training.trainjob_api import QUEUE_LABEL


def pod_request(specification: dict[str, Any], parameters: dict[str, Any], tasks: list[dict[str, Any]]) -> str:
    """Describes a pod's request, such as `rloop.dev/pool=gpu-training, 4 CPUs, 16Gi, 1 nvidia.com/gpu`.

    Args:
        specification: specification of the run.
        parameters: parameters passed to the run; others have the specification's defaults.
        tasks: task specs of the enclosing nested pipelines, then the stage's own.
    """
    pipeline = specification.get("pipeline_spec", specification)
    container = pipeline["deploymentSpec"]["executors"].get(_executor(specification, tasks), {}).get("container", {})
    resources = container.get("resources", {})
    pod = _pod(specification, tasks)
    definitions = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    root = {name: definition.get("defaultValue") for name, definition in definitions.items()} | parameters
    selector = _node_selector(pod.get("nodeSelector", {}), root, tasks[:-1])
    parts = [f"{key}={value}" for key, value in sorted(selector.items())]
    if cpu := resources.get("resourceCpuRequest"):
        parts.append(f"{cpu} CPU{'s' if cpu not in ('1', '1000m') else ''}")
    if memory := resources.get("resourceMemoryRequest"):
        parts.append(memory)
    if accelerator := resources.get("accelerator"):
        parts.append(f"{accelerator.get('resourceCount', '1')} {accelerator.get('resourceType', 'accelerator')}")
    return ", ".join(parts)


def queue_of(specification: dict[str, Any], tasks: list[dict[str, Any]], pod_runs: bool) -> str | None:
    """Returns the Kueue queue that a stage may wait in: its pod's, or, once that runs, the queue of its TrainJob.

    Kueue's scheduling gate keeps a pod pending; neither KFP nor Argo tells it from a pod that waits for a node.

    Args:
        specification: specification of the run.
        tasks: task specs of the enclosing nested pipelines, then the stage's own.
        pod_runs: whether its pod is running.
    """
    metadata = _pod(specification, tasks).get("podMetadata", {})
    kind, key = ("annotations", NODE_QUEUE) if pod_runs else ("labels", QUEUE_LABEL)
    queue: str | None = metadata.get(kind, {}).get(key)
    return queue


def _executor(specification: dict[str, Any], tasks: list[dict[str, Any]]) -> str:
    pipeline = specification.get("pipeline_spec", specification)
    return str(pipeline["components"][tasks[-1]["componentRef"]["name"]].get("executorLabel", ""))


def _pod(specification: dict[str, Any], tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the Kubernetes part of a stage's executor."""
    platforms = specification.get("platform_spec", {}).get("platforms", {})
    executors = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    return dict(executors.get(_executor(specification, tasks), {}))


def _node_selector(source: dict[str, Any], root: dict[str, Any], enclosing: list[dict[str, Any]]) -> dict[str, str]:
    if labels := source.get("labels"):
        return dict(labels)
    # A stage's node selector refers to a parameter of the pipeline that contains the stage.
    value = source.get("nodeSelectorJson", {})
    for task in reversed(enclosing):
        value = task.get("inputs", {}).get("parameters", {}).get(value.get("componentInputParameter"), value)
    if output := value.get("taskOutputParameter"):  # preflight passes on what the parameter `pools` holds
        pool = output["outputParameterKey"].removesuffix("_nodes")
        return dict(((root.get("pools") or {}).get(pool) or {}).get("node_selector") or {})
    if "componentInputParameter" in value:
        return dict(root.get(value["componentInputParameter"]) or {})
    return dict(value.get("runtimeValue", {}).get("constant") or {})
