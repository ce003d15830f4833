"""A stand-in for a cluster with Kubeflow Trainer: the REST calls that a stage makes, its pods as processes here."""

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
POD = "/api/v1/namespaces/team/pods/run-1-impl-7"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_node(command: list[str], nodes: int, node: int, port: int, processes: int = 1) -> "subprocess.Popen[bytes]":
    """Starts a node as the torch runtime of Kubeflow Trainer does."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_NODE_RANK": str(node),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }
    assert command[0] == "python"
    return subprocess.Popen([sys.executable, *command[1:]], env=environment)


class TrainerStandIn:
    """Answers at `url`.

    Args:
        pod: what it has as the stage's own pod.
    """

    def __init__(self, pod: dict[str, Any]) -> None:
        self.pod, self.jobs, self.calls = pod, dict[str, dict[str, Any]](), list[str]()
        self.nodes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.refuses: dict[str, tuple[int, str]] = {}  # by method: the status, and what it says
        self.runs_nodes, self._made = True, 0
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                stand_in.calls.append(f"{self.command} {self.path}")
                status, value = stand_in.refuses.get(self.command) or stand_in.answer(self.command, self.path, body)
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
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """The status of an answer, and the object or what is wrong."""
        if (method, path) == ("GET", POD):
            return 200, self.pod
        if (method, path) == ("POST", JOBS):
            return self.create(body)
        name = path.removeprefix(f"{JOBS}/")
        if name not in self.jobs:
            return 404, f"{path} not found"
        job = self.jobs[name]
        if method == "DELETE":
            if ((body or {}).get("preconditions") or {}).get("uid", job["metadata"]["uid"]) != job["metadata"]["uid"]:
                return 409, "the UID in the precondition does not match"
            self.remove(name)
            return 200, job
        return 200, job | {"status": self.status(name)}

    def create(self, job: dict[str, Any]) -> tuple[int, Any]:
        """Takes a TrainJob and starts its nodes."""
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        if name in self.jobs:
            return 409, f"{name} already exists"
        self._made += 1
        self.jobs[name] = job = job | {"metadata": job["metadata"] | {"uid": f"uid-{self._made}"}}
        nodes, port = trainer["numNodes"], free_port()
        self.nodes[name] = (
            [start_node(trainer["command"], nodes, node, port, trainer["numProcPerNode"]) for node in range(nodes)]
            if self.runs_nodes
            else []
        )
        return 201, job

    def remove(self, name: str) -> None:
        """Ends a TrainJob's nodes and forgets it."""
        del self.jobs[name]
        for node in self.nodes.pop(name, []):
            node.kill()
            node.wait()

    def status(self, name: str) -> dict[str, Any]:
        """Of a TrainJob: what has become of its nodes."""
        ended = [node.poll() for node in self.nodes[name]]
        if any(ended):
            return {"conditions": [{"type": "Failed", "status": "True", "message": "jobset failed"}]}
        if ended and None not in ended:
            return {"conditions": [{"type": "Complete", "status": "True", "message": ""}]}
        return {}
