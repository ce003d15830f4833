"""The components that patch Kubeflow Pipelines' own installation change what they claim to, and nothing else."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.manifests.kfp_objects import KFP, built, configmap
from tests.manifests.test_manifests import MANIFESTS, OF_KUBEFLOW

OVERLAYS = MANIFESTS / "overlays"


@pytest.fixture
def patched(tmp_path: Path) -> list[dict[str, Any]]:
    """KFP's objects with our components applied, as its own kustomization with ours would build them."""
    for file in KFP.iterdir():  # kustomize reads files of its own folder alone
        shutil.copy(file, tmp_path)
    kustomization = {
        "resources": sorted(file.name for file in KFP.iterdir()),
        "components": [os.path.relpath(MANIFESTS / component, tmp_path) for component in sorted(OF_KUBEFLOW)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    objects = [o for o in yaml.safe_load_all(built(tmp_path)) if o]
    for o in objects:
        kubernetes_validate.validate(o, "1.37", strict=True)
    return objects


def kind(objects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [o for o in objects if o["kind"] == name]
    return found


def test_the_retry_policy_changes_and_nothing_else(patched: list[dict[str, Any]]) -> None:
    before, after = configmap(), kind(patched, "ConfigMap")
    defaults = yaml.safe_load(before["data"].pop("workflowDefaults"))
    changed = yaml.safe_load(after["data"].pop("workflowDefaults"))
    assert after == before
    retry = changed["spec"]["templateDefaults"]["retryStrategy"]
    assert retry.pop("retryPolicy") == "Always" and defaults["spec"]["templateDefaults"]["retryStrategy"].pop(
        "retryPolicy"
    )
    expression = retry.pop("expression")
    assert "lastRetry.status == 'Error'" in expression and "asInt(lastRetry.exitCode) > 0" in expression
    assert changed == defaults


def test_the_ui_gets_endpoint_and_keys_and_keeps_the_rest(patched: list[dict[str, Any]]) -> None:
    after = kind(patched, "Deployment")
    before = yaml.safe_load((KFP / "ml-pipeline-ui-deployment.yaml").read_text())
    (container,) = after["spec"]["template"]["spec"]["containers"]
    added = {e["name"]: e for e in container["env"] if e["name"].startswith("AWS_")}
    container["env"] = [e for e in container["env"] if e["name"] not in added]
    expected = copy.deepcopy(before)
    by_name = {e["name"]: e for e in expected["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert {e["name"]: e for e in container["env"]} == by_name
    expected["spec"]["template"]["spec"]["containers"][0]["env"] = container["env"]
    assert after == expected
    assert ":" not in added["AWS_S3_ENDPOINT"]["value"], "the UI refuses a port here"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert added[name]["valueFrom"]["secretKeyRef"]["name"] == "rloop-object-store"


def test_the_uis_endpoint_is_our_store_at_the_port_of_its_protocol(patched: list[dict[str, Any]]) -> None:
    (container,) = kind(patched, "Deployment")["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value") for e in container["env"]}
    objects = [o for o in yaml.safe_load_all(built(OVERLAYS / "object-store-seaweedfs")) if o]
    service = next(o for o in objects if o["kind"] == "Service")
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}"
    assert env["AWS_S3_ENDPOINT"] == f"{name}.svc.cluster.local"
    # The UI's own clients: HTTP is port 80 to them. A policy sees the target, which is the store's own port.
    assert env["AWS_SSL"] == "false" and {"port": 80, "targetPort": "s3", "name": "http"} in service["spec"]["ports"]
    policy = next(o for o in objects if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "object-store")
    sources = policy["spec"]["ingress"][0]["from"]
    assert any("ml-pipeline-ui" in str(source) and "kubeflow" in str(source) for source in sources)


def test_the_namespace_enforces_what_our_pods_meet() -> None:
    namespace = next(o for o in yaml.safe_load_all(built(MANIFESTS / "base")) if o and o["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
