"""How the commands handle a server that denies requests, fails, hangs, drops connections or is not KFP."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.launch.stand_in.server import SECRET, FakeKfp, Fault

Call = Callable[..., Result]


def flat(text: str) -> str:
    return " ".join(text.split())


def test_tokens_cookies_and_namespaces(kfp: FakeKfp, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.token = SECRET
    refused = call("submit")
    assert refused.exit_code == 2 and "returned 401" in refused.output and "--existing-token" in refused.output
    assert call("submit", "--existing-token", "wrong").exit_code == 2
    assert call("submit", "--existing-token", SECRET).exit_code == 0
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    assert call("submit").exit_code == 0
    kfp.token, kfp.cookie = "", "authservice_session=abc"
    assert call("submit").exit_code == 2
    assert call("submit", "--cookies", "authservice_session=abc").exit_code == 0
    kfp.cookie, kfp.multi_user = "", True
    assert "pass your namespace with --namespace" in flat(call("submit").output)
    assert call("submit", "--namespace", "ada", "--run-name", "hers").exit_code == 0
    assert call("status", "hers", "--namespace", "ada").exit_code == 0
    assert {(p.name, p.namespace) for p in kfp.pipelines.values()} == {("rloop", None), ("rloop", "ada")}


def test_403_says_who_may_not_what(kfp: FakeKfp, call: Call) -> None:
    kfp.faults = [Fault("POST", "/runs$", "status", 403, "User 'ada' is not authorized to create runs")]
    said = flat(call("submit").output)
    assert "returned 403: User 'ada' is not authorized" in said and "You do not have permission to do this" in said


# faults


@pytest.mark.parametrize("kind", ["drop", "status"])
def test_reading_is_tried_again_and_writing_never(kfp: FakeKfp, call: Call, kind: str) -> None:
    call("submit", "--run-name", "r")
    run = next(iter(kfp.runs))
    kfp.faults = [Fault("GET", f"/runs/{run}", kind, 503, times=2)]
    assert call("status", "r").exit_code == 0
    kfp.faults = [Fault("GET", "/runs$", kind, 500, times=3)]
    asked = len(kfp.requests)
    failed = flat(call("status", "r").output)
    assert ("returned 500: the database is away" if kind == "status" else "dropped the connection") in failed
    assert len(kfp.requests) == asked + 4  # a health check and three attempts
    kfp.finish(run, "FAILED")
    for path, arguments in ((":retry", ["retry", "r"]), ("/runs$", ["submit"]), ("recurringruns", ["schedule"])):
        kfp.faults = [Fault("POST", path, kind, 500, times=9)]
        before = len([r for r in kfp.writes() if re.search(path, r[1])])
        failed = flat(call(*arguments, *(["--cron", "@daily"] if "schedule" in arguments else [])).output)
        assert "The request was not retried, since it may have taken effect" in failed
        assert len([r for r in kfp.writes() if re.search(path, r[1])]) == before + 1


def test_a_hung_server_is_given_up(kfp: FakeKfp, call: Call) -> None:
    kfp.faults = [Fault("POST", "/runs$", "hang")]
    said = flat(call("submit", "--timeout", "0.3").output)
    assert "did not respond within 0.3 s while creating the run" in said and "The request was not retried" in said
    kfp.faults = [Fault("GET", "healthz", "hang", times=3)]
    assert "did not respond within 0.2 s while checking" in flat(call("status", "r", "--timeout", "0.2").output)


def test_wrong_hosts(kfp: FakeKfp, call: Call) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    refused = call("status", "r", host=f"http://127.0.0.1:{port}")
    assert refused.exit_code == 2 and "refused the connection" in refused.output
    assert "cannot resolve no-such-host.invalid" in flat(call("status", "r", host="http://no-such-host.invalid").output)
    assert "returned 404: Not Found" in flat(call("status", "r", host=f"{kfp.host}/elsewhere").output)
    assert "cannot establish a secure connection" in flat(
        call("status", "r", host=kfp.host.replace("http:", "https:")).output
    )
    kfp.faults = [Fault("GET", "healthz", "html")]
    assert "instead of JSON. Either this is a login page" in flat(call("status", "r").output)
    kfp.faults = [Fault("GET", "healthz", "redirect")]
    said = flat(call("status", "r").output)
    assert "redirects to https://login.example.com/dex/auth:" in said and "SECRET" not in said


def test_no_host_at_all(kfp: FakeKfp, call: Call) -> None:
    result = call("status", "r", "--kube-context", "work", host="")
    assert result.exit_code == 2 and "no kubeconfig with the context work" in flat(result.output)


def test_a_kubeconfig_is_used(kfp: FakeKfp, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": kfp.host}}],
        "users": [{"name": "u", "user": {"token": SECRET}}],
        "contexts": [{"name": "work", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    result = call("status", "r", "--kube-context", "work", "--kfp-namespace", "ml", host="")
    assert result.exit_code == 2 and "returned 404" in result.output and SECRET not in result.output
    proxied = "/api/v1/namespaces/ml/services/ml-pipeline:http/proxy/apis/v2beta1/healthz"

    assert kfp.requests[-1] == ("GET", proxied)  # 404 here; on a cluster, Kubernetes passes it on
