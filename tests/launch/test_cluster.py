"""`submit` and `schedule` against a server that speaks KFP's API, over real sockets."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from launch.cluster import version_name
from tests.launch.kfp_server import FakeKfp, Fault

Call = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[2]


def flat(text: str) -> str:
    return " ".join(text.split())


def run_id_of(result: Result) -> str:
    return re.search(r"runs/details/([0-9a-f-]{36})", result.output)[1]  # type: ignore[index]


# submit


def test_submit_uploads_once_and_runs(kfp: FakeKfp, call: Call) -> None:
    first = call("submit", "--run-name", "first")
    assert first.exit_code == 0
    assert f"{kfp.host}/#/runs/details/{next(iter(kfp.runs))}" in first.output
    second = call("submit", "--run-name", "second")
    other = call("submit", "--run-name", "third", "--set", "rl.steps=7")
    assert second.exit_code == other.exit_code == 0
    assert all(re.fullmatch(r"\d{14}", run.runtime_config.parameters["refresh"]) for run in kfp.runs.values())
    assert len(kfp.pipelines) == 1 and len(kfp.experiments) == 1 and len(kfp.versions) == 2
    one, two, three = (run.pipeline_version_reference.pipeline_version_id for run in kfp.runs.values())
    assert one == two != three
    assert all(re.fullmatch(r"[0-9a-f]{16}", version.name) for version in kfp.versions.values())
    assert kfp.spec(run_id_of(other))["root"]["inputDefinitions"]["parameters"]["steps"]["defaultValue"] == 7


@pytest.mark.parametrize("seen", [False, True])
def test_dry_runs_change_nothing(kfp: FakeKfp, call: Call, seen: bool) -> None:
    if seen:
        call("submit", "--run-name", "r")
    before = len(kfp.writes())
    said = flat(call("submit", "--run-name", "r2", "--dry-run").output)
    assert "would start the run 'r2'" in said
    assert ("would use the version" in said) == seen and ("would create the experiment" in said) != seen
    said = flat(call("schedule", "--cron", "30 2 * * 1", "--dry-run").output)
    assert "would create the schedule 'rloop laptop'" in said and "at 02:30 every Monday" in said
    if seen:
        run_id = next(iter(kfp.runs))
        assert "would cancel 'r'" in call("cancel", "r", "--dry-run").output
        kfp.finish(run_id, "FAILED")
        assert "would retry 'r'" in call("retry", "r", "--dry-run").output
        assert "would start the run 'r from rft'" in call("retry", "r", "--from", "rft", "--dry-run").output
        assert "would show" in call("status", "r", "--dry-run").output
    assert len(kfp.writes()) == before


def test_an_upload_that_someone_else_was_quicker_with_is_used(kfp: FakeKfp, call: Call) -> None:
    kfp.faults = [Fault("POST", "upload_version", "drop-after")]
    assert call("submit").exit_code == 2 and len(kfp.versions) == 1  # it had arrived
    assert call("submit").exit_code == 0 and len(kfp.versions) == 1
    kfp.faults = [Fault("POST", "upload_version", "status", 409, "Failed to create a pipeline version")]
    failed = call("submit", "--set", "rl.steps=9")
    assert failed.exit_code == 2 and "409" in failed.output


# schedule


def test_a_schedule_is_created_once_and_replaced_when_asked(kfp: FakeKfp, call: Call) -> None:
    created = call("schedule", "--cron", "30 2 * * 1", "--name", "weekly")
    assert created.exit_code == 0 and "created the schedule 'weekly'" in created.output
    (first,) = kfp.schedules.values()
    assert first.trigger.cron_schedule.cron == "0 30 2 * * 1" and first.no_catchup is True
    assert first.max_concurrency == "1" and first.status == "ENABLED"
    assert first.runtime_config.parameters == {"refresh": "[[ScheduledTime]]"}
    before = len(kfp.writes())
    same = call("schedule", "--cron", "0 30 2 * * 1", "--name", "weekly")
    assert same.exit_code == 0 and "nothing to do" in same.output and len(kfp.writes()) == before
    for changed, what in (
        (["--cron", "30 3 * * 1"], "the cron '0 30 2 * * 1'"),
        (["--cron", "30 2 * * 1", "--set", "rl.steps=5"], "another pipeline version"),
    ):
        refused = call("schedule", *changed, "--name", "weekly")
        assert refused.exit_code == 2 and f"with {what}; --replace replaces it" in flat(refused.output)
    assert len(kfp.writes()) == before
    kfp.schedules[first.recurring_run_id].status = "DISABLED"
    off = call("schedule", "--cron", "30 2 * * 1", "--name", "weekly")
    assert "its ticks switched off; --replace" in flat(off.output)
    replaced = call("schedule", "--cron", "30 3 * * 1", "--name", "weekly", "--replace")
    assert replaced.exit_code == 0 and "replaced the schedule" in replaced.output
    (second,) = kfp.schedules.values()
    assert second.trigger.cron_schedule.cron == "0 30 3 * * 1" and second.status == "ENABLED"
    assert kfp.deletions == ["ORPHAN"]  # else Kubernetes ends the runs that the schedule has started


def test_a_schedule_that_cannot_be_replaced_stays(kfp: FakeKfp, call: Call) -> None:
    call("schedule", "--cron", "@daily")
    kfp.faults = [Fault("POST", "recurringruns", "status", 500)]
    assert call("schedule", "--cron", "@weekly", "--replace").exit_code == 2
    assert [s.trigger.cron_schedule.cron for s in kfp.schedules.values()] == ["0 0 0 * * *"]


def test_time_zones_of_schedules(kfp: FakeKfp, call: Call) -> None:
    moved = call("schedule", "--cron", "30 2 * * 1", "--timezone", "Asia/Kolkata", "--name", "a")
    assert "on the cluster: 0 0 21 * * 0 (at 21:00 every Sunday, UTC)" in flat(moved.output)
    refused = call("schedule", "--cron", "30 2 * * 1", "--timezone", "Europe/Berlin", "--name", "b")
    assert refused.exit_code == 2 and "--cluster-timezone Europe/Berlin" in flat(refused.output)
    berlin = ["--timezone", "Europe/Berlin", "--cluster-timezone", "Europe/Berlin"]
    assert call("schedule", "--cron", "30 2 * * 1", *berlin, "--name", "b").exit_code == 0
    assert [s.trigger.cron_schedule.cron for s in kfp.schedules.values()] == ["0 0 21 * * 0", "0 30 2 * * 1"]


# the server's own strictness, and what holds of stages


def test_the_server_refuses_what_kfp_would(kfp: FakeKfp, call: Call) -> None:
    call("submit")
    good = {"display_name": "r", "experiment_id": next(iter(kfp.experiments)), "pipeline_spec": {"a": 1}}
    for body in (
        {**good, "colour": "red"},
        {"experiment_id": good["experiment_id"]},
        {**good, "display_name": 3},
        {**good, "state": "GREAT"},
        {**good, "pipeline_version_reference": {"pipeline_id": "a", "pipeline_version_id": "b"}},
    ):
        request = urllib.request.Request(
            f"{kfp.host}/apis/v2beta1/runs", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)


def test_the_same_pipeline_has_the_same_version_whenever_it_is_compiled(tmp_path: Path) -> None:
    """kfp writes defaults in any order into the file's comment, another one in each process."""
    names = set()
    for number in range(3):
        compiled = tmp_path / f"{number}.yaml"
        arguments = ["compile", "--recipe", "recipes/laptop.yaml", "--output", str(compiled)]
        subprocess.run([sys.executable, "pipeline.py", *arguments], check=True, cwd=ROOT, capture_output=True)
        names.add(version_name(compiled))
    assert len(names) == 1


def test_pods_run_as_the_account_that_was_named(kfp: FakeKfp, call: Call) -> None:
    assert call("submit", "--run-name", "one", "--service-account", "rloop").exit_code == 0
    assert call("submit", "--run-name", "two").exit_code == 0
    assert [run.service_account for run in kfp.runs.values()] == ["rloop", None]
    assert call("schedule", "--cron", "@daily", "--service-account", "rloop").exit_code == 0
    (made,) = kfp.schedules.values()
    assert made.service_account == "rloop"
    again = call("schedule", "--cron", "@daily", "--service-account", "other")
    assert again.exit_code != 0 and "another service account" in flat(again.output)
