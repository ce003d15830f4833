"""Intermediate checkpoints of RL exploration: the weights alone, one safetensors file each, named by RL step."""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from components.shared.policy.policy import Policy
from components.shared.policy.saving import copy_policy
from components.shared.stage import whole_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SNAPSHOT = re.compile(r"step-(\d+)\.safetensors")


def snapshot_name(step: int) -> str:
    """Returns the file name of the weights after `step` RL steps."""
    return f"step-{step:06d}.safetensors"


def snapshot_files(folder: str | Path) -> dict[int, Path]:
    """Returns the intermediate checkpoints in a folder: number of RL steps to file, in order."""
    found = {int(match[1]): file for file in Path(folder).iterdir() if (match := _SNAPSHOT.fullmatch(file.name))}
    return dict(sorted(found.items()))


def save_weights(model: "PreTrainedModel", path: str | Path) -> None:
    """Saves a model's weights alone as one safetensors file, all or nothing."""
    with whole_file(path) as temporary:
        folder = temporary.with_suffix(".folder")
        model.save_pretrained(folder, max_shard_size="100TB")
        (folder / "model.safetensors").chmod(0o644)  # written as private, but another user's pod has to read it
        (folder / "model.safetensors").rename(temporary)
        shutil.rmtree(folder)


def with_weights(policy: Policy, weights: str | Path, destination: str | Path) -> Policy:
    """Makes a policy from a file of weights and all other files of another policy.

    Args:
        policy: The policy whose other files are copied.
        weights: The safetensors file; linked, not copied.
        destination: Folder to create.
    """
    copy_policy(policy.path, destination, without_weights=True)
    (Path(destination) / "model.safetensors").symlink_to(Path(weights).resolve())
    return Policy(destination)
