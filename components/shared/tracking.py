"""Following a training run while it goes on: TensorBoard always, W&B and MLflow where the recipe asks for them."""

from pathlib import Path
from typing import Any


def tensorboard(folder: str | Path) -> Any:
    """A trainer's callback that writes what is logged as TensorBoard event files.

    A stage that goes on after it was killed writes a file of its own from there on; what the killed attempt had
    written is there where its disk is, and lost with a pod's.

    Args:
        folder: to make and fill; made by the main process alone.
    """
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = str(folder)
    return callback
