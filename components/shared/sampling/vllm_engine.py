"""Sampling with vLLM: continuous batching, with prompts given as token ids that our own chat template rendered."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.policy.policy import accelerator, eos_token_ids, load_tokenizer, prompt_token_ids
from components.shared.sampling.base import Completion, sampling_order, sampling_precision
from components.shared.stage import Progress

_MOST_SEQUENCES = 1024  # vLLM's own default on the largest GPUs; further ones of a batch wait
_CPU_KV_CACHE_BYTES = 1 << 30  # of the small policies that a CPU serves; vLLM's own default is most of the machine


class VLLMSampler:
    """A Sampler on vLLM's engine.

    Each sequence has a seed of its own, so that neither what is generated beside it nor where sampling was taken up
    again decides about it.

    Args:
        policy: its folder.
        batch_size: sequences generated at once, up to 1024.
        length: tokens that a prompt and its completion take together at most.
        gpu_memory_utilization: share of each GPU's memory for weights and KV cache.
        tensor_parallel_size: GPUs to spread the policy over; all that are there if None.

    Raises:
        InputError: the policy cannot be spread over so many GPUs.
    """

    def __init__(
        self,
        policy: str | Path,
        *,
        batch_size: int,
        length: int,
        gpu_memory_utilization: float,
        tensor_parallel_size: int | None,
    ) -> None:
        on_gpus = accelerator() == "cuda"
        where = _on_gpus(policy, gpu_memory_utilization, tensor_parallel_size) if on_gpus else _on_cpu()
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing is reported to anyone
        from vllm import EngineArgs, LLMEngine

        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(policy),
                skip_tokenizer_init=True,  # tokens go in and out; where to stop is told with each request
                trust_remote_code=False,
                load_format="safetensors",
                generation_config="vllm",  # not the sampling settings that came with a checkpoint
                dtype=sampling_precision(),
                max_model_len=length,
                max_num_seqs=min(batch_size, _MOST_SEQUENCES),
                enable_prefix_caching=True,  # a prompt is read once for its n samples
                disable_log_stats=True,
                **where,
            )
        )
        self._tokenizer = load_tokenizer(policy)
        self._eos = eos_token_ids(policy)
        self._batch_size = batch_size

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

        prompt_ids = prompt_token_ids(self._tokenizer, prompts)
        sequences = sampling_order(prompt_ids, n)[skip * self._batch_size :]
        inputs = self._engine.renderer.render_cmpl([{"prompt_token_ids": ids} for ids in prompt_ids])

        def request(number: int) -> tuple[Any, Any]:
            index, k = sequences[number]
            return inputs[index], SamplingParams(
                temperature=temperature,
                top_p=top_p,
                top_k=0,
                max_tokens=max_tokens,
                stop_token_ids=sorted(self._eos),
                seed=hash((seed, index, k)) % 2**63,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )

        starts = range(0, len(sequences), self._batch_size)
        for start, rows in zip(starts, self._generate(len(sequences), request), strict=True):
            texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
            yield [
                Completion(index, k, text, ids, "stop" if ids[-1] in self._eos else "length")
                for (index, k), ids, text in zip(sequences[start : start + len(rows)], rows, texts, strict=True)
            ]
            if progress:
                progress.advance(len(rows))

    def _generate(self, count: int, request: Callable[[int], tuple[Any, Any]]) -> Iterator[list[list[int]]]:
        """The token ids of `count` requests, a batch at a time and in order."""
        asked = 0
        waited_for: set[int] = set()
        finished: dict[int, list[int]] = {}
        try:
            for start in range(0, count, self._batch_size):
                batch = range(start, min(start + self._batch_size, count))
                while any(number in waited_for or number >= asked for number in batch):
                    # Twice as many as run at once: neither a batch's slow end nor judging what it held leaves the
                    # GPUs idle, since there the engine goes on in a process of its own.
                    while asked < count and self._engine.get_num_unfinished_requests() < 2 * self._batch_size:
                        self._engine.add_request(str(asked), *request(asked))
                        waited_for.add(asked)
                        asked += 1
                    for output in self._engine.step():
                        waited_for.remove(int(output.request_id))
                        finished[int(output.request_id)] = list(output.outputs[0].token_ids)
                yield [finished.pop(number) for number in batch]
        finally:
            self._engine.abort_request([str(number) for number in waited_for])

    def close(self) -> None:
        """See Sampler."""
        self._engine.engine_core.shutdown()


def _on_gpus(policy: str | Path, memory_utilization: float, tensor_parallel_size: int | None) -> dict[str, Any]:
    import torch

    size = tensor_parallel_size or torch.cuda.device_count()
    config = json.loads((Path(policy) / "config.json").read_text())
    heads = config.get("text_config", config).get("num_attention_heads", size)
    if size > torch.cuda.device_count() or heads % size:
        raise InputError(
            f"the policy's {heads} attention heads cannot be spread over {size} of this pod's "
            f"{torch.cuda.device_count()} GPUs: set eval.tensor_parallel_size to a number that divides them, or change "
            f"pools.inference.accelerators"
        )
    # This process has threads and CUDA, which a forked one could not go on with.
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    return {"tensor_parallel_size": size, "gpu_memory_utilization": memory_utilization}


def _on_cpu() -> dict[str, Any]:
    # In this process: the start takes seconds instead of most of a minute, the results are the same.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return {
        "enforce_eager": True,  # compiling takes longer than it saves
        "kv_cache_memory_bytes": _CPU_KV_CACHE_BYTES,
        # A prompt in parts would rewind its sequence's random generator, which torch's CPU generators cannot.
        "enable_chunked_prefill": False,
    }
