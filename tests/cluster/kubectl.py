"""What the acceptance tests do on a cluster apart from the product: with kubectl, if available."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kubectl:
    """kubectl on the namespace of the runs' pods."""

    command: str
    namespace: str

    def __call__(self, *arguments: str) -> str:
        """Returns its output."""
        command = [self.command, "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def training_pods(self, run: str) -> list[str]:
        """Returns the names of a run's pods that are training."""
        selector = f"pipeline/runid={run},rloop.dev/pool=gpu-training"
        return running(json.loads(self("get", "pods", "--selector", selector, "--output", "json")))

    def kill(self, pod: str) -> None:
        """Kills a pod without notice, as a lost node would."""
        self("delete", "pod", pod, "--force", "--grace-period=0")


def running(pods: dict[str, Any]) -> list[str]:
    """Returns the names of the pods in a list whose main container is running."""
    return [
        pod["metadata"]["name"]
        for pod in pods["items"]
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            container["name"] == "main" and "running" in container["state"]
            for container in pod["status"].get("containerStatuses", [])
        )
    ]
