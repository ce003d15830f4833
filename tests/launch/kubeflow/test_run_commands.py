"""`status`, `retry` and `cancel` against a server with KFP's API, over real sockets."""

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from click.testing import Result

from launch.kubeflow.rerun import PARAMETER, rerun_from
from launch.kubeflow.status import display as run_display
from launch.kubeflow.status.stages import iterate_stages, run_progress
from tests.launch import recordings
from tests.launch.kubeflow.test_cluster import flat, run_id_of
from tests.launch.stand_in.server import FakeKfp, Fault
from tests.launch.stand_in.test_stand_in import clone, repeated

Call = Callable[..., Result]


@pytest.fixture
def run(kfp: FakeKfp, call: Call) -> str:
    """The ID of a run named r, which has not started."""
    assert call("submit", "--run-name", "r").exit_code == 0
    return next(iter(kfp.runs))


# status


def test_waiting_shows_stages_as_they_end(kfp: FakeKfp, call: Call, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_display, "PENDING_SECONDS", float("inf"))
    stages = [("work", 15), ("evaluation-base", 95), ("work", 4000), ("rft", 4000), ("work", 4000), ("rft", 4000)]
    kfp.scripts[run] = [lambda: None]
    for name, seconds in stages:
        kfp.scripts[run] += [partial(kfp.begin, run, name), partial(kfp.end, run, name, seconds=seconds)]
    kfp.faults = [Fault("GET", f"runs/{run}$", "drop")]
    watched = call("status", run, "--wait")
    assert watched.exit_code == 0
    assert re.search(r"\[ 1/6\] Preflight +15 s$", watched.output, re.MULTILINE)
    assert re.search(r"\[ 2/6\] evaluation-base +1 min 45 s$", watched.output, re.MULTILINE)
    assert re.search(r"\[ 6/6\] iteration 2: RFT +1 h 6 min$", watched.output, re.MULTILINE)
    assert "succeeded after 4 h" in watched.output and "waits for a node" not in watched.output


def test_waiting_says_when_a_pod_waits_for_long(
    kfp: FakeKfp, call: Call, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_display, "PENDING_SECONDS", 0.0)
    kfp.scripts[run] = [lambda: None, partial(kfp.reach, run), lambda: None, lambda: kfp.finish(run, "FAILED")]
    watched = call("status", run, "--wait")
    assert len(re.findall(r"\[ 1/6\] Preflight .* waits for a node or its image", watched.output)) == 1


def test_waiting_for_a_failed_run_exits_1_and_names_the_attempt(kfp: FakeKfp, call: Call) -> None:
    run = repeated(kfp, "run-pending-node")
    kfp.begin(run, "preflight")
    kfp.scripts[run] = [
        lambda: None,
        partial(kfp.end, run, "preflight", lost=True),
        partial(kfp.begin, run, "preflight"),
        partial(kfp.end, run, "preflight", "FAILED"),
    ]
    watched = call("status", run, "--wait")
    assert watched.exit_code == 1
    assert re.search(r"\[ 1/11\] Preflight .* running, attempt 2 of 4$", watched.output, re.MULTILINE)
    assert re.search(r"\[ 1/11\] Preflight .* FAILED, attempt 2 of 4$", watched.output, re.MULTILINE)
    assert f"Preflight failed in attempt 2 of 4; its log: {kfp.host}/#/runs/details/{run}" in watched.output
    assert "but nothing that failed by itself" in watched.output and f"retry {run} runs" in watched.output


def test_waiting_for_a_run_that_kubeflow_reports_no_more_says_so_once(kfp: FakeKfp, call: Call) -> None:
    recorded = recordings.run("run-running-compressed")
    version = recordings.version(recorded)
    kfp.runs[recorded.run_id], kfp.versions[version.pipeline_version_id] = recorded, version

    def succeed() -> None:
        kfp.runs[recorded.run_id] = recordings.run("run-succeeded-compressed")

    kfp.scripts[recorded.run_id] = [lambda: None, lambda: None, lambda: None, succeed]
    watched = call("status", recorded.run_id, "--wait")
    assert watched.exit_code == 0 and watched.output.count("has reported no stage of this run since") == 1
    assert re.search(r"\[23/23\] iteration 2: Report +succeeded$", watched.output, re.MULTILINE)


