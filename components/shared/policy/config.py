"""A model's config under the usual key names."""

from functools import cache
from typing import Any


def named_config(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a model's config under the usual key names, whatever its class calls them.

    GPT-2's `n_layer`, for example, becomes `num_hidden_layers`.

    Args:
        config: Content of config.json. For a multimodal model, the config of its language model is returned.
    """
    inner = config.get("text_config", config)
    names = _attribute_names(inner.get("model_type", config.get("model_type")))
    return {**inner, **{usual: inner[own] for usual, own in names.items() if usual not in inner and own in inner}}


@cache
def _attribute_names(model_type: str | None) -> dict[str, str]:
    from transformers import CONFIG_MAPPING

    return dict(CONFIG_MAPPING[model_type].attribute_map) if model_type in CONFIG_MAPPING else {}
