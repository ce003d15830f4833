"""Training by several processes, one for each GPU, of one pod or of several; on a CPU they talk over gloo.

The stage's own process starts them with PyTorch's elastic launcher and waits; where several pods train, `train_job`
has it started in each of them. Each process runs the stage's function as a whole and has its share of every batch; what
all need to agree on goes through `broadcast` and `all_gather`.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import psutil
from pydantic import Field, model_validator

from components.shared.errors import InputError
from components.shared.policy.policy import accelerator
from components.shared.settings import Settings
from components.shared.stage import disk_problem
from components.shared.training.lora import LoRASettings

MESSAGE = "message.txt"  # for the user, from the process that failed
COMMON_FOLDER = "RLOOP_COMMON_FOLDER"  # environment variable: where the processes of several pods share files
Value = TypeVar("Value")


class ParallelSettings(Settings):
    """How many processes train, and how the policy is spread over them."""

    processes: int = Field(
        1,
        ge=1,
        description="That train together, one for each GPU of the pod; each has an equal share of every batch, so that "
        "batches stay as large as they are. Another number samples other rollouts.",
    )
    nodes: int = Field(
        1,
        ge=1,
        description="Pods that train together, each with so many processes; more than one needs Kubeflow Trainer in "
        "the cluster, and a volume: docs/cluster.md. Whether there are several is fixed when the pipeline is compiled.",
    )
    volume: str = Field(
        "",
        description="PersistentVolumeClaim that many pods can mount at once (ReadWriteMany), for what several nodes "
        "share while they train. Fixed when the pipeline is compiled.",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="none: each process holds the whole policy and optimiser. full: they are spread over all (FSDP2, "
        "as DeepSpeed's ZeRO-3), for policies that one GPU cannot hold.",
    )

    @model_validator(mode="after")
    def _has_where_to_spread(self) -> Self:
        if self.sharding == "full" and self.world == 1:
            raise ValueError("sharding: full needs at least 2 processes to spread the policy over")
        if self.nodes > 1 and not self.volume:
            raise ValueError(
                f"nodes: {self.nodes} needs a volume: the name of a PersistentVolumeClaim that many pods can mount"
            )
        return self

    @property
    def world(self) -> int:
        """Processes of all nodes together."""
        return self.nodes * self.processes


ONE_PROCESS = ParallelSettings()


def share(batch: int, processes: int, key: str) -> int:
    """A process's share of a batch.

    Raises:
        ValueError: the batch cannot be shared equally; names `key`, the recipe's, for a settings' validator.
    """
    if batch % processes:
        raise ValueError(f"{key} ({batch}) must be a multiple of the {processes} processes that share it")
    return batch // processes


def check_parallel(parallel: ParallelSettings, lora: LoRASettings) -> None:
    """Raises ValueError where the two do not go together, for a settings' validator."""
    if parallel.sharding == "full" and lora.rank:
        raise ValueError("lora and parallel.sharding: full do not go together; adapters need none, so set it to none")


