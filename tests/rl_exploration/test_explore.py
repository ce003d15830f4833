"""Real RL on the tiny policy: a few steps."""

import json
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
from components.shared.policy.snapshots import snapshot_files, with_weights
from tests.merging import assert_merged_once, layout
from tests.stage_outputs import exploration_outputs

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, tiny_policy: Path, problems_folder: Path) -> Any:
    def go(
        name: str = "out", keep_state: bool = False, segment: int = 1, state: Path | None = None, **changes: Any
    ) -> Path:
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
            **exploration_outputs(out),
            keep_state=keep_state,
            segment=segment,
            state=state,
        )
        return out

    return go


@pytest.mark.parametrize("updates", [1, 2])
def test_every_completion_of_every_step_is_kept(run: Any, tiny_policy: Path, updates: int) -> None:
    before = {file.name: file.read_bytes() for file in tiny_policy.iterdir()}
    out = run(prompts_per_update=4 // updates, micro_batch_size=4)
    rows = list(read_rows(out / "rollouts"))
    assert len(rows) == 3 * 4 * 4
    assert sorted({row["step"] for row in rows}) == [0, 1, 2]
    tokenizer = Policy(tiny_policy).tokenizer
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
    assert Policy(out / "policy").id != Policy(tiny_policy).id
    assert {file.name: file.read_bytes() for file in tiny_policy.iterdir()} == before
    for name in before:
        if not name.endswith(".safetensors"):
            assert (out / "policy" / name).read_bytes() == before[name]


def test_the_same_seed_gives_the_same_policy(run: Any) -> None:
    assert Policy(run("first") / "policy").id == Policy(run("second") / "policy").id


def test_learning_rate_zero_leaves_the_weights(run: Any, tiny_policy: Path) -> None:
    assert Policy(run(learning_rate=0.0) / "policy").id == Policy(tiny_policy).id


def test_all_truncated_stops_with_an_explanation(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every completion was truncated at 3 tokens"):
        run(max_completion_tokens=3, steps=10, patience=2)
    assert not (tmp_path / "out" / "policy").exists()


def test_a_run_shorter_than_the_patience_does_not_pass_for_one_that_learnt(run: Any) -> None:
    with pytest.raises(InputError, match="in the last 3 steps every completion was truncated"):
        run(max_completion_tokens=3, steps=3, patience=20)


def test_too_few_problems_is_an_error(run: Any) -> None:
    with pytest.raises(InputError, match=r"16 training problems are fewer than rl.prompts_per_step \(32\)"):
        run(prompts_per_step=32)


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_run_in_segments_is_the_run_in_one_piece(run: Any, rounds: int) -> None:
    common = {"snapshot_every": 1, "resample_rounds": rounds}
    whole = run("whole", steps=4, **common)
    first = run("first", steps=2, keep_state=True, **common)
    second = run("second", steps=2, segment=2, state=first / "state", **common)
    assert Policy(second / "policy").id == Policy(whole / "policy").id != Policy(first / "policy").id
    assert list(snapshot_files(second / "snapshots")) == [3, 4]
    for name in ("step-000003.safetensors", "step-000004.safetensors"):
        assert (second / "snapshots" / name).read_bytes() == (whole / "snapshots" / name).read_bytes()
    # Nothing is kept that nobody asked for, but no folder is empty: an object store would lose it.
    assert [file.name for file in (second / "state").iterdir()] == ["kept.json"]

    def content(out: Path) -> list[tuple[int, str, list[int]]]:
        return [(row["step"], row["problem_id"], row["completion_ids"]) for row in read_rows(out / "rollouts")]

    assert content(first) + content(second) == content(whole)
    steps = [json.loads((out / "log.json").read_text())["steps"] for out in (first, second, whole)]
    assert steps[0] + steps[1] == steps[2]


def groups_by_step(out: Path) -> dict[int, dict[str, set[float]]]:
    """The rewards that occur in each group of each step."""
    found: dict[int, dict[str, set[float]]] = {}
    for row in read_rows(out / "rollouts"):
        found.setdefault(row["step"], {}).setdefault(row["problem_id"], set()).add(row["reward"])
    return found


def test_groups_without_spread_are_replaced_and_kept(run: Any) -> None:
    out = run(group_size=8, resample_rounds=10)
    steps = {step["step"]: step for step in json.loads((out / "log.json").read_text())["steps"]}
    replaced = 0
    for step, groups in groups_by_step(out).items():
        useful = sum(len(rewards) > 1 for rewards in groups.values())
        replaced += len(groups) > 4
        # Sixteen problems are enough for four useful groups, or all have been tried.
        assert useful >= 4 or len(groups) == 16
        assert steps[step]["useful_groups"] == min(useful, 4) / 4
        assert steps[step]["zero_spread"] == pytest.approx(1 - min(useful, 4) / 4)
        assert steps[step]["sampled_groups"] == len(groups)
        shard = [row for row in read_rows(out / "rollouts") if row["step"] == step]
        assert len(shard) == 8 * len(groups) == len({row["sample_index"] for row in shard})
        assert steps[step]["reward"] == pytest.approx(sum(row["reward"] for row in shard) / len(shard))
    assert replaced, "this policy leaves groups without spread"


def test_rounds_are_a_bound(run: Any) -> None:
    """Where no group ever has spread, each round is used, and the run ends with the message for that."""
    with pytest.raises(InputError, match="nothing to learn from"):
        run(steps=2, max_completion_tokens=2, resample_rounds=2, patience=2)


def test_a_snapshot_is_the_policy_of_its_step(run: Any, tiny_policy: Path, tmp_path: Path) -> None:
    out = run(steps=2, snapshot_every=2)
    assert list(snapshot_files(out / "snapshots")) == [2]
    policy = with_weights(Policy(tiny_policy), snapshot_files(out / "snapshots")[2], tmp_path / "kept")
    check_policy(policy.path, "kept")
    kept, last = policy.load_model().state_dict(), Policy(out / "policy").load_model().state_dict()
    assert all((kept[name] == last[name]).all() for name in last)


def test_a_training_state_of_another_step_is_refused(run: Any) -> None:
    first = run("first", steps=2, keep_state=True)
    with pytest.raises(InputError, match="after 2 updates; expected one after 4"):
        run("third", steps=2, segment=3, state=first / "state")
    with pytest.raises(InputError, match="has no training state"):
        run("none", steps=2, segment=2, state=first / "rollouts")


def test_a_learning_rate_of_zero_changes_no_weight(run: Any, tiny_policy: Path) -> None:
    assert Policy(run(learning_rate=0.0) / "policy").id == Policy(tiny_policy).id


LORA = {"lora": {"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]}, "learning_rate": 3e-3}


def test_lora_is_merged_exactly_once_into_the_explored_policy_and_the_snapshots(
    run: Any, tiny_policy: Path, tmp_path: Path, live_models: list[Any]
) -> None:
    out = run(steps=3, snapshot_every=2, **LORA)
    assert len(live_models) == 2, "one snapshot and the end"
    assert_merged_once(live_models[-1], tiny_policy, out / "policy", set(LORA["lora"]["targets"]))
    kept = with_weights(Policy(tiny_policy), snapshot_files(out / "snapshots")[2], tmp_path / "kept")
    check_policy(kept.path, "kept")
    assert layout(kept.path) == layout(tiny_policy)
    assert len({kept.id, Policy(out / "policy").id, Policy(tiny_policy).id}) == 3
    # Saving intermediate checkpoints does not change the training.
    assert Policy(run("without", steps=3, **LORA) / "policy").id == Policy(out / "policy").id
    assert Policy(run("two", steps=2, **LORA) / "policy").id == kept.id


def test_lora_in_segments_is_lora_in_one_piece(run: Any) -> None:
    whole = run("whole", steps=4, snapshot_every=1, **LORA)
    first = run("first", steps=2, snapshot_every=1, keep_state=True, **LORA)
    second = run("second", steps=2, snapshot_every=1, segment=2, state=first / "state", **LORA)
    assert Policy(second / "policy").id == Policy(whole / "policy").id != Policy(first / "policy").id
    for name in ("step-000003.safetensors", "step-000004.safetensors"):
        assert (second / "snapshots" / name).read_bytes() == (whole / "snapshots" / name).read_bytes()
    # What a segment hands on holds the adapters alone, not the policy's weights.
    assert not (first / "state" / "model.safetensors").exists()


def test_lora_with_a_kl_penalty_and_gradient_checkpointing_learns(run: Any, tiny_policy: Path) -> None:
    out = run(kl_coefficient=0.01, gradient_checkpointing=True, micro_batch_size=4, **LORA)
    assert Policy(out / "policy").id != Policy(tiny_policy).id


def test_a_wrong_target_of_lora_is_named_before_anything_is_sampled(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rl.lora.targets: 'query' names no linear layer"):
        run(lora={"rank": 4, "targets": ["query"]})
    assert not list((tmp_path / "out" / "rollouts").iterdir())


def test_tensorboard_shows_the_steps_of_all_segments_in_one_curve(run: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = run("first", steps=2, keep_state=True)
    second = run("second", steps=2, segment=2, state=first / "state")
    points = []
    for out in (first, second):
        events = EventAccumulator(str(out / "tensorboard")).Reload()
        points += [(event.step, event.value) for event in events.Scalars("train/share_correct")]
    logged = [step["reward"] for out in (first, second) for step in json.loads((out / "log.json").read_text())["steps"]]
    assert points == [(i, pytest.approx(reward)) for i, reward in enumerate(logged, 1)]
