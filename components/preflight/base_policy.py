"""Inspects the base policy in place: fetches its small files, and only the headers of its weights."""

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from components.shared.errors import InputError
from components.shared.object_store.inputs import (
    fetch_folder,
    is_stored,
    stored_bytes,
    stored_objects,
    stored_version,
)
from components.shared.policy import Policy
from components.shared.policy.checks import check_policy
from components.shared.policy.model_size import ModelSize
from components.shared.policy.weight_checks import refuse_adapter
from components.shared.policy.weights import (
    INDEX,
    Tensor,
    WeightFiles,
    local_weights,
    parse_index,
    read_header,
)
from components.shared.stage import files_digest

_SMALL_FILES = (".json", ".model", ".txt", ".jinja")


class BasePolicy(NamedTuple):
    """What is known of a base policy."""

    folder: Path  # has its config, tokenizer and chat template
    size: ModelSize
    context: int  # tokens, prompt included
    version: str  # changes when the policy does


def inspect_policy(base_policy: str) -> tuple[ModelSize, int, str]:
    """Inspects a base policy without fetching its weights.

    Args:
        base_policy: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].

    Returns:
        Its size, its context in tokens, and its version, which changes when the policy does.

    Raises:
        InputError: it does not exist, cannot be reached, or is not a policy.
    """
    with inspected_policy(base_policy) as found:
        return found.size, found.context, found.version


@contextlib.contextmanager
def inspected_policy(base_policy: str) -> Iterator[BasePolicy]:
    """Like `inspect_policy`, with the policy's small files in a local folder while the block runs."""
    with tempfile.TemporaryDirectory() as temporary:
        if is_stored(base_policy):
            folder, weights, version = Path(temporary), *_stored_policy(base_policy, temporary)
        elif base_policy.startswith("hf://"):
            folder, weights, version = Path(temporary), *_hub_policy(base_policy, temporary)
        else:
            folder, weights, version = Path(base_policy), None, ""
        check_policy(folder, base_policy, weights)
        if weights is None:
            weights = local_weights(folder, base_policy)
            version = files_digest(sorted(file for file in folder.iterdir() if file.is_file()))
        config = json.loads((folder / "config.json").read_text())
        parameters = sum(math.prod(t.shape) for header in weights.headers.values() for t in header.values())
        yield BasePolicy(folder, ModelSize.with_parameters(config, parameters), Policy(folder).context_length, version)


def _stored_policy(uri: str, folder: str) -> tuple[WeightFiles, str]:
    objects = {name: item for name, item in stored_objects(uri).items() if "/" not in name}
    refuse_adapter(objects.keys(), uri)
    if "config.json" not in objects:
        raise InputError(f"base policy {uri!r} has no config.json; expected a Hugging Face model folder")
    fetch_folder(uri, folder, _SMALL_FILES)
    headers = {}
    for name, item in objects.items():
        if name.endswith(".safetensors"):
            read = partial(stored_bytes, f"{uri.rstrip('/')}/{name}")
            headers[name] = read_header(uri, name, item.size, read)
    return WeightFiles(headers, set(objects), _index(folder, uri)), stored_version(uri)


def _hub_policy(base_policy: str, folder: str) -> tuple[WeightFiles, str]:
    from httpx import HTTPError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import SafetensorsParsingError

    repository, _, revision = base_policy.removeprefix("hf://").partition("@")
    commit = hub_commit("model", repository, revision or None, "base_policy")
    api = HfApi()
    try:
        names = {entry.path for entry in api.list_repo_tree(repository, revision=commit) if _is_file(entry)}
        refuse_adapter(names, base_policy)
        if "config.json" not in names:
            raise InputError(
                f"base policy {base_policy!r} has no config.json; expected a Hugging Face model repository"
            )
        patterns = [f"*{suffix}" for suffix in _SMALL_FILES]
        snapshot_download(
            repository, revision=commit, local_dir=folder, allow_patterns=patterns, ignore_patterns=["*/*"]
        )
        headers = {
            name: {
                tensor: Tensor(entry.dtype, tuple(entry.shape))
                for tensor, entry in api.parse_safetensors_file_metadata(
                    repository, name, revision=commit
                ).tensors.items()
            }
            for name in sorted(names)
            if name.endswith(".safetensors")
        }
    except SafetensorsParsingError as error:
        raise InputError(f"base policy {base_policy!r}: its weights are not in safetensors format: {error}") from None
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(f"base policy {base_policy!r} cannot be read from the Hugging Face Hub: {error}") from None
    return WeightFiles(headers, names, _index(folder, base_policy)), commit


def _index(folder: str, name: str) -> dict[str, str] | None:
    path = Path(folder) / INDEX
    return parse_index(path.read_bytes() if path.is_file() else None, name)


def _is_file(entry: Any) -> bool:
    return getattr(entry, "size", None) is not None


def hub_commit(kind: str, repository: str, revision: str | None, key: str) -> str:
    """The commit that a revision of a Hub repository resolves to; raises InputError if it cannot be resolved."""
    from httpx import HTTPError
    from huggingface_hub import HfApi

    try:
        sha: str | None = HfApi().repo_info(repository, repo_type=kind, revision=revision).sha
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(f"{key}: {kind} {repository!r} cannot be read from the Hugging Face Hub: {error}") from None
    return sha or ""
