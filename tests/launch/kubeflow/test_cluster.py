"""`submit` and `schedule` against a server with KFP's API, over real sockets."""

import copy
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from launch.kubeflow import cluster
from launch.kubeflow.cluster import parameter_differences, version_digest
from launch.parameters import run_parameters
from launch.recipe import load_recipe
from tests.launch.conftest import RECIPE
from tests.launch.stand_in.server import FakeKfp, Fault

Call = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[3]


def flat(text: str) -> str:
    return " ".join(text.split())


def run_id_of(result: Result) -> str:
    return re.search(r"runs/details/([0-9a-f-]{36})", result.output)[1]  # type: ignore[index]


# submit


def test_submit_uploads_once_and_runs(kfp: FakeKfp, call: Call) -> None:
    first = call("submit", "--run-name", "first")
    assert first.exit_code == 0
    assert f"{kfp.host}/#/runs/details/{next(iter(kfp.runs))}" in first.output
    assert call("submit", "--run-name", "second", "--set", "rl.steps=7").exit_code == 0
    assert call("submit", "--run-name", "third", "--iterations", "3").exit_code == 0
    assert len(kfp.pipelines) == 1 and len(kfp.experiments) == 1 and len(kfp.versions) == 2
    one, two, three = (run.pipeline_version_reference.pipeline_version_id for run in kfp.runs.values())
    assert one == two != three, "a version is of structure, not of values"
    for version in kfp.versions.values():
        assert re.fullmatch(r"laptop, \d{4}-\d\d-\d\d, [0-9a-f]{8}", version.display_name)
        assert re.fullmatch(r"laptop-\d{4}-\d\d-\d\d-[0-9a-f]{8}", version.name)


def test_a_run_is_sent_every_parameters_value(kfp: FakeKfp, call: Call) -> None:
    call("submit")
    call("submit", "--set", "rl.steps=7")
    for run, overrides in zip(kfp.runs.values(), ([], ["rl.steps=7"]), strict=True):
        assert run.runtime_config.parameters == run_parameters(load_recipe(RECIPE, overrides))
    assert all(re.fullmatch(r"laptop \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", run.display_name) for run in kfp.runs.values())


