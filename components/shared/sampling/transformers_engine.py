"""Sampling with transformers, in batches of prompts of similar length."""

from collections.abc import Iterable, Iterator

from components.shared.accelerator import accelerator, sampling_precision
from components.shared.policy import Policy
from components.shared.sampling.base import Batch, Completion


class TransformersSampler:
    """A Sampler on transformers' `generate`; each batch waits for its longest completion.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy, self._device = policy, accelerator()
        self._model = policy.load_model(sampling_precision()).to(self._device).eval()

    def sample(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[Completion]]]:
        """See Sampler."""
        for batch in batches:
            yield batch, self._completions(batch)

    def _completions(self, batch: Batch) -> list[Completion]:
        import torch

        tokenizer, eos = self._policy.tokenizer, self._policy.eos_token_ids
        decoding, stop_ids = batch.decoding, torch.tensor(sorted(eos), device=self._device)
        # A separate seed for each batch: its content does not depend on the batches before it.
        torch.manual_seed(hash((decoding.seed, batch.start)) % 2**63)
        padded = tokenizer.pad({"input_ids": [batch.prompt_ids[i] for i, _ in batch.sequences]}, return_tensors="pt")
        padded = padded.to(self._device)
        with torch.inference_mode():
            generated = self._model.generate(
                **padded,
                max_new_tokens=decoding.max_tokens,
                eos_token_id=sorted(eos),
                pad_token_id=tokenizer.pad_token_id,
                top_k=0,
                do_sample=decoding.temperature > 0,
                temperature=decoding.temperature or None,
                top_p=decoding.top_p if decoding.temperature > 0 else None,
            )
        completions = generated[:, padded["input_ids"].shape[1] :]
        ended = torch.isin(completions, stop_ids)
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, completions.shape[1]).tolist()
        rows = [ids[:length] for ids, length in zip(completions.tolist(), lengths, strict=True)]
        texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            Completion(index, k, text, ids, "stop" if ids[-1] in eos else "length")
            for (index, k), ids, text in zip(batch.sequences, rows, texts, strict=True)
        ]

    def close(self) -> None:
        """See Sampler."""
        del self._model
