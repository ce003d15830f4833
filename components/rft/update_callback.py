"""Progress of fine-tuning: printed and checkpointed, update by update."""

from typing import Any

from transformers import TrainerCallback

from components.shared.progress.checkpoints import Checkpoints
from components.shared.stage import Progress
from components.shared.training.collectives import broadcast
from components.shared.training.trainer_output import checkpoint_folder, complete_checkpoint


class UpdateCallback(TrainerCallback):  # type: ignore[misc]
    """Prints a progress line after each update, and saves checkpoints.

    Args:
        progress: Counts the updates.
        checkpoints: The stage's progress in the object store; only rank 0's is kept anywhere.
        rank: Rank of this process.
    """

    def __init__(self, progress: Progress, checkpoints: Checkpoints, rank: int) -> None:
        self._progress, self._checkpoints, self._rank = progress, checkpoints, rank

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Prints the update's progress."""
        if logs and "loss" in logs:
            self._progress.advance(1, f"loss {float(logs['loss']):.4f}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decides whether to save a checkpoint; not at the end, where the stage's outputs follow immediately."""
        control.should_save = state.global_step < state.max_steps and broadcast(self._checkpoints.due())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hands over the trainer's checkpoint."""
        folder = checkpoint_folder(args, state)
        complete_checkpoint(folder, self._rank)
        self._checkpoints.save(folder, state.global_step)
