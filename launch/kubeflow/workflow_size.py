"""How large the workflow object of a run gets on a cluster.

Kubeflow Pipelines makes one Argo workflow of a run. Its object holds the specification and, as the run goes on, every
node, and must stay below 1 MiB. While specification and nodes are below it as they are, the API server can tell how
stages do; beyond, Argo packs the nodes (gzip, base64), and the run ends when even that is too large.

The model writes the nodes as Argo does, each with what KFP's driver gave it, and packs them. The fixed parts and the
lengths of ids are those of a workflow recorded with KFP 2.17 and Argo 4.0; tests/launch/kubeflow/test_workflow_size.py
compares the model with that workflow.
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

LIMIT = 1024 * 1024  # bytes, of Argo: its MAX_WORKFLOW_SIZE
SHARE = 0.9  # of the limit that a run may reach by the model; attempts after failures add nodes
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
_SERVERS = {
    "pod_name": "$(KFP_POD_NAME)",
    "pod_uid": "$(KFP_POD_UID)",
    "ml_pipeline_server_address": "ml-pipeline.kubeflow.svc.cluster.local",
    "ml_pipeline_server_port": "8887",
    "mlmd_server_address": "metadata-grpc-service.kubeflow.svc.cluster.local",
    "mlmd_server_port": "8080",
    "publish_logs": "true",
}
# Bytes of the specification whatever the pipeline: templates of driver, launcher and entrypoint, security contexts.
_FIXED_BYTES = 11_500
_TASK_BYTES = 1_485  # of a stage's driver and executor in its DAG's template, without the task itself
_DAG_TASK_BYTES = 700  # of a nested pipeline's
_BEFORE_BYTES = 100_000  # of a run's workflow without any iteration, about
_PACKING = 1.12  # Argo's packed nodes to those of Python's gzip at level 6


@dataclass(frozen=True)
class WorkflowSize:
    """Of a run at its end, in bytes.

    Attributes:
        stages: how many run.
        specification: of the workflow.
        nodes: as they are.
        packed: as Argo packs them.
    """

    stages: int
    specification: int
    nodes: int
    packed: int

    @property
    def fits_unpacked(self) -> bool:
        """Whether the API server can tell how stages do until the end."""
        return self.specification + self.nodes <= LIMIT

    @property
    def bytes(self) -> int:
        """What the cluster keeps at the end."""
        return self.specification + (self.nodes if self.fits_unpacked else self.packed)

    def words(self) -> str:
        """The size for people, with what it means."""
        kept = f"{self.bytes / 1000:,.0f} KB of at most {LIMIT / 1000:,.0f}"
        if self.fits_unpacked:
            return f"{self.stages} stages, workflow {kept}"
        unpacked = (self.specification + self.nodes) / LIMIT
        return f"{self.stages} stages, workflow {kept}, packed ({unpacked:.1f} times the limit unpacked)"


def check_size(size: WorkflowSize, iterations: int) -> None:
    """Makes sure that a run can end within the cluster's limit.

    Raises:
        InputError: the model says that it comes too near; the message says what to do.
    """
    if problem := size_problem(size, iterations):
        raise InputError(problem)


def size_problem(size: WorkflowSize, iterations: int) -> str | None:
    """What to do about a run whose workflow comes too near to the cluster's limit; None where there is room."""
    reached = size.specification + size.packed
    if reached <= SHARE * LIMIT:
        return None
    each = (reached - _BEFORE_BYTES) / iterations
    fewer = max(1, int((SHARE * LIMIT - _BEFORE_BYTES) / each))
    return (
        f"{iterations} iterations make a workflow of {reached / 1000:,.0f} KB by its end, more than {SHARE:.0%} of the "
        f"{LIMIT / 1000:,.0f} KB that Kubernetes keeps: it would end in the middle. Run {fewer} iterations, and go on "
        f"from there with `submit --continue RUN`"
    )


def workflow_size(documents: list[dict[str, Any]], parameters: dict[str, Any] | None = None) -> WorkflowSize:
    """The size that a compiled pipeline's workflow has when every stage has run.

    Args:
        documents: of the compiled pipeline.
        parameters: of the run, in place of the defaults.
    """
    model = _Model(documents, parameters or {})
    nodes = list(model.nodes())
    # Argo keeps the nodes in a map by id; Go writes maps in the order of their keys.
    raw = _compact({node["id"]: node for node in sorted(nodes, key=lambda node: str(node["id"]))})
    packed = len(base64.b64encode(gzip.compress(raw.encode(), 6)))
    return WorkflowSize(model.stages, model.specification_bytes(), len(raw.encode()), round(packed * _PACKING))


class _Model:
    """Walks the tasks of a pipeline as its driver does, and writes down what Argo keeps of each."""

    def __init__(self, documents: list[dict[str, Any]], parameters: dict[str, Any]) -> None:
        self._specification = documents[0]
        self._components = self._specification["components"]
        self._executors = self._specification["deploymentSpec"]["executors"]
        platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"] if len(documents) > 1 else {}
        self._pods: dict[str, Any] = platform.get("executors", {})
        self._parameters = _defaults(self._specification["root"]) | parameters
        self.stages = 0

    def nodes(self) -> Iterator[dict[str, Any]]:
        """The nodes at the end of the run."""
        root = self._specification["root"]
        configuration = _compact({"parameterValues": self._parameters})
        yield from self._nested("root", "", root, {"runtime-config": configuration})
        yield from self._tasks(root["dag"], f"{_WORKFLOW}(0).root(0)", self._parameters)

    def specification_bytes(self) -> int:
        """Of the workflow's specification: components and containers once by content, a template for each pipeline."""
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
        results: dict[str, dict[str, Any]] = {}  # parameters that tasks give

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
                results[name] = resolve(arguments) if "advanced" in arguments else {}  # {}: one of another shape
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
        """The nodes of a pipeline: those of its driver hold its tasks, those of itself next to nothing."""
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
    """A pipeline's parameters as they are where nobody gives them."""
    inputs = component.get("inputDefinitions", {}).get("parameters", {})
    return {name: definition.get("defaultValue", "") for name, definition in inputs.items()}


def _node(name: str, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Any]:
    """A node, with what changes from one to the next as it is recorded: ids, times, paths of logs."""
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
    """What the driver of a stage gives its pod."""
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
    command += [part for key, value in _SERVERS.items() for part in (f"--{key}", value)]
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
                "command": [*command, "--publish_logs", "true", "--"],
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


_LOGS = {"artifactType": {"schemaTitle": "system.Artifact"}}


def _compact(value: Any) -> str:
    """JSON as Go writes it, which keeps <, > and & out of it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _quoted(text: str) -> int:
    """Bytes of a text within JSON."""
    return len(_compact(text).encode())


def _number(text: str) -> int:
    """A number of ten digits that looks like any other."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) % 9_000_000_000 + 1_000_000_000


def _uuid(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
