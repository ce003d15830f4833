"""What the acceptance tests do with a cluster beside the product: with kubectl, where there is one."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kubectl:
    """kubectl on the namespace in which runs have their pods."""

    command: str
    namespace: str

    def __call__(self, *arguments: str) -> str:
        """What it prints."""
        command = [self.command, "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def training_pods(self, run: str) -> list[str]:
        """Names of a run's pods that train now."""
        selector = f"pipeline/runid={run},rloop.dev/pool=gpu-training"
        return running(json.loads(self("get", "pods", "--selector", selector, "--output", "json")))

    def kill(self, pod: str) -> None:
        """Ends a pod as a lost node would: without notice."""
        self("delete", "pod", pod, "--force", "--grace-period=0")


def running(pods: dict[str, Any]) -> list[str]:
    """Names of the pods in a list of them whose main container is at work."""
    return [
        pod["metadata"]["name"]
        for pod in pods["items"]
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            container["name"] == "main" and "running" in container["state"]
            for container in pod["status"].get("containerStatuses", [])
        )
    ]
