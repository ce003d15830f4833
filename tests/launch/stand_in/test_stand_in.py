"""The stand-in against recorded responses of a real Kubeflow Pipelines: the same run is reported in the same rows."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kfp_server_api as api
import pytest
from kfp import compiler, dsl

from launch.compiled import read_compiled
from launch.kubeflow.status.stages import run_progress
from tests.launch import recordings
from tests.launch.stand_in.metadata import AlreadyExists, Metadata
from tests.launch.stand_in.server import FakeKfp

WIRE = api.ApiClient()


def repeated(kfp: FakeKfp, name: str, parameters: dict[str, Any] | None = None, workflow: str = "rloop-other") -> str:
    """Starts a run with the pipeline of a recorded run; returns its ID."""
    recorded = recordings.run(name)
    version = recordings.version(recorded)
    kfp.versions[version.pipeline_version_id] = version
    kfp.experiments.setdefault(recorded.experiment_id, api.V2beta1Experiment(display_name="rloop"))
    sent = recordings.answer(name)
    body = {
        key: sent[key] for key in ("display_name", "experiment_id", "pipeline_version_reference", "service_account")
    }
    body["runtime_config"] = {"parameters": parameters or recorded.runtime_config.parameters}
    kfp.workflow_names = [workflow]
    return str(kfp.answer("POST", "/apis/v2beta1/runs", {}, body).run_id)


def workflow_of(name: str) -> str:
    rows = recordings.run(name).run_details.task_details
    return next(c.pod_name for row in rows for c in row.child_tasks or []).rpartition("-")[0]


def told(sent: dict[str, Any]) -> Counter[tuple[Any, ...]]:
    """Returns a run's rows without what differs between runs: IDs and times.

    Whether the server saw a pod running, or a node of a compressed workflow at all, depends on when it looked.
    """
    rows = []
    for row in sent["run_details"]["task_details"]:
        history = [entry.get("state") for entry in row.get("state_history", [])]
        if history[:1] == ["PENDING"]:
            history = [state for state in history if state != "RUNNING"]
        children = frozenset(child["pod_name"] for child in row.get("child_tasks", []))
        open_ended = row["end_time"].startswith("0001-01-01")
        rows.append((frozenset(row), row.get("display_name"), row.get("state"), open_ended, tuple(history), children))
    return Counter(rows)


def earlier(kfp: FakeKfp, name: str, until: str) -> None:
    """Runs the pipeline beforehand, so that results up to a stage are in the cache."""
    run = repeated(kfp, name, {"refresh": "earlier"})
    for stage in ("preflight", "data-preparation", "evaluation-base"):
        kfp.begin(run, stage)
        kfp.end(run, stage, hold=("iteration",))
        if stage == until:
            break
    kfp.finish(run, "FAILED")


def failed_preflight(kfp: FakeKfp, run: str) -> None:
    kfp.begin(run, "preflight")
    kfp.end(run, "preflight", "FAILED")


def failed_driver(kfp: FakeKfp, run: str) -> None:
    for stage in ("preflight", "data-preparation", "evaluation-base"):
        kfp.begin(run, stage)
        kfp.end(run, stage)


def running(kfp: FakeKfp, run: str) -> None:
    for stage in ("preflight", "data-preparation"):
        kfp.begin(run, stage)
        kfp.end(run, stage)
    kfp.begin(run, "evaluation-base")
    # The launcher records its result a moment before its pod ends.
    pod = kfp.workflow(run).pod("evaluation-base", "RUNNING")
    pod.work()


def pending_node(kfp: FakeKfp, run: str) -> None:
    kfp.begin(run, "preflight")
    kfp.end(run, "preflight")


def pod_deleted(kfp: FakeKfp, run: str) -> None:
    for stage in ("preflight", "evaluation-base"):
        kfp.begin(run, stage)
        kfp.end(run, stage)
    kfp.begin(run, "rl-exploration")
    kfp.end(run, "rl-exploration", lost=True, ends_alone=True)
    kfp.begin(run, "rl-exploration")
    kfp.end(run, "rl-exploration", hold=("rollout-harvesting", "curve-explored", "evaluation-explored"))


def retried_in_place(kfp: FakeKfp, run: str) -> None:
    failed_preflight(kfp, run)
    kfp.answer("POST", f"/apis/v2beta1/runs/{run}:retry", {}, None)
    failed_driver(kfp, run)


def cancelled(kfp: FakeKfp, run: str) -> None:
    kfp.reach(run, hold=("preflight",))
    kfp.answer("POST", f"/apis/v2beta1/runs/{run}:terminate", {}, None)
    kfp.cancelled(run)


def compressed(kfp: FakeKfp, run: str) -> None:
    kfp.play(run)


@pytest.mark.parametrize(
    ("name", "cached", "happens"),
    [
        ("run-failed-preflight", "", failed_preflight),
        ("run-failed-driver", "", failed_driver),
        ("run-running", "", running),
        ("run-pending-node", "evaluation-base", pending_node),
        ("run-pod-deleted-retried", "data-preparation", pod_deleted),
        ("run-retried-in-place", "", retried_in_place),
        ("run-cancelled", "", cancelled),
        ("run-succeeded-compressed", "evaluation-base", compressed),
    ],
)
def test_a_run_is_told_of_as_the_real_server_did(
    name: str, cached: str, happens: Callable[[FakeKfp, str], None]
) -> None:
    kfp = FakeKfp()
    if cached:
        earlier(kfp, name, cached)
    run = repeated(kfp, name, workflow=workflow_of(name))
    happens(kfp, run)
    sent = WIRE.sanitize_for_serialization(kfp.answer("GET", f"/apis/v2beta1/runs/{run}", {}, None))
    recorded = recordings.answer(name)
    mine, real = told(sent), told(recorded)
    assert sorted(map(str, mine - real)) == [] and sorted(map(str, real - mine)) == []
    assert sent["state"] == recorded["state"] and set(sent) == set(recorded)
    states = [[entry.get("state") for entry in each["state_history"]] for each in (sent, recorded)]
    assert states[0] == [state for state in states[1] if state]  # the real server has entries without a state
    assert sent["plugins_output"]["mlflow"]["state"] == recorded["plugins_output"]["mlflow"]["state"]
    assert sent["plugins_output"]["mlflow"]["entries"] == recorded["plugins_output"]["mlflow"]["entries"]


def told_stages(kfp: FakeKfp, run: str) -> dict[str, str]:
    answer = kfp.answer("GET", f"/apis/v2beta1/runs/{run}", {}, None)
    return {stage.path: stage.state for stage in run_progress(answer, kfp.specification(answer)).stages}


def test_a_second_run_takes_everything_from_the_cache_but_what_takes_something_new() -> None:
    kfp = FakeKfp()
    first = repeated(kfp, "run-pending-node")
    assert len(kfp.play(first)) == 11 and kfp.runs[first].state == "SUCCEEDED"
    assert kfp.play(repeated(kfp, "run-pending-node")) == []
    assert kfp.play(repeated(kfp, "run-pending-node", {"refresh": "new"})) == ["preflight"]
    kfp.returns = lambda path, output: "other data"
    # The macro is passed on as text, so it is new only in the first tick.
    ticks = [kfp.play(repeated(kfp, "run-pending-node", {"refresh": "[[ScheduledTime]]"})) for _ in range(2)]
    assert len(ticks[0]) == 11 and ticks[1] == []
    other = kfp.play(repeated(kfp, "run-pending-node", {"refresh": "new", "rft_epochs": 3}))
    assert other == [f"iteration-1/{stage}" for stage in ("rft", "evaluation-rloop", "report")]


def test_without_caching_a_stage_runs_and_leaves_nothing_in_the_cache() -> None:
    """As observed on a real server, with caching disabled for three stages: everything else comes from the cache."""
    kfp = FakeKfp()
    first = repeated(kfp, "run-pending-node")
    kfp.play(first)
    entries = len(kfp.metadata.entries)
    specification = copy.deepcopy(kfp.specification(kfp.runs[first]))
    tasks = specification["pipeline_spec"]["components"]["comp-iteration"]["dag"]["tasks"]
    tasks["rft"]["cachingOptions"] = {}
    for _ in range(2):
        run = clone(kfp, first, specification)
        ran = kfp.play(run)
        assert ran == [f"iteration-1/{stage}" for stage in ("rft", "evaluation-rloop", "report")]
        assert told_stages(kfp, run)["iteration-1/rl-exploration"] == "cached"
    assert len(kfp.metadata.entries) == entries + 4  # none for RFT


def clone(kfp: FakeKfp, run_id: str, specification: dict[str, Any]) -> str:
    run = kfp.runs[run_id]
    body = {
        "display_name": "again",
        "experiment_id": run.experiment_id,
        "pipeline_spec": specification,
        "runtime_config": {"parameters": run.runtime_config.parameters},
    }
    return str(kfp.answer("POST", "/apis/v2beta1/runs", {}, body).run_id)


def test_an_artifact_under_two_inputs_ends_the_driver() -> None:
    metadata = Metadata(artifacts=8)
    with pytest.raises(AlreadyExists, match="code = AlreadyExists desc = Given event already exists: artifact_id: 8"):
        metadata.execution([7, 8, 8])
    kfp = FakeKfp()
    run = repeated(kfp, "run-failed-driver")  # iteration 1 takes the base policy three times
    assert kfp.play(run) == ["preflight", "data-preparation", "evaluation-base"]
    assert kfp.runs[run].state == "FAILED"


@pytest.mark.parametrize(
    ("policy", "lost", "attempts"), [("OnError", False, 1), ("OnError", True, 2), ("Always", False, 2)]
)
def test_attempts_follow_as_the_controller_has_it(policy: str, lost: bool, attempts: int) -> None:
    kfp = FakeKfp(retry_policy=policy)
    run = repeated(kfp, "run-pending-node")
    kfp.begin(run, "preflight")
    before = kfp.clock
    kfp.end(run, "preflight", "FAILED", lost=lost)
    executor = "rloop-other(0).root(0).preflight(0).executor"
    assert len(kfp.workflow(run).nodes[executor].children) == attempts
    assert (kfp.clock - before).total_seconds() >= 120  # its minute, and the back-off, which passes in any case
    if attempts == 1:
        assert kfp.runs[run].state == "FAILED"
    else:
        kfp.begin(run, "preflight")
        kfp.end(run, "preflight")
        assert told_stages(kfp, run)["data-preparation"] == "pending"


def test_all_attempts_have_one_deadline_from_the_first_one_on() -> None:
    """As observed: after ten minutes a healthy attempt is killed, and the level above starts a round of its own."""
    kfp = FakeKfp(retry_policy="Always")
    run = repeated(kfp, "run-pending-node")
    kfp.begin(run, "preflight")
    kfp.end(run, "preflight", "FAILED", seconds=300)
    kfp.begin(run, "preflight")
    kfp.end(run, "preflight", "SUCCEEDED", seconds=300)
    nodes = kfp.workflow(run).nodes
    place = "rloop-other(0).root(0).preflight"
    assert nodes[f"{place}(0).executor(1)"].state == "FAILED" and nodes[f"{place}(1).executor(0)"].state == "PENDING"
    answer = kfp.answer("GET", f"/apis/v2beta1/runs/{run}", {}, None)
    stage = run_progress(answer, kfp.specification(answer)).stages[0]
    assert (stage.state, stage.attempt, stage.attempts) == ("pending", 3, 4)


def test_a_tick_hands_on_a_macro_as_text() -> None:
    kfp = FakeKfp()
    run = repeated(kfp, "run-pending-node")
    (recorded,) = json.loads((recordings.FOLDER / "recurring-runs.json").read_text())["recurringRuns"]
    made = {key: recorded[key] for key in ("display_name", "trigger", "mode", "max_concurrency", "experiment_id")}
    made |= {"runtime_config": recorded["runtime_config"]}
    reference = WIRE.sanitize_for_serialization(kfp.runs[run].pipeline_version_reference)
    made["pipeline_version_reference"] = reference
    schedule = kfp.answer("POST", "/apis/v2beta1/recurringruns", {}, made)
    assert schedule.status == recorded["status"]
    listed = WIRE.sanitize_for_serialization(kfp.answer("GET", "/apis/v2beta1/recurringruns", {}, None))
    (told,) = listed["recurring_runs"] if "recurring_runs" in listed else listed["recurringRuns"]
    assert set(told) == set(recorded) - {"description", "service_account", "no_catchup"}  # not part of the request
    tick = kfp.tick(schedule.recurring_run_id)
    assert kfp.runs[tick].runtime_config.parameters == {"refresh": "[[ScheduledTime]]"}


@dsl.component(install_kfp_package=False, base_image="registry.example.com/rloop:1")
def use(policy: dsl.Input[dsl.Model]) -> str:
    return policy.uri


@dsl.pipeline(name="continued")
def continued(uri: str) -> None:
    policy = dsl.importer(artifact_uri=uri, artifact_class=dsl.Model).set_display_name("Policy of an earlier run")
    use(policy=policy.output)


def test_an_importer_has_a_pod_and_no_driver_and_gives_the_same_artifact_for_the_same_uri(tmp_path: Path) -> None:
    compiler.Compiler().compile(continued, str(tmp_path / "continued.yaml"))
    kfp = FakeKfp()
    first = repeated(kfp, "run-pending-node")
    runs = []
    for uri in ("s3://a/b", "s3://a/b", "s3://a/c"):
        kfp.runs[first].runtime_config.parameters = {"uri": uri}
        runs.append(clone(kfp, first, read_compiled(tmp_path / "continued.yaml")[0]))
    assert [kfp.play(run) for run in runs] == [["use"], [], ["use"]]
    assert told_stages(kfp, runs[1]) == {"use": "cached"}
    assert not any("importer-driver" in name for name in kfp.workflow(runs[0]).nodes)
