"""Choosing the sampling engine; both sample from the same distribution.

vLLM (vllm_engine.py) is for GPUs; transformers (transformers_engine.py) runs everywhere.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.shared.accelerator import accelerator
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.sampling.base import Sampler
from components.shared.sampling.transformers_engine import TransformersSampler

Engine = Literal["vllm", "transformers"]


def chosen_engine(engine: Literal["auto"] | Engine) -> Engine:
    """Returns the engine that a setting stands for: `auto` is vLLM if it is installed and there is a GPU.

    Raises:
        InputError: vLLM is requested but not installed.
    """
    installed = importlib.util.find_spec("vllm") is not None
    if engine == "auto":
        return "vllm" if installed and accelerator() == "cuda" else "transformers"
    if engine == "vllm" and not installed:
        raise InputError(
            "vLLM is requested as the sampling engine, but it is not installed here: use images of the cuda variant, "
            "install it (`make test-vllm` shows how for a CPU), or set the engine to auto or transformers"
        )
    return engine


@dataclass(frozen=True)
class SamplerSettings:
    """How a policy is made ready to sample from, in whichever process.

    Attributes:
        policy: Folder of the policy.
        engine: As returned by chosen_engine.
        batch_size: Number of sequences generated at once.
        length: Maximum tokens of a prompt and its completion together; None for the policy's context.
        gpu_memory_utilization: Share of each GPU's memory that vLLM uses for weights and KV cache.
        tensor_parallel_size: Number of GPUs that vLLM spreads the policy over.
        at_once: vLLM takes further sequences while fewer than this are unfinished; by default `batch_size`.
    """

    policy: Path
    engine: Engine
    batch_size: int
    length: int | None = None
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    at_once: int | None = None

    def open(self) -> Sampler:
        """Makes the policy ready to sample from.

        Raises:
            InputError: The policy cannot be loaded, or not be spread over that many GPUs.
        """
        policy = Policy(self.policy)
        if self.engine == "transformers":
            return TransformersSampler(policy)
        from components.shared.sampling.vllm_engine import VLLMSampler

        return VLLMSampler(
            policy,
            batch_size=self.batch_size,
            length=self.length or policy.context_length,
            gpu_memory_utilization=self.gpu_memory_utilization,
            tensor_parallel_size=self.tensor_parallel_size,
            at_once=self.at_once,
        )
