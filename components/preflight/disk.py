"""The disk that rollouts, policies and checkpoints take."""

from components.preflight.memory import ADAM_BYTES, WEIGHT_BYTES
from components.preflight.model_size import ModelSize
from components.shared.progress.uploads import CHECKPOINTS_ON_DISK

_ROW_BYTES = 64  # of a rollout or sample besides its tokens: identifiers, counters and times


def rollout_bytes(completions: int, tokens: int) -> int:
    """Disk of rollouts at most: four bytes a token id and as many of text, before compression.

    Args:
        completions: how many.
        tokens: of a completion.
    """
    return completions * (tokens * 8 + _ROW_BYTES)


def sample_bytes(completions: int, tokens: int) -> int:
    """Disk of evaluation's samples at most: the text alone."""
    return completions * (tokens * 4 + _ROW_BYTES)


def policy_bytes(model: ModelSize) -> int:
    """Disk of a policy that a stage has trained: single precision."""
    return model.parameters * WEIGHT_BYTES


def checkpoint_bytes(model: ModelSize) -> int:
    """Disk of a trainer's checkpoint: weights and Adam's moments."""
    return model.parameters * (WEIGHT_BYTES + ADAM_BYTES)


def checkpoints_disk(model: ModelSize) -> int:
    """Disk of the checkpoints that lie on a training pod at once, at most."""
    return CHECKPOINTS_ON_DISK * checkpoint_bytes(model)
