"""The memory that vLLM takes: a share of each GPU, of which weights and activations leave the rest as KV cache.

docs/plan.md writes it down with its sources.
"""

from dataclasses import dataclass

from components.preflight.memory import cache_bytes, sampling_activations
from components.preflight.model_size import ModelSize

_PREFILLED = 8192  # tokens of prompts that pass at once: TRL sets 4,096, vLLM's defaults are 2,048 to 16,384
_VALUE_BYTES = 2  # of a weight, a key or a value: bfloat16


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of each of vLLM's GPUs, and what fits in its cache."""

    share: int  # all that it takes
    weights: int
    activations: int
    token: int  # of one token's keys and values
    sequence: int  # of one sequence's, at full length
    fitting: int  # sequences of full length in the cache at once
    at_once: int  # of those that are asked for

    @property
    def needed(self) -> int:
        """The least it can work with: one sequence at a time."""
        return self.weights + self.activations + self.sequence

    @property
    def cache(self) -> int:
        """What is left for keys and values."""
        return max(0, self.share - self.weights - self.activations)


def samples_with_vllm(engine: str, on_gpu: bool) -> bool:
    """Whether a recipe's `engine` stands for vLLM where it will run: with `auto`, on GPUs, whose images have it.

    On CPUs both engines count as transformers: what vLLM takes there does not depend on the machine's memory.
    """
    return on_gpu and engine != "transformers"


def engine_memory(model: ModelSize, share: int, sequences: int, tokens: int, gpus: int = 1) -> EngineMemory:
    """What vLLM makes of its share of each GPU.

    Args:
        model: its size.
        share: bytes of a GPU that it may take.
        sequences: that are asked for at once.
        tokens: of a sequence, prompt and completion.
        gpus: over which tensor parallelism spreads weights and cache; a key's head lies on one of them, or on several
            where there are more GPUs than heads.
    """
    weights = model.parameters * _VALUE_BYTES // gpus
    activations = sampling_activations(model, sequences, min(_PREFILLED, sequences * tokens), _VALUE_BYTES)
    heads_here = -(-model.key_value_heads // gpus)
    token = cache_bytes(model, 2 * _VALUE_BYTES) * heads_here // model.key_value_heads
    sequence = tokens * token
    fitting = max(0, share - weights - activations) // sequence
    return EngineMemory(share, weights, activations, token, sequence, fitting, min(sequences, fitting))
