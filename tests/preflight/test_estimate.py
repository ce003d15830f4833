import json
from pathlib import Path

import pytest

from components.preflight.estimate import GIB, ModelSize, generation_bytes, rollout_bytes, training_bytes

# Qwen2.5-Math-7B's config, as published: 7.62 billion parameters in bfloat16.
QWEN_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "torch_dtype": "bfloat16",
}


def test_parameters_are_counted_from_the_weights(tiny_policy: Path) -> None:
    from components.shared.policy import load_model

    config = json.loads((tiny_policy / "config.json").read_text())
    size = ModelSize.from_config(config, (tiny_policy / "model.safetensors").stat().st_size)
    exact = sum(p.numel() for p in load_model(tiny_policy).parameters())
    assert size.parameters == pytest.approx(exact, rel=0.01)  # the file's header is counted too
    assert (size.layers, size.hidden, size.key_value_width) == (3, 96, 96)


def test_a_7b_model_needs_more_than_one_gpu_to_train_and_few_gib_to_sample() -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    assert model.parameters == pytest.approx(7.6e9, rel=0.01)
    assert model.key_value_width == 512
    assert training_bytes(model, 1, 1024, checkpointing=True) / GIB > 113  # 16 bytes a parameter alone
    # 28 layers x 512 x 2 (keys, values) x 2 bytes = 56 KiB a token
    assert generation_bytes(model, 1, 1) - generation_bytes(model, 0, 0) == 56 * 1024


def test_checkpointing_and_smaller_passes_take_less() -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    assert training_bytes(model, 8, 2048, True) < training_bytes(model, 8, 2048, False)
    assert training_bytes(model, 1, 2048, False) < training_bytes(model, 8, 2048, False)
    assert rollout_bytes(10, 8192, 8192) / GIB == 5.0
