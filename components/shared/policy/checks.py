"""Checks that a folder is a policy that can be trained and sampled: config, weights, tokenizer, chat template, EOS."""

import json
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from components.shared.data.chat import conversation
from components.shared.errors import InputError
from components.shared.policy.policy import Policy
from components.shared.policy.weight_checks import check_weights, refuse_adapter
from components.shared.policy.weights import WeightFiles, local_weights


def check_policy(path: str | Path, name: str, weights: WeightFiles | None = None) -> None:
    """Checks that a folder is a policy: config, weights that fit it, tokenizer, chat template, matching EOS.

    Args:
        path: The folder.
        name: What the user calls it, for messages.
        weights: Headers of the weights if they are stored elsewhere; None for the folder's own.

    Raises:
        InputError: Says what is missing and how to supply it.
    """
    policy = Policy(path)
    _check_files(policy.path, name, weights)
    config = _check_config(policy.path, name)
    check_weights(config, local_weights(policy.path, name) if weights is None else weights, name)
    try:
        tokenizer = policy.tokenizer
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"base policy {name!r}: its tokenizer cannot be loaded: {_first_line(error)}") from None
    if not tokenizer.chat_template:
        raise InputError(
            f"base policy {name!r} has no chat template; add a chat_template.jinja file or set "
            f"tokenizer.chat_template and save the tokenizer beside the weights"
        )
    _check_tokens(policy, _template_ids(policy, name), name)


def _check_files(path: Path, name: str, weights: WeightFiles | None) -> None:
    if not path.is_dir():
        raise InputError(f"base policy {name!r}: no such folder; give a Hugging Face model folder or hf://ORG/NAME")
    refuse_adapter({file.name for file in path.iterdir()}, name)
    if not (path / "config.json").is_file():
        raise InputError(f"base policy {name!r} has no config.json; it is not a Hugging Face model folder")
    if not (any(path.glob("*.safetensors")) if weights is None else weights.headers):
        raise InputError(
            f"base policy {name!r} has no *.safetensors weights; load it in transformers and save it again with "
            f"save_pretrained (pickled *.bin weights are not loaded, since they can run code)"
        )
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            f"base policy {name!r} has no tokenizer (tokenizer.json, tokenizer.model or vocab.json); "
            f"save one beside the weights with tokenizer.save_pretrained({name!r})"
        )


def _check_config(path: Path, name: str) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING

    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
        model_type = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"base policy {name!r}: config.json cannot be read: {_first_line(error)}") from None
    if model_type not in CONFIG_MAPPING:
        raise InputError(
            f"base policy {name!r}: this version of transformers has no model type {model_type!r}; code that comes "
            f"with a model is not run"
        )
    # A kernel name with a slash would be fetched from the hub and run.
    for key in ("attn_implementation", "_attn_implementation"):
        if "/" in str(config.get(key, "")):
            raise InputError(f"base policy {name!r}: config.json asks for foreign code in {key}; remove it")
    return config


def _template_ids(policy: Policy, name: str) -> set[int]:
    """Returns the token IDs that the chat template produces for a prompt and for an answered one.

    Raises:
        InputError: The template fails, drops the problem or the answer, or refuses assistant turns.
    """
    tokenizer = policy.tokenizer
    try:
        prompt = policy.rendered_prompt("1 + 1?")
        ids = policy.prompt_token_ids(["1 + 1?"])[0]
    except (TemplateError, ValueError, TypeError) as error:
        raise InputError(f"base policy {name!r}: its chat template fails: {_first_line(error)}") from None
    if "1 + 1?" not in prompt:
        raise InputError(f"base policy {name!r}: its chat template leaves out the user's message: it gives {prompt!r}")
    answered = [*conversation("1 + 1?"), {"role": "assistant", "content": "It is 2."}]
    try:
        text = tokenizer.apply_chat_template(answered, tokenize=False)
    except (TemplateError, ValueError, TypeError) as error:
        raise InputError(
            f"base policy {name!r}: its chat template fails on assistant turns, with which answers are trained: "
            f"{_first_line(error)}; allow the role assistant in it"
        ) from None
    if "It is 2." not in text:
        raise InputError(
            f"base policy {name!r}: its chat template leaves out the assistant's message, with which answers are "
            f"trained: it gives {text[-200:]!r}; render messages of the role assistant too"
        )
    return {*ids, *tokenizer.encode(text, add_special_tokens=False)}


def _check_tokens(policy: Policy, template_ids: set[int], name: str) -> None:
    """Checks that tokenizer and generation config agree on the EOS, and that every token has an embedding."""
    tokenizer = policy.tokenizer
    if tokenizer.eos_token_id is None:
        raise InputError(f"base policy {name!r}: the tokenizer has no EOS token, so a completion could never end")
    if tokenizer.eos_token_id not in policy.eos_token_ids:
        raise InputError(
            f"base policy {name!r}: the tokenizer's EOS {tokenizer.eos_token!r} (id {tokenizer.eos_token_id}) is not "
            f"among the generation config's {sorted(policy.eos_token_ids)}; generation would not stop where "
            f"fine-tuning says it ends. Set eos_token_id in generation_config.json to a list with both"
        )
    ids = template_ids | {tokenizer.eos_token_id, tokenizer.pad_token_id, *policy.eos_token_ids}
    if beyond := sorted(token for token in ids if token >= policy.vocabulary_size):
        raise InputError(
            f"base policy {name!r}: token {tokenizer.convert_ids_to_tokens(beyond[0])!r} (id {beyond[0]}) of the "
            f"template, EOS or padding has no row in the model's embeddings, which have {policy.vocabulary_size}; call "
            f"model.resize_token_embeddings(len(tokenizer)) and save the model again"
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
