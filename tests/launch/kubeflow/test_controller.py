"""How the controller's retry policy is reported, from real objects: KFP 2.17.0's ConfigMap and a run's workflow."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp_server_api as api
import kubernetes
import pytest
import urllib3
import yaml
from click.testing import CliRunner

from launch.kubeflow.controller import retry_policy, workflows
from launch.kubeflow.server import Connection, Server
from pipeline import main
from tests.launch.conftest import RECIPE
from tests.launch.stand_in.server import FakeKfp
from tests.manifests.kfp_objects import configmap

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PATCH = ROOT / "manifests/components/retry-always/patch.yaml"
NOWHERE = Connection()


class Api:
    """A Kubernetes API with a single call, which returns a response or raises an error."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def read_namespaced_config_map(self, name: str, namespace: str, **_: Any) -> Any:
        assert (name, namespace) == ("workflow-controller-configmap", "kubeflow")
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(data=self.answer)


def refusal(status: int) -> Exception:
    error: Exception = kubernetes.client.exceptions.ApiException(status=status, reason="Refused")
    return error


def workflow() -> dict[str, Any]:
    """The relevant part of a finished run's workflow, without nodes and templates."""
    return dict(json.loads((HERE / "recorded-workflow-without-nodes.json").read_text()))


def test_kfps_default_starts_only_lost_pods_again() -> None:
    policy = retry_policy(NOWHERE, api=Api(configmap()["data"]))
    assert policy.policy == "OnError" and "ConfigMap workflow-controller-configmap in kubeflow" in policy.source
    assert "failed stages are not; manifests/components/retry-always" in policy.sentence()


def test_with_our_patch_a_failed_stage_is_tried_again() -> None:
    patched = configmap()["data"] | yaml.safe_load(PATCH.read_text())["data"]
    policy = retry_policy(NOWHERE, api=Api(patched))
    assert policy.policy == "Always" and policy.pods_only
    assert "up to pools.POOL.retries times" in policy.sentence()


def test_always_for_the_levels_above_a_stage_too_is_told_apart() -> None:
    data = configmap()["data"]
    data["workflowDefaults"] = data["workflowDefaults"].replace("OnError", "Always")
    policy = retry_policy(NOWHERE, api=Api(data))
    assert policy.policy == "Always" and not policy.pods_only
    assert "each of which retries the one below" in policy.sentence()


def test_without_defaults_argos_own_policy_holds() -> None:
    assert retry_policy(NOWHERE, api=Api({})).policy == "OnFailure"
    assert retry_policy(NOWHERE, api=Api(None)).policy == "OnFailure"


def test_where_the_configmap_may_not_be_read_a_runs_workflow_tells() -> None:
    policy = retry_policy(NOWHERE, [{}, workflow()], Api(refusal(403)))
    assert policy.policy == "OnError" and "as of workflow rloop-xqfqf" in policy.source


def test_a_workflow_that_the_controller_has_not_seen_tells_nothing() -> None:
    fresh = workflow()
    del fresh["spec"]["templateDefaults"], fresh["status"]
    assert retry_policy(NOWHERE, [fresh], Api(refusal(403))).policy is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusal(404), "no ConfigMap workflow-controller-configmap in namespace kubeflow"),
        (refusal(403), "no permission to read ConfigMap"),
        (refusal(500), "returned 500"),
        (urllib3.exceptions.MaxRetryError(None, "/", None), "does not respond"),  # type: ignore[arg-type]
    ],
)
def test_where_nothing_is_to_be_seen_it_says_why(answer: Exception, said: str) -> None:
    sentence = retry_policy(NOWHERE, api=Api(answer)).sentence()
    assert sentence.startswith("cannot determine whether failed stages are retried: ") and said in sentence


def test_without_a_kubeconfig_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "no kubeconfig, and not running in a cluster" in retry_policy(NOWHERE).sentence()


class WithWorkflows(FakeKfp):
    """The API server with v1beta1 runs, of which the first has no workflow yet."""

    def _older_run(self, run_id: str, *_: Any) -> Any:
        runtime = {"workflow_manifest": json.dumps(workflow())} if run_id == "told" else {}
        return {"run": {"id": run_id}, "pipeline_runtime": runtime}


@pytest.mark.parametrize("kind", [WithWorkflows, FakeKfp])
def test_kfps_older_api_hands_out_the_workflow(kind: type[FakeKfp], tmp_path: Path) -> None:
    with kind() as kfp:
        kfp.older_api = kind is WithWorkflows
        for run_id in ("new", "told"):
            kfp.runs[run_id] = api.V2beta1Run(run_id=run_id, display_name=run_id, created_at=kfp.clock)
        found = list(workflows(Server(Connection(host=kfp.host))))
    assert found == ([{}, workflow()] if kind is WithWorkflows else [])


def test_check_says_what_the_cluster_does_with_a_failure(
    kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    arguments = ["check", "--recipe", str(RECIPE)]
    result = CliRunner().invoke(main, [*arguments, "--host", kfp.host])
    assert result.exit_code == 0 and "cannot determine whether failed stages are retried: " in result.output
    assert "retried" not in CliRunner().invoke(main, arguments).output
