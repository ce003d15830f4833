"""The size of a model, from its config."""

from dataclasses import dataclass
from typing import Any

from components.shared.policy.config import named_config


@dataclass(frozen=True)
class ModelSize:
    """The dimensions that memory, disk and time depend on."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int  # inner size of the MLP
    vocabulary: int
    heads: int  # query heads
    key_value_heads: int
    key_value_width: int  # key heads x head size
    linear_width: int  # sum of the inputs and outputs of all linear layers of a block

    @classmethod
    def from_config(cls, config: dict[str, Any], weight_bytes: int) -> "ModelSize":
        """Reads a Hugging Face config; counts the parameters from the size of the weights.

        Args:
            config: the content of config.json.
            weight_bytes: total size of the safetensors files.
        """
        inner = named_config(config)
        width = 4 if inner.get("dtype", inner.get("torch_dtype")) in (None, "float32") else 2
        return cls.with_parameters(config, weight_bytes // width)

    @classmethod
    def with_parameters(cls, config: dict[str, Any], parameters: int) -> "ModelSize":
        """Reads a Hugging Face config, given the number of parameters."""
        config = named_config(config)
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        inner = config.get("intermediate_size") or 4 * hidden
        head_size = config.get("head_dim") or hidden // heads
        key_value_heads = config.get("num_key_value_heads") or heads
        queries, keys = heads * head_size, key_value_heads * head_size
        return cls(
            parameters=parameters,
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=inner,
            vocabulary=config["vocab_size"],
            heads=heads,
            key_value_heads=key_value_heads,
            key_value_width=keys,
            # Attention's queries, keys, values and output; the gated MLP's two inner layers and its output.
            linear_width=4 * hidden + 2 * queries + 2 * keys + 3 * (hidden + inner),
        )

    @property
    def output_parameters(self) -> int:
        """Parameters of the output matrix, the largest tensor."""
        return self.vocabulary * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer, at most: includes the embeddings if they are not tied to the output matrix."""
        return (self.parameters - self.output_parameters) // self.layers
