"""What a transformers trainer produces in the training stages: checkpoints and trained weights."""

from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.training.collectives import all_gather


def checkpoint_folder(arguments: Any, state: Any) -> Path:
    """Returns the folder of the checkpoint that the trainer has just written.

    Args:
        arguments: The trainer's `TrainingArguments`.
        state: The trainer's `TrainerState`.
    """
    return Path(arguments.output_dir) / f"checkpoint-{state.global_step}"


def complete_checkpoint(folder: Path, rank: int) -> None:
    """Waits until every process has written its part of a checkpoint, and removes the file that nothing reads.

    Args:
        folder: The checkpoint's folder, which all processes share.
        rank: Rank of this process.
    """
    all_gather(None)
    if rank == 0:
        (folder / "training_args.bin").unlink()  # a pickle


def check_finite(model: Any, policy_name: str, section: str) -> None:
    """Raises InputError if a trained model's weights contain NaN or infinity.

    Args:
        model: The model.
        policy_name: What to call the policy in the message, such as `explored`.
        section: Recipe section whose learning rate to lower.
    """
    import torch

    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise InputError(f"the {policy_name} policy's weights are not finite; lower {section}.learning_rate")
