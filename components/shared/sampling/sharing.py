"""Sharing out batches among replicas: each takes the next one when it has room, so that none waits for another."""

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from components.shared.sampling.base import Batch

Key = TypeVar("Key")

# Sequences: small enough that no replica has many left when the others run out, large enough to cost nothing.
_PART = 16


class WorkQueue(Generic[Key]):
    """The batches of one policy or of several, from which replicas take.

    Args:
        work: Batches by policy, in any order.
        whole: Whether a replica takes whole batches; if not, it takes a few sequences at a time.

    Attributes:
        items: Number of batches, or parts of batches, to take in total.
    """

    def __init__(self, work: Mapping[Key, Sequence[Batch]], whole: bool) -> None:
        self._left: dict[Key, list[Batch]] = {}
        for key, batches in work.items():
            # The longest first, so that the end of the work is short: what is cut off later may take longer.
            ordered = sorted(batches, key=lambda b: (b.decoding.max_tokens, len(b.sequences)), reverse=True)
            items = [item for batch in ordered for item in ([batch] if whole else batch.parts(_PART))]
            if items:
                self._left[key] = items[::-1]
        self.items = sum(map(len, self._left.values()))
        self._at: dict[int, Key] = {}  # replica -> policy that it samples from

    def take(self, replica: int, same_policy: bool) -> tuple[Key, Batch] | None:
        """Takes the next item for a replica; None if there is none.

        Args:
            replica: Number of the replica.
            same_policy: Whether it must be of the policy that the replica is sampling from.
        """
        own = self._at.get(replica)
        if own is None or not self._left.get(own):
            if same_policy:
                return None
            own = self._next_policy(replica)
            if own is None:
                self._at.pop(replica, None)
                return None
            self._at[replica] = own
        return own, self._left[own].pop()

    def _next_policy(self, replica: int) -> Key | None:
        """Returns the policy that has most left for each replica that samples from it.

        Loading a policy takes long, so replicas spread over the policies before they help each other.
        """
        waiting = [key for key, items in self._left.items() if items]
        others = [key for number, key in self._at.items() if number != replica]
        return max(waiting, key=lambda key: len(self._left[key]) / (1 + others.count(key)), default=None)
