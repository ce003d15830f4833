"""The tensors that a model class expects in its checkpoints."""

from typing import Any, NamedTuple

from components.shared.errors import InputError


class Expected(NamedTuple):
    """The tensors of a model class, as its checkpoints name them."""

    required: dict[str, tuple[int, ...]]
    optional: dict[str, tuple[int, ...]]  # tied to others, and buffers
    prefix: str  # of all but the output layer; a checkpoint of the bare model lacks it
    bare: bool = False  # whether checkpoints of the bare model are accepted


def expected_tensors(config: dict[str, Any], name: str) -> Expected | None:
    """Returns the tensors that a config's model class expects, or None if that needs its code and there is no torch.

    Llama and similar models are described here, since the stage that checks has no torch; other classes are
    instantiated if torch is installed.

    Raises:
        InputError: The config does not describe a model.
    """
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    try:
        full = CONFIG_MAPPING[kind].from_dict(config)
        if kind in _LLAMA_LIKE:
            return _llama_like(full)
        return _of_class(full)
    except InputError:
        raise
    except Exception as error:  # whatever a config's class raises for invalid values
        raise InputError(
            f"base policy {name!r}: config.json describes no model of type {kind!r}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from None


# Model types whose checkpoints have Llama's layout: whether queries, keys and values have a bias, and whether the
# output has one; None: as the config says.
_LLAMA_LIKE = {"llama": (None, None), "mistral": (False, False), "qwen2": (True, False), "qwen3": (None, None)}


def _llama_like(config: Any) -> Expected:
    hidden, inner, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    heads, keys = config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    own = getattr(config, "attention_bias", False)
    bias, output_bias = (own if fixed is None else fixed for fixed in _LLAMA_LIKE[config.model_type])
    attention = {"q": (heads * head, hidden), "k": (keys * head, hidden), "v": (keys * head, hidden)}
    layer: dict[str, tuple[int, ...]] = {}
    for part, shape in attention.items():
        layer[f"self_attn.{part}_proj.weight"] = shape
        if bias:
            layer[f"self_attn.{part}_proj.bias"] = shape[:1]
    layer["self_attn.o_proj.weight"] = (hidden, heads * head)
    if output_bias:
        layer["self_attn.o_proj.bias"] = (hidden,)
    if config.model_type == "qwen3":
        layer |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    for part, shape in {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}.items():
        layer[f"mlp.{part}_proj.weight"] = shape
        if getattr(config, "mlp_bias", False):
            layer[f"mlp.{part}_proj.bias"] = shape[:1]
    layer |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    required: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for number in range(config.num_hidden_layers):
        required |= {f"model.layers.{number}.{part}": shape for part, shape in layer.items()}
    required["model.norm.weight"] = (hidden,)
    head_shape: dict[str, tuple[int, ...]] = {"lm_head.weight": (vocabulary, hidden)}
    tied = config.tie_word_embeddings
    return Expected(required if tied else required | head_shape, head_shape if tied else {}, "model.")


def _of_class(config: Any) -> Expected | None:
    try:
        import torch
    except ImportError:
        return None
    from transformers import AutoModelForCausalLM
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    if get_checkpoint_conversion_mapping(config.model_type):
        return None  # its tensors are converted from those in the files; load_model finds what is missing
    with torch.device("meta"):  # shapes only
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    shapes = {tensor: tuple(value.shape) for tensor, value in model.state_dict().items()}
    parameters = {tensor for tensor, _ in model.named_parameters(remove_duplicate=False)}
    required = {tensor: shape for tensor, shape in shapes.items() if tensor in parameters - tied}
    optional = {tensor: shape for tensor, shape in shapes.items() if tensor not in required}
    return Expected(required, optional, f"{model.base_model_prefix}.", bare=True)
