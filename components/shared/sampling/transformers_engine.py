"""Sampling with transformers, in batches of prompts of similar length."""

from collections.abc import Iterator, Sequence

from components.shared.accelerator import accelerator, sampling_precision
from components.shared.policy import Policy
from components.shared.sampling.base import Completion, sampling_order
from components.shared.stage import Progress


class TransformersSampler:
    """A Sampler on transformers' `generate`; each batch waits for its longest completion.

    Args:
        policy: The policy.
        batch_size: Number of sequences generated at once.
    """

    def __init__(self, policy: Policy, *, batch_size: int) -> None:
        self._policy, self._device, self._batch_size = policy, accelerator(), batch_size
        self._model = policy.load_model(sampling_precision()).to(self._device).eval()

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

        tokenizer, eos = self._policy.tokenizer, self._policy.eos_token_ids
        options = {
            "max_new_tokens": max_tokens,
            "eos_token_id": sorted(eos),
            "pad_token_id": tokenizer.pad_token_id,
            "top_k": 0,
            "do_sample": temperature > 0,
            "temperature": temperature or None,
            "top_p": top_p if temperature > 0 else None,
        }
        prompt_ids = self._policy.prompt_token_ids(prompts)
        sequences = sampling_order(prompt_ids, n)
        stop_ids = torch.tensor(sorted(eos), device=self._device)
        for start in range(skip * self._batch_size, len(sequences), self._batch_size):
            # A separate seed for each batch: its content does not depend on the batches before it.
            torch.manual_seed(hash((seed, start)) % 2**63)
            batch = sequences[start : start + self._batch_size]
            padded = tokenizer.pad({"input_ids": [prompt_ids[i] for i, _ in batch]}, return_tensors="pt")
            padded = padded.to(self._device)
            with torch.inference_mode():
                generated = self._model.generate(**padded, **options)
            completions = generated[:, padded["input_ids"].shape[1] :]
            ended = torch.isin(completions, stop_ids)
            lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, completions.shape[1]).tolist()
            rows = [ids[:length] for ids, length in zip(completions.tolist(), lengths, strict=True)]
            texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
            yield [
                Completion(index, k, text, ids, "stop" if ids[-1] in eos else "length")
                for (index, k), ids, text in zip(batch, rows, texts, strict=True)
            ]
            if progress:
                progress.advance(len(batch))

    def close(self) -> None:
        """See Sampler."""
        del self._model
