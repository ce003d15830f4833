"""What has been judged already, within a bound on memory."""

import sys
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

CACHE_BYTES = 64 << 20

Key = TypeVar("Key", bound=tuple[Hashable, ...])
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Values by keys that are tuples of texts; the oldest are forgotten when they all take too many bytes.

    A key may be a whole completion, so that a bound on their number would be none on their memory.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._values: dict[Key, Value] = {}
        self._limit, self.bytes = limit, 0

    def get(self, key: Key) -> Value | None:
        """The value; None where there is none."""
        return self._values.get(key)

    def add(self, values: Mapping[Key, Value]) -> None:
        """Remembers more, and forgets what is too much."""
        for key, value in values.items():
            if key not in self._values:
                self.bytes += _size(key, value)
            self._values[key] = value
            while self.bytes > self._limit:
                oldest = next(iter(self._values))
                self.bytes -= _size(oldest, self._values.pop(oldest))


def _size(key: tuple[Hashable, ...], value: object) -> int:
    """Bytes of an entry: its texts, and about 300 of the dictionary, the tuples and numbers."""
    texts = (part for part in (*key, *(value if isinstance(value, tuple) else ())) if isinstance(part, str))
    return 300 + sum(map(sys.getsizeof, texts))
