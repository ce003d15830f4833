"""Digests of files, composed from those of their parts, which may be transferred and digested at once."""

from collections.abc import Sequence
from pathlib import Path

import xxhash

PART = 16 << 20  # bytes; larger files are digested and come in parts of this size
_PIECE = 1 << 20  # bytes read at a time


def digest_of(path: Path) -> str:
    """A file's digest: XXH3 of 128 bits, in hexadecimal; of a larger file, that of the digests of its parts.

    It finds accidents at the speed of memory, and not attackers: who can write objects can write their digests.
    """
    parts, piece = [], memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as file:
        for _ in range(0, max(1, path.stat().st_size), PART):
            part, left = xxhash.xxh3_128(), PART
            while left and (count := file.readinto(piece[:left])):
                part.update(piece[:count])
                left -= count
            parts.append(part.hexdigest())
    return composed(parts)


def composed(parts: Sequence[str]) -> str:
    """The digest of a file from those of its parts, of PART bytes each."""
    return parts[0] if len(parts) == 1 else xxhash.xxh3_128_hexdigest("".join(parts).encode())
