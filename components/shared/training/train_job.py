"""A stage's training on several nodes: a TrainJob of Kubeflow Trainer v2, made and followed by the stage's own pod.

The stage's pod does not train. It copies the inputs to a folder of its own on a volume that all pods mount, makes a
TrainJob whose pods run `components.shared.training.node` there, prints what the first of them prints, and copies the
outputs back. The pods are like the stage's own, which is read through the Kubernetes API: its image, environment with
secrets by reference, volumes, account, node selector and tolerations. Their resources are an annotation of it, since it
has no accelerators itself: launch/tasks.py.

The TrainJob's name follows from the run and the call, so that an attempt at a stage finds and ends the TrainJob that
an earlier attempt has left behind. One that nobody waits for ends by itself (`components.shared.training.node`), and
goes with the stage's pod, which owns it.

Kubeflow's own SDK (0.5) is not used: its TrainerClient takes the environment as plain text alone, no references to
secrets, and lists the cluster's runtimes, which takes rights in the whole cluster.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.stage import note, read_json
from components.shared.training.node import ALIVE, RESULT, arguments_of, node_failed, node_log, write_call
from components.shared.training.processes import MESSAGE, ParallelSettings

SHARED = Path("/rloop-shared")  # where the volume is mounted, in all pods
NODE_RESOURCES = "rloop.dev/node-resources"  # annotation of the stage's pod: what a node asks for, as JSON
RUNTIME = "torch-distributed"  # the ClusterTrainingRuntime that Kubeflow Trainer brings
API = ("trainer.kubeflow.org", "v1alpha1")
POLL_SECONDS = 3.0
GONE_SECONDS = 600.0  # that a TrainJob may take to go
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_WORKFLOW = "workflows.argoproj.io/workflow"  # Argo's label: the run, the same in all attempts
# What network policies, priorities and people know a stage's pods by.
_LABELS = ("pipelines.kubeflow.org/v2_component", "rloop.dev/pool")
# Of the stage's pod alone, or given by the cluster to each pod of the account.
_OWN_ENVIRONMENT = ("ARGO_", "KFP_", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_", "AWS_CONTAINER_")
_LOG_TAIL = 30
_CREATE = "create trainjobs"
_FORBIDDEN, _GONE, _CONFLICT, _TOO_MANY, _REFUSED = 403, 404, 409, 429, (400, 422)  # of HTTP


def on_nodes(
    settings: ParallelSettings,
    section: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Runs a function on several nodes, and returns what it returns in the first process of all.

    Args:
        settings: the recipe's `rl.parallel` or `rft.parallel`.
        section: of the recipe, for messages.
        function: of a module of ours.
        args: a `Path` for each file or folder that it reads; settings, or what JSON has.
        kwargs: the same; a `Path` whose name ends with `_out` is written.

    Raises:
        InputError: one of the processes raised one, the cluster cannot do it, or an earlier attempt's TrainJob does not
            go.
        RuntimeError: a node failed otherwise; the end of its log is printed.
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
    if in_the_way := cluster.delete(name):
        raise InputError(in_the_way)
    for left in SHARED.glob(f"{name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = SHARED / f"{name}-{pod['metadata']['uid'][:8]}"  # an attempt that lives on removes its own alone
    folder.mkdir()
    outputs = {key: value for key, value in arguments.items() if isinstance(value, Path) and key.endswith("_out")}
    try:
        there = dict(arguments)
        for key, value in arguments.items():
            if isinstance(value, Path):
                there[key] = folder / key
                if key not in outputs:
                    _copy(value, there[key])
        write_call(folder, settings, section, function, there)
        job = cluster.create(train_job(pod, name, folder, settings))
        note(
            f"{settings.nodes} nodes train as TrainJob {name}; "
            f"kubectl -n {cluster.namespace} get pods -l jobset.sigs.k8s.io/jobset-name={name} shows their pods"
        )
        try:
            _follow(cluster, job, folder, settings.nodes)
            for key, value in outputs.items():
                if there[key].exists():
                    _copy(there[key], value)
        finally:
            if in_the_way := cluster.delete(name, job["metadata"]["uid"]):
                note(in_the_way)  # it goes with this pod; what the nodes made is here
        return read_json(folder / RESULT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def job_name(run: str, function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """A name for the TrainJob of a stage: the same in each attempt, another for any other stage of any run.

    Kubernetes takes a label of DNS, and the names of its pods are longer by some.
    """
    call = {key: repr(value) for key, value in arguments.items() if not isinstance(value, Path)}
    digest = hashlib.sha256(f"{run}\0{json.dumps(call, sort_keys=True)}".encode()).hexdigest()
    return f"rloop-{function.__name__.replace('_', '-')}-{digest[:12]}"


def train_job(pod: dict[str, Any], name: str, folder: Path, settings: ParallelSettings) -> dict[str, Any]:
    """The TrainJob whose pods train in a folder.

    Args:
        pod: the stage's own, as the Kubernetes API has it.
        name: of the TrainJob.
        folder: on the volume.
        settings: how many nodes and processes.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    main = next(container for container in spec["containers"] if container["name"] == "main")
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
        "containers": [_filled(container)],
    }
    labels = {label: metadata["labels"][label] for label in _LABELS if label in metadata["labels"]}
    labels |= {"rloop.dev/training-node": "true"}  # manifests/components/train-jobs lets them talk to each other
    labels |= {"sidecar.istio.io/inject": "false"}  # a mesh's proxy never ends
    template = {"metadata": {"labels": labels}, "spec": _filled(patch)}
    return {
        "apiVersion": "/".join(API),
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "rloop"},
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
                            "spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": template}}}]}
                        }
                    },
                }
            ],
        },
    }


