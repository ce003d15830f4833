"""RL by two processes over gloo: the same training as by one, every rollout recorded, segments as one piece."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.rl_exploration.explore import explore
from components.rl_exploration.settings import ExplorationSettings
from components.shared.data.schema import read_rows
from components.shared.errors import InputError
from components.shared.grading import GradingSettings
from components.shared.policy import Policy
from components.shared.policy.checks import check_policy
from components.shared.policy.snapshots import snapshot_files
from components.shared.training.processes import on_processes
from tests.rl_exploration.fixed_rollouts import explore_fixed
from tests.stage_outputs import exploration_outputs

VALUES = {
    "steps": 4,
    "learning_rate": 1e-4,
    "prompts_per_step": 4,
    "group_size": 4,
    "max_completion_tokens": 40,
    "warmup_steps": 0,
    "resample_rounds": 1,
}
TWO = {"processes": 2}
SPREAD = {"processes": 2, "sharding": "full"}


@pytest.fixture
def run(tmp_path: Path, tiny_policy: Path, problems_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def go(
        name: str, function: Callable[..., Any] = explore, segment: int = 1, state: Path | None = None, **changes: Any
    ) -> Path:
        settings = ExplorationSettings.check(VALUES | changes, "rl")
        out = tmp_path / name
        on_processes(
            settings.parallel,
            "rl",
            function,
            tiny_policy,
            problems_folder,
            settings,
            GradingSettings(),
            iteration=1,
            seed=1,
            **exploration_outputs(out),
            keep_state=True,
            segment=segment,
            state=state,
        )
        return out

    return go


def weights_of(policy: Path) -> dict[str, Any]:
    found: dict[str, Any] = Policy(policy).load_model().state_dict()
    return found


def alike(one: Path, other: Path) -> bool:
    """Whether two policies differ by no more than the order of a sum does."""
    ones, others = weights_of(one), weights_of(other)
    return all((ones[name] - others[name]).abs().max() < 1e-6 for name in ones)


@pytest.mark.slow
def test_two_processes_train_on_the_same_rollouts_as_one_does(run: Any, tiny_policy: Path) -> None:
    one = run("one", explore_fixed)
    assert not alike(one / "policy", tiny_policy), "a course that goes nowhere shows nothing"
    for name, parallel in (("two", TWO), ("spread", SPREAD)):
        two = run(name, explore_fixed, parallel=parallel)
        check_policy(two / "policy", name)
        assert alike(two / "policy", one / "policy"), name
        rows = [list(read_rows(out / "rollouts")) for out in (one, two)]
        contents = [
            sorted((row["step"], row["problem_id"], row["completion"], row["reward"]) for row in of_run)
            for of_run in rows
        ]
        assert contents[0] == contents[1]
        # Half of each step's groups by each process, and whole groups.
        assert Counter((row["step"], row["rank"]) for row in rows[1]) == {(s, r): 8 for s in range(4) for r in (0, 1)}
        assert len({(row["group_id"], row["rank"]) for row in rows[1]}) == len({row["group_id"] for row in rows[1]})
        steps = [json.loads((out / "log.json").read_text())["steps"] for out in (one, two)]
        for single, shared in zip(*steps, strict=True):
            assert single.keys() == shared.keys()
            logged = {name: value for name, value in single.items() if value is not None}  # made-up ones have no length
            assert logged == pytest.approx({name: shared[name] for name in logged}, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_two_processes_in_segments_are_two_processes_in_one_piece(run: Any) -> None:
    # Two steps are an epoch: the second segment begins within one that has an order of its own.
    common = {"parallel": SPREAD, "prompts_per_step": 8, "prompts_per_update": 4, "snapshot_every": 1}
    whole = run("whole", steps=6, **common)
    first = run("first", steps=3, **common)
    second = run("second", steps=3, segment=2, state=first / "state", **common)
    assert Policy(second / "policy").id == Policy(whole / "policy").id != Policy(first / "policy").id
    assert list(snapshot_files(second / "snapshots")) == [4, 5, 6]
    for name in ("step-000004.safetensors", "step-000006.safetensors"):
        assert (second / "snapshots" / name).read_bytes() == (whole / "snapshots" / name).read_bytes()

    def content(out: Path) -> list[tuple[Any, ...]]:
        names = ("step", "rank", "problem_id", "completion_ids")
        return sorted(tuple(row[name] for name in names) for row in read_rows(out / "rollouts"))

    assert content(first) + content(second) == content(whole)
    by_rank = [{row[3][0:3].__repr__() for row in content(whole) if row[1] == rank} for rank in (0, 1)]
    assert by_rank[0] != by_rank[1]
    # Groups that dynamic sampling drew belong to one process each.
    drawn = [row[:3] for row in content(whole)]
    assert len({(step, problem) for step, _, problem in drawn}) == len(set(drawn))


@pytest.mark.slow
def test_what_a_process_has_to_say_reaches_the_user(run: Any) -> None:
    with pytest.raises(InputError, match="in the last 2 steps every completion was truncated at 3 tokens"):
        run("cut", max_completion_tokens=3, patience=2, resample_rounds=0, parallel=TWO)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": {"processes": 3}}, r"rl.prompts_per_step \(4\) must be a multiple of the 3 processes"),
        ({"parallel": TWO, "prompts_per_update": 1}, r"rl.prompts_per_update \(1\) must be a multiple of the 2"),
        ({"parallel": TWO, "micro_batch_size": 16}, "must divide a process's share of an update, 8 completions"),
        ({"parallel": {"sharding": "full"}}, "sharding: full needs at least 2 processes"),
        ({"parallel": SPREAD, "lora": {"rank": 4}}, "lora and parallel.sharding: full cannot be combined"),
        ({"parallel": {"process": 2}}, "processes"),
    ],
)
def test_what_cannot_be_shared_is_told_before_anything_starts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExplorationSettings.check(VALUES | changes, "rl")