def test_status_tells_iterations_apart_and_what_was_not_reached(kfp: FakeKfp, call: Call, run: str) -> None:
    for name in ("work", "evaluation-base", "work", "rft"):
        kfp.begin(run, name)
        kfp.end(run, name)
    kfp.begin(run, "work")
    seen = json.loads(call("status", run, "--json").output)
    assert [(s["stage"], s["state"]) for s in seen["stages"]] == [
        ("work", "succeeded"),
        ("evaluation-base", "succeeded"),
        ("iteration-1/work", "succeeded"),
        ("iteration-1/rft", "succeeded"),
        ("iteration-2/work", "running"),
        ("iteration-2/rft", "waiting"),
    ]
    assert seen["stages"][0]["seconds"] == 60 and seen["finished_at"] is None
    kfp.end(run, "work", "FAILED")
    ended = json.loads(call("status", run, "--json").output)
    assert [s["state"] for s in ended["stages"]][-2:] == ["failed", "not reached"]
    assert ended["state"] == "FAILED" and ended["failed"] == ["iteration-2/work"]


def test_stages_come_in_an_order_in_which_they_can_run(kfp: FakeKfp, run: str) -> None:
    assert [path for path, _ in iterate_stages(kfp.spec(run))] == [
        "work",
        "evaluation-base",
        "iteration-1/work",
        "iteration-1/rft",
        "iteration-2/work",
        "iteration-2/rft",
    ]
    assert {stage.state for stage in run_progress(kfp.runs[run], kfp.spec(run)).stages} == {"waiting"}


def test_a_run_is_named_by_id_or_by_an_unambiguous_name(kfp: FakeKfp, call: Call) -> None:
    unknown = call("status", "nightly")
    assert unknown.exit_code == 2 and "no run named 'nightly'. It has no runs yet." in flat(unknown.output)
    for name in ("nightly", "twice", "twice"):
        call("submit", "--run-name", name)
    assert call("status", "nightly").exit_code == 0
    assert "Did you mean 'nightly'?" in flat(call("status", "nigthly").output)
    twice = call("cancel", "twice")
    assert twice.exit_code == 2 and all(run in twice.output for run in list(kfp.runs)[1:])
    missing = "00000000-0000-0000-0000-000000000000"
    assert f"has no run with ID {missing}" in flat(call("status", missing).output)


# retry in place, and cancel


def test_cancel_says_what_it_does_and_a_cancelled_run_is_nobodys_fault(kfp: FakeKfp, call: Call, run: str) -> None:
    kfp.begin(run, "work")
    assert "only a failed or canceled run can be retried in place" in flat(call("retry", "r").output)
    assert "interrupts Preflight" in call("cancel", "r", "--dry-run").output and kfp.runs[run].state == "RUNNING"
    said = flat(call("cancel", "r").output)
    assert "interrupts Preflight. Its pods terminate within a minute." in said and "stay in the cache" in said
    assert kfp.runs[run].state == "CANCELING"
    assert "is canceling: there is nothing to cancel" in flat(call("cancel", "r").output)
    kfp.cancelled(run)
    assert kfp.runs[run].state == "FAILED"  # as KFP has it
    shown = call("status", run)
    assert "canceled after" in shown.output and "failed" not in shown.output.lower() and "retry" not in shown.output
    assert call("status", run, "--wait").exit_code == 1
    assert "is canceled: there is nothing to cancel" in flat(call("cancel", "r").output)


def test_retry_in_place_keeps_what_was_done(kfp: FakeKfp, call: Call, run: str) -> None:
    kfp.begin(run, "work")
    kfp.end(run, "work")
    kfp.begin(run, "evaluation-base")
    kfp.end(run, "evaluation-base", "FAILED")
    for stage in ("work", "rft"):  # the iteration that has begun goes on to its end, the next one does not begin
        kfp.begin(run, stage)
        kfp.end(run, stage)
    assert kfp.runs[run].state == "FAILED"
    would = call("retry", "r", "--dry-run")
    assert re.search(r"evaluation-base .* FAILED$", would.output, re.MULTILINE)
    assert call("retry", "r").exit_code == 0 and kfp.runs[run].state == "RUNNING"
    assert kfp.play(run) == ["evaluation-base", "iteration-2/work", "iteration-2/rft"]
    assert kfp.runs[run].state == "SUCCEEDED" and len(kfp.runs) == 1


