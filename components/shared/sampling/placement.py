"""How sampling uses a pod's GPUs: how many replicas of the policy, and how many GPUs each is spread over."""

from typing import NamedTuple

from pydantic import Field

from components.shared.accelerator import accelerator
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.model_size import ModelSize
from components.shared.sampling.vllm_memory import engine_memory
from components.shared.settings import Settings

# Sequences of full length that the KV cache should hold, if as many are sampled at once. With fewer, a step spends most
# of its time reading the weights, which more GPUs share. Our choice, not measured.
_ROOM = 32
# A running sequence is on average half as long as it may become, so twice as many run as fit at full length.
_RUNNING = 2


class SamplingParallelSettings(Settings):
    """Replicas of the policy that share the sampling; they change its speed, not its results."""

    replicas: int | None = Field(
        None,
        ge=1,
        description="Replicas of the policy, each a process with GPUs of its own; as many as the pod's GPUs hold if "
        "null, and one on CPUs.",
    )
    tensor_parallel_size: int | None = Field(
        None,
        ge=1,
        description="Number of GPUs that vLLM spreads each replica over; the smallest that divides the GPUs and leaves "
        "room for a KV cache if null.",
    )


ALL_GPUS = SamplingParallelSettings.model_construct()


class Placement(NamedTuple):
    """Replicas of a policy, each on GPUs of its own."""

    replicas: int = 1
    tensor_parallel_size: int = 1  # GPUs that each replica is spread over
    at_once: int | None = None  # sequences that a replica of vLLM runs at once; None: as many as requested

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return self.replicas * self.tensor_parallel_size


def can_split(model: ModelSize, gpus: int) -> bool:
    """Whether vLLM can split a model: heads evenly, and key-value heads evenly or each replicated evenly."""
    keys = model.key_value_heads
    return model.heads % gpus == 0 and (keys % gpus == 0 or gpus % keys == 0)


def place_vllm(
    model: ModelSize,
    gpus: int,
    share: int,
    sequences: int,
    tokens: int,
    parallel: SamplingParallelSettings = ALL_GPUS,
) -> Placement:
    """Places replicas of vLLM on the GPUs of a pod; what is not given is chosen so that all GPUs are used.

    The tensor parallel size is the smallest that leaves room for a KV cache, because replicas sample as many times
    faster as there are of them, and GPUs that share a policy do not: each layer waits for all of them.

    Args:
        model: The policy's size.
        gpus: GPUs of the pod.
        share: Bytes of each GPU that vLLM may use.
        sequences: Number of sequences requested at once of each replica.
        tokens: Length of a sequence, prompt and completion.
        parallel: The recipe's `eval.parallel`.
    """
    replicas = parallel.replicas
    size = parallel.tensor_parallel_size or _tensor_parallel_size(model, gpus, share, sequences, tokens, replicas)
    fitting = engine_memory(model, share, sequences, tokens, size).fitting
    return Placement(replicas or max(1, gpus // size), size, max(1, min(sequences, _RUNNING * fitting)))


def _tensor_parallel_size(
    model: ModelSize, gpus: int, share: int, sequences: int, tokens: int, replicas: int | None
) -> int:
    most = gpus // replicas if replicas else gpus  # GPUs that one replica may have
    sizes = [n for n in range(1, most + 1) if can_split(model, n) and (replicas or gpus % n == 0)]
    fitting = {n: engine_memory(model, share, sequences, tokens, n).fitting for n in sizes}
    with_room = [n for n in sizes if fitting[n] >= min(sequences, _ROOM)]
    return with_room[0] if with_room else max([1, *sizes])


def place(
    policy: Policy,
    engine: str,
    *,
    sequences: int,
    tokens: int,
    gpu_memory_utilization: float,
    parallel: SamplingParallelSettings,
) -> Placement:
    """Places replicas of a policy on what this pod has.

    Args:
        policy: The policy.
        engine: The sampling engine.
        sequences: Number of sequences generated at once by each replica.
        tokens: Maximum tokens of a prompt and its completion together.
        gpu_memory_utilization: Share of each GPU's memory for vLLM.
        parallel: The recipe's `eval.parallel`.

    Raises:
        InputError: The pod has fewer GPUs than that takes.
    """
    if accelerator() == "cpu":
        return Placement(parallel.replicas or 1)
    import torch

    gpus = torch.cuda.device_count()
    if engine == "transformers":
        placed = Placement(parallel.replicas or gpus)
    else:
        weights = sum(file.stat().st_size for file in policy.path.glob("*.safetensors"))
        model = ModelSize.from_config(policy.config, weights)
        share = int(gpu_memory_utilization * torch.cuda.get_device_properties(0).total_memory)
        placed = place_vllm(model, gpus, share, sequences, tokens, parallel)
    if placed.gpus > gpus:
        raise InputError(
            f"eval.parallel: {placed.replicas} replicas of {placed.tensor_parallel_size} GPUs each need {placed.gpus} "
            f"GPUs, but this pod has {gpus}; lower them, or raise pools.inference.accelerators"
        )
    return placed
