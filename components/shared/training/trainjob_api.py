"""TrainJobs of Kubeflow Trainer through the Kubernetes API, in the stage's own namespace."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.shared.errors import InputError

API = ("trainer.kubeflow.org", "v1alpha1")
SUSPENDED = "Suspended"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"  # by which Kueue admits a pod or a TrainJob (the latter from Kueue 0.14 on)
POLL_SECONDS = 3.0
DELETION_SECONDS = 60.0  # how long a delete is repeated while the API server does not take it
STAGE_CONTAINER = "main"  # Argo's name for the container that runs a stage
_REQUEST_SECONDS = 10
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CREATE = "create trainjobs"
# HTTP status codes
_FORBIDDEN, _NOT_FOUND, _TOO_MANY_REQUESTS, _REFUSED = 403, 404, 429, (400, 422)


class Cluster:
    """What a stage, and the nodes that train for it, do through the Kubernetes API.

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
            return self._pod_as_json()

    def create(self, job: dict[str, Any]) -> None:
        """Creates a TrainJob."""
        with self._explained(_CREATE):
            self._custom.create_namespaced_custom_object(*self._train_jobs, job)

    def state(self, name: str) -> tuple[str, str]:
        """Returns the state of a TrainJob and the cluster's message on it.

        The state is Complete, Failed, Deleted, Suspended (as Kueue does until it admits a TrainJob), or empty while
        none of these is known.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            with self._explained("get trainjobs"):
                found = self._custom.get_namespaced_custom_object(*self._train_jobs, name, _request_timeout=30)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return "Deleted", ""
            if not _is_temporary(error):
                raise
            return "", ""
        except HTTPError:  # the API server is unavailable for a while; the nodes train on without it
            return "", ""
        for condition in found.get("status", {}).get("conditions", []):
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return condition["type"], condition.get("message", "")
        return SUSPENDED if found["spec"].get("suspend") else "", ""

    def labelled(self, label: str, value: str) -> list[str]:
        """Returns the names of the TrainJobs that have a label with this value."""
        with self._explained("list trainjobs"):
            found = self._custom.list_namespaced_custom_object(*self._train_jobs, label_selector=f"{label}={value}")
        return [job["metadata"]["name"] for job in found["items"]]

    def delete(self, name: str) -> str:
        """Deletes a TrainJob, and in the background its pods; keeps trying for DELETION_SECONDS.

        Not in the foreground: Trainer's controller does not look at the deletion time, and would make the JobSet of a
        TrainJob again that waits for the end of its pods.

        Returns:
            Why it may still be there; empty if it is deleted.
        """
        from kubernetes.client import ApiException, V1DeleteOptions
        from urllib3.exceptions import HTTPError

        options, began = V1DeleteOptions(propagation_policy="Background"), time.monotonic()
        while True:
            try:
                with self._explained("delete trainjobs"):
                    self._custom.delete_namespaced_custom_object(
                        *self._train_jobs, name, body=options, _request_timeout=_REQUEST_SECONDS
                    )
                return ""
            except ApiException as error:
                if error.status == _NOT_FOUND:
                    return ""
                if not _is_temporary(error):
                    raise
                reason = _message(error)
            except HTTPError as error:  # as in `state`
                reason = str(error)
            if (waited := time.monotonic() - began) >= DELETION_SECONDS:
                return (
                    f"TrainJob {name} could not be deleted in {waited:.0f} s: {reason}; it is deleted with this "
                    f"stage's pod, or by `kubectl -n {self.namespace} delete trainjob {name}`"
                )
            time.sleep(POLL_SECONDS)

    def ended(self, uid: str) -> str:
        """Returns how the stage's pod, which had this UID, has ended; empty while it runs or nobody knows."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            pod = self._pod_as_json(_request_timeout=_REQUEST_SECONDS)
        except ApiException as error:
            return f"pod {self._pod} is gone" if error.status == _NOT_FOUND else ""
        except HTTPError:  # as in `state`
            return ""
        if pod["metadata"]["uid"] != uid:
            return f"pod {self._pod} is another one by now"
        if (phase := pod["status"].get("phase")) in ("Failed", "Succeeded"):
            return f"pod {self._pod} has ended: {phase}"
        for container in pod["status"].get("containerStatuses", []):
            if container["name"] == STAGE_CONTAINER and (end := container.get("state", {}).get("terminated")):
                return f"pod {self._pod} has ended: exit code {end.get('exitCode')}"
        return ""

    def obstacles(self, name: str) -> str:
        """Returns what the cluster says of a TrainJob whose nodes have not started, as far as this may be read."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        found, of_interest = list[str](), [name, f"{name}-node-0"]  # TrainJob and JobSet; JobSet's Job
        try:
            job = self._custom.get_namespaced_custom_object(*self._train_jobs, name, _request_timeout=_REQUEST_SECONDS)
            for condition in job.get("status", {}).get("conditions", []):
                if condition["status"] == "True":
                    found.append(f"TrainJob {condition['type']}: {condition.get('message', '')}")
            listed = self._core.list_namespaced_pod(
                self.namespace,
                label_selector=f"jobset.sigs.k8s.io/jobset-name={name}",
                _preload_content=False,
                _request_timeout=_REQUEST_SECONDS,
            )
            pods = json.loads(listed.data)["items"]
            waiting = {pod["metadata"]["name"]: reason for pod in pods if (reason := _waits_for(pod))}
            found += [f"pod {pod}: {reason}" for pod, reason in waiting.items()]
            for one in of_interest + list(waiting)[:1]:
                found += self._warnings(one)
            if not pods:
                found.append("it has no pods")
        except ApiException as error:
            found.append(f"{_message(error)} (manifests/components/train-jobs has the permissions)")
        except HTTPError as error:
            found.append(f"the Kubernetes API does not answer: {error}")
        return "; ".join(dict.fromkeys(found)) or "the cluster does not say why"

    def _warnings(self, name: str) -> list[str]:
        """Returns the last warnings of the cluster's events about an object."""
        listed = self._core.list_namespaced_event(
            self.namespace,
            field_selector=f"involvedObject.name={name},type=Warning",
            _preload_content=False,
            _request_timeout=_REQUEST_SECONDS,
        )
        events = sorted(json.loads(listed.data)["items"], key=lambda event: event["metadata"]["creationTimestamp"])
        return [f"{event['involvedObject']['kind']} {event['reason']}: {event['message']}" for event in events[-2:]]

    def _pod_as_json(self, **how: Any) -> dict[str, Any]:
        answer = self._core.read_namespaced_pod(self._pod, self.namespace, _preload_content=False, **how)
        pod: dict[str, Any] = json.loads(answer.data)
        return pod

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


def _waits_for(pod: dict[str, Any]) -> str:
    """Returns what keeps a pod from running; empty if nothing does."""
    status = pod["status"]
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or condition.get("reason") or "it is not scheduled")
    for container in status.get("containerStatuses", []):
        if waiting := container.get("state", {}).get("waiting"):
            return f"{waiting.get('reason', 'waiting')} {waiting.get('message', '')}".rstrip()
    return "" if status.get("phase") != "Pending" else "it is not started"


def _is_temporary(error: Any) -> bool:
    """Whether the API server could not answer, and the request may be repeated."""
    return bool(error.status >= 500 or error.status == _TOO_MANY_REQUESTS)


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def connect(section: str, pod: str = "") -> Cluster:
    """Returns the cluster that this pod runs in.

    Args:
        section: Recipe section, for messages.
        pod: Name of the stage's pod, if that is not this one.

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
    return Cluster(ApiClient(configuration), _NAMESPACE.read_text().strip(), pod or os.environ["KFP_POD_NAME"])
