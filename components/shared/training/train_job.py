"""A stage's training on several nodes: a TrainJob of Kubeflow Trainer v2, created and followed by the stage's own pod.

The stage's pod does not train. It copies the inputs to a folder of its own on a volume that all pods mount, creates a
TrainJob whose pods run `components.shared.training.node` there, prints the output of the first of them, and copies the
outputs back. The pods are like the stage's own, which is read through the Kubernetes API: its image, environment with
secrets by reference, volumes, service account, node selector and tolerations. Their resources are in an annotation of
the stage's pod, since it has no accelerators itself: launch/tasks.py.

The TrainJob's name is derived from the run and the call, so that a retry attempt of a stage finds and deletes the
TrainJob that an earlier attempt left behind. One that nobody waits for ends by itself
(`components.shared.training.node`), and is garbage-collected with the stage's pod, which owns it.

Kubeflow's own SDK (0.5) is not used: its TrainerClient takes the environment only as plain text, without references to
secrets, and lists the cluster's runtimes, which needs cluster-wide permissions.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.stage import note, read_json
from components.shared.training import trainjob_api
from components.shared.training.launching import MESSAGE
from components.shared.training.node_folder import ALIVE, RESULT, arguments_of, node_failed, node_log, write_call
from components.shared.training.parallel import ParallelSettings
from components.shared.training.trainjob_api import API, SUSPENDED, Cluster, connect

SHARED = Path("/rloop-shared")  # where the volume is mounted, in all pods
NODE_RESOURCES = "rloop.dev/node-resources"  # annotation of the stage's pod: a node's resources, as JSON
NODE_QUEUE = "rloop.dev/node-queue"  # annotation of the stage's pod: the Kueue LocalQueue of its TrainJob
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"  # by which Kueue admits a pod or a TrainJob (the latter from Kueue 0.14 on)
RUNTIME = "torch-distributed"  # the ClusterTrainingRuntime that Kubeflow Trainer ships
_WORKFLOW = "workflows.argoproj.io/workflow"  # Argo's label: the run, the same in all attempts
# Labels by which network policies, priorities and people recognise a stage's pods.
_LABELS = ("pipelines.kubeflow.org/v2_component", "rloop.dev/pool")
# Variables of the stage's pod alone, or that the cluster sets in each pod of the service account.
_OWN_ENVIRONMENT = ("ARGO_", "KFP_", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_", "AWS_CONTAINER_")
_LOG_TAIL = 30


def on_nodes(
    settings: ParallelSettings,
    section: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Runs a function on several nodes, and returns what it returns at global rank 0.

    Args:
        settings: The recipe's `rl.parallel` or `rft.parallel`.
        section: Recipe section, for messages.
        function: A function of one of our modules.
        args: A `Path` for each file or folder that it reads; otherwise settings, or what JSON can represent.
        kwargs: The same; a `Path` whose name ends with `_out` is written.

    Raises:
        InputError: One of the processes raised one, the cluster cannot do it, or an earlier attempt's TrainJob cannot
            be deleted.
        RuntimeError: A node failed otherwise; the end of its log is printed.
    """
    cluster = connect(section)
    pod = cluster.own_pod()
    if not SHARED.is_dir():
        raise InputError(
            f"{section}.parallel.nodes is {settings.nodes}, but this pod does not mount the volume: whether there are "
            f"several nodes is fixed when the pipeline is compiled; compile it again with these settings"
        )
    arguments = arguments_of(function, args, kwargs)
    name = job_name(pod["metadata"]["labels"][_WORKFLOW], function, arguments)
    if obstacle := cluster.delete(name):
        raise InputError(obstacle)
    for leftover in SHARED.glob(f"{name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = SHARED / f"{name}-{pod['metadata']['uid'][:8]}"  # an attempt that is still alive removes only its own
    folder.mkdir()
    outputs = {key: value for key, value in arguments.items() if isinstance(value, Path) and key.endswith("_out")}
    try:
        shared_arguments = dict(arguments)
        for key, value in arguments.items():
            if isinstance(value, Path):
                shared_arguments[key] = folder / key
                if key not in outputs:
                    _copy(value, folder / key)
        write_call(folder, settings, section, function, shared_arguments)
        job = cluster.create(train_job(pod, name, folder, settings))
        note(
            f"{settings.nodes} nodes train as TrainJob {name}; "
            f"kubectl -n {cluster.namespace} get pods -l jobset.sigs.k8s.io/jobset-name={name} shows their pods"
        )
        try:
            _follow(cluster, job, folder, settings.nodes)
            for key, value in outputs.items():
                if (folder / key).exists():
                    _copy(folder / key, value)
        finally:
            if obstacle := cluster.delete(name, job["metadata"]["uid"]):
                note(obstacle)  # it will be deleted with this pod; the nodes' outputs are here
        return read_json(folder / RESULT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def job_name(run: str, function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """Returns the name of a stage's TrainJob: the same in each attempt, different for every other stage and run.

    It is a valid DNS label, with room for the suffixes that the names of its pods get.
    """
    call = {key: repr(value) for key, value in arguments.items() if not isinstance(value, Path)}
    digest = hashlib.sha256(f"{run}\0{json.dumps(call, sort_keys=True)}".encode()).hexdigest()
    return f"rloop-{function.__name__.replace('_', '-')}-{digest[:12]}"


def train_job(pod: dict[str, Any], name: str, folder: Path, settings: ParallelSettings) -> dict[str, Any]:
    """Returns the TrainJob whose pods train in a folder.

    Args:
        pod: The stage's own pod, as the Kubernetes API represents it.
        name: Name of the TrainJob.
        folder: Folder on the volume.
        settings: Number of nodes and processes.
    """
    metadata = pod["metadata"]
    queue = metadata["annotations"].get(NODE_QUEUE)
    main = next(container for container in pod["spec"]["containers"] if container["name"] == "main")
    return {
        "apiVersion": "/".join(API),
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "rloop"} | ({QUEUE_LABEL: queue} if queue else {}),
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
            ],
        },
        "spec": {
            "runtimeRef": {"apiGroup": API[0], "kind": "ClusterTrainingRuntime", "name": RUNTIME},
            "trainer": {
                "image": main["image"],
                "command": ["python", "-m", "components.shared.training.node", str(folder)],
                "numNodes": settings.nodes,
                "numProcPerNode": settings.processes,
                "resourcesPerNode": json.loads(metadata["annotations"][NODE_RESOURCES]),
                "env": [one for one in main.get("env", []) if not one["name"].startswith(_OWN_ENVIRONMENT)],
            },
            "runtimePatches": [
                {
                    "manager": "rloop.dev/stage",
                    "trainingRuntimeSpec": {
                        "template": {
                            "spec": {
                                "replicatedJobs": [
                                    {"name": "node", "template": {"spec": {"template": _pod_template(pod, main)}}}
                                ]
                            }
                        }
                    },
                }
            ],
        },
    }


