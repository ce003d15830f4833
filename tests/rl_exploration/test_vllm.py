"""RL with vLLM beside the trainer, on the CPU build: the weights that it samples from are those that are trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.rl_exploration import vllm_on_cpu
from components.rl_exploration.explore import explore
from components.rl_exploration.settings import ExplorationSettings
from components.shared.data.schema import read_rows
from components.shared.errors import InputError
from components.shared.grading import GradingSettings
from components.shared.policy import Policy
from tests.stage_outputs import exploration_outputs

pytestmark = pytest.mark.vllm


@pytest.fixture
def run(tmp_path: Path, tiny_policy: Path, problems_folder: Path) -> Any:
    def go(**changes: Any) -> Path:
        values = {
            "steps": 4,
            "learning_rate": 3e-4,
            "prompts_per_step": 8,
            "group_size": 8,
            "max_completion_tokens": 30,
            "warmup_steps": 0,
            "engine": "vllm",
        }
        explore(
            tiny_policy,
            problems_folder,
            ExplorationSettings.check(values | changes, "rl"),
            GradingSettings(),
            iteration=1,
            seed=1,
            **exploration_outputs(tmp_path),
        )
        return tmp_path

    return go


def test_sampler_and_trainer_agree_after_each_update(run: Any, tiny_policy: Path) -> None:
    out = run(resample_rounds=1)
    steps = json.loads((out / "log.json").read_text())["steps"]
    assert len(steps) == 4 and all(0 < step["logprob_difference"] < 0.02 for step in steps)
    assert steps[-1]["grad_norm"] > 0
    rows = list(read_rows(out / "rollouts"))
    assert len(rows) == sum(step["sampled_groups"] for step in steps) * 8
    policy = Policy(tiny_policy)
    tokenizer, eos = policy.tokenizer, policy.eos_token_ids
    for row in rows:
        assert tokenizer.decode(row["completion_ids"], skip_special_tokens=True) == row["completion"]
        assert (row["completion_ids"][-1] in eos) == (row["finish_reason"] == "stop")
    assert any(row["reward"] for row in rows)


def test_stale_weights_stop_the_run(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep_the_first(generation: Any) -> None:
        generation.sync_weights = lambda: None

    monkeypatch.setattr(vllm_on_cpu, "patch_weight_sync", keep_the_first)
    with pytest.raises(InputError, match="vLLM does not have the weights that are trained"):
        run(steps=10, learning_rate=3e-3)


def test_untried_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_on_cpu, "version", lambda _: "2.0.0")
    with pytest.raises(InputError, match="was tested with TRL 1.16"):
        vllm_on_cpu.prepare()
