"""The interface of sampling: completions of prompts, in batches that depend on neither the engine nor the replicas."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from components.shared.policy import Policy


@dataclass(frozen=True)
class Completion:
    """One sampled completion of one prompt."""

    prompt_index: int  # into the prompts given
    sample_index: int  # 0 to n-1
    text: str  # without special tokens
    token_ids: list[int]  # as sampled, including EOS
    finish_reason: str  # stop | length


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn.

    Attributes:
        seed: Seed of the sampling; the same arguments on the same machine give the same completions.
        max_tokens: Maximum tokens of a completion; one that reaches it finishes with `length`.
        temperature: Sampling temperature; 0 always takes the most likely token.
        top_p: Nucleus sampling: probability mass of the tokens to sample from.
    """

    seed: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Sequences that are kept together, or a part of them."""

    name: str  # unique among the batches that are sampled together
    start: int  # number of the first sequence among all sequences of these prompts
    sequences: list[tuple[int, int]]  # (prompt index, sample index)
    prompt_ids: dict[int, list[int]]  # token IDs by prompt index
    decoding: Decoding

    def parts(self, size: int) -> Iterator["Batch"]:
        """Splits a batch into parts of at most `size` sequences."""
        for first in range(0, len(self.sequences), size):
            sequences = self.sequences[first : first + size]
            prompt_ids = {index: self.prompt_ids[index] for index, _ in sequences}
            yield replace(self, start=self.start + first, sequences=sequences, prompt_ids=prompt_ids)


class Sampler(Protocol):
    """A policy ready to sample from, on the GPU if there is one; close it to free its memory."""

    def sample(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[Completion]]]:
        """Samples batches, and yields each when it is complete, with its completions in the order of its sequences.

        Args:
            batches: Taken one by one, each when there is room for it. With vLLM a batch may be a part of another one,
                since each sequence has its own seed; with transformers the seed is the whole batch's.
        """

    def close(self) -> None:
        """Frees the policy's memory."""


def batches_of(
    policy: Policy, prompts: Sequence[str], n: int, batch_size: int, decoding: Decoding, prefix: str = ""
) -> list[Batch]:
    """Returns the batches in which n completions of every prompt are sampled.

    Args:
        policy: The policy, whose chat template renders the prompts.
        prompts: User messages, before the chat template.
        n: Samples per prompt.
        batch_size: Sequences per batch.
        decoding: How completions are drawn.
        prefix: What the batches' names start with.
    """
    prompt_ids = policy.prompt_token_ids(prompts)
    # Similar lengths together waste no padding; starting with the longest shows at once whether memory suffices.
    order = sorted(range(len(prompt_ids)), key=lambda i: len(prompt_ids[i]), reverse=True)
    sequences = [(index, k) for index in order for k in range(n)]
    whole = Batch(prefix, 0, sequences, dict(enumerate(prompt_ids)), decoding)
    return [replace(part, name=f"{prefix}{number:06d}") for number, part in enumerate(whole.parts(batch_size))]
