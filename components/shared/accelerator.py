"""The device that models run on, and the precision that goes with it."""

import os
from typing import Any

import psutil

from components.shared.errors import InputError
from components.shared.loading import loading


def accelerator() -> str:
    """Returns where models run: `cuda` if there is a GPU, else `cpu`.

    Raises:
        InputError: The pod was given a GPU that torch cannot use; on the CPU, hours would become months.
    """
    with loading():
        import torch

    if torch.cuda.is_available():
        return "cuda"
    given = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")  # Kubernetes' device plugin sets it
    if given not in ("", "void", "none"):
        raise InputError(
            f"this pod was given the GPU {given}, but torch {torch.__version__} cannot use it: its image has the CPU "
            f"variant, or the node's driver is older than its CUDA {torch.version.cuda}"
        )
    return "cpu"


def threads_each(processes: int) -> int:
    """Returns the number of threads for each of several processes that share this machine's cores."""
    return max(1, (psutil.cpu_count(logical=False) or 1) // processes)


def gpu_has_bfloat16() -> bool:
    """Whether there is a GPU with native bfloat16; emulation is slow."""
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))


def sampling_precision() -> str:
    """Returns the precision of the weights when a policy is sampled, whatever the engine."""
    return "bfloat16" if gpu_has_bfloat16() else "float32"


def training_precision(precision: str) -> dict[str, Any]:
    """Returns the arguments of a transformers trainer for a precision.

    Args:
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU that has it, otherwise float32.

    Returns:
        `bf16` and `use_cpu` for `TrainingArguments`.
    """
    use_cpu = accelerator() == "cpu"
    return {"bf16": precision == "bfloat16" or (precision == "auto" and gpu_has_bfloat16()), "use_cpu": use_cpu}