def sharding_arguments(settings: ParallelSettings) -> dict[str, Any]:
    """The arguments of a transformers trainer that spread the policy as `settings` say."""
    if settings.sharding == "none":
        return {"ddp_find_unused_parameters": False}  # each update needs all of them
    return {
        # FSDP2, whose checkpoints hold whole tensors: another number of processes could go on from them.
        "fsdp": True,
        "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"},
        # Else each process would add up the gradients of an update's forward passes whole, and in half precision.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def allow_sharding(settings: ParallelSettings) -> None:
    """Lets the next trainer that is made spread its policy on CPUs too, after its arguments have been made.

    accelerate 1.15 takes FSDP for a matter of GPUs and would leave it out without a word; PyTorch has it on CPUs too.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    if settings.sharding == "full" and accelerator() == "cpu":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def on_processes(
    settings: ParallelSettings, section: str, function: Callable[..., Value], *args: Any, **kwargs: Any
) -> Value:
    """Runs a function in as many processes at once, and returns what it returns in the first.

    Args:
        settings: the recipe's `rl.parallel` or `rft.parallel`.
        section: of the recipe, for the messages.
        function: of a module, so that a new process can import it.
        args: for it, like `kwargs`; for several nodes, what it reads and writes is a `Path` each, see `train_job`.
        kwargs: for it.

    Raises:
        InputError: one of the processes raised one, or there are fewer GPUs than processes.
        ChildFailedError: one failed otherwise; the others are stopped. Its traceback is in the log.
    """
    if settings.nodes > 1:
        from components.shared.training.train_job import on_nodes

        result: Value = on_nodes(settings, section, function, args, kwargs)
        return result
    if settings.processes == 1:
        return function(*args, **kwargs)
    # A pod's name need not resolve.
    alone = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as folder:
        result = launch(settings, section, Path(folder), function, args, kwargs, alone)[0]
    return result


def launch(
    settings: ParallelSettings,
    section: str,
    folder: Path,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    meeting: dict[str, Any],
) -> dict[int, Any]:
    """Starts the processes of this pod, and waits for them.

    Args:
        settings: as of `on_processes`, like `section`, `function`, `args` and `kwargs`.
        section: of the recipe.
        folder: for a message; of several pods, the same in all.
        function: to run in each process.
        args: for it.
        kwargs: for it.
        meeting: how they find those of other pods: the launcher's arguments of the rendezvous.

    Returns:
        What the function returned, by the number of the process among all.

    Raises:
        InputError: as `on_processes`, as does ChildFailedError.
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
        cores = psutil.cpu_count(logical=False) or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // settings.processes)))
    launched = LaunchConfig(
        min_nodes=settings.nodes,
        max_nodes=settings.nodes,
        nproc_per_node=settings.processes,
        run_id="rloop",
        max_restarts=0,  # KFP starts a failed stage again
        monitor_interval=0.5,
        start_method="spawn",
        **meeting,
    )
    try:
        returned: dict[int, Any] = elastic_launch(launched, in_process)(
            str(folder), settings.world, function, args, kwargs
        )
    except ChildFailedError:
        if (message := folder / MESSAGE).is_file():
            raise InputError(message.read_text()) from None
        raise
    return returned


def in_process(
    folder: str, world: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Runs in each of the processes; a message for the user is left in the folder, for the process that waits.

    Raises:
        SystemExit: with status 1, after an InputError; also where fewer than `world` processes have found each other,
            so that none trains on alone on its share of the batches.
    """
    try:
        if (found := _state().num_processes) != world:
            raise InputError(
                f"{found} processes have found each other where {world} were to train together; what started them has "
                f"left no word of the others in their environment"
            )
        return function(*args, **kwargs)
    except (InputError, OSError) as error:
        message = str(error) if isinstance(error, InputError) else disk_problem(error)
        if message is None:
            raise
        (Path(folder) / MESSAGE).write_text(message)
        raise SystemExit(1) from None


def _state() -> Any:
    from accelerate import PartialState

    # All wait while the first brings a checkpoint, which is 12 bytes a parameter; NCCL gives up after 10 minutes.
    return PartialState(cpu=accelerator() == "cpu", timeout=timedelta(hours=2))


def init_processes() -> tuple[int, int]:
    """Joins the other processes of the stage, if there are any; returns this one's number, from 0, and how many."""
    import torch

    state = _state()
    if state.num_processes > 1 and accelerator() == "cpu":
        # accelerate numbers the CPU after the process, "cpu:1", and torch would not load a checkpoint there.
        torch.serialization.register_package(0, lambda _: None, _restore_on_cpu)
    return state.process_index, state.num_processes


def _restore_on_cpu(storage: Any, location: str) -> Any:
    return storage if location.startswith("cpu:") else None


def broadcast(value: Value) -> Value:
    """The value that the first process has, in all of them."""
    from accelerate.utils import broadcast_object_list

    agreed_on: Value = broadcast_object_list([value])[0]
    return agreed_on


def all_gather(value: Value) -> list[Value]:
    """The values of all processes, in their order, in each of them; it waits for the slowest."""
    from accelerate.utils import gather_object

    return list(gather_object([value]))


@contextlib.contextmanager
def common_folder() -> Iterator[str]:
    """A folder for files that the processes have in common; it goes when the first of them leaves the block."""
    # On a network's file system, a file that is still open somewhere keeps its folder.
    with tempfile.TemporaryDirectory(dir=os.environ.get(COMMON_FOLDER), ignore_cleanup_errors=True) as own:
        yield broadcast(own)
