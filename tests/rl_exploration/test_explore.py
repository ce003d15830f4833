"""Real RL on the tiny policy: a few steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.rl_exploration.explore import explore
from components.rl_exploration.settings import ExplorationSettings
from components.shared.errors import InputError
from components.shared.grading import GradingSettings
from components.shared.policy import check_policy, load_tokenizer, policy_id
from components.shared.schema import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, tiny_policy: Path, problems_folder: Path) -> Any:
    def go(name: str = "out", **changes: Any) -> Path:
        values = {
            "steps": 3,
            "learning_rate": 1e-4,
            "prompts_per_step": 4,
            "group_size": 4,
            "max_completion_tokens": 30,
            "warmup_steps": 0,
        }
        out = tmp_path / name
        explore(
            tiny_policy,
            problems_folder,
            ExplorationSettings.check(values | changes, "rl"),
            GradingSettings(),
            iteration=1,
            seed=1,
            rollouts_out=out / "rollouts",
            policy_out=out / "policy",
            log_out=out / "log.json",
            page_out=out / "page.html",
            snapshots_out=out / "snapshots",
            state_out=out / "state",
        )
        return out

    return go


@pytest.mark.parametrize("updates", [1, 2])
def test_every_completion_of_every_step_is_kept(run: Any, tiny_policy: Path, updates: int) -> None:
    before = {file.name: file.read_bytes() for file in tiny_policy.iterdir()}
    out = run(prompts_per_update=4 // updates, completions_per_forward=4)
    rows = list(read_rows(out / "rollouts"))
    assert len(rows) == 3 * 4 * 4
    assert sorted({row["step"] for row in rows}) == [0, 1, 2]
    tokenizer = load_tokenizer(tiny_policy)
    for row in rows:
        assert tokenizer.decode(row["completion_ids"], skip_special_tokens=True) == row["completion"]
        assert (row["completion_ids"][-1] == tokenizer.eos_token_id) == (row["finish_reason"] == "stop")
        assert row["prompt"].startswith("Use ")
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row["group_id"], set()).add(row["problem_id"])
    assert len(groups) == 12 and all(len(problems) == 1 for problems in groups.values())
    # What the log says of a step is what its shard holds.
    log = json.loads((out / "log.json").read_text())
    assert [step["step"] for step in log["steps"]] == [0, 1, 2]
    for step in log["steps"]:
        rewards = [row["reward"] for row in rows if row["step"] == step["step"]]
        assert step["reward"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-6)
    # The explored policy is another one, a policy still, and the initial one is as it was.
    check_policy(out / "policy", "explored")
    assert policy_id(out / "policy") != policy_id(tiny_policy)
    assert {file.name: file.read_bytes() for file in tiny_policy.iterdir()} == before
    for name in before:
        if not name.endswith(".safetensors"):
            assert (out / "policy" / name).read_bytes() == before[name]


def test_the_same_seed_gives_the_same_policy(run: Any) -> None:
    assert policy_id(run("first") / "policy") == policy_id(run("second") / "policy")


def test_learning_rate_zero_leaves_the_weights(run: Any, tiny_policy: Path) -> None:
    assert policy_id(run(learning_rate=0.0) / "policy") == policy_id(tiny_policy)


def test_all_truncated_stops_with_an_explanation(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every completion was cut at 3 tokens"):
        run(max_completion_tokens=3, steps=10, patience=2)
    assert not (tmp_path / "out" / "policy").exists()


def test_a_run_shorter_than_the_patience_does_not_pass_for_one_that_learnt(run: Any) -> None:
    with pytest.raises(InputError, match="in the last 3 steps every completion was cut"):
        run(max_completion_tokens=3, steps=3, patience=20)


def test_too_few_problems_is_an_error(run: Any) -> None:
    with pytest.raises(InputError, match=r"16 training problems are fewer than rl.prompts_per_step \(32\)"):
        run(prompts_per_step=32)
