"""Disk space of rollouts, policies and checkpoints."""

from components.preflight.memory import ADAM_BYTES, WEIGHT_BYTES
from components.shared.policy.model_size import ModelSize
from components.shared.progress.uploads import CHECKPOINTS_ON_DISK

_ROW_BYTES = 64  # per rollout or sample, besides its tokens: ids, counters and timestamps


def rollout_bytes(completions: int, tokens: int) -> int:
    """Upper bound for rollouts: four bytes per token id and four of text, before compression.

    Args:
        completions: number of rollouts.
        tokens: length of a completion.
    """
    return completions * (tokens * 8 + _ROW_BYTES)


def sample_bytes(completions: int, tokens: int) -> int:
    """Upper bound for evaluation's samples: only the text."""
    return completions * (tokens * 4 + _ROW_BYTES)


def policy_bytes(model: ModelSize) -> int:
    """A trained policy, in single precision."""
    return model.parameters * WEIGHT_BYTES


def checkpoint_bytes(model: ModelSize) -> int:
    """A trainer's checkpoint: weights and Adam's moments."""
    return model.parameters * (WEIGHT_BYTES + ADAM_BYTES)


def checkpoints_disk(model: ModelSize) -> int:
    """The checkpoints on a training pod's disk at one time, at most."""
    return CHECKPOINTS_ON_DISK * checkpoint_bytes(model)
