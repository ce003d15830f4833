import json
from pathlib import Path

import pytest

from components.preflight.estimate import (
    GIB,
    ModelSize,
    evaluation_memory,
    exploring_memory,
    rollout_bytes,
    training_memory,
)
from components.shared.lora import LoRASettings

# Qwen2.5-Math-7B's config, as published: 7.62 billion parameters in bfloat16.
QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
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
    training = training_memory(model, 1, 1024, checkpointing=True, mixed=True)
    # 4 + 2 bytes a parameter of weights, 4 + 8 of gradients and moments
    assert (training.weights, training.optimiser) == (6 * model.parameters, 12 * model.parameters)
    assert training.total > 18 * model.parameters > 113 * GIB
    # 28 layers x 512 x 2 (keys, values) x 2 bytes = 56 KiB a token
    sampling = evaluation_memory(model, 3, 10, 100, half=True)
    assert sampling.cache == 300 * 56 * 1024
    assert sampling.total < 20 * GIB
    assert evaluation_memory(model, 3, 10, 100, half=False).cache == 2 * sampling.cache


def test_sampling_while_training_keeps_the_optimisers_moments_and_keys_in_single_precision() -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    exploring = exploring_memory(model, 3, 10, 100, mixed=True)
    assert exploring.optimiser == 8 * model.parameters
    assert exploring.cache == 300 * 28 * 512 * (4 + 2)
    assert exploring_memory(model, 3, 10, 100, mixed=True, reference=True).weights == 10 * model.parameters


def test_checkpointing_and_smaller_passes_take_less() -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)

    def activations(sequences: int, checkpointing: bool, mixed: bool = True) -> int:
        return training_memory(model, sequences, 2048, checkpointing=checkpointing, mixed=mixed).activations

    assert activations(8, True) < activations(8, False) / 9
    assert activations(1, False) < activations(8, False)
    assert activations(1, False) < activations(1, False, mixed=False)


def test_logits_are_made_in_tiles() -> None:
    """From some tokens on, a larger vocabulary and more tokens cost nothing but what layers keep."""
    model = ModelSize.from_config(QWEN_7B | {"vocab_size": 10_000_000}, 15_230_000_000)
    small = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    more = [
        training_memory(m, 8, 2048, checkpointing=True, mixed=True).activations
        - training_memory(m, 4, 2048, checkpointing=True, mixed=True).activations
        for m in (small, model)
    ]
    assert more[0] == more[1]


def test_rollouts_take_ids_and_text() -> None:
    assert rollout_bytes(10 * 8192, 8192) / GIB == pytest.approx(5.0, rel=0.01)


def test_adapters_need_no_gradients_and_moments_of_the_frozen_weights() -> None:
    model = ModelSize.from_config({**QWEN_7B, "intermediate_size": 18944}, 15_230_000_000)

    def state(lora: LoRASettings, mixed: bool = True) -> int:
        memory = training_memory(model, 1, 1024, checkpointing=True, mixed=mixed, lora=lora)
        return memory.weights + memory.optimiser

    everything, lora = state(LoRASettings()), state(LoRASettings(rank=16))
    # peft counts 40,370,176 parameters in adapters of rank 16 on all linear layers of this model.
    assert lora == 2 * model.parameters + 18 * 40_370_176
    assert everything / GIB > 113 and lora / GIB < 15 and state(LoRASettings(rank=16, quantize=True)) / GIB < 6
    assert state(LoRASettings(rank=16), mixed=False) == lora + 2 * model.parameters - 2 * 40_370_176
