"""A TrainJob as a stage makes and follows it. The client is Kubernetes' own, the cluster a stand-in."""

import contextlib
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from kubernetes.client import ApiClient, Configuration

from components.rft.refine import refine
from components.rft.settings import RFTSettings
from components.rl_exploration.step_callback import check_state
from components.shared.data import countdown
from components.shared.data.schema import TRAJECTORIES, write_table
from components.shared.errors import InputError
from components.shared.training import node_folder, train_job, trainjob_api, trainjob_follow
from components.shared.training.collectives import init_processes
from components.shared.training.launching import MESSAGE
from components.shared.training.node_folder import POD_UID, node_failed
from components.shared.training.parallel import ParallelSettings, share
from components.shared.training.processes import on_processes
from launch.pools import Pool
from launch.tasks import _resources
from tests.countdown_solver import solve
from tests.shared.training.trainer_stand_in import PODS, TrainerStandIn
from tests.stage_outputs import rft_outputs

TWO_NODES = ParallelSettings(nodes=2, volume="shared")
SECRET_KEY = {
    "name": "AWS_SECRET_ACCESS_KEY",
    "valueFrom": {"secretKeyRef": {"name": "rloop-object-store", "key": "secretkey"}},
}
POOL = Pool(cpu="8", memory="96Gi", accelerators=4, shared_memory="16Gi")


def stage_pod(mount: Path) -> dict[str, Any]:
    """The pod of a training stage as the Kubernetes API has it: what KFP makes of the task, with Argo's parts."""
    return {
        "metadata": {
            "name": "run-1-impl-7",
            "uid": "5d0e8c1a-2746-40b2-b785-30ac7631c203",
            "labels": {
                "workflows.argoproj.io/workflow": "run-1",
                "pipelines.kubeflow.org/v2_component": "true",
                "rloop.dev/pool": "gpu-training",
            },
            "annotations": {train_job.NODE_RESOURCES: json.dumps(_resources(POOL))},
        },
        "spec": {
            "serviceAccountName": "rloop",
            "nodeSelector": {"rloop.dev/pool": "gpu-training"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "imagePullSecrets": [{"name": "registry"}],
            "securityContext": {},
            "volumes": [
                {"name": "var-run-argo", "emptyDir": {}},
                {"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
                {"name": "kube-api-access", "projected": {"sources": []}},
                {"name": "mlpipeline-minio-artifact", "secret": {"secretName": "mlpipeline-minio-artifact"}},
            ],
            "containers": [
                {
                    "name": "wait",
                    "image": "argoexec",
                    "volumeMounts": [{"name": "mlpipeline-minio-artifact", "mountPath": "/argo/secret"}],
                },
                {
                    "name": "main",
                    "image": "registry.example.com/me/rloop-rft:0123456789ab",
                    "env": [
                        {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                        {"name": "ARGO_TEMPLATE", "value": "{}"},
                        {"name": "AWS_ENDPOINT_URL_S3", "value": "http://seaweedfs:8333"},
                        SECRET_KEY,
                    ],
                    "securityContext": {"runAsUser": 10001, "runAsNonRoot": True},
                    "volumeMounts": [
                        {"name": "var-run-argo", "mountPath": "/var/run/argo"},
                        {"name": "shared", "mountPath": str(mount)},
                        {"name": "shm", "mountPath": "/dev/shm"},
                        {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                    ],
                },
            ],
        },
        "status": {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]},
    }


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerStandIn]:
    volume = tmp_path / "volume"
    volume.mkdir()
    stand_in = TrainerStandIn(stage_pod(volume))
    client = ApiClient(Configuration(host=stand_in.url))
    monkeypatch.setattr(train_job, "SHARED", volume)
    monkeypatch.setattr(trainjob_api, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(train_job, "connect", lambda _: trainjob_api.Cluster(client, "team", "run-1-impl-7"))
    yield stand_in
    stand_in.close()


def made(cluster: TrainerStandIn, function: Callable[[dict[str, Any], Path], None]) -> None:
    """Has a TrainJob run by a function instead of nodes; it gets the job and its folder."""
    cluster.runs_nodes, create = False, cluster.create

    def created(job: dict[str, Any]) -> tuple[int, Any]:
        answer = create(job)
        function(job, Path(job["spec"]["trainer"]["command"][-1]))
        return answer

    cluster.create = created  # type: ignore[method-assign]


# The fields that are used, as the CRD trainjobs.trainer.kubeflow.org of Kubeflow Trainer 2.2 and 2.3 has them; what is
# of a pod is checked against Kubernetes' own schema.
TEXT, NUMBER = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}


def fields(required: bool = True, **properties: Any) -> dict[str, Any]:
    """A mapping of exactly these keys."""
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": sorted(properties) if required else [],
    }


LABELS = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}
LIST = {"type": "array"}
CONTAINER = fields(False, name={"const": "node"}, volumeMounts=LIST, securityContext={"type": "object"})
POD_PATCH = fields(
    False,
    serviceAccountName=TEXT,
    nodeSelector=LABELS,
    tolerations=LIST,
    imagePullSecrets=LIST,
    securityContext={"type": "object"},
    volumes=LIST,
    containers={"type": "array", "items": CONTAINER},
)
POD_TEMPLATE = fields(metadata=fields(labels=LABELS), spec=POD_PATCH)
REPLICATED_JOB = fields(name={"const": "node"}, template=fields(spec=fields(template=POD_TEMPLATE)))
RUNTIME_PATCH = fields(
    manager={"type": "string", "pattern": r"^[a-z.]+/[a-z]+$"},  # with a domain, says the admission webhook
    trainingRuntimeSpec=fields(
        template=fields(spec=fields(replicatedJobs={"type": "array", "items": REPLICATED_JOB, "maxItems": 1}))
    ),
)
TRAIN_JOB = fields(
    apiVersion={"const": "trainer.kubeflow.org/v1alpha1"},
    kind={"const": "TrainJob"},
    metadata=fields(
        name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63 - len("-node-0-0")},
        labels=LABELS,
        ownerReferences=LIST,
    ),
    spec=fields(
        runtimeRef=fields(apiGroup=TEXT, kind=TEXT, name=TEXT),
        trainer=fields(
            image={**TEXT, "maxLength": 500},
            command={"type": "array", "items": TEXT},
            numNodes=NUMBER,
            numProcPerNode=NUMBER,
            resourcesPerNode=fields(requests={"type": "object"}, limits={"type": "object"}),
            env={"type": "array", "items": {"type": "object", "required": ["name"]}},
        ),
        runtimePatches={"type": "array", "items": RUNTIME_PATCH, "maxItems": 16},
    ),
)