def test_a_version_is_found_again_whatever_its_date_and_however_many_there_are(
    kfp: FakeKfp, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("submit")
    (version,) = kfp.versions.values()
    digest = version.display_name.split(", ")[-1]
    version.display_name = f"laptop, 2025-01-01, {digest}"
    for number, name in enumerate((f"other, 2025-01-02, {digest}", f"laptop, {digest}, 00000000", f"{digest}-fork")):
        clone = copy.copy(version)
        clone.pipeline_version_id, clone.name, clone.display_name = str(number), name, name
        kfp.versions = {clone.pipeline_version_id: clone, **kfp.versions}
    monkeypatch.setattr(cluster, "_PAGE_SIZE", 1)
    call("submit")
    assert len(kfp.versions) == 4
    assert {run.pipeline_version_reference.pipeline_version_id for run in kfp.runs.values()} == {
        version.pipeline_version_id
    }
    other = RECIPE.with_name("arithmetic.yaml")
    assert call("submit", recipe=other).exit_code == 0
    assert any(v.display_name.startswith("arithmetic, ") for v in kfp.versions.values())


@pytest.mark.parametrize(
    ("options", "variant"),
    [([], "cpu"), (["--set", "pools.inference.accelerators=1"], "cuda"), (["--variant", "cuda"], "cuda")],
)
def test_the_variant_follows_from_the_pools(kfp: FakeKfp, call: Call, options: list[str], variant: str) -> None:
    where = ["--registry", "registry.example.com/me", "--allow-missing-images"]
    assert call("submit", *where, *options).exit_code == 0
    (version,) = kfp.versions.values()
    assert version.pipeline_spec["pipelineInfo"]["description"].endswith(f"{variant} images of registry.example.com/me")


@pytest.mark.parametrize("seen", [False, True])
def test_dry_runs_change_nothing(kfp: FakeKfp, call: Call, seen: bool) -> None:
    if seen:
        call("submit", "--run-name", "r")
    before = len(kfp.writes())
    said = flat(call("submit", "--run-name", "r2", "--dry-run").output)
    assert "would start the run 'r2'" in said
    assert ("would use the existing version" in said) == seen and ("would create the experiment" in said) != seen
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
    failed = call("submit", "--iterations", "9")
    assert failed.exit_code == 2 and "409" in failed.output


# schedule


def test_a_schedule_is_created_once_and_replaced_when_asked(kfp: FakeKfp, call: Call) -> None:
    created = call("schedule", "--cron", "30 2 * * 1", "--name", "weekly")
    assert created.exit_code == 0 and "created the schedule 'weekly'" in created.output
    (first,) = kfp.schedules.values()
    assert first.trigger.cron_schedule.cron == "0 30 2 * * 1" and first.no_catchup is True
    assert first.max_concurrency == "1" and first.status == "ENABLED"
    assert first.runtime_config.parameters == run_parameters(load_recipe(RECIPE))
    before = len(kfp.writes())
    same = call("schedule", "--cron", "0 30 2 * * 1", "--name", "weekly")
    assert same.exit_code == 0 and "nothing to do" in same.output and len(kfp.writes()) == before
    for changed, what in (
        (["--cron", "30 3 * * 1"], "cron '0 30 2 * * 1'"),
        (["--cron", "30 2 * * 1", "--iterations", "5"], "different pipeline version"),
        (["--cron", "30 2 * * 1", "--set", "seed=5"], "seed 1"),
    ):
        refused = call("schedule", *changed, "--name", "weekly")
        assert refused.exit_code == 2 and f"differs from this one: {what}. Pass --replace to replace it" in flat(
            refused.output
        )
    assert len(kfp.writes()) == before
    kfp.schedules[first.recurring_run_id].status = "DISABLED"
    off = call("schedule", "--cron", "30 2 * * 1", "--name", "weekly")
    assert ": paused. Pass --replace" in flat(off.output)
    replaced = call("schedule", "--cron", "30 3 * * 1", "--name", "weekly", "--replace")
    assert replaced.exit_code == 0 and "replaced the schedule" in replaced.output
    (second,) = kfp.schedules.values()
    assert second.trigger.cron_schedule.cron == "0 30 3 * * 1" and second.status == "ENABLED"
    assert kfp.deletions == ["ORPHAN"]  # else Kubernetes ends the runs that the schedule has started


def test_parameters_that_differ_are_named() -> None:
    there = {"seed": 1, "data": {"train": [1], "limits": {"tokens": 40, "gone": "x"}}, "refresh": "[[ScheduledTime]]"}
    wanted = {"seed": 1.0, "data": {"train": [2], "limits": {"tokens": 50}}, "steps": 3}
    assert parameter_differences(there, wanted) == [
        "data.limits.gone 'x'",
        "data.limits.tokens 40",
        "different data.train",
        "refresh '[[ScheduledTime]]'",
        "no steps",
    ]
    assert parameter_differences(wanted, wanted) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "x", "yz"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@given(PARAMETERS, PARAMETERS)
def test_something_is_said_where_parameters_differ_and_nowhere_else(
    there: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert bool(parameter_differences(there, wanted)) == (there != wanted)
    assert parameter_differences(there, copy.deepcopy(there)) == []


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


def test_a_pipeline_has_the_same_version_whenever_and_for_whatever_values_it_is_compiled(tmp_path: Path) -> None:
    """kfp writes defaults in any order into the file's comment, another one in each process."""
    digests = []
    values = ["--set", "rl.steps=7", "--set", "rl.warmup_steps=3"]
    for number, options in enumerate(([], [], values, ["--iterations", "3"])):
        compiled = tmp_path / f"{number}.yaml"
        arguments = ["compile", "--recipe", "recipes/laptop.yaml", *options, "--output", str(compiled)]
        subprocess.run([sys.executable, "pipeline.py", *arguments], check=True, cwd=ROOT, capture_output=True)
        digests.append(version_digest(compiled))
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_pods_run_as_the_account_that_was_named(kfp: FakeKfp, call: Call) -> None:
    assert call("submit", "--run-name", "one", "--service-account", "rloop").exit_code == 0
    assert call("submit", "--run-name", "two").exit_code == 0
    assert [run.service_account for run in kfp.runs.values()] == ["rloop", None]
    assert call("schedule", "--cron", "@daily", "--service-account", "rloop").exit_code == 0
    (made,) = kfp.schedules.values()
    assert made.service_account == "rloop"
    again = call("schedule", "--cron", "@daily", "--service-account", "other")
    assert again.exit_code != 0 and "different service account" in flat(again.output)
