"""Acceptance tests on a cluster: each test does something that users do, with the same commands.

`make test-cluster HOST=... REGISTRY=...` runs them on any Kubeflow Pipelines 2.17, in order, with a policy of 0.4
million parameters: about half an hour on two cores. The images must be in the registry (`make push`).
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.kubeflow.controller import retry_policy, workflows
from launch.kubeflow.server import Server
from tests.cluster.conftest import Target
from tests.cluster.data import put_problems
from tests.cluster.kubectl import Kubectl
from tests.cluster.product import Product, stage_states, told, what_ran

pytestmark = pytest.mark.cluster

Note = Callable[[str, object], None]
LOOK_SECONDS = 2.0
NOWHERE = "{rloop.dev/acceptance: nowhere}"  # a label that no node has


@pytest.fixture(scope="session")
def first_run(product: Product, recipe: Path) -> str:
    """A successful run of one iteration."""
    run = product.submit(recipe, "acceptance first", "--iterations", "1")
    product.finish(run, minutes=20)
    return run


def test_a_first_run_succeeds_and_every_stage_is_told(product: Product, first_run: str, record_property: Note) -> None:
    status = product.status(first_run)
    states = stage_states(status)
    assert set(states.values()) <= {"succeeded", "cached"}, states
    assert any("rft" in path for path in states) and any("report" in path for path in states)
    assert len(told(status)) == len(states), "a run of one iteration is small enough for KFP to report all stages"
    record_property("note", f"{len(states)} stages")


def test_the_same_again_comes_from_the_cache(product: Product, recipe: Path, first_run: str) -> None:
    run = product.submit(recipe, "acceptance again", "--iterations", "1")
    assert [path for path in what_ran(product.finish(run, minutes=5)) if path != "preflight"] == []


def test_the_controllers_retry_policy_is_told(target: Target, record_property: Note) -> None:
    """KFP's default does not retry failures: not a defect of the product, but worth knowing."""
    policy = retry_policy(target.where(), workflows(target.server()))
    assert policy.sentence()
    record_property("note", policy.sentence())


def test_a_stage_that_waits_for_a_node_says_so_and_a_cancelled_run_blames_nobody(
    product: Product, recipe: Path, record_property: Note
) -> None:
    run = product.submit(recipe, "acceptance pending", "--set", f"pools.cpu.node_selector={NOWHERE}")
    waiting = ("pending", "running or pending")
    status = product.wait(run, "a stage that waits", lambda s: "pending" in " ".join(stage_states(s).values()), 5)
    stage = next(stage for stage in status["stages"] if stage["state"] in waiting)
    assert "rloop.dev/acceptance=nowhere" in (stage["waits_for"] or ""), stage
    record_property("note", f"{stage['stage']}: {stage['state']}, {stage['waits_for']}")
    product("cancel", run)
    status = product.wait(run, "the end", lambda s: s["state"] in ("CANCELED", "FAILED"), 3)
    assert status["state"] == "CANCELED" and "failed" not in stage_states(status).values()


def test_a_cancelled_run_goes_on_in_place(product: Product, recipe: Path, record_property: Note) -> None:
    # More steps: exploration must run, and for long enough to be caught running.
    run = product.submit(recipe, "acceptance cancelled", "--iterations", "1", "--set", "rl.steps=60")
    product.wait(run, "RL exploration", lambda s: "running" in stage_states(s, "rl-exploration").values(), 10)
    product("cancel", run)
    status = product.wait(run, "the end", lambda s: s["state"] in ("CANCELED", "FAILED"), 3)
    assert status["state"] == "CANCELED" and "failed" not in stage_states(status).values()
    done = {path for path, state in stage_states(status).items() if state in ("succeeded", "cached")}
    assert done and not any("report" in path for path in done)
    started = {stage["stage"]: stage.get("started_at") for stage in status["stages"] if stage["stage"] in done}
    assert product.retry(run) == run
    status = product.wait(run, "a success", lambda s: s["state"] == "SUCCEEDED", 15, ended=True)
    again = {stage["stage"]: stage.get("started_at") for stage in status["stages"] if stage["stage"] in done}
    assert again == started, "what had succeeded is kept"
    record_property("note", f"kept {len(done)} stages")


def test_a_stage_is_repeated_with_what_follows_and_nothing_else(product: Product, first_run: str) -> None:
    status = product.finish(product.retry(first_run, "--from", "rft"), minutes=10)
    ran = what_ran(status)
    assert any(path.endswith("/rft") for path in ran), f"rft came from the cache; what ran: {ran}"
    before = ("data-preparation", "evaluation-base", "rl-exploration", "harvesting", "filtering", "explored")
    assert not [path for path in ran if any(name in path for name in before)]
    assert any(path.endswith("/report") for path in ran)


