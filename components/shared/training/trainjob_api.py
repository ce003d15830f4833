"""TrainJobs of Kubeflow Trainer through the Kubernetes API, in the stage's own namespace."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.stage import note

API = ("trainer.kubeflow.org", "v1alpha1")
SUSPENDED = "Suspended"
POLL_SECONDS = 3.0
DELETION_SECONDS = 600.0  # maximum time for a deleted TrainJob to be gone
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CREATE = "create trainjobs"
# HTTP status codes
_FORBIDDEN, _NOT_FOUND, _CONFLICT, _TOO_MANY_REQUESTS, _REFUSED = 403, 404, 409, 429, (400, 422)


class Cluster:
    """What a stage does through the Kubernetes API.

    Args:
        client: ApiClient of the kubernetes package.
        namespace: Namespace of the stage's pod.
        pod: Name of the stage's pod.
    """

    def __init__(self, client: Any, namespace: str, pod: str) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self.namespace, self._pod = namespace, pod
        self._core, self._custom = CoreV1Api(client), CustomObjectsApi(client)
        self._train_jobs = (*API, namespace, "trainjobs")

    def own_pod(self) -> dict[str, Any]:
        """Returns the pod that this runs in, as the API represents it."""
        with self._explained("get pods"):
            answer = self._core.read_namespaced_pod(self._pod, self.namespace, _preload_content=False)
        pod: dict[str, Any] = json.loads(answer.data)
        return pod

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        """Creates a TrainJob."""
        with self._explained(_CREATE):
            created: dict[str, Any] = self._custom.create_namespaced_custom_object(*self._train_jobs, job)
        return created

    def state(self, job: dict[str, Any]) -> tuple[str, str]:
        """Returns the state of a TrainJob and the cluster's message on it.

        The state is Complete, Failed, Deleted, Suspended (as Kueue does until it admits a TrainJob), or empty while
        none of these is known.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            with self._explained("get trainjobs"):
                name = job["metadata"]["name"]
                found = self._custom.get_namespaced_custom_object(*self._train_jobs, name, _request_timeout=30)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return "Deleted", ""
            if not _is_temporary(error):
                raise
            return "", ""
        except HTTPError:  # the API server is unavailable for a while; the nodes train on without it
            return "", ""
        if found["metadata"]["uid"] != job["metadata"]["uid"]:
            return "Deleted", ""
        for condition in found.get("status", {}).get("conditions", []):
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return condition["type"], condition.get("message", "")
        return SUSPENDED if found["spec"].get("suspend") else "", ""

    def delete(self, name: str, uid: str | None = None) -> str:
        """Deletes a TrainJob and waits until its pods are gone, at most DELETION_SECONDS.

        Returns:
            Why it is still there; empty if it is gone, was not there, or has another UID.
        """
        from kubernetes.client import ApiException, V1DeleteOptions, V1Preconditions
        from urllib3.exceptions import HTTPError

        options = V1DeleteOptions(propagation_policy="Foreground")
        options.preconditions = V1Preconditions(uid=uid) if uid else None
        began, noted = time.monotonic(), False
        while True:
            reason = "the API server does not answer"
            try:
                with self._explained("delete trainjobs"):
                    left = self._custom.delete_namespaced_custom_object(*self._train_jobs, name, body=options)
                finalizers = ", ".join(left.get("metadata", {}).get("finalizers") or ["none"])
                reason = f"it waits for its finalizers ({finalizers}), or its pods do not end"
            except ApiException as error:
                if error.status in (_NOT_FOUND, _CONFLICT):  # conflict: another attempt at the stage created its own
                    return ""
                if not _is_temporary(error):
                    raise
            except HTTPError:
                pass  # as in `state`
            waited = time.monotonic() - began
            if waited >= DELETION_SECONDS:
                return (
                    f"TrainJob {name} is not gone {waited:.0f} s after it was deleted: {reason}; look at it with "
                    f"`kubectl -n {self.namespace} get trainjob {name} -o yaml`"
                )
            if waited >= DELETION_SECONDS / 10 and not noted:
                noted = True
                note(f"waiting until TrainJob {name} is gone: {reason}")
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        from kubernetes.client import ApiException

        try:
            yield
        except ApiException as error:
            if error.status == _FORBIDDEN:
                raise InputError(
                    f"the cluster does not let this stage's service account {action}: {_message(error)}. "
                    f"manifests/components/train-jobs has the permissions that several nodes need"
                ) from None
            if error.status in _REFUSED:
                raise InputError(f"the cluster refuses to {action}: {_message(error)}") from None
            if error.status == _NOT_FOUND and action == _CREATE:
                raise InputError("this cluster has no TrainJobs: install Kubeflow Trainer 2.2 or later") from None
            raise


def _is_temporary(error: Any) -> bool:
    """Whether the API server could not answer, and the request may be repeated."""
    return bool(error.status >= 500 or error.status == _TOO_MANY_REQUESTS)


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def connect(section: str) -> Cluster:
    """Returns the cluster that this pod runs in.

    Raises:
        InputError: This is not a pod of a cluster.
    """
    if not _NAMESPACE.is_file():
        raise InputError(
            f"{section}.parallel.nodes needs a Kubernetes cluster with Kubeflow Trainer; set it to 1 for a local run"
        )
    from kubernetes import config
    from kubernetes.client import ApiClient, Configuration

    configuration = Configuration()
    config.load_incluster_config(configuration)
    return Cluster(ApiClient(configuration), _NAMESPACE.read_text().strip(), os.environ["KFP_POD_NAME"])
