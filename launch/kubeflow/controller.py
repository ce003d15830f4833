"""What the cluster's workflow controller does when a stage fails.

KFP's default, `OnError`, starts again what was lost and never what failed, whatever a pipeline asks for. Two places
tell: the controller's ConfigMap, for whoever may read it, and the workflow of a run, into which the controller merged
its defaults when it took the run up; KFP hands that out by its older API.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import kubernetes
import urllib3
import yaml

from launch.kubeflow.server import Connection, NotFound, Server

CONFIGMAP = "workflow-controller-configmap"
RETRIES_FAILURES = ("Always", "OnFailure")  # Argo's policies that start again what failed
_SECONDS = 10.0
REMEDY = "manifests/components/retry-always changes that, see docs/cluster.md"


@dataclass(frozen=True)
class RetryPolicy:
    """The controller's policy, and where it was seen.

    Attributes:
        policy: Argo's word, such as OnError; None where it was not to be seen.
        once: whether an expression keeps nested DAGs, and with them all stages in them, from being repeated too.
        source: where it was seen; where it was not, why.
    """

    policy: str | None
    once: bool
    source: str

    def sentence(self) -> str:
        """What it means for a run, in one line."""
        if self.policy is None:
            return f"whether a stage that fails is tried again is not to be seen: {self.source}"
        seen = f"the controller's retryPolicy is {self.policy} ({self.source})"
        if self.policy not in RETRIES_FAILURES:
            return f"{seen}: a lost pod is started again, a stage that fails is not; {REMEDY}"
        if not self.once:
            return f"{seen}, for the levels above a stage too, each of which repeats the one below; {REMEDY}"
        return f"{seen}: a stage that fails is tried again, as pools.POOL.retries says"


def retry_policy(connection: Connection, runs: Iterable[dict[str, Any]] = (), api: Any = None) -> RetryPolicy:
    """The controller's retry policy: from its ConfigMap, else from the workflow of a run.

    Args:
        connection: names the context of the kubeconfig, and the namespace of Kubeflow Pipelines.
        runs: workflows of runs, the newest first; the first one that the controller has taken up tells.
        api: a `kubernetes.client.CoreV1Api`; made of the kubeconfig or of the pod's account if left out.
    """
    config, why_not = _read_config(connection, api)
    if config is not None:
        where = f"ConfigMap {CONFIGMAP} in {connection.kfp_namespace}"
        return _policy(yaml.safe_load(config.get("workflowDefaults") or "") or {}, where)
    for workflow in runs:
        if workflow.get("status", {}).get("phase"):
            name = workflow.get("metadata", {}).get("name", "a run")
            return _policy(workflow, f"as it was for the workflow {name}")
    return RetryPolicy(None, False, why_not)


def workflows(server: Server) -> Iterator[dict[str, Any]]:
    """The Argo workflows of the newest runs, the newest first, as KFP's API v1beta1 hands them out."""
    newest = server.read(
        "listing runs",
        server.client.runs.run_service_list_runs,
        page_size=5,
        sort_by="created_at desc",
        **({"namespace": server.namespace} if server.namespace else {}),
    ).runs
    for run in newest or []:
        with contextlib.suppress(NotFound):  # a version of KFP without that API
            yield workflow_of(server.read(f"reading the workflow of {run.run_id}", older_answer, server, run.run_id))


def older_answer(server: Server, run_id: str, **options: Any) -> Any:
    """What KFP's API v1beta1 says of a run; to be called by `Server.read`, which gives the options."""
    return server.client.runs.api_client.call_api(
        f"/apis/v1beta1/runs/{run_id}",
        "GET",
        header_params={"Accept": "application/json"},
        response_type="object",
        auth_settings=["Bearer"],
        _return_http_data_only=True,
        **options,
    )


def workflow_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The Argo workflow in an answer of `GET /apis/v1beta1/runs/ID`; empty where the run has none yet."""
    manifest = answer.get("pipeline_runtime", {}).get("workflow_manifest")
    return dict(json.loads(manifest)) if manifest else {}


def _policy(workflow: dict[str, Any], source: str) -> RetryPolicy:
    """Of a workflow, or of the defaults that the controller merges into each."""
    specification = workflow.get("spec") or {}
    defaults = (specification.get("templateDefaults") or {}).get("retryStrategy")
    if not defaults:
        # Without a default only the strategies that the pipeline set are there, and Argo's own policy for them.
        return RetryPolicy("OnFailure", True, f"Argo's own, no other in {source}")
    expression = defaults.get("expression") or ""
    policy = defaults.get("retryPolicy") or ("Always" if expression else "OnFailure")
    return RetryPolicy(policy, "exitCode" in expression or str(defaults.get("limit")) == "0", source)


def _read_config(connection: Connection, api: Any) -> tuple[dict[str, str] | None, str]:
    """The ConfigMap's data, or None and why not."""
    errors = kubernetes.client.exceptions
    try:
        api = api or _core_api(connection)
        found = api.read_namespaced_config_map(CONFIGMAP, connection.kfp_namespace, _request_timeout=_SECONDS)
        return dict(found.data or {}), ""
    except kubernetes.config.ConfigException:
        return None, "no kubeconfig, and not in a cluster"
    except errors.ApiException as error:
        if error.status == 404:
            return None, f"there is no ConfigMap {CONFIGMAP} in the namespace {connection.kfp_namespace}"
        if error.status in (401, 403):
            namespace = connection.kfp_namespace
            return None, f"you may not read the ConfigMap {CONFIGMAP} in {namespace}; ask whoever runs the cluster"
        return None, f"the Kubernetes API answered {error.status} {error.reason}"
    except urllib3.exceptions.HTTPError:
        return None, "the Kubernetes API does not answer"


def _core_api(connection: Connection) -> Any:
    try:
        return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(context=connection.kube_context))
    except kubernetes.config.ConfigException:
        if connection.kube_context:
            raise
        kubernetes.config.load_incluster_config()
        return kubernetes.client.CoreV1Api()
