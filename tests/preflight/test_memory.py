import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.preflight.disk import rollout_bytes
from components.preflight.fit import wrong_placement
from components.preflight.memory import GIB, evaluation_memory, exploring_memory, training_memory, waiting_memory
from components.preflight.settings import EvaluationSize
from components.shared.policy import Policy
from components.shared.policy.config import named_config
from components.shared.policy.model_size import ModelSize
from components.shared.sampling.vllm_memory import engine_memory, samples_with_vllm
from components.shared.training.lora import LoRASettings
from components.shared.training.parallel import ParallelSettings

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

    config = json.loads((tiny_policy / "config.json").read_text())
    size = ModelSize.from_config(config, (tiny_policy / "model.safetensors").stat().st_size)
    exact = sum(p.numel() for p in Policy(tiny_policy).load_model().parameters())
    assert size.parameters == pytest.approx(exact, rel=0.01)  # the file's header is counted too
    assert (size.layers, size.hidden, size.key_value_width) == (3, 96, 96)


def test_names_of_a_config_may_be_its_classs_own() -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
    size = ModelSize.with_parameters(gpt2, 124_000_000)
    assert (size.hidden, size.layers, size.heads, size.key_value_width, size.intermediate) == (768, 12, 12, 768, 3072)
    assert named_config(gpt2)["max_position_embeddings"] == 1024


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


EIGHT, SPREAD = ParallelSettings(processes=8), ParallelSettings(processes=8, sharding="full")
# The output matrix of the 7B model: vocabulary x hidden size.
HEAD = 152064 * 3584


def test_sharding_divides_weights_gradients_and_moments_by_the_processes() -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    alone = training_memory(model, 4, 4096, checkpointing=True, mixed=True)
    spread = training_memory(model, 4, 4096, checkpointing=True, mixed=True, parallel=SPREAD)
    # 16 bytes a parameter over 8 GPUs: FSDP2 needs no copy of the weights in half precision beside them.
    assert spread.weights + spread.optimiser == pytest.approx(16 * model.parameters / 8, abs=8)
    # Two layers and the output matrix at two bytes: weights, their gradients, and what these are reduced from.
    layer = (model.parameters - HEAD) / 28
    assert spread.exchanged == pytest.approx(3 * 2 * (2 * layer + HEAD), rel=1e-6)
    assert spread.exchanged / GIB == pytest.approx(5.9, abs=0.1)
    assert spread.activations == alone.activations and alone.exchanged == 0
    two_nodes = ParallelSettings(nodes=2, processes=4, volume="shared", sharding="full")
    assert training_memory(model, 4, 4096, checkpointing=True, mixed=True, parallel=two_nodes) == spread
    single = training_memory(model, 4, 4096, checkpointing=True, mixed=False, parallel=SPREAD)
    assert single.exchanged == 2 * spread.exchanged
    reference = training_memory(model, 4, 4096, checkpointing=True, mixed=True, reference=True, parallel=SPREAD)
    assert reference.weights == 2 * spread.weights
    # While it samples, gradients are gone, and no more than weights is gathered.
    sampling = exploring_memory(model, 3, 10, 100, mixed=True, parallel=SPREAD)
    assert sampling.weights + sampling.optimiser == pytest.approx(12 * model.parameters / 8, abs=8)
    assert sampling.exchanged == pytest.approx(spread.exchanged / 3, rel=1e-6)


def test_whole_copies_have_buckets_as_large_as_the_gradients() -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    alone, eight = (
        training_memory(model, 1, 1024, checkpointing=True, mixed=True, parallel=parallel)
        for parallel in (ParallelSettings(), EIGHT)
    )
    assert eight.exchanged == 4 * model.parameters and eight.total == alone.total + eight.exchanged
    adapters = training_memory(
        model, 1, 1024, checkpointing=True, mixed=True, lora=LoRASettings(rank=16), parallel=EIGHT
    )
    assert adapters.exchanged == 4 * 40_370_176
    assert exploring_memory(model, 3, 10, 100, mixed=True, parallel=EIGHT).exchanged == eight.exchanged


def test_vllm_fills_its_share_with_sequences() -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    engine = engine_memory(model, 40 * GIB, 1024, 4096)
    # 28 layers x 512 x 2 (keys, values) x 2 bytes = 56 KiB a token, 224 MiB a sequence of 4,096.
    assert engine.sequence == 224 * 2**20
    # 8,192 tokens of prompts through one layer at two bytes; four copies of the next token's logits at four.
    assert engine.activations == 8192 * (4 * 3584 + 3 * 18944) * 2 + 1024 * 152064 * 16
    left = 40 * GIB - 2 * model.parameters - engine.activations
    assert engine.cache == left and engine.fitting == engine.at_once == left // (224 * 2**20) == 102
    assert engine_memory(model, 40 * GIB, 64, 4096).at_once == 64, "no more than there are"
    assert engine.needed == 2 * model.parameters + engine.activations + engine.sequence
    little = engine_memory(model, 16 * GIB, 1024, 4096)
    assert little.needed > little.share and little.fitting == little.cache == 0


def test_tensor_parallelism_divides_weights_and_heads() -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    one, four, seven = (engine_memory(model, 70 * GIB, 512, 4096, gpus) for gpus in (1, 4, 7))
    assert four.weights == one.weights // 4 and four.sequence == one.sequence // 4
    assert seven.sequence == four.sequence, "four heads of keys lie on four GPUs, and are copied to more"


def test_the_trainer_that_waits_for_vllm_keeps_weights_and_moments() -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    alone = waiting_memory(model, 5 * GIB, mixed=True)
    assert alone.total == 12 * model.parameters + 5 * GIB and alone.engine == 5 * GIB
    spread = waiting_memory(model, 5 * GIB, mixed=True, parallel=SPREAD)
    # The largest tensor is gathered to be handed over: the output matrix in single precision.
    assert spread.total == pytest.approx(12 * model.parameters / 8 + 4 * HEAD + 5 * GIB, abs=8)
    assert waiting_memory(model, 5 * GIB, mixed=True, parallel=EIGHT).exchanged == 4 * model.parameters


def test_vllm_samples_on_gpus_unless_told_otherwise() -> None:
    assert samples_with_vllm("auto", on_gpu=True) and samples_with_vllm("vllm", on_gpu=True)
    assert not samples_with_vllm("transformers", on_gpu=True)
    assert not samples_with_vllm("auto", on_gpu=False) and not samples_with_vllm("vllm", on_gpu=False)


@pytest.mark.parametrize(
    ("values", "gib", "message"),
    [
        (
            {"parallel": {"tensor_parallel_size": 8}},
            79,
            "8 GPUs cannot share the policy's 28 attention heads and 4",
        ),
        (
            {"parallel": {"tensor_parallel_size": 1}},
            16,
            "one sequence take 1.* on each of 1; raise eval",
        ),
        ({"parallel": {"tensor_parallel_size": 1}}, 79, None),
        ({"parallel": {"tensor_parallel_size": 1}}, 0, None),
        ({}, 16, None),
        ({"parallel": {"tensor_parallel_size": 8}, "engine": "transformers"}, 79, None),
    ],
)
def test_a_tensor_parallel_size_that_vllm_cannot_use_is_an_error(
    values: dict[str, Any], gib: float, message: str | None
) -> None:
    model = ModelSize.from_config(QWEN_7B, 15_230_000_000)
    found = list(wrong_placement(model, 4096, EvaluationSize.check(values, "eval"), gib))
    assert re.search(message, found[0]) if message else not found
