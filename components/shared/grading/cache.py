"""A cache of verdicts that is bounded by memory, not by number of entries."""

import sys
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

CACHE_BYTES = 64 << 20

Key = TypeVar("Key", bound=tuple[Hashable, ...])
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Maps keys that are tuples of strings to values; evicts the oldest entries when all take too many bytes.

    A key may hold an entire completion, so limiting the number of entries would not limit memory.

    Args:
        limit: maximum size in bytes.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._values: dict[Key, Value] = {}
        self._limit, self.bytes = limit, 0

    def get(self, key: Key) -> Value | None:
        """Returns the value, or None if it is not cached."""
        return self._values.get(key)

    def add(self, values: Mapping[Key, Value]) -> None:
        """Adds entries, then evicts the oldest ones beyond the limit."""
        for key, value in values.items():
            if key not in self._values:
                self.bytes += _size(key, value)
            self._values[key] = value
            while self.bytes > self._limit:
                oldest = next(iter(self._values))
                self.bytes -= _size(oldest, self._values.pop(oldest))


def _size(key: tuple[Hashable, ...], value: object) -> int:
    """Estimates an entry's bytes: its strings, and about 300 for the dictionary slot, tuples and numbers."""
    texts = (part for part in (*key, *(value if isinstance(value, tuple) else ())) if isinstance(part, str))
    return 300 + sum(map(sys.getsizeof, texts))
