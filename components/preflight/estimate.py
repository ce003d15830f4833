"""What a run will take, from the model's config and the recipe, before a GPU is asked for.

Round figures from a model that a reader can follow; they are there to catch a run that cannot fit, not to
plan a budget.
"""

from dataclasses import dataclass
from typing import Any

from components.shared.lora import ALL_WEIGHTS, LoRASettings

GIB = 2**30
# Weights and gradients in single precision and Adam's two moments: what the trainers keep for a parameter.
TRAINING_BYTES_A_PARAMETER = 16
# QLoRA's frozen weights: 4 bits, and 0.127 bits of quantised constants (Dettmers et al. 2023, arXiv 2305.14314, 3).
QUANTIZED_BYTES_A_PARAMETER = 4.127 / 8
# Values a transformer layer keeps for the backward pass, in units of the hidden size a token: attention's and
# the MLP's inputs and outputs (Korthikanti et al. 2022, arXiv 2205.05198, equation 2 without the term that
# fused attention never stores), at two bytes.
ACTIVATION_BYTES_A_HIDDEN_VALUE = 34
# With gradient checkpointing, a layer keeps its input alone.
CHECKPOINTED_BYTES_A_HIDDEN_VALUE = 2
# Logits and their gradient, in single precision.
LOGIT_BYTES = 8


@dataclass(frozen=True)
class ModelSize:
    """What matters of a model's config."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    key_value_width: int  # heads x head size of the keys
    linear_width: int  # inputs and outputs of all linear layers of a block together

    @classmethod
    def from_config(cls, config: dict[str, Any], weight_bytes: int) -> "ModelSize":
        """Reads a Hugging Face config; the parameters are counted from the weights' size.

        Args:
            config: the content of config.json.
            weight_bytes: size of all safetensors files.
        """
        config = config.get("text_config", config)
        heads = config["num_attention_heads"]
        head_size = config.get("head_dim") or config["hidden_size"] // heads
        hidden, queries = config["hidden_size"], heads * head_size
        keys = config.get("num_key_value_heads", heads) * head_size
        inner = config.get("intermediate_size", 4 * hidden)
        width = 4 if config.get("dtype", config.get("torch_dtype")) in (None, "float32") else 2
        return cls(
            parameters=weight_bytes // width,
            layers=config["num_hidden_layers"],
            hidden=hidden,
            vocabulary=config["vocab_size"],
            key_value_width=keys,
            # Attention's queries, keys, values and output; the gated MLP's two inner layers and its output.
            linear_width=4 * hidden + 2 * queries + 2 * keys + 3 * (hidden + inner),
        )


def state_bytes(model: ModelSize, lora: LoRASettings, frozen_precision: str) -> int:
    """Memory of weights, gradients and the optimiser's state.

    Args:
        model: its size.
        lora: whether adapters are trained in place of all weights; all linear layers are taken to have one.
        frozen_precision: of the weights beside them, `float32` or `bfloat16`.
    """
    if not lora.rank:
        return model.parameters * TRAINING_BYTES_A_PARAMETER
    width = 4 if frozen_precision == "float32" else 2
    # Quantised are the linear layers of the blocks alone, not the embeddings and the output layer.
    quantized = max(0, model.parameters - 2 * model.vocabulary * model.hidden) if lora.quantize else 0
    frozen = quantized * QUANTIZED_BYTES_A_PARAMETER + (model.parameters - quantized) * width
    adapters = model.layers * model.linear_width * lora.rank
    return round(frozen) + adapters * TRAINING_BYTES_A_PARAMETER


def training_bytes(
    model: ModelSize,
    sequences: int,
    tokens: int,
    checkpointing: bool,
    lora: LoRASettings = ALL_WEIGHTS,
    frozen_precision: str = "bfloat16",
) -> int:
    """Memory of one accelerator that trains, with the whole model on it.

    Args:
        model: its size.
        sequences: of one forward and backward pass.
        tokens: of a sequence, prompt and completion.
        checkpointing: whether gradient checkpointing is on.
        lora: whether adapters are trained in place of all weights.
        frozen_precision: of the weights beside them.
    """
    kept = CHECKPOINTED_BYTES_A_HIDDEN_VALUE if checkpointing else ACTIVATION_BYTES_A_HIDDEN_VALUE
    activations = sequences * tokens * (model.hidden * model.layers * kept + model.vocabulary * LOGIT_BYTES)
    return state_bytes(model, lora, frozen_precision) + activations


def generation_bytes(model: ModelSize, sequences: int, tokens: int) -> int:
    """Memory of sampling so many sequences at once: weights and the key-value cache at two bytes a value."""
    return model.parameters * 2 + sequences * tokens * model.layers * model.key_value_width * 2 * 2


def rollout_bytes(steps: int, completions: int, tokens: int) -> int:
    """Disk of an iteration's rollouts at most: four bytes a token id and as many of text, before compression."""
    return steps * completions * tokens * 8
