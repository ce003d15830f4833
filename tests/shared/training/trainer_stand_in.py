"""A stand-in for a cluster with Kubeflow Trainer: the REST calls that a stage makes, its pods as processes here."""

import functools
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from components.shared.training.node_folder import POD_UID

ROOT = Path(__file__).resolve().parents[3]
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
PODS = "/api/v1/namespaces/team/pods"
EVENTS = "/api/v1/namespaces/team/events"
BACKOFF_LIMIT = 6  # of the Job that JobSet makes
GRACE_SECONDS = 30.0  # between a deleted pod's SIGTERM and its SIGKILL
# What `python -m components.shared.training.node` is, but with the stand-in as its Kubernetes API, and looking often.
NODE = """
import sys
from kubernetes.client import ApiClient, Configuration
from components.shared.training import node, trainjob_api
client = ApiClient(Configuration(host=sys.argv.pop(1)))
trainjob_api.connect = lambda _, pod: trainjob_api.Cluster(client, "team", pod)
node.WATCH_SECONDS = 0.3
node.main()
"""


def granted() -> set[tuple[str, str]]:
    """The rights that manifests/components/train-jobs gives the service account: (verb, kind)."""
    component = yaml.safe_load((ROOT / "manifests/components/train-jobs/kustomization.yaml").read_text())
    rules = [change["value"] for patch in component["patches"] for change in yaml.safe_load(patch["patch"])]
    return {(verb, kind) for rule in rules for verb in rule["verbs"] for kind in rule["resources"]}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_node(
    command: list[str], nodes: int, node: int, port: int, processes: int = 1, url: str = "", uid: str = ""
) -> "subprocess.Popen[bytes]":
    """Starts a node as the torch runtime of Kubeflow Trainer does; `url` is its Kubernetes API, if it has one."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_NODE_RANK": str(node),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        POD_UID: uid,
    }
    assert command[:3] == ["python", "-m", "components.shared.training.node"]
    program = ["-c", NODE, url] if url else command[1:3]
    return subprocess.Popen([sys.executable, *program, *command[3:]], env=environment)


@dataclass
class Pod:
    """One of a TrainJob's pods: a process for its container, which is restarted in it."""

    start: Callable[[], "subprocess.Popen[bytes]"]
    process: "subprocess.Popen[bytes]"
    restarts: int = 0

    def watch(self) -> None:
        """What the kubelet does by JobSet's `restartPolicy: OnFailure`; at once, without its pauses."""
        if self.process.poll() and self.restarts <= BACKOFF_LIMIT:
            self.restarts += 1
            if self.restarts <= BACKOFF_LIMIT:
                self.process = self.start()

    def delete(self) -> None:
        """What the kubelet does with a deleted pod."""
        self.process.terminate()
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class TrainerStandIn:
    """Answers at `url`.

    Args:
        pod: what it has as the stage's own pod.
    """

    def __init__(self, pod: dict[str, Any]) -> None:
        self.pod, self.jobs, self.calls = pod, dict[str, dict[str, Any]](), list[str]()
        self.pods: dict[str, list[Pod]] = {}  # by the name of their TrainJob
        self.waiting: list[dict[str, Any]] = []  # pods and events as the API lists them
        self.events: list[dict[str, Any]] = []
        self.brought_back: dict[str, list[Pod]] = {}  # by the name of the TrainJob, which is no longer there
        self.refuses: dict[str, tuple[int, str]] = {}  # by method or path: the status, and what it says
        self.runs_nodes, self._made = True, 0
        self._ending, self._granted = list[threading.Thread](), granted()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                stand_in.calls.append(f"{self.command} {self.path}")
                refused = stand_in.refuses.get(self.command) or stand_in.refuses.get(self.path.partition("?")[0])
                status, value = refused or stand_in.answer(self.command, self.path, body)
                if status >= 400:
                    value = {"kind": "Status", "message": value, "code": status}
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        for name in list(self.jobs):
            self.remove(name)
        self.join()
        for pods in self.brought_back.values():
            for pod in pods:
                pod.delete()
        self._server.shutdown()
        self._server.server_close()

    def join(self) -> None:
        """Waits until the deleted pods are gone."""
        for ending in self._ending:
            ending.join()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """The status of an answer, and the object or what is wrong."""
        path, _, query = path.partition("?")
        parts = path.split("/")
        kind, is_list = parts[parts.index("team") + 1], parts[-2] == "team"
        verb = {"GET": "list" if is_list else "get", "POST": "create", "DELETE": "delete"}[method]
        if (verb, kind) not in self._granted:
            return 403, f"{kind} is forbidden: cannot {verb}"
        if (method, path) == ("GET", f"{PODS}/{self.pod['metadata']['name']}"):
            return 200, self.pod
        if method == "GET" and path in (JOBS, PODS, EVENTS):
            return 200, {"items": self.listed(path, dict(urllib.parse.parse_qsl(query)))}
        if (method, path) == ("POST", JOBS):
            return self.create(body)
        name = path.removeprefix(f"{JOBS}/")
        if name not in self.jobs:
            return 404, f"{path} not found"
        job = self.jobs[name]
        if method == "DELETE":
            foreground = (body or {}).get("propagationPolicy") != "Background"
            self.remove(name, foreground)
            return 200, job
        return 200, job | {"status": self.status(name)}

    def listed(self, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
        """The objects of a kind that the query selects."""
        if path == EVENTS:
            selected = dict(part.split("=") for part in query["fieldSelector"].split(","))
            return [
                event
                for event in self.events
                if (event["involvedObject"]["name"], event["type"])
                == (selected["involvedObject.name"], selected["type"])
            ]
        label, _, value = query["labelSelector"].partition("=")
        objects = self.waiting if path == PODS else list(self.jobs.values())
        return [one for one in objects if one["metadata"]["labels"].get(label) == value]

    def create(self, job: dict[str, Any]) -> tuple[int, Any]:
        """Takes a TrainJob and starts its nodes."""
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409, f"{name} already exists"
        self._made += 1
        self.jobs[name] = job = job | {"metadata": job["metadata"] | {"uid": f"uid-{self._made}"}}
        self.pods[name] = self.started(job) if self.runs_nodes else []
        return 201, job

    def started(self, job: dict[str, Any]) -> list[Pod]:
        """Starts a TrainJob's pods."""
        trainer, port, pods = job["spec"]["trainer"], free_port(), list[Pod]()
        for node in range(trainer["numNodes"]):
            start = functools.partial(
                start_node,
                trainer["command"],
                trainer["numNodes"],
                node,
                port,
                trainer["numProcPerNode"],
                self.url,
                f"{job['metadata']['uid']}-{node}",
            )
            pods.append(Pod(start, start()))
        return pods

    def remove(self, name: str, foreground: bool = False) -> None:
        """Forgets a TrainJob, and ends its pods in the background.

        In the foreground, Trainer 2.2 makes the JobSet again, since its controller does not look at the deletion time.
        """
        job, pods = self.jobs.pop(name), self.pods.pop(name, [])

        def end() -> None:
            for pod in pods:
                pod.process.terminate()  # all at once
            for pod in pods:
                pod.delete()
            if foreground:
                self.brought_back[name] = self.started(job) if self.runs_nodes else []

        ending = threading.Thread(target=end)
        ending.start()
        self._ending.append(ending)

    def status(self, name: str) -> dict[str, Any]:
        """Of a TrainJob: what has become of its nodes, in the words of Trainer 2.2.1 and JobSet 0.11.0."""
        pods = self.pods[name]
        for pod in pods:
            pod.watch()
        ended = [pod.process.poll() for pod in pods]
        if any(ended):
            message = f"jobset failed due to one or more job failures (first failed job: {name}-node-0)"
            return {"conditions": [{"type": "Failed", "status": "True", "reason": "FailedJobs", "message": message}]}
        if ended and None not in ended:
            message = "jobset completed successfully"
            complete = {"type": "Complete", "status": "True", "reason": "AllJobsCompleted", "message": message}
            return {"conditions": [complete]}
        return {}
