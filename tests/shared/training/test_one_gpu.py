"""A process that trains alone on a machine with several GPUs: the batches stay as large as the recipe says."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.rft import refine
from components.rl_exploration import explore
from components.shared.data.schema import count_rows
from tests.gpu.bodies import prepare, recipe_of, rft, rl


def on_two_gpus(make: Any) -> Any:
    """As transformers counts GPUs where one process sees two."""

    def config(*args: Any) -> Any:
        made = make(*args)
        made._n_gpu = 2 + made.n_gpu
        return made

    return config


def test_the_second_gpu_does_not_double_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "_sft_config", on_two_gpus(refine._sft_config))
    monkeypatch.setattr(explore, "grpo_config", on_two_gpus(explore.grpo_config))
    given = prepare("tiny", tmp_path / "given")
    rft(recipe_of("tiny", ("rft.epochs=1", "rft.batch_size=8")), given, tmp_path / "rft")
    assert len(json.loads((tmp_path / "rft" / "log.json").read_text())["updates"]) == 6
    rl(recipe_of("tiny", ("rl.steps=2", "rl.prompts_per_step=2", "rl.group_size=2")), given, tmp_path / "rl")
    assert count_rows(tmp_path / "rl" / "rollouts") == 8