def test_the_train_job_is_valid_and_its_pods_are_like_the_stages(tmp_path: Path) -> None:
    stage = train_job.job_name("run-1", refine, {"iteration": 1})
    name = f"{stage}-5d0e8c1a"
    job = train_job.train_job(stage_pod(train_job.SHARED), stage, train_job.SHARED / name, TWO_NODES)
    assert job["metadata"]["name"] == name
    jsonschema.validate(job, TRAIN_JOB)
    trainer = job["spec"]["trainer"]
    replicated = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    patch = replicated["template"]["spec"]["template"]
    container = {key: trainer[key] for key in ("image", "command", "env")} | patch["spec"]["containers"][0]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **patch["metadata"]},
        "spec": patch["spec"] | {"containers": [container | {"resources": trainer["resourcesPerNode"]}]},
    }
    kubernetes_validate.validate(pod, "1.33", strict=True)
    names = [variable["name"] for variable in container["env"]]
    assert names == ["AWS_ENDPOINT_URL_S3", "AWS_SECRET_ACCESS_KEY", POD_UID]
    assert container["env"][1] == SECRET_KEY  # by reference
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {
        "shared": "/rloop-shared",
        "shm": "/dev/shm",
    }
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["shared", "shm"]  # not what only Argo mounts
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "96Gi", "nvidia.com/gpu": "4"}
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 1)
    assert pod["spec"]["nodeSelector"] == {"rloop.dev/pool": "gpu-training"} and pod["spec"]["tolerations"]
    assert pod["metadata"]["labels"]["pipelines.kubeflow.org/v2_component"] == "true"  # for the network policies


def test_the_train_job_queues_instead_of_the_stages_pod() -> None:
    pod = stage_pod(train_job.SHARED)
    pod["metadata"]["annotations"][train_job.NODE_QUEUE] = "team-a"
    name = train_job.job_name("run-1", refine, {"iteration": 1})
    job = train_job.train_job(pod, name, train_job.SHARED / name, TWO_NODES)
    jsonschema.validate(job, TRAIN_JOB)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert "kueue" not in json.dumps(job["spec"]), "Kueue sees the nodes' pods as parts of the TrainJob"


