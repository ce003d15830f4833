"""The interface of sampling: completions of prompts, in batches that do not depend on the engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from components.shared.stage import Progress


@dataclass(frozen=True)
class Completion:
    """One sampled completion of one prompt."""

    prompt_index: int  # into the prompts given
    sample_index: int  # 0 to n-1
    text: str  # without special tokens
    token_ids: list[int]  # as sampled, including EOS
    finish_reason: str  # stop | length


class Sampler(Protocol):
    """A policy ready to sample from, on the GPU if there is one; close it to free its memory."""

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
        """Samples n completions of every prompt, one batch at a time; a prompt's n samples are consecutive.

        Which samples a batch contains does not depend on the engine.

        Args:
            prompts: User messages, before the chat template.
            n: Samples per prompt.
            seed: Seed of the sampling; the same arguments on the same machine give the same completions, batch by
                batch.
            max_tokens: Maximum tokens of a completion; one that reaches it finishes with `length`.
            temperature: Sampling temperature; 0 always takes the most likely token.
            top_p: Nucleus sampling: probability mass of the tokens to sample from.
            progress: Counts the completions.
            skip: Number of batches to skip at the beginning, because they were sampled before.
        """

    def close(self) -> None:
        """Frees the policy's memory."""


def sampling_order(prompt_ids: Sequence[Sequence[int]], n: int) -> list[tuple[int, int]]:
    """Returns the sequences to sample as (prompt index, sample index), in the order in which batches take them.

    Args:
        prompt_ids: Token IDs of each prompt.
        n: Samples per prompt.
    """
    # Similar lengths together waste no padding; starting with the longest shows at once whether memory suffices.
    order = sorted(range(len(prompt_ids)), key=lambda i: len(prompt_ids[i]), reverse=True)
    return [(index, k) for index in order for k in range(n)]
