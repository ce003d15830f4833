"""States of stages: recorded responses with their tables, and cases that no recording shows."""

import io
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console

from components.shared.training.train_job import NODE_QUEUE
from components.shared.training.trainjob_api import QUEUE_LABEL
from launch.kubeflow.cluster import Cluster
from launch.kubeflow.server import Connection
from launch.kubeflow.status.display import print_status
from launch.kubeflow.status.nodes import Nodes, node_id
from launch.kubeflow.status.stages import RunProgress, Stage, run_progress, run_state
from tests.launch import recordings
from tests.launch.stand_in.server import FakeKfp
from tests.launch.stand_in.test_stand_in import clone, repeated

Call = Callable[..., Result]


def recorded_progress(name: str) -> RunProgress:
    run = recordings.run(name)
    return run_progress(run, recordings.version(run).pipeline_spec, recordings.taken_at(run))


def shown(name: str) -> str:
    """Returns what `status` prints for a recording."""
    with FakeKfp() as kfp:
        cluster, out = Cluster(Connection(host=kfp.host, ui_host="https://kubeflow.example.com")), io.StringIO()
    console = Console(file=out, highlight=False, markup=False, soft_wrap=True)
    print_status(console, cluster, recordings.run(name), recorded_progress(name))
    return out.getvalue()


