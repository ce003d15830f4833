"""Predicts the size of a run's workflow object on a cluster.

Kubeflow Pipelines turns a run into one Argo workflow. The object holds the specification and, as the run progresses,
every node, and must stay below 1 MiB. As long as specification and nodes fit uncompressed, the API server can report
stages. Beyond that, Argo compresses the nodes (gzip, base64), and the run ends if even these are too large.

The model writes the nodes as Argo does, each with the values from KFP's driver, and compresses them. Constant parts and
lengths of IDs are those of a workflow recorded with KFP 2.17 and Argo 4.0, with which
tests/launch/kubeflow/test_workflow_size.py compares the model.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from components.preflight.resolve import resolve
from components.shared.errors import InputError

LIMIT = 1024 * 1024  # bytes: Argo's MAX_WORKFLOW_SIZE
SHARE = 0.9  # share of the limit that a run may reach according to the model; retries add nodes
_RUN, _WORKFLOW = "a8ce9411-939a-45c4-b4a2-7de129c3c1f2", "rloop-xqfqf"
_ROOT = "minio://mlpipeline/v2/artifacts"
_SESSION = {
    "Provider": "minio",
    "Params": {
        "accessKeyKey": "accesskey",
        "disableSSL": "true",
        "endpoint": "seaweedfs.kubeflow:9000",
        "fromEnv": "false",
        "maxRetries": "5",
        "region": "minio",
        "secretKeyKey": "secretkey",
        "secretName": "mlpipeline-minio-artifact",
    },
}
_LAUNCHER_FLAGS = {
    "pod_name": "$(KFP_POD_NAME)",
    "pod_uid": "$(KFP_POD_UID)",
    "ml_pipeline_server_address": "ml-pipeline.kubeflow.svc.cluster.local",
    "ml_pipeline_server_port": "8887",
    "mlmd_server_address": "metadata-grpc-service.kubeflow.svc.cluster.local",
    "mlmd_server_port": "8080",
    "publish_logs": "true",
}
_LOGS = {"artifactType": {"schemaTitle": "system.Artifact"}}
# Constant part of any specification: templates of driver, launcher and entrypoint, security contexts.
_FIXED_BYTES = 11_500
_TASK_BYTES = 1_485  # driver and executor of a stage in its DAG's template, without the task itself
_DAG_TASK_BYTES = 700  # the same for a nested pipeline
_BEFORE_BYTES = 100_000  # approximate workflow size without any iteration
_COMPRESSION = 1.12  # size of Argo's compressed nodes relative to Python's gzip at level 6


@dataclass(frozen=True)
class WorkflowSize:
    """Size of a run's workflow at its end, in bytes.

    Attributes:
        stages: number of stages that run.
        specification: size of the workflow's specification.
        nodes: size of its nodes.
        compressed: size of its nodes as Argo compresses them.
    """

    stages: int
    specification: int
    nodes: int
    compressed: int

    @property
    def fits_uncompressed(self) -> bool:
        """Whether the API server can report stages until the end."""
        return self.specification + self.nodes <= LIMIT

    @property
    def bytes(self) -> int:
        """Size of the stored object at the end."""
        return self.specification + (self.nodes if self.fits_uncompressed else self.compressed)

    def words(self) -> str:
        """Describes the size in one line."""
        stored = f"{self.bytes / 1000:,.0f} KB of at most {LIMIT / 1000:,.0f}"
        if self.fits_uncompressed:
            return f"{self.stages} stages, workflow {stored}"
        uncompressed = (self.specification + self.nodes) / LIMIT
        return f"{self.stages} stages, workflow {stored}, compressed ({uncompressed:.1f} times the limit uncompressed)"


def check_size(size: WorkflowSize, iterations: int) -> None:
    """Checks that a run can finish within the cluster's limit.

    Raises:
        InputError: according to the model it cannot; the message states what to do.
    """
    if problem := size_problem(size, iterations):
        raise InputError(problem)


def size_problem(size: WorkflowSize, iterations: int) -> str | None:
    """Returns what to do about a run whose workflow gets too close to the limit; None if it fits."""
    reached = size.specification + size.compressed
    if reached <= SHARE * LIMIT:
        return None
    each = (reached - _BEFORE_BYTES) / iterations
    fewer = max(1, int((SHARE * LIMIT - _BEFORE_BYTES) / each))
    return (
        f"{iterations} iterations make a workflow of {reached / 1000:,.0f} KB by its end, more than {SHARE:.0%} of the "
        f"limit of {LIMIT / 1000:,.0f} KB: the run would be aborted midway. Run {fewer} iterations, then continue with "
        f"`submit --continue RUN`"
    )


def workflow_size(documents: list[dict[str, Any]], parameters: dict[str, Any] | None = None) -> WorkflowSize:
    """Returns the size of a compiled pipeline's workflow after every stage has run.

    Args:
        documents: YAML documents of the compiled pipeline.
        parameters: parameters of the run, which override the defaults.
    """
    model = _Model(documents, parameters or {})
    nodes = list(model.nodes())
    # Argo keeps the nodes in a map by ID; Go serializes maps in key order.
    raw = _compact({node["id"]: node for node in sorted(nodes, key=lambda node: str(node["id"]))})
    compressed = len(base64.b64encode(gzip.compress(raw.encode(), 6)))
    return WorkflowSize(model.stages, model.specification_bytes(), len(raw.encode()), round(compressed * _COMPRESSION))


class _Model:
    """Walks the tasks of a pipeline as its driver does, and generates the nodes that Argo stores for each."""

    def __init__(self, documents: list[dict[str, Any]], parameters: dict[str, Any]) -> None:
        self._specification = documents[0]
        self._components = self._specification["components"]
        self._executors = self._specification["deploymentSpec"]["executors"]
        platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"] if len(documents) > 1 else {}
        self._pods: dict[str, Any] = platform.get("executors", {})
        self._parameters = _defaults(self._specification["root"]) | parameters
        self.stages = 0

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Yields the nodes at the end of the run."""
        root = self._specification["root"]
        configuration = _compact({"parameterValues": self._parameters})
        yield from self._nested("root", "", root, {"runtime-config": configuration})
        yield from self._tasks(root["dag"], f"{_WORKFLOW}(0).root(0)", self._parameters)

    def specification_bytes(self) -> int:
        """Returns the size of the specification: distinct components and containers, and a template per pipeline."""
        arguments = {_compact({**component, "executorLabel": ""}) for component in self._components.values()}
        arguments |= {_compact(executor.get("container", executor)) for executor in self._executors.values()}
        size = sum(_quoted(text) + 110 for text in arguments)
        size += sum(_quoted(_compact(pod)) + 60 for pod in self._pods.values())
        size += _quoted(_compact(self._specification["root"])) + _quoted(_compact(self._parameters))
        dags = [self._specification["root"]["dag"], *(c["dag"] for c in self._components.values() if "dag" in c)]
        for dag in dags:
            for task in dag["tasks"].values():
                nested = "dag" in self._components[task["componentRef"]["name"]]
                size += _quoted(_compact(task)) + (_DAG_TASK_BYTES if nested else _TASK_BYTES)
        return size + _FIXED_BYTES

    def _tasks(self, dag: dict[str, Any], prefix: str, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
        results: dict[str, dict[str, Any]] = {}  # output parameters of tasks

        def value(source: dict[str, Any]) -> Any:
            if "runtimeValue" in source:
                return source["runtimeValue"]["constant"]
            if key := source.get("componentInputParameter"):
                return given[key]
            output = source["taskOutputParameter"]
            return results.get(output["producerTask"], {}).get(output["outputParameterKey"], "0123456789abcdef")

        waiting = dict(dag["tasks"])
        while waiting:
            name = next(n for n, task in waiting.items() if not waiting.keys() & set(task.get("dependentTasks", ())))
            task = waiting.pop(name)
            component = self._components[task["componentRef"]["name"]]
            arguments = {key: value(source) for key, source in task.get("inputs", {}).get("parameters", {}).items()}
            if "dag" in component:
                yield from self._nested(name, f"{prefix}.", component, {"task": _compact(task)})
                yield from self._tasks(component["dag"], f"{prefix}.{name}(0)", _defaults(component) | arguments)
                continue
            if name == "preflight":
                results[name] = resolve(arguments) if "advanced" in arguments else {}  # {}: not our preflight
            if "importer" in (executor := self._executors[component["executorLabel"]]):
                given_to = {"task": task, "component": component, "importer": executor["importer"]}
                inputs = {key: _compact(value) for key, value in given_to.items()} | {"parent-dag-id": "21"}
                for suffix in ("", "(0)"):
                    yield _node(f"{prefix}.{name}{suffix}", inputs, {})
                continue
            self.stages += 1
            yield from self._stage(name, prefix, task, component, arguments)

    def _nested(
        self, name: str, prefix: str, component: dict[str, Any], more: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        """Yields the nodes of a pipeline: its driver's contain the tasks, its own next to nothing."""
        driver = {"component": _compact(component), **more, "task-name": name, "parent-dag-id": "21"}
        for suffix in ("", "(0)"):
            yield _node(f"{prefix}{name}-driver{suffix}", driver, {"execution-id": "21", "iteration-count": "0"})
            yield _node(f"{prefix}{name}{suffix}", {"parent-dag-id": "21"}, {})

    def _stage(
        self, name: str, prefix: str, task: dict[str, Any], component: dict[str, Any], arguments: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        label = component["executorLabel"]
        container, pod = self._executors[label]["container"], self._pods.get(label, {})
        patch = _compact(_pod(name, task, component, container, pod, arguments))
        driver = {
            "component": _compact(component),
            "task": _compact(task),
            "container": _compact(container),
            "task-name": name,
            "parent-dag-id": "21",
            "iteration-index": "-1",
            "kubernetes-config": _compact(pod),
        }
        decision = {"cached-decision": "false", "condition": "nil"}
        executor = {"pod-spec-patch": patch, "cached-decision": "false"}
        for number, (key, text) in enumerate(sorted(pod.get("podMetadata", {}).get("labels", {}).items()), 1):
            executor |= {f"pod-metadata-label-key-{number}": key, f"pod-metadata-label-val-{number}": text}
        retry = task.get("retryPolicy", {})
        if retry:
            executor |= {"retry-max-count": str(retry.get("maxRetryCount")), "retry-backoff-duration": "60"}
            executor |= {"retry-backoff-factor": "2", "retry-backoff-max-duration": "360000"}
        for suffix in ("", "(0)"):
            yield _node(f"{prefix}.{name}-driver{suffix}", driver, {"pod-spec-patch": patch, **decision})
            yield _node(f"{prefix}.{name}{suffix}", executor, {})
            yield _node(f"{prefix}.{name}(0).executor{suffix}", executor, {})


def _defaults(component: dict[str, Any]) -> dict[str, Any]:
    """Returns the default values of a pipeline's parameters."""
    inputs = component.get("inputDefinitions", {}).get("parameters", {})
    return {name: definition.get("defaultValue", "") for name, definition in inputs.items()}


def _node(name: str, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Any]:
    """Returns a node, with realistic values of what differs between nodes: IDs, times, log paths."""
    name = name if name.startswith(_WORKFLOW) else f"{_WORKFLOW}(0).{name}"
    identifier = f"{_WORKFLOW}-{_number(name)}"
    node: dict[str, Any] = {
        "id": identifier,
        "name": name,
        "displayName": name.rpartition(".")[2],
        "type": "Pod" if name.endswith("(0)") else "Retry",
        "templateName": "metadata-0-2-retry-system-container-executor",
        "templateScope": f"local/{_WORKFLOW}",
        "phase": "Succeeded",
        "boundaryID": f"{_WORKFLOW}-{_number(name.rpartition('.')[0])}",
        "startedAt": f"2026-11-28T16:{_number(name) % 60:02}:{_number(name) // 60 % 60:02}Z",
        "finishedAt": f"2026-11-28T16:{_number(name) % 50 + 9:02}:{_number(name) // 50 % 60:02}Z",
        "progress": f"{_number(name) % 30}/{_number(name) % 30}",
        "resourcesDuration": {"cpu": _number(name) % 300, "memory": _number(name) % 9999},
        "nodeFlag": {"retried": True},
        "inputs": {"parameters": [{"name": key, "value": value} for key, value in inputs.items()]},
        "children": [f"{_WORKFLOW}-{_number(name + '(0)')}"],
    }
    if outputs:
        node["outputs"] = {
            "parameters": [
                {"name": key, "value": value, "valueFrom": {"path": f"/tmp/outputs/{key}", "default": ""}}
                for key, value in outputs.items()
            ],
            "artifacts": [{"name": "main-logs", "s3": {"key": f"private-artifacts/kubeflow/{_WORKFLOW}/{identifier}"}}],
        }
    return node


def _pod(
    name: str,
    task: dict[str, Any],
    component: dict[str, Any],
    container: dict[str, Any],
    pod: dict[str, Any],
    arguments: dict[str, Any],
) -> dict[str, Any]:
    """Returns the pod spec patch that a stage's driver creates."""
    resources = container.get("resources", {})
    environment = [*container.get("env", [])]
    for secret in pod.get("secretAsEnv", []):
        for pair in secret["keyToEnv"]:
            reference = {"name": secret.get("secretName", ""), "key": pair["secretKey"], "optional": False}
            environment.append({"name": pair["envVar"], "valueFrom": {"secretKeyRef": reference}})
    return {
        "containers": [
            {
                "name": "main",
                "image": container["image"],
                "command": _launcher_command(name, task, component, arguments),
                "args": [*container["command"], *container["args"]],
                "env": environment,
                "resources": {
                    "limits": {"memory": resources.get("resourceMemoryLimit")},
                    "requests": {
                        "cpu": resources.get("resourceCpuRequest"),
                        "memory": resources.get("resourceMemoryRequest"),
                    },
                },
                "securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsUser": 10001, "runAsNonRoot": True},
            }
        ],
        "activeDeadlineSeconds": 86400,
    }


def _launcher_command(
    name: str, task: dict[str, Any], component: dict[str, Any], arguments: dict[str, Any]
) -> list[str]:
    """Returns the command with which a stage's pod starts KFP's launcher."""
    produced = _uuid(f"{name} {task['componentRef']}")
    folder = f"{_ROOT}/rloop/{_RUN}/{name}/{produced}"
    inputs = {}
    for key in task.get("inputs", {}).get("artifacts", {}):
        uri = f"{_ROOT}/rloop/{_RUN}/verification-filtering/{_uuid(key + produced)}/{key}"
        metadata = {"display_name": key, "store_session_info": _compact(_SESSION)}
        number = str(_number(uri) % 900)
        inputs[key] = {
            "artifacts": [{"name": number, "type": {"instanceSchema": ""}, "uri": uri, "metadata": metadata}]
        }
    definitions = component.get("outputDefinitions", {})
    outputs = {
        key: {"artifacts": [{"name": key, "type": output["artifactType"], "uri": f"{folder}/{key}"}]}
        for key, output in {"executor-logs": _LOGS, **definitions.get("artifacts", {})}.items()
    }
    executor_input = {
        "inputs": {"artifacts": inputs, "parameterValues": arguments},
        "outputs": {
            "artifacts": outputs,
            "parameters": {
                key: {"outputFile": f"/tmp/kfp/outputs/{key}/data"} for key in definitions.get("parameters", {})
            },
            "outputFile": f"/minio/{folder.removeprefix('minio://')}/output_metadata.json",
        },
    }
    described = {**component, "outputDefinitions": {"artifacts": {"executor-logs": _LOGS, **definitions}}}
    command = ["/kfp-launcher/launch", "--pipeline_name", "rloop", "--run_id", _RUN, "--execution_id", "31"]
    command += ["--executor_input", _compact(executor_input), "--component_spec", _compact(described)]
    command += [part for key, value in _LAUNCHER_FLAGS.items() for part in (f"--{key}", value)]
    return [*command, "--publish_logs", "true", "--"]


def _compact(value: Any) -> str:
    """Returns JSON as Go writes it, with <, > and & escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _quoted(text: str) -> int:
    """Returns the size of a string within JSON, in bytes."""
    return len(_compact(text).encode())


def _number(text: str) -> int:
    """Returns a ten-digit number derived from a text, as incompressible as a real ID."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) % 9_000_000_000 + 1_000_000_000


def _uuid(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
