"""Settings of parallel training: how many processes train, and how the policy is sharded over them."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from components.shared.accelerator import accelerator
from components.shared.settings import Settings
from components.shared.training.lora import LoRASettings


class ParallelSettings(Settings):
    """How many processes train, and how the policy is sharded over them."""

    processes: int = Field(
        1,
        ge=1,
        description="Number of processes that train together in each pod, one per GPU. Each takes an equal share of "
        "every batch, so batch sizes do not change. A different number samples different rollouts.",
    )
    nodes: int = Field(
        1,
        ge=1,
        description="Number of pods that train together, each with this many processes. More than one needs Kubeflow "
        "Trainer in the cluster, and a volume: see docs/cluster.md. Whether there is more than one is fixed when the "
        "pipeline is compiled.",
    )
    volume: str = Field(
        "",
        description="PersistentVolumeClaim that several pods can mount at once (ReadWriteMany), for the files that "
        "nodes share while they train. Fixed when the pipeline is compiled.",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="none: each process holds the complete policy and optimiser. full: they are sharded over all "
        "processes (FSDP2, like DeepSpeed's ZeRO-3), for policies that do not fit on one GPU.",
    )

    @model_validator(mode="after")
    def _check_resources(self) -> Self:
        if self.sharding == "full" and self.world == 1:
            raise ValueError("sharding: full needs at least 2 processes to shard the policy over")
        if self.nodes > 1 and not self.volume:
            raise ValueError(
                f"nodes: {self.nodes} needs a volume: the name of a PersistentVolumeClaim that several pods can mount"
            )
        return self

    @property
    def world(self) -> int:
        """The world size: processes of all nodes together."""
        return self.nodes * self.processes


ONE_PROCESS = ParallelSettings()


def share(batch: int, processes: int, key: str) -> int:
    """Returns each process's share of a batch.

    Raises:
        ValueError: The batch cannot be shared equally; names the recipe key `key`. For validators of settings.
    """
    if batch % processes:
        raise ValueError(f"{key} ({batch}) must be a multiple of the {processes} processes that share it")
    return batch // processes


def check_parallel(parallel: ParallelSettings, lora: LoRASettings) -> None:
    """Raises ValueError if the two cannot be combined. For validators of settings."""
    if parallel.sharding == "full" and lora.rank:
        raise ValueError(
            "lora and parallel.sharding: full cannot be combined; adapters need no sharding, so set it to none"
        )


def sharding_arguments(settings: ParallelSettings) -> dict[str, Any]:
    """Returns the arguments of a transformers trainer that shard the policy as `settings` say."""
    if settings.sharding == "none":
        return {"ddp_find_unused_parameters": False}  # every update uses all parameters
    return {
        # FSDP2, whose checkpoints hold complete tensors: a different number of processes could resume from them.
        "fsdp": True,
        "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"},
        # Otherwise each process would accumulate unsharded gradients over an update's micro-batches, in half precision.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def allow_sharding(settings: ParallelSettings) -> None:
    """Lets the next trainer shard its policy on CPUs too; call it after the trainer's arguments were made.

    accelerate 1.15 assumes that FSDP needs GPUs and would silently leave it out; PyTorch supports it on CPUs too.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    if settings.sharding == "full" and accelerator() == "cpu":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def use_one_gpu(arguments: Any) -> None:
    """Keeps a process that trains alone to one GPU, also where the machine has more.

    transformers would train on all of them with DataParallel, and multiply the batch size by their number.

    Args:
        arguments: The trainer's arguments.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)