def test_a_stage_has_one_name_for_its_train_job_and_no_other_stage_has_it() -> None:
    first = train_job.job_name("run-1", refine, {"iteration": 1, "policy_out": Path("/some/where")})
    assert first == train_job.job_name("run-1", refine, {"iteration": 1, "policy_out": Path("/else/where")})
    others = [
        ("run-2", refine, {"iteration": 1}),
        ("run-1", init_processes, {"iteration": 1}),
        ("run-1", refine, {"iteration": 2}),
    ]
    assert len({first, *(train_job.job_name(*other) for other in others)}) == 4


def test_an_earlier_attempts_train_job_is_deleted_and_its_folder_removed(cluster: TrainerStandIn) -> None:
    stage = train_job.job_name("run-1", init_processes, {})
    cluster.runs_nodes = False
    left, others = train_job.SHARED / f"{stage}-0a1b2c3d", train_job.SHARED / "rloop-explore-0123456789ab-0a1b2c3d"
    cluster.create(train_job.train_job(cluster.pod, stage, left, TWO_NODES))
    cluster.create(train_job.train_job(cluster.pod, "rloop-explore-0123456789ab", others, TWO_NODES))
    left.mkdir()
    seen = []

    def fails(job: dict[str, Any], folder: Path) -> None:
        seen.append((list(cluster.jobs), left.exists()))
        (folder / MESSAGE).write_text("too few problems")

    made(cluster, fails)
    with pytest.raises(InputError, match="too few problems"):
        on_processes(TWO_NODES, "rl", init_processes)
    # A name of its own: the pods of two attempts must not meet by DNS.
    assert seen == [([others.name, f"{stage}-5d0e8c1a"], False)]
    assert list(cluster.jobs) == [others.name] and not list(train_job.SHARED.iterdir())
    cluster.join()
    assert not cluster.brought_back


def test_a_cancelled_stage_deletes_its_train_job_at_once(cluster: TrainerStandIn) -> None:
    def default(*_: Any) -> None:
        raise AssertionError("SIGTERM ends Python without `finally`")

    before = signal.signal(signal.SIGTERM, default)
    try:
        made(cluster, lambda job, folder: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as ended:
            on_processes(TWO_NODES, "rl", init_processes)
        assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) is default
    finally:
        signal.signal(signal.SIGTERM, before)
    after = cluster.calls[[call.split(" ")[0] for call in cluster.calls].index("POST") + 1 :]
    assert [call.split(" ")[0] for call in after if "GET" not in call] == ["DELETE"] and not cluster.jobs
    assert not list(train_job.SHARED.iterdir())
    cluster.join()
    assert not cluster.brought_back


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ({}, ""),
        ({"status": {"phase": "Failed"}}, "pod run-1-impl-7 has ended: Failed"),
        ({"status": {"phase": "Succeeded"}}, "pod run-1-impl-7 has ended: Succeeded"),
        (  # SIGKILL; Argo's other container may still run
            {
                "status": {
                    "phase": "Running",
                    "containerStatuses": [
                        {"name": "wait", "state": {"running": {}}},
                        {"name": "main", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
                    ],
                }
            },
            "pod run-1-impl-7 has ended: exit code 137",
        ),
        ({"metadata": {"name": "run-1-impl-7", "uid": "another"}}, "pod run-1-impl-7 is another one by now"),
        ({"metadata": {"name": "another", "uid": "another"}}, "pod run-1-impl-7 is gone"),
    ],
)
def test_a_node_sees_how_the_stages_pod_has_ended(cluster: TrainerStandIn, change: dict[str, Any], how: str) -> None:
    uid = cluster.pod["metadata"]["uid"]
    cluster.pod |= change
    assert train_job.connect("rl").ended(uid) == how
    for status in (403, 429, 503):  # says nothing about the stage
        cluster.refuses["GET"] = status, "no answer"
        assert train_job.connect("rl").ended(uid) == ""