def test_a_run_that_ends_before_the_demand_arrives_is_a_message(kfp: FakeKfp, call: Call, run: str) -> None:
    kfp.faults = [Fault("POST", ":terminate", "status", 400, "Failed to terminate a run. Row not found")]
    assert "returned 400: Failed to terminate a run. Row not found" in flat(call("cancel", "r").output)
    kfp.finish(run, "FAILED")
    kfp.faults = [Fault("POST", ":retry", "status", 409, "Workflow must be Failed/Error to retry")]
    assert "returned 409: Workflow must be Failed/Error" in flat(call("retry", "r").output)


# retry from a stage, by the rules of the driver


def ran_after(kfp: FakeKfp, again: Result) -> list[str]:
    assert again.exit_code == 0, again.output
    return kfp.play(run_id_of(again))


def test_retry_from_a_stage_runs_it_and_what_uses_it_alone(kfp: FakeKfp, call: Call) -> None:
    first = repeated(kfp, "run-pending-node")
    assert len(kfp.play(first)) == 11
    after = [f"iteration-1/{stage}" for stage in ("rft", "evaluation-rloop", "report")]
    again = call("retry", first, "--from", "rft")
    assert ran_after(kfp, again) == after and kfp.runs[run_id_of(again)].state == "SUCCEEDED"
    assert "runs again: iteration-1/rft" in again.output
    assert "downstream of these: iteration-1/evaluation-rloop, iteration-1/report" in again.output
    assert "from the cache, unless an upstream result changes: preflight, data-prep" in again.output
    assert ran_after(kfp, call("retry", first, "--from", "rft")) == after  # and each time anew
    # A repeat of the repeat takes the repeat's results, not those of the run before.
    later = call("retry", run_id_of(again), "--from", "report")
    assert ran_after(kfp, later) == after[-1:]
    assert ran_after(kfp, call("retry", first, "--from", "evaluation")) == [
        "evaluation-base",
        "iteration-1/evaluation-explored",
        "iteration-1/evaluation-rloop",
        "iteration-1/report",
    ]
    # Data preparation takes nothing but a value from preflight, and the value is the same.
    assert len(ran_after(kfp, call("retry", first, "--from", "preflight"))) == 11
    everything = call("retry", first, "--from", "iteration-1", "--dry-run").output
    assert "runs again: all of iteration-1" in everything


def merged(specification: dict[str, Any], iterations: int) -> dict[str, Any]:
    """Turns a recorded pipeline of one iteration into one of many that share a component; preflight is not cached."""
    changed: dict[str, Any] = json.loads(json.dumps(specification))
    tasks = changed["pipeline_spec"]["root"]["dag"]["tasks"]
    tasks["preflight"]["cachingOptions"] = {}
    for number in range(2, iterations + 1):
        later = json.loads(json.dumps(tasks["iteration"]))
        before = "iteration" if number == 2 else f"iteration-{number - 1}"
        handed_on = {"policy": "rloop_policy", "previous_policy": "best_policy", "previous_results": "results"}
        for name, output in handed_on.items():
            source = {"producerTask": before, "outputArtifactKey": output}
            if name in later["inputs"]["artifacts"]:
                later["inputs"]["artifacts"][name] = {"taskOutputArtifact": source}
        later["inputs"]["parameters"]["iteration"] = {"runtimeValue": {"constant": number}}
        later["dependentTasks"] = sorted({*later.get("dependentTasks", []), before})
        later["taskInfo"] = {"name": f"Iteration {number}"}
        tasks[f"iteration-{number}"] = later
    return changed


