"""What the cluster's workflow controller does when a stage fails.

KFP's default, `OnError`, retries lost pods but never a stage that fails, whatever the pipeline asks for. The policy can
be read from two places: the controller's ConfigMap, given permission to read it, and the workflow of a run, into which
the controller merges its defaults when it starts the run. KFP returns the workflow through its v1beta1 API.
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
RETRIES_FAILURES = ("Always", "OnFailure")  # Argo's policies that retry failures
_TIMEOUT_SECONDS = 10.0
REMEDY = "manifests/components/retry-always changes this, see docs/cluster.md"


@dataclass(frozen=True)
class RetryPolicy:
    """The controller's retry policy and its source.

    Attributes:
        policy: Argo's retryPolicy, such as OnError; None if unknown.
        pods_only: whether an expression keeps nested DAGs, and with them all their stages, from being retried as well.
        source: where the policy was read; if unknown, why.
    """

    policy: str | None
    pods_only: bool
    source: str

    def sentence(self) -> str:
        """Describes in one line what the policy means for a run."""
        if self.policy is None:
            return f"cannot determine whether failed stages are retried: {self.source}"
        setting = f"the controller's retryPolicy is {self.policy} ({self.source})"
        if self.policy not in RETRIES_FAILURES:
            return f"{setting}: lost pods are retried, failed stages are not; {REMEDY}"
        if not self.pods_only:
            return f"{setting}, also for the levels above a stage, each of which retries the one below; {REMEDY}"
        return f"{setting}: failed stages are retried up to pools.POOL.retries times"


def retry_policy(connection: Connection, runs: Iterable[dict[str, Any]] = (), api: Any = None) -> RetryPolicy:
    """Returns the controller's retry policy, from its ConfigMap or else from the workflow of a run.

    Args:
        connection: names the kubeconfig context and the namespace of Kubeflow Pipelines.
        runs: workflows of runs, newest first; the first one that the controller has started is used.
        api: a `kubernetes.client.CoreV1Api`; by default from the kubeconfig or the pod's service account.
    """
    config, why_not = _read_config(connection, api)
    if config is not None:
        where = f"ConfigMap {CONFIGMAP} in {connection.kfp_namespace}"
        return _policy(yaml.safe_load(config.get("workflowDefaults") or "") or {}, where)
    for workflow in runs:
        if workflow.get("status", {}).get("phase"):
            name = workflow.get("metadata", {}).get("name", "a run")
            return _policy(workflow, f"as of workflow {name}")
    return RetryPolicy(None, False, why_not)


def workflows(server: Server) -> Iterator[dict[str, Any]]:
    """Yields the Argo workflows of the most recent runs, newest first, from KFP's v1beta1 API."""
    newest = server.read(
        "listing runs",
        server.client.runs.run_service_list_runs,
        page_size=5,
        sort_by="created_at desc",
        **({"namespace": server.namespace} if server.namespace else {}),
    ).runs
    for run in newest or []:
        with contextlib.suppress(NotFound):  # a KFP version without this API
            action = f"reading the workflow of run {run.run_id}"
            yield workflow_of(server.read(action, get_run_v1beta1, server, run.run_id))


def get_run_v1beta1(server: Server, run_id: str, **options: Any) -> Any:
    """Returns a run from KFP's v1beta1 API; to be called through `Server.read`, which passes the options."""
    return server.client.runs.api_client.call_api(
        f"/apis/v1beta1/runs/{run_id}",
        "GET",
        header_params={"Accept": "application/json"},
        response_type="object",
        auth_settings=["Bearer"],
        _return_http_data_only=True,
        **options,
    )


def workflow_of(response: dict[str, Any]) -> dict[str, Any]:
    """Returns the Argo workflow in a response to `GET /apis/v1beta1/runs/ID`; empty if the run has none yet."""
    manifest = response.get("pipeline_runtime", {}).get("workflow_manifest")
    return dict(json.loads(manifest)) if manifest else {}


def _policy(workflow: dict[str, Any], source: str) -> RetryPolicy:
    """Returns the policy in a workflow, or in the defaults that the controller merges into every workflow."""
    specification = workflow.get("spec") or {}
    defaults = (specification.get("templateDefaults") or {}).get("retryStrategy")
    if not defaults:
        # Without a default, only the retry strategies of the pipeline apply, with Argo's own default policy.
        return RetryPolicy("OnFailure", True, f"Argo's default, none set in {source}")
    expression = defaults.get("expression") or ""
    policy = defaults.get("retryPolicy") or ("Always" if expression else "OnFailure")
    return RetryPolicy(policy, "exitCode" in expression or str(defaults.get("limit")) == "0", source)


def _read_config(connection: Connection, api: Any) -> tuple[dict[str, str] | None, str]:
    """Returns the ConfigMap's data, or None and the reason."""
    errors = kubernetes.client.exceptions
    try:
        api = api or _core_api(connection)
        found = api.read_namespaced_config_map(CONFIGMAP, connection.kfp_namespace, _request_timeout=_TIMEOUT_SECONDS)
        return dict(found.data or {}), ""
    except kubernetes.config.ConfigException:
        return None, "no kubeconfig, and not running in a cluster"
    except errors.ApiException as error:
        if error.status == 404:
            return None, f"no ConfigMap {CONFIGMAP} in namespace {connection.kfp_namespace}"
        if error.status in (401, 403):
            namespace = connection.kfp_namespace
            return None, f"no permission to read ConfigMap {CONFIGMAP} in namespace {namespace}; ask an administrator"
        return None, f"the Kubernetes API returned {error.status} {error.reason}"
    except urllib3.exceptions.HTTPError:
        return None, "the Kubernetes API does not respond"


def _core_api(connection: Connection) -> Any:
    try:
        return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(context=connection.kube_context))
    except kubernetes.config.ConfigException:
        if connection.kube_context:
            raise
        kubernetes.config.load_incluster_config()
        return kubernetes.client.CoreV1Api()