@pytest.mark.parametrize("name", recordings.NAMES)
def test_a_recorded_run_has_its_table(name: str) -> None:
    assert shown(name) == (recordings.FOLDER / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", recordings.NAMES)
def test_the_commands_read_what_the_server_sent(kfp: FakeKfp, call: Call, name: str) -> None:
    run = recordings.run(name)
    version = recordings.version(run)
    kfp.runs[run.run_id], kfp.versions[version.pipeline_version_id] = run, version
    plain = call("status", run.run_id)
    assert plain.exit_code == 0 and "mlflow" not in plain.output
    told = json.loads(call("status", run.run_id, "--json").output)
    assert told["metrics"] == {} and len(told["stages"]) == plain.output.count("/" + str(len(told["stages"])) + "]")
    if run.finished_at.year > 1970:
        assert call("status", run.run_id, "--wait").exit_code == (0 if told["state"] == "SUCCEEDED" else 1)


def test_a_pipeline_whose_own_driver_fails_is_named() -> None:
    run = recordings.run("run-failed-driver")
    for row in run.run_details.task_details:
        if (row.display_name or "").startswith("root-driver"):
            row.state = "FAILED"
    first, *_ = run_progress(run, recordings.version(run).pipeline_spec).failed
    assert (first.title, first.error) == ("The pipeline", "its driver failed")


def test_no_stage_of_a_run_that_succeeded_was_not_reached() -> None:
    run = recordings.run("run-succeeded-compressed")
    for row in run.run_details.task_details:
        if row.display_name == "rloop-xqfqf":
            row.state = "SUCCEEDED"  # the workflow as a whole is known, but not all of its stages
    progress = run_progress(run, recordings.version(run).pipeline_spec)
    assert {stage.state for stage in progress.stages} == {"succeeded", "cached"} and not progress.notes


def test_node_ids_are_argos() -> None:
    assert node_id("rloop-xqfqf", "rloop-xqfqf") == "rloop-xqfqf"
    assert node_id("rloop-xqfqf", "rloop-xqfqf(0).root(0)") == "rloop-xqfqf-3177622884"
    nodes = Nodes(recordings.run("run-pod-deleted-retried"))
    place = f"{nodes.entry_point()}.root(0).iteration(0).rl-exploration(0).executor"
    assert len(nodes.node(place, ()).attempts) == 2


def stages(kfp: FakeKfp, run: str, now: datetime | None = None) -> dict[str, Stage]:
    answer = kfp.answer("GET", f"/apis/v2beta1/runs/{run}", {}, None)
    progress = run_progress(answer, kfp.specification(answer), now or kfp.clock + timedelta(seconds=5))
    return {stage.path.removeprefix("iteration-1/"): stage for stage in progress.stages}


@pytest.fixture
def at_evaluations() -> tuple[FakeKfp, str]:
    """A run whose pods of harvesting and of two evaluations became pending in the same second."""
    kfp = FakeKfp()
    run = repeated(kfp, "run-pending-node")
    for stage in ("preflight", "data-preparation", "evaluation-base", "rl-exploration"):
        kfp.begin(run, stage)
        kfp.end(run, stage)
    return kfp, run


def test_parallel_pods_are_told_apart_as_far_as_can_be(at_evaluations: tuple[FakeKfp, str]) -> None:
    kfp, run = at_evaluations
    together = ("curve-explored", "evaluation-explored", "rollout-harvesting")
    assert {stages(kfp, run)[name].state for name in together} == {"pending"}
    kfp.begin(run, "curve-explored")
    # Nothing says which of the three pods runs.
    assert {stages(kfp, run)[name].state for name in together} == {"running or pending"}
    kfp.begin(run, "rollout-harvesting")
    kfp.end(run, "rollout-harvesting")
    one = stages(kfp, run)
    assert [one[name].state for name in together] == ["running or pending", "running or pending", "succeeded"]
    assert one["evaluation-explored"].waits_for == "1 CPU, 4Gi"
    kfp.end(run, "curve-explored")
    assert [stages(kfp, run)[name].state for name in together] == ["succeeded", "pending", "succeeded"]
    kfp.begin(run, "evaluation-explored")
    assert stages(kfp, run)["evaluation-explored"].state == "running"


def test_a_second_attempt_is_known_beside_a_neighbours_first(at_evaluations: tuple[FakeKfp, str]) -> None:
    kfp, run = at_evaluations
    for stage in ("curve-explored", "evaluation-explored", "rollout-harvesting"):
        kfp.begin(run, stage)
    kfp.end(run, "curve-explored", lost=True)
    # Which of the three pods has failed, nothing says either.
    assert stages(kfp, run)["curve-explored"].state == "running"
    kfp.end(run, "rollout-harvesting", seconds=120)
    second = stages(kfp, run)
    assert (second["curve-explored"].state, second["curve-explored"].attempt) == ("pending", 2)
    assert (second["evaluation-explored"].state, second["evaluation-explored"].attempt) == ("running", 1)


def test_a_pause_after_a_failed_attempt_is_no_work(at_evaluations: tuple[FakeKfp, str]) -> None:
    kfp, run = at_evaluations
    for stage in ("curve-explored", "evaluation-explored", "rollout-harvesting"):
        kfp.begin(run, stage)
        kfp.end(run, stage)
    kfp.begin(run, "verification-filtering")
    pod = kfp.workflow(run).pod("verification-filtering", "RUNNING")
    kfp.workflow(run).end(pod, "FAILED")
    kfp.read(run)
    stage = stages(kfp, run)["verification-filtering"]
    assert (stage.state, stage.attempt, stage.attempts) == ("retrying", 1, 4)


def test_what_failed_before_a_run_was_cancelled_stays_failed(at_evaluations: tuple[FakeKfp, str]) -> None:
    kfp, run = at_evaluations
    for stage in ("curve-explored", "evaluation-explored", "rollout-harvesting"):
        kfp.begin(run, stage)
    kfp.end(run, "curve-explored", "FAILED")
    kfp.end(run, "rollout-harvesting", seconds=120)  # and the pause after the failure is over
    assert stages(kfp, run)["curve-explored"].state == "failed"
    kfp.clock += timedelta(seconds=20)
    kfp.answer("POST", f"/apis/v2beta1/runs/{run}:terminate", {}, None)
    kfp.clock += timedelta(seconds=20)
    kfp.cancelled(run)
    ended = stages(kfp, run)
    assert kfp.runs[run].state == "FAILED" and run_state(kfp.runs[run]) == "CANCELED"
    assert ended["curve-explored"].state == "failed" and ended["evaluation-explored"].state == "canceled"
    assert ended["rft"].state == "not reached"


def test_a_run_that_was_retried_after_a_cancel_fails_as_any_other(at_evaluations: tuple[FakeKfp, str]) -> None:
    kfp, run = at_evaluations
    kfp.answer("POST", f"/apis/v2beta1/runs/{run}:terminate", {}, None)
    kfp.cancelled(run)
    assert run_state(kfp.runs[run]) == "CANCELED"
    kfp.answer("POST", f"/apis/v2beta1/runs/{run}:retry", {}, None)
    assert run_state(kfp.runs[run]) == "RUNNING"
    kfp.play(run, fails=lambda pod: pod.path.endswith("rollout-harvesting"))
    assert run_state(kfp.runs[run]) == "FAILED"
    assert stages(kfp, run)["rollout-harvesting"].state == "failed"


def test_clusters_without_retries_of_their_own_have_one_node_for_two() -> None:
    """As with KFP before 2.17, whose controller sets no retries on its templates."""
    recorded = recordings.run("run-failed-driver")
    rows, old = recorded.run_details.task_details, "rloop-6kqtg"
    names: dict[str, str] = {}
    progress = recorded_progress("run-failed-driver")
    for path in [stage.path for stage in progress.stages][:3]:
        for name in (f"{path}-driver", path, f"{path}.executor"):
            names[name] = f"{old}.root.{name}"
    kept = []
    for row in rows:
        name = row.display_name or ""
        if name.startswith("executor") or name.endswith("(0)") or name in (old, "root", "root-driver"):
            continue
        row.child_tasks = [_child(old, names[f"{name}.executor"])] if f"{name}.executor" in names else None
        if (stage := name.removesuffix("-driver")) != name and stage in names:
            row.child_tasks = [_child(old, names[stage])]
        kept.append(row)
    top = next(row for row in rows if row.display_name == old)
    top.child_tasks = [_child(old, names[name]) for name in names] + [_child(old, f"{old}.root")]
    recorded.run_details.task_details = [*kept, top]
    found = run_progress(recorded, recordings.version(recorded).pipeline_spec, recordings.taken_at(recorded))
    assert [stage.state for stage in found.stages][:4] == ["succeeded", "succeeded", "succeeded", "not reached"]


def _child(workflow: str, name: str) -> Any:
    import kfp_server_api as api

    return api.PipelineTaskDetailChildTask(pod_name=node_id(workflow, name))


def test_a_plugins_figures_are_shown_when_it_has_some(kfp: FakeKfp, call: Call) -> None:
    run = repeated(kfp, "run-pending-node")
    assert json.loads(call("status", run, "--json").output)["metrics"] == {}
    kfp.runs[run].plugins_output["mlflow"].state = "PLUGIN_SUCCEEDED"
    kfp.runs[run].plugins_output["mlflow"].entries["experiment_name"].value = "mine"
    assert "mlflow.experiment_name  mine" in call("status", run).output
    kfp.runs[run].plugins_output["mlflow"].entries["experiment_name"].value = ""
    assert "mlflow" not in call("status", run).output


def test_a_failure_that_kubeflow_does_not_place_says_where_to_look(kfp: FakeKfp, call: Call) -> None:
    run = repeated(kfp, "run-pending-node")
    kfp.runs[run].state = "FAILED"  # as of a workflow that Argo ended for its size before it began
    said = call("status", run).output
    assert "Kubeflow has reported no stage of this run" in said and "not reached" not in said
    assert f"kubectl get workflow -l pipeline/runid={run}" in said


def test_a_stage_in_a_queue_says_so(kfp: FakeKfp, call: Call) -> None:
    """As Argo reports it: a gated pod is pending, and while a TrainJob queues, its stage's pod runs."""
    first = repeated(kfp, "run-pending-node")
    specification = json.loads(json.dumps(kfp.specification(kfp.runs[first])))
    executors = specification["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-data-preparation"] = {"podMetadata": {"labels": {QUEUE_LABEL: "team-a"}}}
    executors["exec-rl-exploration"] = {"podMetadata": {"annotations": {NODE_QUEUE: "team-b"}}}
    run = clone(kfp, first, specification)
    kfp.begin(run, "preflight")
    kfp.end(run, "preflight")
    waits = "waits in queue team-a, or for a node or its image: 1 CPU, 4Gi"
    assert re.search(rf"Data preparation .* {waits}$", call("status", run).output, re.MULTILINE)
    told = json.loads(call("status", run, "--json").output)["stages"]
    assert {stage["stage"]: stage["queue"] for stage in told if stage["queue"]} == {"data-preparation": "team-a"}
    for stage in ("data-preparation", "evaluation-base"):
        kfp.begin(run, stage)
        assert "team-a" not in call("status", run).output
        kfp.end(run, stage)
    assert "team-b" not in call("status", run).output, "its own pod does not queue"
    kfp.begin(run, "rl-exploration")
    said = call("status", run).output
    assert re.search(r"RL exploration .* running; its TrainJob may wait in queue team-b$", said, re.MULTILINE)


TWO_GPUS = {"accelerator": {"resourceType": "nvidia.com/gpu", "resourceCount": "2"}}


@pytest.mark.parametrize(
    ("place", "resources", "expected"),
    [
        (
            {"nodeSelector": {"nodeSelectorJson": {"componentInputParameter": "pool_training_node_selector"}}},
            {"resourceCpuRequest": "4", "resourceMemoryRequest": "16Gi"} | TWO_GPUS,
            "a=b, rloop.dev/pool=mine, 4 CPUs, 16Gi, 2 nvidia.com/gpu",
        ),
        ({"nodeSelector": {"labels": {"kind": "big"}}}, {}, "kind=big"),
        ({"nodeSelector": {"nodeSelectorJson": {"runtimeValue": {"constant": {"x": "y"}}}}}, {}, "x=y"),
        ({}, {"resourceCpuRequest": "500m"}, "500m CPUs"),
    ],
)
def test_what_a_pod_waits_for_follows_from_pipeline_and_parameters(
    place: dict[str, Any], resources: dict[str, Any], expected: str
) -> None:
    kfp = FakeKfp()
    first = repeated(kfp, "run-pending-node")
    specification = json.loads(json.dumps(kfp.specification(kfp.runs[first])))
    specification["pipeline_spec"]["deploymentSpec"]["executors"]["exec-rl-exploration"]["container"]["resources"] = (
        resources
    )
    executors = specification["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-rl-exploration"] = place
    parameters = {"pool_training_node_selector": {"rloop.dev/pool": "mine", "a": "b"}, "refresh": "1"}
    kfp.runs[first].runtime_config.parameters = parameters
    run = clone(kfp, first, specification)
    for stage in ("preflight", "data-preparation", "evaluation-base"):
        kfp.begin(run, stage)
        kfp.end(run, stage)
    assert stages(kfp, run)["rl-exploration"].waits_for == expected
