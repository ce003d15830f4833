"""Starting the training processes of one pod with PyTorch's elastic launcher, one per GPU."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.shared.accelerator import accelerator, threads_each
from components.shared.errors import InputError
from components.shared.stage import disk_problem
from components.shared.training.collectives import process_state
from components.shared.training.parallel import ParallelSettings

MESSAGE = "message.txt"  # for the user, from the process that failed


def launch(
    settings: ParallelSettings,
    section: str,
    folder: Path,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rendezvous: dict[str, Any],
) -> dict[int, Any]:
    """Starts the processes of this pod, and waits for them.

    Args:
        settings: The recipe's `rl.parallel` or `rft.parallel`.
        section: Recipe section, for messages.
        folder: For a message to the user; with several pods, the same folder in all of them.
        function: Function to run in each process, importable from a module.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        rendezvous: The launcher's arguments that say how the processes find those of other pods.

    Returns:
        What the function returned, by global rank.

    Raises:
        InputError: One of the processes raised one, or there are fewer GPUs than processes.
        ChildFailedError: A process failed otherwise; the others are stopped. Its traceback is in the log.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if accelerator() == "cuda":
        if (gpus := torch.cuda.device_count()) < settings.processes:
            raise InputError(
                f"{section}.parallel.processes is {settings.processes}, but this pod has {gpus} GPUs; lower it, or "
                f"raise pools.training.accelerators"
            )
    else:  # the processes' threads share the cores
        os.environ.setdefault("OMP_NUM_THREADS", str(threads_each(settings.processes)))
    config = LaunchConfig(
        min_nodes=settings.nodes,
        max_nodes=settings.nodes,
        nproc_per_node=settings.processes,
        run_id="rloop",
        max_restarts=0,  # KFP retries a failed stage
        monitor_interval=0.5,
        start_method="spawn",
        **rendezvous,
    )
    try:
        returned: dict[int, Any] = elastic_launch(config, run_in_process)(
            str(folder), settings.world, function, args, kwargs
        )
    except ChildFailedError:
        if (message := folder / MESSAGE).is_file():
            raise InputError(message.read_text()) from None
        raise
    return returned


def run_in_process(
    folder: str, world_size: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Runs the function in one of the processes; leaves a message for the user in the folder if it fails.

    Raises:
        SystemExit: With status 1, after an InputError; also if fewer than `world_size` processes found each other, so
            that none trains alone on its share of the batches.
    """
    try:
        if (found := process_state().num_processes) != world_size:
            raise InputError(
                f"{found} processes found each other, but {world_size} were to train together; whatever started them "
                f"did not set the environment variables of the rendezvous"
            )
        return function(*args, **kwargs)
    except (InputError, OSError) as error:
        message = str(error) if isinstance(error, InputError) else disk_problem(error)
        if message is None:
            raise
        (Path(folder) / MESSAGE).write_text(message)
        raise SystemExit(1) from None
