"""Sampling with vLLM: continuous batching, with prompts given as token IDs that the policy's chat template rendered."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from components.shared.accelerator import accelerator, sampling_precision
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.sampling.base import Completion, sampling_order
from components.shared.stage import Progress

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
        tensor_parallel_size: Number of GPUs to spread the policy over; None for all of the pod's.

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
        tensor_parallel_size: int | None,
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
        self._policy, self._batch_size = policy, batch_size

    def sample(
        self,
        prompts: Sequence[str],
        n: int,
        seed: int,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        progress: Progress | None = None,
        skip: int = 0,
    ) -> Iterator[list[Completion]]:
        """See Sampler."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        eos = self._policy.eos_token_ids
        prompt_ids = self._policy.prompt_token_ids(prompts)
        sequences = sampling_order(prompt_ids, n)[skip * self._batch_size :]
        inputs = self._engine.renderer.render_cmpl([{"prompt_token_ids": ids} for ids in prompt_ids])

        def request(number: int) -> tuple[Any, Any]:
            index, k = sequences[number]
            return inputs[index], SamplingParams(
                temperature=temperature,
                top_p=top_p,
                top_k=0,
                max_tokens=max_tokens,
                stop_token_ids=sorted(eos),
                seed=hash((seed, index, k)) % 2**63,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )

        starts = range(0, len(sequences), self._batch_size)
        for start, rows in zip(starts, self._generate(len(sequences), request), strict=True):
            texts = self._policy.tokenizer.batch_decode(rows, skip_special_tokens=True)
            yield [
                Completion(index, k, text, ids, "stop" if ids[-1] in eos else "length")
                for (index, k), ids, text in zip(sequences[start : start + len(rows)], rows, texts, strict=True)
            ]
            if progress:
                progress.advance(len(rows))

    def _generate(self, count: int, request: Callable[[int], tuple[Any, Any]]) -> Iterator[list[list[int]]]:
        """Yields the token IDs of `count` requests, one batch at a time and in order."""
        added = 0
        pending: set[int] = set()
        finished: dict[int, list[int]] = {}
        try:
            for start in range(0, count, self._batch_size):
                batch = range(start, min(start + self._batch_size, count))
                while any(number in pending or number >= added for number in batch):
                    # Twice as many as run at once: neither a batch's slow end nor grading its samples leaves the GPUs
                    # idle, since on GPUs the engine continues in its own process.
                    while added < count and self._engine.get_num_unfinished_requests() < 2 * self._batch_size:
                        self._engine.add_request(str(added), *request(added))
                        pending.add(added)
                        added += 1
                    for output in self._engine.step():
                        pending.remove(int(output.request_id))
                        finished[int(output.request_id)] = list(output.outputs[0].token_ids)
                yield [finished.pop(number) for number in batch]
        finally:
            self._engine.abort_request([str(number) for number in pending])

    def close(self) -> None:
        """See Sampler."""
        self._engine.engine_core.shutdown()


def _gpu_arguments(policy: Policy, memory_utilization: float, tensor_parallel_size: int | None) -> dict[str, Any]:
    import torch

    size = tensor_parallel_size or torch.cuda.device_count()
    heads = policy.config.get("text_config", policy.config).get("num_attention_heads", size)
    if size > torch.cuda.device_count() or heads % size:
        raise InputError(
            f"the policy's {heads} attention heads cannot be spread over {size} of this pod's "
            f"{torch.cuda.device_count()} GPUs: set eval.tensor_parallel_size to a number that divides them, or change "
            f"pools.inference.accelerators"
        )
    # This process has threads and CUDA, with which a forked process could not work.
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    return {"tensor_parallel_size": size, "gpu_memory_utilization": memory_utilization}


def _cpu_arguments() -> dict[str, Any]:
    # In this process: starting takes seconds instead of most of a minute, and the results are the same.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return {
        "enforce_eager": True,  # compiling takes longer than it saves
        "kv_cache_memory_bytes": _CPU_KV_CACHE_BYTES,
        # Chunked prefill would rewind the sequence's random generator, which torch's CPU generators cannot do.
        "enable_chunked_prefill": False,
    }
