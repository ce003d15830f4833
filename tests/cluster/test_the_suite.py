"""The acceptance tests' own helpers, without a cluster: on the stand-in server and on recorded runs."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp_server_api as api
import pytest
from click.testing import CliRunner

from components.shared.data.sources import Source, read_source
from components.shared.errors import InputError
from launch.recipe import load_recipe
from pipeline import main
from tests.cluster import product as module
from tests.cluster.conftest import Target, table
from tests.cluster.data import SOURCE, put_problems
from tests.cluster.kubectl import running
from tests.cluster.product import Product, Said, read_status, small_recipe, stage_states, told, what_ran
from tests.cluster.test_acceptance import next_tick, ticks
from tests.launch.stand_in.server import FakeKfp

HERE = Path(__file__).resolve().parent
# `status --json` of recorded runs of a real cluster.
RECORDED = {path.stem: path.read_text() for path in sorted((HERE / "status").glob("*.json"))}


def in_process(arguments: list[str]) -> Said:
    """Runs a command like `by_command_line`, in this process."""
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit | InputError), result.exception
    return Said(result.exit_code, result.output)


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with FakeKfp() as fake:
        yield fake


@pytest.fixture
def product(kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Product:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    submission = ["--registry", "registry.example.com/me", "--allow-missing-images"]
    return Product(["--host", kfp.host], submission, in_process, poll_seconds=0.01)


# Reading


def test_there_are_recordings() -> None:
    assert len(RECORDED) == 7


def test_a_stage_that_waits_is_seen() -> None:
    status = read_status(RECORDED["pending-node"])
    (stage,) = [s for s in status["stages"] if s["state"] == "pending"]
    assert stage["stage"] == "iteration-1/rl-exploration" and "rloop.dev/pool=gpu-training" in stage["waits_for"]
    assert what_ran(status) == ["preflight"]


def test_a_cancelled_run_blames_nobody() -> None:
    status = read_status(RECORDED["cancelled"])
    assert status["state"] == "CANCELED" and "failed" not in stage_states(status).values()


def test_a_failed_stage_is_seen() -> None:
    assert stage_states(read_status(RECORDED["failed-preflight"]), "preflight") == {"preflight": "failed"}


def test_a_second_attempt_is_seen() -> None:
    stages = read_status(RECORDED["pod-deleted-retried"])["stages"]
    assert [s["stage"] for s in stages if s["attempt"] > 1] == ["iteration-1/rl-exploration"]


def test_what_kfp_does_not_tell_is_taken_for_nothing() -> None:
    status = read_status(RECORDED["succeeded-compressed"])
    assert set(stage_states(status).values()) <= {"succeeded", "cached"}
    assert 0 < len(told(status)) < len(status["stages"])
    assert "iteration-1/rft" in what_ran(status) and not any("iteration-2" in path for path in what_ran(status))


def test_something_else_than_a_status_is_refused() -> None:
    with pytest.raises(AssertionError, match="no status"):
        read_status("{}")
    with pytest.raises(AssertionError, match="no stage"):
        read_status('{"run_id": "x", "state": "RUNNING", "stages": [{}]}')


# Driving


def test_the_recipe_is_a_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(small_recipe(tmp_path, {"seed": 7, "rl": {"steps": 2}}))
    assert recipe.seed == 7 and recipe.rl.steps == 2 and recipe.rl.group_size == 8
    assert recipe.rl.learning_rate == load_recipe(module.ROOT / "recipes/laptop.yaml").rl.learning_rate
    assert list(recipe.data.benchmarks) == ["dev"] and recipe.pools.training.cpu == "250m"


def test_runs_are_started_watched_and_cancelled(kfp: FakeKfp, product: Product, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    run = product.submit(recipe, "acceptance", "--iterations", "1")
    assert list(kfp.runs) == product.started == [run] and kfp.runs[run].display_name == "acceptance"
    product("cancel", run)
    assert kfp.runs[run].state == "CANCELING"
    status = product.wait(run, "the cancelling", lambda s: s["state"] == "CANCELING", minutes=0.1)
    assert any("rft" in path for path in stage_states(status))
    kfp.runs[run].state = "RUNNING"

    def end() -> None:
        time.sleep(0.1)
        kfp.runs[run].finished_at = kfp.clock
        kfp.runs[run].state = "SUCCEEDED"

    threading.Thread(target=end).start()
    assert product.finish(run, minutes=1)["state"] == "SUCCEEDED"


def test_a_run_that_fails_is_told_with_its_stages(kfp: FakeKfp, product: Product, tmp_path: Path) -> None:
    run = product.submit(small_recipe(tmp_path), "acceptance", "--iterations", "1")
    kfp.runs[run].finished_at = kfp.clock
    kfp.runs[run].state = "FAILED"
    with pytest.raises(AssertionError, match=r"is FAILED:\n  preflight"):
        product.finish(run, minutes=1)
    with pytest.raises(AssertionError, match="waited for a unicorn, but run"):
        product.wait(run, "a unicorn", lambda s: False, minutes=1)


def test_waiting_has_an_end(kfp: FakeKfp, product: Product, tmp_path: Path) -> None:
    run = product.submit(small_recipe(tmp_path), "acceptance", "--iterations", "1")
    with pytest.raises(AssertionError, match="for a unicorn"):
        product.wait(run, "a unicorn", lambda s: False, minutes=0.001)


def test_a_command_that_fails_is_told_with_what_it_said(product: Product) -> None:
    with pytest.raises(AssertionError, match=r"status nothing.*ended with"):
        product("status", "nothing")


def test_the_ticks_of_a_schedule_are_found_one_after_the_other(kfp: FakeKfp, product: Product) -> None:
    schedule = SimpleNamespace(recurring_run_id="s1", display_name="nightly")
    kfp.schedules["s1"] = api.V2beta1RecurringRun(recurring_run_id="s1", display_name="nightly")
    moments = (("t1", "s1", 1), ("other", None, 2), ("t2", "s1", 3))
    for run_id, of, minute in moments:
        kfp.runs[run_id] = api.V2beta1Run(
            run_id=run_id, recurring_run_id=of, created_at=datetime(2026, 11, 28, 3, minute, tzinfo=UTC)
        )
    target = Target(kfp.host, *[""] * 8)
    assert ticks(target.server()) == [("t1", schedule.display_name), ("t2", schedule.display_name)]
    seen: set[str] = set()
    assert [next_tick(product, target, "nightly", seen) for _ in range(2)] == ["t1", "t2"]


def test_problems_in_a_store_are_those_of_countdown_and_change_with_the_seed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    source = Source.check({"uri": f"{tmp_path}/store/problems.jsonl", **SOURCE}, "data.train")
    for seed in (1, 2):
        put_problems(source.uri, seed, tmp_path)
        made = Source.check({"uri": f"countdown://train?numbers=3&low=1&high=9&count=128&seed={seed}"}, "data.train")
        stored, expected = ([(r.text, r.answer, r.verifier) for r in read_source(s, "k")] for s in (source, made))
        assert stored == expected and len(stored) == 128


def test_only_pods_at_work_are_killed() -> None:
    def pod(name: str, state: str, **metadata: str) -> dict[str, Any]:
        container = {"name": "main", "state": {state: {}}}
        return {"metadata": {"name": name, **metadata}, "status": {"containerStatuses": [container]}}

    pods = [pod("at-work", "running"), pod("waits", "waiting"), pod("ended", "terminated")]
    pods += [pod("goes", "running", deletionTimestamp="now"), {"metadata": {"name": "new"}, "status": {}}]
    assert running({"items": pods}) == ["at-work"]


# The table


def report(name: str, outcome: str, seconds: float = 61.0, **other: Any) -> Any:
    given = {"when": "call", "user_properties": [], "longrepr": None, **other}
    return SimpleNamespace(
        nodeid=f"tests/cluster/test_acceptance.py::test_{name}", outcome=outcome, duration=seconds, **given
    )


def test_the_table_says_what_how_long_and_the_verdict() -> None:
    lines = table(
        [
            report("a_first_run", "passed", 60.0, when="setup"),
            report("a_first_run", "passed", 1.0, user_properties=[("note", "11 stages")]),
            report("a_first_run", "passed", when="teardown", user_properties=[("note", "11 stages")]),
            report("a_killed_pod", "failed", 5.0),
            report("a_schedule", "skipped", 0.0, when="setup", longrepr=("file", 1, "Skipped: no data")),
            SimpleNamespace(nodeid="tests/other.py::test_x", outcome="passed", when="call", duration=1.0),
        ]
    )
    assert [line.split("  ")[0] for line in lines] == ["a first run", "a killed pod", "a schedule"]
    assert lines[0].endswith("2 min  2 s  ok         11 stages")
    assert "FAILED" in lines[1] and lines[2].endswith("not tried  no data")


def test_without_a_cluster_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLOOP_TEST_HOST", "http://127.0.0.1:1")
    monkeypatch.delenv("RLOOP_TEST_REGISTRY", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make test-cluster"):
        Target.from_environment()
    monkeypatch.setenv("RLOOP_TEST_REGISTRY", "registry.example.com/me")
    target = Target.from_environment()
    assert target.connection() == ["--host", "http://127.0.0.1:1"]
    assert target.submission() == ["--registry", "registry.example.com/me", "--experiment", "rloop-acceptance"]