def test_folders_that_nobody_uses_are_swept(cluster: TrainerStandIn) -> None:
    def folder(name: str, minutes: dict[str, int]) -> Path:
        made = train_job.SHARED / name
        (made / "work").mkdir(parents=True)
        for file, age in minutes.items():
            (made / file).touch()
            os.utime(made / file, (time.time() - 60 * age,) * 2)
        for path in (made / "work", made):
            os.utime(path, (time.time() - 60 * 120,) * 2)
        return made

    lost = folder("rloop-refine-0123456789ab-0a1b2c3d", {"alive": 62, "work/checkpoint": 61})
    kept = [
        folder("rloop-refine-0123456789ab-1a1b2c3d", {"alive": 0, "work/checkpoint": 90}),  # its stage waits
        folder("rloop-explore-0123456789ab-2a1b2c3d", {"alive": 90, "work/checkpoint": 58}),  # its nodes train
        folder("somebodys-data", {"alive": 900}),
    ]
    made(cluster, lambda job, folder: (folder / MESSAGE).write_text("too few problems") and None)
    with pytest.raises(InputError, match="too few problems"):
        on_processes(TWO_NODES, "rl", init_processes)
    assert not lost.exists() and sorted(train_job.SHARED.iterdir()) == sorted(kept)


def test_a_stages_folder_is_touched_for_as_long_as_it_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_folder, "_TOUCH_SECONDS", 0.02)
    alive, seen = tmp_path / node_folder.ALIVE, set[int]()
    with node_folder.kept_alive(tmp_path):
        until = time.monotonic() + 10
        while len(seen) < 3 and time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                seen.add(alive.stat().st_mtime_ns)
            time.sleep(0.01)
    assert len(seen) == 3
    last = alive.stat().st_mtime_ns
    time.sleep(0.1)
    assert alive.stat().st_mtime_ns == last


def test_a_folder_is_removed_while_nodes_write_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rmtree = tmp_path / "folder", shutil.rmtree
    (folder / "work").mkdir(parents=True)

    def beside_a_node(path: Path, **how: Any) -> None:
        for name in ("message.txt", "work/checkpoint"):
            with pytest.raises(FileNotFoundError):
                (folder / name).touch()
        rmtree(path, **how)

    monkeypatch.setattr(shutil, "rmtree", beside_a_node)
    node_folder.remove(folder)
    assert not list(tmp_path.iterdir())


def waiting_pod(name: str, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}-node-0-0-jnvbj", "labels": {"jobset.sigs.k8s.io/jobset-name": name}},
        "status": {"phase": "Pending", **status},
    }


def warning(kind: str, name: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "metadata": {"creationTimestamp": "2026-11-28T17:07:15Z"},
        "involvedObject": {"kind": kind, "name": name},
        "type": "Warning",
        "reason": reason,
        "message": message,
    }


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no JobSet", r"TrainJob TrainJobResourcesCreationFailed: .* no matches for kind JobSet; it has no pods"),
        ("no node", r"pod \S+-node-0-0-jnvbj: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu"),
        ("no image", r"pod \S+-node-0-0-jnvbj: ImagePullBackOff Back-off pulling image; Pod Failed: not found"),
        ("suspended", r"TrainJob Suspended: TrainJob is suspended; it has no pods"),
        ("no rights", r"pods is forbidden \(manifests/components/train-jobs has the permissions\)"),
    ],
)
def test_a_stage_says_what_its_nodes_wait_for(
    cluster: TrainerStandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str, said: str
) -> None:
    monkeypatch.setattr(trainjob_follow, "START_SECONDS", 0.05)
    monkeypatch.setattr(trainjob_api, "POLL_SECONDS", 0.03)

    def waits(job: dict[str, Any], folder: Path) -> None:
        name = job["metadata"]["name"]
        if case == "no JobSet":
            text = "TrainJob resources reconciliation failed: no matches for kind JobSet"
            cluster.events.append(warning("TrainJob", name, "TrainJobResourcesCreationFailed", text))
        elif case == "no node":
            text = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
            cluster.waiting.append(
                waiting_pod(name, conditions=[{"type": "PodScheduled", "status": "False", "message": text}])
            )
        elif case == "no image":
            state = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
            pod = waiting_pod(name, containerStatuses=[{"name": "node", "state": state}])
            cluster.waiting.append(pod)
            cluster.events.append(warning("Pod", pod["metadata"]["name"], "Failed", "not found"))
        elif case == "suspended":
            condition = {"type": "Suspended", "status": "True", "message": "TrainJob is suspended"}
            cluster.status = lambda _: {"conditions": [condition]}  # type: ignore[method-assign]
        else:
            cluster.refuses[PODS] = (403, "pods is forbidden")
        threading.Timer(0.4, (folder / MESSAGE).write_text, ["cancelled"]).start()

    made(cluster, waits)
    with pytest.raises(InputError, match="cancelled"):
        on_processes(TWO_NODES, "rl", init_processes)
    notes = re.findall(r"\[note\] (2 of 2 nodes have not started .*)", capsys.readouterr().out)
    assert len(notes) == 1, "once, as long as the same is so"
    assert re.search(f": {said}", notes[0]), notes