@pytest.fixture
def schedule_name(product: Product) -> Iterator[str]:
    """The name of a schedule, which is deleted at the end."""
    name = f"acceptance {time.strftime('%Y-%m-%d %H:%M:%S')}"
    yield name
    product.run(["schedule", "delete", name, *product.connection])


def test_a_schedule_trains_on_new_data_alone(
    product: Product,
    target: Target,
    recipe: Path,
    first_run: str,
    schedule_name: str,
    tmp_path: Path,
    record_property: Note,
) -> None:
    product.schedule(recipe, schedule_name, "* * * * *", "--iterations", "1")
    seen: set[str] = set()
    quiet = what_ran(product.finish(next_tick(product, target, schedule_name, seen), minutes=6))
    again = what_ran(product.finish(next_tick(product, target, schedule_name, seen), minutes=6))
    assert quiet == again == ["preflight"], f"ticks without news: {quiet}, {again}"
    if target.data:
        put_problems(target.data, 2, tmp_path)
        # There may be a tick in between whose preflight ended before the data changed.
        for _ in range(2):
            ran = what_ran(product.finish(next_tick(product, target, schedule_name, seen), minutes=20))
            if len(ran) > 1:
                break
        assert any("rl-exploration" in path for path in ran), f"the data changed, and what ran was {ran}"
        record_property("note", f"two quiet ticks, then {len(ran)} stages")
    else:
        record_property("note", "two quiet ticks; data that changes: DATA=s3://BUCKET/FOLDER/NAME.jsonl")
    product("schedule", "pause", schedule_name)
    assert re.search(f"{re.escape(schedule_name)}.*paused", product("schedule", "list"))


def test_three_iterations_with_vanilla_rl_outlive_a_killed_pod(
    product: Product, recipe: Path, target: Target, record_property: Note
) -> None:
    # More steps, so that a training pod is caught; with the default, the first iteration would come from the cache.
    steps = ("--set", "rl.steps=12")
    run = product.submit(recipe, "acceptance vanilla", "--iterations", "3", "--with-vanilla-rl", *steps)
    notes = []
    if target.kubectl:
        kubectl = Kubectl(target.kubectl, target.namespace or "kubeflow")
        pod = wait_for(lambda: kubectl.training_pods(run), minutes=15)[0]
        kubectl.kill(pod)
        notes.append(f"killed {pod}")
    else:
        notes.append("no pod was killed: KUBECTL=kubectl")
    status = product.finish(run, minutes=40)
    states = stage_states(status)
    assert set(states.values()) <= {"succeeded", "cached"}
    assert all(any(f"iteration-{n}/report" in path for path in states) for n in (1, 2, 3))
    attempts = [s["stage"] for s in status["stages"] if (s.get("attempt") or 0) > 1]
    assert attempts or not target.kubectl or len(told(status)) < len(states), "the killed stage has a second attempt"
    record_property("note", "; ".join([*notes, f"{len(states)} stages", f"KFP told of {len(told(status))}"]))


def next_tick(product: Product, target: Target, schedule: str, seen: set[str]) -> str:
    """Returns the run of a schedule's next tick: the oldest one not in `seen`, to which it is added."""
    server = target.server()
    (run, *_) = wait_for(lambda: [r for r, name in ticks(server) if name == schedule and r not in seen], minutes=4)
    seen.add(run)
    product.started.append(run)
    return str(run)


def ticks(server: Server) -> list[tuple[str, str]]:
    """Returns the runs that schedules started, oldest first, each with the name of its schedule."""
    namespace = {"namespace": server.namespace} if server.namespace else {}
    schedules = server.read(
        "listing schedules",
        server.client.recurring_runs.recurring_run_service_list_recurring_runs,
        page_size=100,
        **namespace,
    ).recurring_runs
    names = {schedule.recurring_run_id: schedule.display_name for schedule in schedules or []}
    runs = server.read(
        "listing runs",
        server.client.runs.run_service_list_runs,
        page_size=100,
        sort_by="created_at desc",
        **namespace,
    ).runs
    return [(run.run_id, names[run.recurring_run_id]) for run in reversed(runs or []) if run.recurring_run_id in names]


def wait_for(found: Callable[[], list[Any]], minutes: float) -> list[Any]:
    """Polls until something is found; returns it."""
    deadline = time.monotonic() + minutes * 60
    while not (there := found()):
        assert time.monotonic() < deadline, f"waited {minutes:g} minutes in vain"
        time.sleep(LOOK_SECONDS)
    return there