def test_a_stage_of_an_iteration_that_shares_its_component_runs_again_there_alone(kfp: FakeKfp, call: Call) -> None:
    one = repeated(kfp, "run-pending-node")
    specification = merged(kfp.specification(kfp.runs[one]), 4)
    run = clone(kfp, one, specification)
    assert len(kfp.play(run)) == 3 + 4 * 8 and kfp.runs[run].state == "SUCCEEDED"
    again = call("retry", run, "--from", "iteration-2/rft")
    ran = ran_after(kfp, again)
    assert ran[:4] == ["preflight", *(f"iteration-2/{stage}" for stage in ("rft", "evaluation-rloop", "report"))]
    later = [path for path, _ in iterate_stages(specification) if path.startswith(("iteration-3/", "iteration-4/"))]
    assert len(later) == 16 and sorted(ran[4:]) == sorted(later)
    assert "runs in any case, caching is off: preflight" in again.output
    assert "all of iteration-3, all of iteration-4" in again.output
    changed = kfp.specification(kfp.runs[run_id_of(again)])
    components = changed["pipeline_spec"]["components"]
    tasks = changed["pipeline_spec"]["root"]["dag"]["tasks"]
    used = [tasks[name]["componentRef"]["name"] for name in ("iteration", "iteration-2", "iteration-3", "iteration-4")]
    assert used == ["comp-iteration", "comp-iteration-2", "comp-iteration", "comp-iteration"]
    assert len(components) == len(specification["pipeline_spec"]["components"]) + 2  # iteration 2's, and its RFT's
    assert PARAMETER not in components["comp-rft"]["inputDefinitions"]["parameters"]
    last = ran_after(kfp, call("retry", run, "--from", "iteration-4/report"))
    assert last == ["preflight", "iteration-4/report"]


@pytest.mark.parametrize("iterations", [1, 2])
def test_what_a_repeat_says_is_what_the_driver_does(iterations: int) -> None:
    kfp = FakeKfp()
    one = repeated(kfp, "run-pending-node")
    specification = merged(kfp.specification(kfp.runs[one]), iterations)
    run = clone(kfp, one, specification)
    kfp.play(run)
    paths = [path for path, _ in iterate_stages(specification)]
    for stage in [*paths, *(path.rpartition("/")[2] for path in paths[-8:]), "evaluation", "iteration-1"]:
        rerun = rerun_from(specification, stage)
        ran = kfp.play(clone(kfp, run, rerun.specification))
        assert sorted(ran) == sorted([*rerun.repeated, *rerun.downstream, *rerun.uncached]), stage
        assert sorted([*ran, *rerun.cached]) == sorted(paths)


def test_retry_from_keeps_parameters_and_names_the_run(kfp: FakeKfp, call: Call, run: str) -> None:
    kfp.runs[run].runtime_config.parameters = {"steps": 3}
    again = call("retry", "r", "--from", "iteration-2/rft")
    new = run_id_of(again)
    assert new != run and kfp.runs[new].runtime_config.parameters == {"steps": 3}
    assert kfp.runs[new].display_name == "r from iteration-2/rft" and run in kfp.runs[new].description
    wrong = call("retry", "r", "--from", "rfft")
    assert wrong.exit_code == 2 and "Did you mean 'rft'?" in wrong.output


def test_what_takes_only_values_runs_again_too(kfp: FakeKfp, call: Call, run: str) -> None:
    """The small pipeline passes on strings, which are the same every time a stage runs."""
    assert len(kfp.play(run)) == 6
    assert ran_after(kfp, call("retry", "r", "--from", "iteration-1/rft")) == [
        "iteration-1/rft",
        "iteration-2/work",
        "iteration-2/rft",
    ]


def test_each_repeat_has_a_value_of_its_own_and_leaves_the_specification_alone(kfp: FakeKfp, run: str) -> None:
    wrapped = {"pipeline_spec": kfp.spec(run), "platform_spec": {"platforms": {}}}
    before = json.dumps(wrapped)
    one, two = rerun_from(wrapped, "rft").specification, rerun_from(wrapped, "rft").specification
    assert one["platform_spec"] == wrapped["platform_spec"] and json.dumps(wrapped) == before
    values = [
        task["inputs"]["parameters"][PARAMETER]["runtimeValue"]["constant"]
        for specification in (one, two)
        for path, task in iterate_stages(specification)
        if path.endswith("/rft")
    ]
    assert len(set(values)) == 4
