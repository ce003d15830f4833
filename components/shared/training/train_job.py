"""A stage's training on several nodes: a TrainJob of Kubeflow Trainer v2, created and followed by the stage's own pod.

The stage's pod does not train. It copies the inputs to a folder of its own on a volume that all pods mount, creates a
TrainJob whose pods run `components.shared.training.node` there, prints the output of the first of them, and copies the
outputs back. The pods are like the stage's own, which is read through the Kubernetes API: its image, environment with
secrets by reference, volumes, service account, node selector and tolerations. Their resources are in an annotation of
the stage's pod, since it has no accelerators itself: launch/tasks.py.

Each attempt at a stage has a TrainJob with a name of its own, so that its pods never meet those of another by DNS. A
label is derived from the run and the call: by it, a retry attempt finds and deletes the TrainJob that an earlier one
left behind. One that nobody waits for ends by itself (`components.shared.training.node`), and is garbage-collected with
the stage's pod, which owns it.

Kubeflow's own SDK (0.5) is not used: its TrainerClient takes the environment only as plain text, without references to
secrets, and lists the cluster's runtimes, which needs cluster-wide permissions.
"""

import contextlib
import hashlib
import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.stage import note, read_json
from components.shared.training.node_folder import (
    POD_UID,
    RESULT,
    StagePod,
    arguments_of,
    kept_alive,
    remove,
    sweep,
    write_call,
)
from components.shared.training.parallel import ParallelSettings
from components.shared.training.trainjob_api import API, QUEUE_LABEL, STAGE_CONTAINER, Cluster, connect
from components.shared.training.trainjob_follow import follow

SHARED = Path("/rloop-shared")  # where the volume is mounted, in all pods
NODE_RESOURCES = "rloop.dev/node-resources"  # annotation of the stage's pod: a node's resources, as JSON
NODE_QUEUE = "rloop.dev/node-queue"  # annotation of the stage's pod: the Kueue LocalQueue of its TrainJob
RUNTIME = "torch-distributed"  # the ClusterTrainingRuntime that Kubeflow Trainer ships
STAGE = "rloop.dev/train-job-of"  # label of a TrainJob: the stage, the same in all attempts
_WORKFLOW = "workflows.argoproj.io/workflow"  # Argo's label: the run, the same in all attempts
# Labels by which network policies, priorities and people recognise a stage's pods.
_LABELS = ("pipelines.kubeflow.org/v2_component", "rloop.dev/pool")
# Variables of the stage's pod alone, or that the cluster sets in each pod of the service account.
_OWN_ENVIRONMENT = ("ARGO_", "KFP_", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_", "AWS_CONTAINER_")


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
    stage = job_name(pod["metadata"]["labels"][_WORKFLOW], function, arguments)
    own = StagePod(pod["metadata"]["name"], pod["metadata"]["uid"])
    with _ended_by_sigterm():
        for name in cluster.labelled(STAGE, stage):
            if obstacle := cluster.delete(name):
                raise InputError(obstacle)
        for leftover in SHARED.glob(f"{stage}-*"):
            remove(leftover)
        folder = SHARED / f"{stage}-{own.uid[:8]}"
        folder.mkdir()
        try:
            with kept_alive(folder):
                sweep(folder)
                write_call(folder, settings, section, function, _with_inputs(arguments, folder), own)
                _train(cluster, train_job(pod, stage, folder, settings), folder, settings.nodes)
                for key, value in arguments.items():
                    if _is_output(key, value) and (folder / key).exists():
                        _copy(folder / key, value)
            return read_json(folder / RESULT)
        finally:
            remove(folder)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit in the block, so that a stage that is cancelled deletes its TrainJob.

    The container has less than a second for that, since KFP's launcher ends at once; the nodes, which watch this pod,
    stop too.
    """

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one must not interrupt the deletion
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():  # only there, Python handles signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_output(name: str, value: Any) -> bool:
    return isinstance(value, Path) and name.endswith("_out")


def _with_inputs(arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Copies the inputs to the shared folder, and returns the arguments with the paths there."""
    shared = {key: folder / key if isinstance(value, Path) else value for key, value in arguments.items()}
    for key, value in arguments.items():
        if isinstance(value, Path) and not _is_output(key, value):
            _copy(value, folder / key)
    return shared


def _train(cluster: Cluster, wanted: dict[str, Any], folder: Path, nodes: int) -> None:
    """Creates a TrainJob, waits until its nodes have trained, and deletes it."""
    name = wanted["metadata"]["name"]
    try:
        cluster.create(wanted)
        note(
            f"{nodes} nodes train as TrainJob {name}; "
            f"kubectl -n {cluster.namespace} get pods -l jobset.sigs.k8s.io/jobset-name={name} shows their pods"
        )
        follow(cluster, wanted, folder, nodes)
    finally:
        if obstacle := cluster.delete(name):
            note(obstacle)  # the nodes' outputs are here, or an error says more


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def job_name(run: str, function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """Returns a name for a stage: the same in each attempt, different for every other stage and run.

    With the start of the pod's UID, it is the name of an attempt's TrainJob and folder: a valid DNS label, with room
    for the suffixes that the names of the TrainJob's pods get.
    """
    call = {key: repr(value) for key, value in arguments.items() if not isinstance(value, Path)}
    digest = hashlib.sha256(f"{run}\0{json.dumps(call, sort_keys=True)}".encode()).hexdigest()
    return f"rloop-{function.__name__.replace('_', '-')}-{digest[:12]}"


def train_job(pod: dict[str, Any], stage: str, folder: Path, settings: ParallelSettings) -> dict[str, Any]:
    """Returns the TrainJob whose pods train in a folder.

    Args:
        pod: The stage's own pod, as the Kubernetes API represents it.
        stage: The stage's name, the same in all attempts.
        folder: Folder on the volume, which gives the TrainJob its name.
        settings: Number of nodes and processes.
    """
    metadata = pod["metadata"]
    main = next(container for container in pod["spec"]["containers"] if container["name"] == STAGE_CONTAINER)
    environment = [one for one in main.get("env", []) if not one["name"].startswith(_OWN_ENVIRONMENT)]
    own_uid = {"name": POD_UID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    queue = metadata["annotations"].get(NODE_QUEUE)
    return {
        "apiVersion": "/".join(API),
        "kind": "TrainJob",
        "metadata": {
            "name": folder.name,
            "labels": {"app.kubernetes.io/part-of": "rloop", STAGE: stage} | ({QUEUE_LABEL: queue} if queue else {}),
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
                "env": [*environment, own_uid],
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
    mounted = {mount["name"] for mount in main.get("volumeMounts", [])}  # Argo's containers mount others
    volumes = [volume for volume in spec.get("volumes", []) if volume["name"] in mounted and _is_shared(volume)]
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
