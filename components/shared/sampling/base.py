"""Sampling completions from a policy: one interface, two engines, which sample from the same distribution.

vLLM (vllm_engine.py) is for GPUs; transformers (here, in batches of prompts of like length) runs everywhere.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from components.shared.errors import InputError
from components.shared.policy.policy import (
    accelerator,
    context_length,
    eos_token_ids,
    gpu_has_bfloat16,
    load_model,
    load_tokenizer,
    prompt_token_ids,
)
from components.shared.stage import Progress

Engine = Literal["vllm", "transformers"]


@dataclass(frozen=True)
class Completion:
    """One sampled completion of one prompt."""

    prompt_index: int  # into the prompts given
    sample_index: int  # 0 to n-1
    text: str  # without special tokens
    token_ids: list[int]  # as sampled, EOS included
    finish_reason: str  # stop | length


class Sampler(Protocol):
    """A policy ready to sample from, on the GPU where there is one; close it to free its memory."""

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
        """Samples n completions of every prompt, a batch at a time; a prompt's n samples come one after the other.

        Which samples a batch has does not depend on the engine.

        Args:
            prompts: users' messages, before the chat template.
            n: samples a prompt.
            seed: of the sampling; the same arguments on the same machine give the same completions, batch by batch.
            max_tokens: of a completion; one that reaches it finishes with `length`.
            temperature, top_p: of the sampling; a temperature of 0 takes the likeliest token each time.
            progress: counts the completions.
            skip: batches to leave out at the beginning, since they are there already.
        """

    def close(self) -> None:
        """Frees the policy's memory."""


def chosen_engine(engine: Literal["auto"] | Engine) -> Engine:
    """The engine that a setting stands for: `auto` is vLLM where it is installed and a GPU is there.

    Raises:
        InputError: vLLM is asked for and is not installed.
    """
    installed = importlib.util.find_spec("vllm") is not None
    if engine == "auto":
        return "vllm" if installed and accelerator() == "cuda" else "transformers"
    if engine == "vllm" and not installed:
        raise InputError(
            "vLLM is asked for as the sampling engine, but it is not installed here: use images of the cuda variant, "
            "install it (`make test-vllm` shows how for a CPU), or set the engine to auto or transformers"
        )
    return engine


def open_sampler(
    policy: str | Path,
    engine: Engine,
    *,
    batch_size: int,
    length: int | None = None,
    gpu_memory_utilization: float = 0.9,
    tensor_parallel_size: int | None = None,
) -> Sampler:
    """Makes a policy ready to sample from.

    Args:
        policy: its folder.
        engine: as chosen_engine gives it.
        batch_size: sequences generated at once.
        length: tokens that a prompt and its completion take together at most; the policy's context if None.
        gpu_memory_utilization: share of each GPU's memory that vLLM takes for weights and KV cache.
        tensor_parallel_size: GPUs that vLLM spreads the policy over; all that are there if None.

    Raises:
        InputError: the policy cannot be spread over so many GPUs.
    """
    if engine == "transformers":
        return TransformersSampler(policy, batch_size=batch_size)
    from components.shared.sampling.vllm_engine import VLLMSampler

    return VLLMSampler(
        policy,
        batch_size=batch_size,
        length=length or context_length(policy),
        gpu_memory_utilization=gpu_memory_utilization,
        tensor_parallel_size=tensor_parallel_size,
    )


def sampling_order(prompt_ids: Sequence[Sequence[int]], n: int) -> list[tuple[int, int]]:
    """The sequences to sample, as (prompt index, sample index), in the order in which batches take them."""
    # Like lengths together waste no padding; the longest first shows at once whether memory suffices.
    order = sorted(range(len(prompt_ids)), key=lambda i: len(prompt_ids[i]), reverse=True)
    return [(index, k) for index in order for k in range(n)]


class TransformersSampler:
    """A Sampler on transformers' `generate`; each batch waits for its longest completion.

    Args:
        policy: its folder.
        batch_size: sequences generated at once.
    """

    def __init__(self, policy: str | Path, *, batch_size: int) -> None:
        self._device = accelerator()
        self._tokenizer = load_tokenizer(policy)
        self._model = load_model(policy, sampling_precision()).to(self._device).eval()
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
        import torch

        options = {
            "max_new_tokens": max_tokens,
            "eos_token_id": sorted(self._eos),
            "pad_token_id": self._tokenizer.pad_token_id,
            "top_k": 0,
            "do_sample": temperature > 0,
            "temperature": temperature or None,
            "top_p": top_p if temperature > 0 else None,
        }
        prompt_ids = prompt_token_ids(self._tokenizer, prompts)
        sequences = sampling_order(prompt_ids, n)
        stop_ids = torch.tensor(sorted(self._eos), device=self._device)
        for start in range(skip * self._batch_size, len(sequences), self._batch_size):
            # Of its own for each batch: what a batch holds does not depend on the ones before it.
            torch.manual_seed(hash((seed, start)) % 2**63)
            batch = sequences[start : start + self._batch_size]
            padded = self._tokenizer.pad({"input_ids": [prompt_ids[i] for i, _ in batch]}, return_tensors="pt")
            padded = padded.to(self._device)
            with torch.inference_mode():
                generated = self._model.generate(**padded, **options)
            completions = generated[:, padded["input_ids"].shape[1] :]
            ended = torch.isin(completions, stop_ids)
            lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, completions.shape[1]).tolist()
            rows = [ids[:length] for ids, length in zip(completions.tolist(), lengths, strict=True)]
            texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
            yield [
                Completion(index, k, text, ids, "stop" if ids[-1] in self._eos else "length")
                for (index, k), ids, text in zip(batch, rows, texts, strict=True)
            ]
            if progress:
                progress.advance(len(batch))

    def close(self) -> None:
        """See Sampler."""
        del self._model


def sampling_precision() -> str:
    """The precision of the weights that policies are sampled with, whatever the engine."""
    return "bfloat16" if gpu_has_bfloat16() else "float32"
