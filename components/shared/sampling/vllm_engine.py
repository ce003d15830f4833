"""Sampling with vLLM: continuous batching, with prompts given as token IDs that the policy's chat template rendered."""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

from components.shared.accelerator import accelerator, sampling_precision
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.sampling.base import Batch, Completion

_MAX_SEQUENCES = 1024  # vLLM's own default on the largest GPUs; further sequences of a batch wait
_CPU_KV_CACHE_BYTES = 1 << 30  # for the small policies that a CPU serves; vLLM's own default is most of the memory


class VLLMSampler:
    """A Sampler on vLLM's engine.

    Each sequence has its own seed, so that it depends neither on what is generated beside it nor on where sampling
    was resumed.

    Args:
        policy: The policy.
        batch_size: Number of sequences generated at once, up to 1024.
        length: Maximum tokens of a prompt and its completion together.
        gpu_memory_utilization: Share of each GPU's memory for weights and KV cache.
        tensor_parallel_size: Number of GPUs to spread the policy over.
        at_once: A further batch is taken while fewer sequences than this are unfinished; by default `batch_size`.

    Raises:
        InputError: The policy cannot be spread over that many GPUs.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        batch_size: int,
        length: int,
        gpu_memory_utilization: float,
        tensor_parallel_size: int,
        at_once: int | None = None,
    ) -> None:
        if accelerator() == "cuda":
            device_arguments = _gpu_arguments(policy, gpu_memory_utilization, tensor_parallel_size)
        else:
            device_arguments = _cpu_arguments()
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing is reported to anyone
        from vllm import EngineArgs, LLMEngine

        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(policy.path),
                skip_tokenizer_init=True,  # tokens go in and out; each request says where to stop
                trust_remote_code=False,
                load_format="safetensors",
                generation_config="vllm",  # not the checkpoint's sampling settings
                dtype=sampling_precision(),
                max_model_len=length,
                max_num_seqs=min(batch_size, _MAX_SEQUENCES),
                enable_prefix_caching=True,  # a prompt is prefilled once for its n samples
                disable_log_stats=True,
                **device_arguments,
            )
        )
        self._policy, self._at_once = policy, at_once or batch_size

    def sample(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[Completion]]]:
        """See Sampler."""
        left = iter(batches)
        numbers = itertools.count()
        places: dict[str, tuple[Batch, int]] = {}  # request ID -> batch, and place in it
        rows: dict[tuple[str, int], list[list[int]]] = {}  # token IDs of a batch that is being sampled
        missing: dict[tuple[str, int], int] = {}  # how many of its sequences are not finished
        more = True
        try:
            while more or places:
                while more and len(places) < self._at_once:
                    # On GPUs the engine runs in its own process and continues while a batch is taken or judged.
                    taken = next(left, None)
                    if taken is None:
                        more = False
                        break
                    key = (taken.name, taken.start)
                    rows[key], missing[key] = [[]] * len(taken.sequences), len(taken.sequences)
                    for place, request in enumerate(self._requests(taken)):
                        places[number := str(next(numbers))] = (taken, place)
                        self._engine.add_request(number, *request)
                for output in self._engine.step() if places else ():
                    batch, place = places.pop(output.request_id)
                    key = (batch.name, batch.start)
                    rows[key][place] = list(output.outputs[0].token_ids)
                    missing[key] -= 1
                    if not missing[key]:
                        yield batch, self._completions(batch, rows.pop(key))
        finally:
            self._engine.abort_request(list(places))

    def _requests(self, batch: Batch) -> Iterator[tuple[Any, Any]]:
        """Yields the engine's input and sampling parameters for each sequence of a batch."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        decoding, indices = batch.decoding, list(batch.prompt_ids)
        rendered = self._engine.renderer.render_cmpl([{"prompt_token_ids": batch.prompt_ids[i]} for i in indices])
        inputs = dict(zip(indices, rendered, strict=True))
        for index, k in batch.sequences:
            yield (
                inputs[index],
                SamplingParams(
                    temperature=decoding.temperature,
                    top_p=decoding.top_p,
                    top_k=0,
                    max_tokens=decoding.max_tokens,
                    stop_token_ids=sorted(self._policy.eos_token_ids),
                    seed=hash((decoding.seed, index, k)) % 2**63,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                ),
            )

    def _completions(self, batch: Batch, rows: list[list[int]]) -> list[Completion]:
        eos = self._policy.eos_token_ids
        texts = self._policy.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            Completion(index, k, text, ids, "stop" if ids[-1] in eos else "length")
            for (index, k), ids, text in zip(batch.sequences, rows, texts, strict=True)
        ]

    def close(self) -> None:
        """See Sampler."""
        self._engine.engine_core.shutdown()


def _gpu_arguments(policy: Policy, memory_utilization: float, tensor_parallel_size: int) -> dict[str, Any]:
    import torch

    heads = policy.config.get("text_config", policy.config).get("num_attention_heads", tensor_parallel_size)
    if tensor_parallel_size > (gpus := torch.cuda.device_count()) or heads % tensor_parallel_size:
        raise InputError(
            f"the policy's {heads} attention heads cannot be spread over {tensor_parallel_size} of this pod's {gpus} "
            f"GPUs: set eval.parallel.tensor_parallel_size to a number that divides them, or change "
            f"pools.inference.accelerators"
        )
    # This process has threads and CUDA, with which a forked process could not work.
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    return {"tensor_parallel_size": tensor_parallel_size, "gpu_memory_utilization": memory_utilization}


def _cpu_arguments() -> dict[str, Any]:
    # In this process: starting takes seconds instead of most of a minute, and the results are the same.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return {
        "enforce_eager": True,  # compiling takes longer than it saves
        "kv_cache_memory_bytes": _CPU_KV_CACHE_BYTES,
        # Chunked prefill would rewind the sequence's random generator, which torch's CPU generators cannot do.
        "enable_chunked_prefill": False,
    }
