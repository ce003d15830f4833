"""The retry policy of a stage's task in the compiled file."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kfp import compiler, dsl

from launch.pools import Pool, Pools
from launch.tasks import PAUSE_SECONDS, Nodes, place, retry_seconds


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