def _pod_template(pod: dict[str, Any], main: dict[str, Any]) -> dict[str, Any]:
    """Returns the runtime's pod template, patched to be like the stage's pod; `main` is that pod's container."""
    metadata, spec = pod["metadata"], pod["spec"]
    volumes = [volume for volume in spec.get("volumes", []) if _is_shared(volume)]
    names = {volume["name"] for volume in volumes}
    container = {
        "name": "node",
        "volumeMounts": [mount for mount in main.get("volumeMounts", []) if mount["name"] in names],
        "securityContext": main.get("securityContext"),
    }
    patch = {
        "serviceAccountName": spec.get("serviceAccountName"),
        "nodeSelector": spec.get("nodeSelector"),
        "tolerations": spec.get("tolerations"),
        "imagePullSecrets": spec.get("imagePullSecrets"),
        "securityContext": spec.get("securityContext"),
        "volumes": volumes,
        "containers": [_without_empty(container)],
    }
    labels = {label: metadata["labels"][label] for label in _LABELS if label in metadata["labels"]}
    labels |= {"rloop.dev/training-node": "true"}  # manifests/components/train-jobs lets them talk to each other
    labels |= {"sidecar.istio.io/inject": "false"}  # a mesh's proxy never ends
    return {"metadata": {"labels": labels}, "spec": _without_empty(patch)}


def _is_shared(volume: dict[str, Any]) -> bool:
    """Whether the nodes need a volume of the stage's pod too: not those of Argo, KFP or the service account."""
    in_memory = volume.get("emptyDir", {}).get("medium") == "Memory"
    return in_memory or any(kind in volume for kind in ("persistentVolumeClaim", "secret", "configMap"))


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}


def _follow(cluster: Cluster, job: dict[str, Any], folder: Path, nodes: int) -> None:
    """Prints the first node's output until all nodes have ended.

    Raises:
        InputError: A process raised one.
        RuntimeError: A node failed otherwise, or the TrainJob lost its quota.
    """
    log = _Tail(folder / node_log(0))
    failure_files = {MESSAGE, *(node_failed(node) for node in range(nodes))}
    state, queued = "", False
    while state in ("", SUSPENDED):
        (folder / ALIVE).touch()
        # Listed each time: a network file system caches for a while that a name does not exist.
        present = _names(folder)
        failed = failure_files & present
        state, message = cluster.state(job)
        if state == SUSPENDED and any(node_log(node) in present for node in range(nodes)):
            message = "it was suspended after its nodes had started, as Kueue does with what it preempts"
            break
        if state == SUSPENDED and not queued:
            queued = True
            note(_queued(job))
        time.sleep(trainjob_api.POLL_SECONDS)  # for what the nodes wrote last
        log.print()
        if failed:
            break
    present = _names(folder)
    if state == "Complete" and RESULT in present:
        return
    if MESSAGE in present:
        raise InputError((folder / MESSAGE).read_text())
    for node in range(1, nodes):
        if node_log(node) in present:
            lines = (folder / node_log(node)).read_text(errors="replace").splitlines()[-_LOG_TAIL:]
            print(f"the log of node {node} ends with:", *lines, sep="\n")
    reasons = [f"TrainJob {job['metadata']['name']}: {state or 'a node failed'}", message]
    for node in range(nodes):
        if node_failed(node) in present:
            reasons.append(f"node {node}: {(folder / node_failed(node)).read_text()}")
    raise RuntimeError("; ".join(filter(None, reasons)))


def _queued(job: dict[str, Any]) -> str:
    name, queue = job["metadata"]["name"], job["metadata"]["labels"].get(QUEUE_LABEL)
    if queue:
        return f"TrainJob {name} waits in queue {queue} until Kueue admits it"
    return f"TrainJob {name} is suspended, and names no queue: if Kueue has to admit it, set pools.training.queue"


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class _Tail:
    """Prints a file's complete lines as they are written."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def print(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            lines, newline, _ = file.read().rpartition(b"\n")
        self._at += len(lines) + len(newline)
        if newline:
            print(lines.decode(errors="replace"), flush=True)
