"""The retry policy of a stage's task in the compiled file, and its queue."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kfp import compiler, dsl

from components.shared.errors import InputError
from components.shared.training.train_job import NODE_QUEUE
from components.shared.training.trainjob_api import QUEUE_LABEL
from launch.compiled import read_compiled, stages_of
from launch.pools import Pool, Pools
from launch.recipe import load_recipe
from launch.tasks import PAUSE_SECONDS, Nodes, place, retry_seconds
from pipeline import compile_pipeline

LAPTOP = Path(__file__).resolve().parents[2] / "recipes" / "laptop.yaml"


@dsl.component(install_kfp_package=False, base_image="registry.example.com/rloop:1")
def work() -> None:
    pass


def policy_of(stage: str, pools: Pools, folder: Path) -> dict[str, Any]:
    """The retry policy of a stage in a compiled pipeline."""

    @dsl.pipeline(name="one")
    def one(selector: dict, tolerations: list) -> None:  # type: ignore[type-arg]
        nodes = dict.fromkeys(("cpu", "training", "inference"), Nodes(selector, tolerations))
        place(work(), stage, pools, nodes, caching=True)

    compiler.Compiler().compile(one, str(folder / "one.yaml"))
    specification = next(yaml.safe_load_all((folder / "one.yaml").read_text()))
    return dict(specification["root"]["dag"]["tasks"]["work"]["retryPolicy"])


def compiled(folder: Path, *changes: str) -> list[dict[str, Any]]:
    compile_pipeline(load_recipe(LAPTOP, [*changes, "rl.parallel={nodes: 2, volume: shared}"]), folder / "rloop.yaml")
    return read_compiled(folder / "rloop.yaml")


def test_a_queue_is_a_label_of_the_pods_and_changes_nothing_else(tmp_path: Path) -> None:
    queues = [f"pools.{pool}.queue={pool}.team-a" for pool in ("cpu", "training", "inference")]
    (plain, plain_pods), (queued, pods) = compiled(tmp_path), compiled(tmp_path, *queues)
    executors = pods["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    labels = {name: pod["podMetadata"]["labels"].pop(QUEUE_LABEL, None) for name, pod in executors.items()}
    expected = {"exec-rft": "training", "exec-report": "cpu", "exec-preflight": "cpu", "exec-evaluation": "inference"}
    assert {name: labels[name] for name in expected} == {name: f"{pool}.team-a" for name, pool in expected.items()}
    assert [name for name, queue in labels.items() if queue is None] == ["exec-rl-exploration"], "its TrainJob queues"
    exploration = executors["exec-rl-exploration"]
    assert exploration["podMetadata"]["annotations"].pop(NODE_QUEUE) == "training.team-a"
    assert int(exploration["activeDeadlineSeconds"]) == 2 * 86400, "a day, and one in which its nodes may queue"
    exploration["activeDeadlineSeconds"] = "86400"
    assert pods == plain_pods
    for specification in (plain, queued):
        for leaf in stages_of(specification):
            deadline = leaf.tasks[-1]["retryPolicy"].pop("backoffMaxDuration", None)
            if leaf.path == "iteration-1/rl-exploration":
                assert deadline == f"{4 * (3 if specification is queued else 2) * 86400 + 420}s"
    assert queued == plain


@pytest.mark.parametrize("queue", ["Team_A", "-a", "a.", "a..b", "''", "x" * 64, "5"])
def test_a_queue_has_a_name_that_kueue_takes(queue: str) -> None:
    with pytest.raises(InputError, match=r"pools\.training\.queue"):
        load_recipe(LAPTOP, [f"pools.training.queue={queue}"])


def test_the_deadline_of_all_attempts_outlasts_them(tmp_path: Path) -> None:
    policy = policy_of("rft", Pools(training=Pool(retries=3, timeout_hours=24)), tmp_path)
    assert policy["maxRetryCount"] == 3 and policy["backoffDuration"] == "60s" and policy["backoffFactor"] == 2.0
    # Four attempts of a day, a day's wait for a node before each, pauses of 60, 120 and 240 s.
    assert policy["backoffMaxDuration"] == f"{4 * 2 * 86400 + 420}s"


@pytest.mark.parametrize("stage", ["preflight", "data_preparation"])
def test_a_wrong_input_is_not_tried_again(stage: str, tmp_path: Path) -> None:
    policy = policy_of(stage, Pools(), tmp_path)
    # The policy is there: without one, KFP's controller gives a task two further attempts.
    assert policy.get("maxRetryCount", 0) == 0 and policy["backoffMaxDuration"]


def test_no_retries_are_said_too(tmp_path: Path) -> None:
    policy = policy_of("rft", Pools(training=Pool(retries=0)), tmp_path)
    assert policy.get("maxRetryCount", 0) == 0 and policy["backoffDuration"] == "60s"


@given(st.integers(0, 10), st.floats(0.01, 24 * 30))
def test_as_argo_counts_the_last_attempt_still_has_its_time(retries: int, timeout_hours: float) -> None:
    clock = 0.0
    for attempt in range(retries):
        clock += timeout_hours * 3600 + PAUSE_SECONDS * 2**attempt  # Argo's pause: duration * factor ** attempts before
    assert clock + timeout_hours * 3600 <= retry_seconds(retries, timeout_hours)
