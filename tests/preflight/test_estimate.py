import json
from pathlib import Path

import pytest

from components.preflight.estimate import (
    GIB,
    ModelSize,
    generation_bytes,
    rollout_bytes,
    state_bytes,
    training_bytes,
)
from components.shared.lora import LoRASettings

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


def test_adapters_need_no_gradients_and_moments_of_the_frozen_weights() -> None:
    model = ModelSize.from_config({**QWEN_7B, "intermediate_size": 18944}, 15_230_000_000)
    everything = state_bytes(model, LoRASettings(), "bfloat16")
    lora = state_bytes(model, LoRASettings(rank=16), "bfloat16")
    quantized = state_bytes(model, LoRASettings(rank=16, quantize=True), "bfloat16")
    # peft counts 40,370,176 parameters in adapters of rank 16 on all linear layers of this model.
    assert lora == 2 * model.parameters + 16 * 40_370_176
    assert everything / GIB > 113 and lora / GIB < 15 and quantized / GIB < 6
    assert state_bytes(model, LoRASettings(rank=16), "float32") == lora + 2 * model.parameters
    assert training_bytes(model, 1, 1024, True, LoRASettings(rank=16)) < training_bytes(model, 1, 1024, True)
