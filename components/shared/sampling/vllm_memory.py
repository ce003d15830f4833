"""vLLM's memory: a fixed share of each GPU, in which weights and activations leave the rest for the KV cache.

docs/plan.md has the model and its sources.
"""

from dataclasses import dataclass

from components.shared.policy.model_size import ModelSize

_PREFILL_TOKENS = 8192  # prompt tokens per batch: TRL sets 4,096, vLLM's defaults are 2,048 to 16,384
_VALUE_BYTES = 2  # per weight, key or value: bfloat16
# Logits of the next token while sampling, their probabilities, and both again, sorted, for top_p.
_SAMPLING_LOGIT_BYTES = 4 * 4


@dataclass(frozen=True)
class EngineMemory:
    """Bytes on each GPU of a vLLM engine, and how many sequences its KV cache holds."""

    share: int  # the whole allocation
    weights: int
    activations: int
    token: int  # keys and values of one token
    sequence: int  # keys and values of one sequence of full length
    fitting: int  # sequences of full length that the cache holds
    at_once: int  # the same, up to the number requested

    @property
    def needed(self) -> int:
        """The minimum: one sequence at a time."""
        return self.weights + self.activations + self.sequence

    @property
    def cache(self) -> int:
        """What remains for keys and values."""
        return max(0, self.share - self.weights - self.activations)


def samples_with_vllm(engine: str, on_gpu: bool) -> bool:
    """Whether a recipe's `engine` resolves to vLLM where it will run: `auto` does on GPUs, whose images have it.

    On CPUs both engines count as transformers: vLLM's memory there does not depend on the machine's.
    """
    return on_gpu and engine != "transformers"


def engine_memory(model: ModelSize, share: int, sequences: int, tokens: int, gpus: int = 1) -> EngineMemory:
    """How vLLM divides its share of each GPU.

    Args:
        model: the policy's size.
        share: bytes of each GPU that vLLM may use.
        sequences: number of sequences requested at once.
        tokens: length of a sequence, prompt and completion.
        gpus: tensor parallel size; each key head is on one GPU, or replicated if there are more GPUs than heads.
    """
    weights = model.parameters * _VALUE_BYTES // gpus
    activations = sampling_activations(model, sequences, min(_PREFILL_TOKENS, sequences * tokens), _VALUE_BYTES)
    heads_here = -(-model.key_value_heads // gpus)
    token = cache_bytes(model, 2 * _VALUE_BYTES) * heads_here // model.key_value_heads
    sequence = tokens * token
    fitting = max(0, share - weights - activations) // sequence
    return EngineMemory(share, weights, activations, token, sequence, fitting, min(sequences, fitting))


def cache_bytes(model: ModelSize, pair_bytes: int) -> int:
    """Bytes of one token's keys and values in all layers, if a key and a value together take `pair_bytes`."""
    return model.layers * model.key_value_width * pair_bytes


def sampling_activations(model: ModelSize, sequences: int, prefilled: int, value: int) -> int:
    """Bytes of the prompts in one layer during prefill, plus those of the next token's logits.

    Args:
        model: the policy's size.
        sequences: sequences decoded at once.
        prefilled: prompt tokens prefilled at once.
        value: bytes per number.
    """
    prefill = prefilled * (4 * model.hidden + 3 * model.intermediate) * value
    return prefill + sequences * model.vocabulary * _SAMPLING_LOGIT_BYTES