def test_a_node_that_failed_ends_the_stage_with_the_end_of_its_log(
    cluster: TrainerStandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(job: dict[str, Any], folder: Path) -> None:
        (folder / "node-0.log").write_text("[progress] 1/4 steps\nnot a whole li")
        (folder / "node-1.log").write_text("Traceback\nZeroDivisionError")
        (folder / node_failed(1)).write_text("ZeroDivisionError")

    made(cluster, fails)
    with pytest.raises(RuntimeError, match="a node failed; node 1: ZeroDivisionError"):
        on_processes(TWO_NODES, "rl", init_processes)
    printed = capsys.readouterr().out
    assert "[progress] 1/4 steps\n" in printed and "the log of node 1 ends with:\nTraceback\n" in printed
    assert not cluster.jobs


@pytest.mark.parametrize("queue", ["team-a", None])
def test_a_train_job_in_a_queue_is_waited_for(
    cluster: TrainerStandIn, capsys: pytest.CaptureFixture[str], queue: str | None
) -> None:
    if queue:
        cluster.pod["metadata"]["annotations"][train_job.NODE_QUEUE] = queue
    polls = []

    def queues(job: dict[str, Any], folder: Path) -> None:
        spec = cluster.jobs[job["metadata"]["name"]]["spec"]
        spec["suspend"] = True  # as Kueue's webhook does

        def status(name: str) -> dict[str, Any]:
            polls.append(spec["suspend"])
            if len(polls) == 3:  # Kueue has admitted it, and its nodes have finished
                spec["suspend"] = False
                (folder / "node-0.log").write_text("trained\n")
                (folder / "result.json").write_text("[0, 2]")
            done = {"conditions": [{"type": "Complete", "status": "True"}]}
            return {} if spec["suspend"] else done

        cluster.status = status  # type: ignore[method-assign]

    made(cluster, queues)
    assert on_processes(TWO_NODES, "rl", init_processes) == [0, 2] and len(polls) == 3
    said = capsys.readouterr().out
    told = "waits in queue team-a until Kueue admits it" if queue else "names no queue: if Kueue has to admit it, set"
    assert said.count(told) == 1 and "trained" in said


def test_a_train_job_that_is_preempted_ends_the_attempt(cluster: TrainerStandIn) -> None:
    def preempted(job: dict[str, Any], folder: Path) -> None:
        (folder / "node-1.log").write_text("begun")
        cluster.jobs[job["metadata"]["name"]]["spec"]["suspend"] = True
        cluster.status = lambda _: {}  # type: ignore[method-assign]

    made(cluster, preempted)
    with pytest.raises(RuntimeError, match="Suspended; it was suspended after its nodes had started, as Kueue does"):
        on_processes(TWO_NODES, "rl", init_processes)
    assert not cluster.jobs


def test_a_failed_node_is_not_forgotten_when_the_train_job_completes(cluster: TrainerStandIn) -> None:
    """As it does once the container that Kubernetes starts again has ended with status 0."""

    def completes(job: dict[str, Any], folder: Path) -> None:
        (folder / "result.json").write_text("[0, 2]")
        (folder / node_failed(1)).write_text("its container was killed")
        cluster.status = lambda _: {"conditions": [{"type": "Complete", "status": "True"}]}  # type: ignore[method-assign]

    made(cluster, completes)
    with pytest.raises(RuntimeError, match="a node failed; node 1: its container was killed"):
        on_processes(TWO_NODES, "rl", init_processes)


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("GET", (403, "pods is forbidden"), "get pods: pods is forbidden.*manifests/components/train-jobs"),
        ("POST", (404, "the server could not find it"), "install Kubeflow Trainer 2.2"),
        ("POST", (422, "no such runtime"), "refuses to create trainjobs: no such runtime"),
    ],
)
def test_what_the_cluster_refuses_is_told(
    cluster: TrainerStandIn, method: str, answer: tuple[int, str], message: str
) -> None:
    cluster.refuses[method] = answer
    with pytest.raises(InputError, match=message):
        on_processes(TWO_NODES, "rl", init_processes)
    assert not list(train_job.SHARED.iterdir())


