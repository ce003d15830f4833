"""What the processes of one training agree on: their ranks, values they exchange, a common folder.

With one process, all of this works too and exchanges nothing. On a CPU the processes communicate over gloo.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

from components.shared.accelerator import accelerator
from components.shared.loading import loading

COMMON_FOLDER = "RLOOP_COMMON_FOLDER"  # environment variable: where the processes of several pods share files
Value = TypeVar("Value")


def process_state() -> Any:
    """Returns accelerate's state of this process; joins the process group if there is one."""
    with loading():
        from accelerate import PartialState

    # All wait while rank 0 downloads a checkpoint, which has 12 bytes per parameter; NCCL gives up after 10 minutes.
    return PartialState(cpu=accelerator() == "cpu", timeout=timedelta(hours=2))


def init_processes() -> tuple[int, int]:
    """Joins the stage's other processes, if there are any.

    Returns:
        The rank of this process, and the world size.
    """
    import torch

    state = process_state()
    if state.num_processes > 1 and accelerator() == "cpu":
        # accelerate calls the CPU "cpu:1" in the process of rank 1, and torch would not load a checkpoint there.
        torch.serialization.register_package(0, lambda _: None, _restore_on_cpu)
    return state.process_index, state.num_processes


def _restore_on_cpu(storage: Any, location: str) -> Any:
    return storage if location.startswith("cpu:") else None


def broadcast(value: Value) -> Value:
    """Returns rank 0's value in every process."""
    from accelerate.utils import broadcast_object_list

    agreed_on: Value = broadcast_object_list([value])[0]
    return agreed_on


def all_gather(value: Value) -> list[Value]:
    """Returns the values of all processes, by rank, in every process; waits for the slowest."""
    from accelerate.utils import gather_object

    return list(gather_object([value]))


@contextlib.contextmanager
def common_folder() -> Iterator[str]:
    """Gives a folder for files that the processes share; it is removed when rank 0 leaves the block."""
    # On a network file system, a file that is still open somewhere keeps its folder from being removed.
    with tempfile.TemporaryDirectory(dir=os.environ.get(COMMON_FOLDER), ignore_cleanup_errors=True) as own:
        yield broadcast(own)
