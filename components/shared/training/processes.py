"""Training in several processes, one per GPU, of one pod or of several.

The stage's own process starts them and waits; with several pods, `train_job` has them started in each. Each process
runs the stage's function and takes its share of every batch; what all have to agree on goes through `collectives`.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from components.shared.training.launching import launch
from components.shared.training.parallel import ParallelSettings
from components.shared.training.train_job import on_nodes

Value = TypeVar("Value")


def on_processes(
    settings: ParallelSettings, section: str, function: Callable[..., Value], *args: Any, **kwargs: Any
) -> Value:
    """Runs a function in several processes at once, and returns what it returns at rank 0.

    Args:
        settings: The recipe's `rl.parallel` or `rft.parallel`.
        section: Recipe section, for messages.
        function: A module's function, so that a new process can import it.
        args: Its positional arguments. With several nodes, each file or folder that it reads or writes must be a
            `Path`; see `train_job`.
        kwargs: Its keyword arguments.

    Raises:
        InputError: One of the processes raised one, or there are fewer GPUs than processes.
        ChildFailedError: A process failed otherwise; the others are stopped. Its traceback is in the log.
    """
    if settings.nodes > 1:
        result: Value = on_nodes(settings, section, function, args, kwargs)
        return result
    if settings.processes == 1:
        return function(*args, **kwargs)
    # 127.0.0.1, since a pod's host name may not resolve.
    one_pod = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as folder:
        result = launch(settings, section, Path(folder), function, args, kwargs, one_pod)[0]
    return result