def test_a_train_job_that_cannot_be_deleted_loses_nothing(
    cluster: TrainerStandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainjob_api, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(trainjob_api, "DELETION_SECONDS", 0.1)

    def completes(job: dict[str, Any], folder: Path) -> None:
        (folder / "result.json").write_text("[0, 2]")
        cluster.status = lambda _: {"conditions": [{"type": "Complete", "status": "True"}]}  # type: ignore[method-assign]
        cluster.refuses["DELETE"] = 503, "etcdserver: leader changed"

    made(cluster, completes)
    assert on_processes(TWO_NODES, "rl", init_processes) == [0, 2], "what the nodes made is not lost by it"
    assert "could not be deleted in 0 s: etcdserver: leader changed" in capsys.readouterr().out
    (name,) = cluster.jobs
    with pytest.raises(InputError, match=f"kubectl -n team delete trainjob {name}"):
        on_processes(TWO_NODES, "rl", init_processes)


def test_a_cluster_that_is_away_for_a_while_is_waited_for(cluster: TrainerStandIn) -> None:
    def completes(job: dict[str, Any], folder: Path) -> None:
        (folder / "result.json").write_text("[0, 2]")
        cluster.status = lambda _: {"conditions": [{"type": "Complete", "status": "True"}]}  # type: ignore[method-assign]

    answer, asked = cluster.answer, []

    def away_at_first(method: str, path: str, body: Any) -> tuple[int, Any]:
        asked.append(method)
        times = asked.count(method)
        return answer(method, path, body) if method == "POST" or times <= 2 or times >= 5 else (503, "away")

    cluster.answer = away_at_first  # type: ignore[method-assign]
    made(cluster, completes)
    assert on_processes(TWO_NODES, "rl", init_processes) == [0, 2]
    assert asked.count("GET") == 5 and not cluster.jobs


def test_without_a_cluster_or_a_volume_it_says_so(cluster: TrainerStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_job, "SHARED", Path("/not/mounted"))
    with pytest.raises(InputError, match="compile it again"):
        on_processes(TWO_NODES, "rl", init_processes)
    monkeypatch.undo()
    with pytest.raises(InputError, match="set it to 1 for a local run"):
        on_processes(TWO_NODES, "rl", init_processes)


@pytest.mark.slow
def test_what_goes_wrong_in_the_nodes_ends_the_stage(
    cluster: TrainerStandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match=r"node [01]: process [01] ended with exit code 1"):
        on_processes(TWO_NODES, "rl", share, 3, 2, "rl.prompts_per_step")
    assert "must be a multiple of the 2 processes" in capsys.readouterr().out
    with pytest.raises(InputError, match="has no training state"):
        on_processes(TWO_NODES, "rl", check_state, Path(__file__).parent, 1)
    assert not cluster.jobs and not list(train_job.SHARED.iterdir())


@pytest.mark.slow
def test_two_nodes_fine_tune_as_two_processes_do(
    cluster: TrainerStandIn, tmp_path: Path, tiny_policy: Path, rollout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = []
    for i, problem in enumerate(countdown.generate("train", 3, 1, 9, 32, seed=1)):
        row = rollout(f"p{i}", completion=solve(problem.answer), prompt=problem.text)
        rows.append(row | {"verdict": True, "success_rate": 0.5, "dropped_because": None})
    write_table(tmp_path / "experts" / "experts.parquet", TRAJECTORIES, rows)
    figures = {}
    for name, parallel in (("processes", {"processes": 2}), ("nodes", {"nodes": 2, "volume": "shared"})):
        values = {"learning_rate": 3e-4, "epochs": 2, "batch_size": 16, "parallel": parallel}
        settings = RFTSettings.check(values, "rft")
        out = tmp_path / name
        figures[name] = on_processes(
            settings.parallel,
            "rft",
            refine,
            tiny_policy,
            tmp_path / "experts",
            settings,
            iteration=1,
            seed=1,
            **rft_outputs(out),
        )
    assert figures["nodes"] == figures["processes"]
    files = {p.relative_to(tmp_path / "processes"): p for p in (tmp_path / "processes" / "policy").rglob("*")}
    assert all((tmp_path / "nodes" / name).read_bytes() == file.read_bytes() for name, file in files.items())
    updates = [json.loads((tmp_path / name / "log.json").read_text())["updates"] for name in figures]
    assert updates[0] == updates[1] and list((tmp_path / "nodes" / "tensorboard").iterdir())
    assert not cluster.jobs and not list(train_job.SHARED.iterdir())
