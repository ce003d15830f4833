"""What a run will take, from the model's config and the recipe, before a GPU is asked for.

Round figures from a model that a reader can follow; they are there to catch a run that cannot fit, not to
plan a budget.
"""

from dataclasses import dataclass
from typing import Any

GIB = 2**30
# Weights and gradients in single precision and Adam's two moments: what the trainers keep for a parameter.
TRAINING_BYTES_A_PARAMETER = 16
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
        width = 4 if config.get("dtype", config.get("torch_dtype")) in (None, "float32") else 2
        return cls(
            parameters=weight_bytes // width,
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            vocabulary=config["vocab_size"],
            key_value_width=config.get("num_key_value_heads", heads) * head_size,
        )


def training_bytes(model: ModelSize, sequences: int, tokens: int, checkpointing: bool) -> int:
    """Memory of one accelerator that trains the whole model.

    Args:
        model: its size.
        sequences: of one forward and backward pass.
        tokens: of a sequence, prompt and completion.
        checkpointing: whether gradient checkpointing is on.
    """
    kept = CHECKPOINTED_BYTES_A_HIDDEN_VALUE if checkpointing else ACTIVATION_BYTES_A_HIDDEN_VALUE
    activations = sequences * tokens * (model.hidden * model.layers * kept + model.vocabulary * LOGIT_BYTES)
    return model.parameters * TRAINING_BYTES_A_PARAMETER + activations


def generation_bytes(model: ModelSize, sequences: int, tokens: int) -> int:
    """Memory of sampling so many sequences at once: weights and the key-value cache at two bytes a value."""
    return model.parameters * 2 + sequences * tokens * model.layers * model.key_value_width * 2 * 2


def rollout_bytes(steps: int, completions: int, tokens: int) -> int:
    """Disk of an iteration's rollouts at most: four bytes a token id and as many of text, before compression."""
    return steps * completions * tokens * 8
