"""Copying and saving policies.

A stage that trains saves new weights beside the *initial* policy's own config, generation config, tokenizer and
template files, byte for byte, so that these never drift between stages.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from components.shared.policy.policy import Policy
from components.shared.stage import whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
# Pickled weights run code when they are loaded; other frameworks' files have no use here.
_NEVER_COPIED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.py", ".git", ".cache")


def copy_policy(source: str | Path, destination: str | Path, without_weights: bool = False) -> None:
    """Copies a policy's files, all or nothing, without pickled weights and without code."""
    with whole_folder(destination) as folder:
        _copy_files(Path(source), folder, without_weights)


def save_policy(model: "PreTrainedModel", initial_policy: Policy, destination: str | Path) -> None:
    """Saves a trained model as a policy: its weights, and every other file as the initial policy has it.

    Args:
        model: The model whose weights to save.
        initial_policy: The policy that training started from.
        destination: Folder to create.
    """
    with whole_folder(destination) as folder:
        _copy_files(initial_policy.path, folder, without_weights=True)
        weights = folder / ".weights"
        model.save_pretrained(weights)
        for pattern in _WEIGHT_PATTERNS:
            for file in weights.glob(pattern):
                file.chmod(0o644)  # written as private, but another user's pod has to read it
                file.rename(folder / file.name)
        shutil.rmtree(weights)


def _copy_files(source: Path, folder: Path, without_weights: bool) -> None:
    ignored = (*_WEIGHT_PATTERNS, *_NEVER_COPIED) if without_weights else _NEVER_COPIED
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*ignored))