def _is_shared(volume: dict[str, Any]) -> bool:
    """Whether a volume of the stage's pod is one for the nodes too: not Argo's, KFP's or the account's own."""
    in_memory = volume.get("emptyDir", {}).get("medium") == "Memory"
    return in_memory or any(kind in volume for kind in ("persistentVolumeClaim", "secret", "configMap"))


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


class Cluster:
    """What this stage does through the Kubernetes API, in its own namespace.

    Args:
        client: of the kubernetes package.
        namespace: of the stage's pod.
        pod: name of the stage's pod.
    """

    def __init__(self, client: Any, namespace: str, pod: str) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self.namespace, self._pod = namespace, pod
        self._core, self._custom = CoreV1Api(client), CustomObjectsApi(client)
        self._where = (*API, namespace, "trainjobs")

    def own_pod(self) -> dict[str, Any]:
        """The pod that this runs in, as the API has it."""
        with self._explained("get pods"):
            answer = self._core.read_namespaced_pod(self._pod, self.namespace, _preload_content=False)
        pod: dict[str, Any] = json.loads(answer.data)
        return pod

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        """Makes a TrainJob."""
        with self._explained(_CREATE):
            made: dict[str, Any] = self._custom.create_namespaced_custom_object(*self._where, job)
        return made

    def state(self, job: dict[str, Any]) -> tuple[str, str]:
        """What has become of a TrainJob: Complete, Failed, Deleted or nothing yet, and what the cluster says of it."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            with self._explained("get trainjobs"):
                name = job["metadata"]["name"]
                found = self._custom.get_namespaced_custom_object(*self._where, name, _request_timeout=30)
        except ApiException as error:
            if error.status == _GONE:
                return "Deleted", ""
            if not _is_away(error):
                raise
            return "", ""
        except HTTPError:  # the API server is away for a while; the nodes do without it
            return "", ""
        if found["metadata"]["uid"] != job["metadata"]["uid"]:
            return "Deleted", ""
        for condition in found.get("status", {}).get("conditions", []):
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return condition["type"], condition.get("message", "")
        return "", ""

    def delete(self, name: str, uid: str | None = None) -> str:
        """Removes a TrainJob and waits until its pods are gone, GONE_SECONDS at most.

        Returns:
            What is in the way, in words; empty when it is gone, or was not there, or not that one.
        """
        from kubernetes.client import ApiException, V1DeleteOptions, V1Preconditions
        from urllib3.exceptions import HTTPError

        options = V1DeleteOptions(propagation_policy="Foreground")
        options.preconditions = V1Preconditions(uid=uid) if uid else None
        began, told = time.monotonic(), False
        while True:
            why = "the API server does not answer"
            try:
                with self._explained("delete trainjobs"):
                    left = self._custom.delete_namespaced_custom_object(*self._where, name, body=options)
                finalizers = ", ".join(left.get("metadata", {}).get("finalizers") or ["none"])
                why = f"it waits for its finalizers ({finalizers}), or its pods do not end"
            except ApiException as error:
                if error.status in (_GONE, _CONFLICT):  # a conflict: another attempt at this stage has made another one
                    return ""
                if not _is_away(error):
                    raise
            except HTTPError:
                pass  # as in `state`
            waited = time.monotonic() - began
            if waited >= GONE_SECONDS:
                return (
                    f"TrainJob {name} is not gone {waited:.0f} s after it was deleted: {why}; look at it with "
                    f"`kubectl -n {self.namespace} get trainjob {name} -o yaml`"
                )
            if waited >= GONE_SECONDS / 10 and not told:
                told = True
                note(f"waiting until TrainJob {name} is gone: {why}")
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _explained(self, right: str) -> Iterator[None]:
        from kubernetes.client import ApiException

        try:
            yield
        except ApiException as error:
            if error.status == _FORBIDDEN:
                raise InputError(
                    f"the cluster does not let this stage's account {right}: {_said(error)}. "
                    f"manifests/components/train-jobs has the rights that several nodes need"
                ) from None
            if error.status in _REFUSED:
                raise InputError(f"the cluster refuses to {right}: {_said(error)}") from None
            if error.status == _GONE and right == _CREATE:
                raise InputError("this cluster has no TrainJobs: install Kubeflow Trainer 2.2 or later") from None
            raise


def _is_away(error: Any) -> bool:
    """Whether the API server has not answered, but asks to be asked again."""
    return bool(error.status >= 500 or error.status == _TOO_MANY)


def _said(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def connect(section: str) -> Cluster:
    """The cluster that this pod runs in.

    Raises:
        InputError: this is no pod of a cluster.
    """
    if not _NAMESPACE.is_file():
        raise InputError(
            f"{section}.parallel.nodes needs a Kubernetes cluster with Kubeflow Trainer; set it to 1 for a run here"
        )
    from kubernetes import config
    from kubernetes.client import ApiClient, Configuration

    configuration = Configuration()
    config.load_incluster_config(configuration)
    return Cluster(ApiClient(configuration), _NAMESPACE.read_text().strip(), os.environ["KFP_POD_NAME"])


def _follow(cluster: Cluster, job: dict[str, Any], folder: Path, nodes: int) -> None:
    """Prints what the first node prints, until all have ended.

    Raises:
        InputError: a process raised one.
        RuntimeError: a node failed otherwise.
    """
    log = _Tail(folder / node_log(0))
    signs = {MESSAGE, *(node_failed(node) for node in range(nodes))}
    state = ""
    while not state:
        (folder / ALIVE).touch()
        # Listed each time: on a network's file system, a name that was not there is taken to be missing for a while.
        failed = signs & _names(folder)
        state, said = cluster.state(job)
        time.sleep(POLL_SECONDS)  # for what the nodes wrote at last
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
    reasons = [f"TrainJob {job['metadata']['name']}: {state or 'a node failed'}", said]
    for node in range(nodes):
        if node_failed(node) in present:
            reasons.append(f"node {node}: {(folder / node_failed(node)).read_text()}")
    raise RuntimeError("; ".join(filter(None, reasons)))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class _Tail:
    """Prints a file's whole lines as they come."""

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
