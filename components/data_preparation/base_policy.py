"""Brings the base policy into the run: from a folder, an object store or the Hugging Face hub; checked, then copied."""

import tempfile
from pathlib import Path

from components.shared.errors import InputError
from components.shared.object_store.inputs import fetch_folder, is_stored
from components.shared.policy import Policy
from components.shared.policy.checks import check_policy
from components.shared.policy.saving import copy_policy
from components.shared.policy.weight_checks import check_numbers
from components.shared.policy.weights import local_weights
from components.shared.stage import read_json, write_json

POLICY_FILES = (".safetensors", ".json", ".model", ".txt", ".jinja")  # downloaded from a model repository


def bring_policy(uri: str, policy_out: str | Path) -> None:
    """Checks the base policy and copies it.

    Args:
        uri: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        policy_out: folder to make.

    Raises:
        InputError: the policy cannot be fetched or used.
    """
    if not uri.startswith("hf://") and not is_stored(uri):
        _check_and_copy(uri, uri, policy_out)
        return
    Path(policy_out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(policy_out).parent) as folder:
        if is_stored(uri):
            fetch_folder(uri, folder, POLICY_FILES)
        else:
            _fetch_from_hub(uri, folder)
        _check_and_copy(folder, uri, policy_out)


def _check_and_copy(folder: str, uri: str, policy_out: str | Path) -> None:
    check_policy(folder, uri)
    check_numbers(folder, local_weights(folder, uri), uri)
    copy_policy(folder, policy_out)
    _stop_at_template_end(policy_out)


def _fetch_from_hub(uri: str, folder: str) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, _, revision = uri.removeprefix("hf://").partition("@")
    try:
        snapshot_download(
            repository,
            revision=revision or None,
            local_dir=folder,
            allow_patterns=[f"*{suffix}" for suffix in POLICY_FILES],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"base policy {uri!r} cannot be downloaded from the Hugging Face hub: {error}. Check the name, the "
            f"revision and the access token"
        ) from None


def _stop_at_template_end(policy_path: str | Path) -> None:
    """Makes generation stop at the token that ends an answer in the chat template, in addition to the policy's EOS.

    Qwen's base models end a document with <|endoftext|> and a chat turn with <|im_end|>; a policy that has learnt the
    template would otherwise never stop.
    """
    policy = Policy(policy_path)
    token = policy.template_end_token_id
    if token is None or token in (known := policy.eos_token_ids):
        return
    file = policy.path / "generation_config.json"
    config = read_json(file) if file.is_file() else {}
    write_json(file, config | {"eos_token_id": [*sorted(known), token]})
    print(f"generation also stops at token {token}, with which the chat template ends an answer")
