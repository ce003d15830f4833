"""Real fine-tuning of the tiny policy on a few trajectories."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.rft.refine import refine
from components.rft.settings import RFTSettings
from components.shared.data import countdown
from components.shared.data.schema import EARLIER, TRAJECTORIES, write_table
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.checks import check_policy
from components.shared.training.processes import on_processes
from tests.countdown_solver import solve
from tests.merging import assert_merged_once
from tests.stage_outputs import rft_outputs

pytestmark = pytest.mark.slow


@pytest.fixture
def experts(tmp_path: Path, rollout: Any, tokenizer: Any) -> Path:
    rows = []
    for i, problem in enumerate(countdown.generate("train", 3, 1, 9, 32, seed=1)):
        row = rollout(f"p{i}", completion=solve(problem.answer), prompt=problem.text)
        rows.append(row | {"verdict": True, "success_rate": 0.5, "dropped_because": None})
    write_table(tmp_path / "experts" / "experts.parquet", TRAJECTORIES, rows)
    return tmp_path / "experts"


def refine_without_whole_gradients(*args: Any, **kwargs: Any) -> dict[str, float]:
    """RFT that fails where a forward pass would leave its gradients unreduced."""
    from accelerate import Accelerator

    def no_sync(*_: Any) -> None:
        raise AssertionError("gradients are added up whole")

    Accelerator.no_sync = no_sync  # this process ends with the stage
    return refine(*args, **kwargs)


def run(policy: Path, experts: Path, out: Path, function: Any = refine, **changes: Any) -> Path:
    settings = RFTSettings.check({"learning_rate": 3e-4, "epochs": 8, "batch_size": 16} | changes, "rft")
    on_processes(
        settings.parallel,
        "rft",
        function,
        policy,
        experts,
        settings,
        iteration=1,
        seed=1,
        **rft_outputs(out),
    )
    return out


def test_learns_the_experts_and_leaves_the_initial_policy_alone(
    tiny_policy: Path, experts: Path, tmp_path: Path
) -> None:
    before = {file.name: file.read_bytes() for file in tiny_policy.iterdir()}
    out = run(tiny_policy, experts, tmp_path / "out")
    log = json.loads((out / "log.json").read_text())
    assert len(log["updates"]) == 16 and log["trajectories"] == 32
    assert log["updates"][-1]["loss"] < log["updates"][0]["loss"]
    check_policy(out / "policy", "rft")
    assert Policy(out / "policy").id != Policy(tiny_policy).id
    assert {file.name: file.read_bytes() for file in tiny_policy.iterdir()} == before
    for name in before:
        if not name.endswith(".safetensors"):
            assert (out / "policy" / name).read_bytes() == before[name]


def test_earlier_experts_are_enough(tiny_policy: Path, experts: Path, tmp_path: Path) -> None:
    (tmp_path / "handed" / EARLIER).mkdir(parents=True)
    (experts / "experts.parquet").rename(tmp_path / "handed" / EARLIER / "iteration-1.parquet")
    write_table(tmp_path / "handed" / "experts.parquet", TRAJECTORIES, [])
    out = run(tiny_policy, tmp_path / "handed", tmp_path / "out", epochs=1)
    assert json.loads((out / "log.json").read_text())["trajectories"] == 32


def test_the_loss_is_that_of_the_completions_tokens_with_their_eos(
    tiny_policy: Path, experts: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq
    import torch

    out = run(tiny_policy, experts, tmp_path / "out", batch_size=32, epochs=1)
    (update,) = json.loads((out / "log.json").read_text())["updates"]
    policy = Policy(tiny_policy)
    model = policy.load_model().eval()
    total, tokens = 0.0, 0
    for row in pq.read_table(experts / "experts.parquet").to_pylist():
        (prompt,) = policy.prompt_token_ids([row["prompt"]])
        ids = torch.tensor([prompt + row["completion_ids"]])
        assert ids[0, -1] == policy.tokenizer.eos_token_id
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item()
        tokens += len(row["completion_ids"])
    assert update["loss"] == pytest.approx(total / tokens, rel=1e-3)


def test_the_policy_still_ends_its_answers(tiny_policy: Path, experts: Path, tmp_path: Path) -> None:
    from components.shared.sampling.base import Decoding, batches_of
    from components.shared.sampling.transformers_engine import TransformersSampler

    out = run(tiny_policy, experts, tmp_path / "out")
    prompts = ["Use 3 7 2 to make 13.", "Use 1 2 3 to make 6."]
    policy = Policy(out / "policy")
    ((_, completions),) = TransformersSampler(policy).sample(batches_of(policy, prompts, 16, 64, Decoding(0, 40)))
    assert sum(c.finish_reason == "stop" for c in completions) >= 30


@pytest.mark.parametrize(("batch_size", "epochs", "updates"), [(32, 1, 1), (24, 2, 4), (5, 1, 7), (64, 0.5, 1)])
def test_epochs_are_passes_and_even_one_update_learns(
    tiny_policy: Path, experts: Path, tmp_path: Path, batch_size: int, epochs: float, updates: int
) -> None:
    out = run(tiny_policy, experts, tmp_path / "out", batch_size=batch_size, epochs=epochs)
    assert len(json.loads((out / "log.json").read_text())["updates"]) == updates
    assert Policy(out / "policy").id != Policy(tiny_policy).id


def test_fine_tuning_that_changes_nothing_is_an_error(tiny_policy: Path, experts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="changed no weight"):
        run(tiny_policy, experts, tmp_path / "out", learning_rate=1e-30)


def test_a_trajectory_without_eos_is_an_error(tiny_policy: Path, tmp_path: Path, rollout: Any) -> None:
    row = rollout(completion_ids=[5, 6]) | {"verdict": True, "success_rate": 0.5, "dropped_because": None}
    write_table(tmp_path / "experts" / "experts.parquet", TRAJECTORIES, [row])
    with pytest.raises(InputError, match="problem p0 does not end with the policy's EOS"):
        run(tiny_policy, tmp_path / "experts", tmp_path / "out")
    assert not (tmp_path / "out" / "policy").exists()


LORA = {"lora": {"rank": 4}, "learning_rate": 3e-3}
LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_lora_is_merged_exactly_once_iteration_after_iteration(
    tiny_policy: Path, experts: Path, tmp_path: Path, live_models: list[Any]
) -> None:
    first = run(tiny_policy, experts, tmp_path / "first", **LORA)
    assert_merged_once(live_models[-1], tiny_policy, first / "policy", LAYERS)
    second = run(first / "policy", experts, tmp_path / "second", **LORA)
    assert_merged_once(live_models[-1], first / "policy", second / "policy", LAYERS)
    losses = [[u["loss"] for u in json.loads((out / "log.json").read_text())["updates"]] for out in (first, second)]
    assert losses[0][-1] < losses[0][0]
    assert losses[1][0] == pytest.approx(losses[0][-1], abs=0.1), "it goes on where the first one came to"


def test_lora_that_changes_nothing_is_an_error(tiny_policy: Path, experts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="changed no weight"):
        run(tiny_policy, experts, tmp_path / "out", lora={"rank": 4}, learning_rate=1e-30)


def test_tensorboard_shows_the_loss_of_each_update(tiny_policy: Path, experts: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = run(tiny_policy, experts, tmp_path / "out", epochs=1)
    events = EventAccumulator(str(out / "tensorboard")).Reload().Scalars("train/loss")
    updates = json.loads((out / "log.json").read_text())["updates"]
    assert [event.value for event in events] == pytest.approx([update["loss"] for update in updates])


@pytest.mark.parametrize(
    ("parallel", "function"),
    [({"processes": 2}, refine), ({"processes": 2, "sharding": "full"}, refine_without_whole_gradients)],
)
def test_two_processes_learn_what_one_does(
    parallel: dict[str, Any],
    function: Any,
    tiny_policy: Path,
    experts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    logs, weights = [], []
    for name, changes in (
        ("one", {}),
        ("two", {"function": function, "parallel": parallel, "micro_batch_size": 4}),
    ):
        out = run(tiny_policy, experts, tmp_path / name, epochs=2, **changes)
        check_policy(out / "policy", name)
        logs.append(json.loads((out / "log.json").read_text())["updates"])
        weights.append(Policy(out / "policy").load_model().state_dict())
    assert len(logs[0]) == 4
    for one, two in zip(*logs, strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    initial = Policy(tiny_policy).load_model().state_dict()
    for name, weight in weights[0].items():
        assert (weight - weights[1][name]).abs().max() < 1e-5
        assert (weight - initial[name]).abs().max() > 1e-4
