"""Similarity of completions by their token trigrams."""

import hashlib
import re

import numpy as np
import numpy.typing as npt

_TOKEN = re.compile(r"\w+|[^\w\s]")
SKETCH_SIZE = 48
_NONE = np.uint64(2**64 - 1)  # fills a short sketch up; no hash, as those have 48 bits

Sketch = npt.NDArray[np.uint64]  # shape (SKETCH_SIZE,), ascending


def solution_text(completion: str) -> str:
    """Normalises what does not make a completion a different solution: case and white space."""
    return " ".join(completion.lower().split())


def sketch(completion: str) -> Sketch:
    """Returns the smallest hashes of a completion's token trigrams, from which similarity can be estimated.

    Bottom-k sketches, Broder 1997; 48 numbers, 384 bytes, for a text of any length.
    """
    tokens = _TOKEN.findall(completion.lower())
    trigrams = {" ".join(three) for three in zip(tokens, tokens[1:], tokens[2:], strict=False)} or {" ".join(tokens)}
    # Big-endian bytes are in the order of the numbers.
    digests = sorted({hashlib.blake2b(trigram.encode(), digest_size=6).digest() for trigram in trigrams})
    smallest = np.frombuffer(b"\0\0" + b"\0\0".join(digests[:SKETCH_SIZE]), ">u8")
    filled = np.full(SKETCH_SIZE, _NONE)
    filled[: len(smallest)] = smallest
    return filled


def similarities(one: Sketch, others: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Estimates the Jaccard similarities, 0 to 1, of a text's trigrams and those of others, from their sketches.

    Args:
        one: sketch of the text.
        others: sketches of the others, shape (number, SKETCH_SIZE).
    """
    own = one[one != _NONE]
    before = np.searchsorted(own, others)  # how many of `one` are smaller than each of the others' hashes
    common = (before < len(own)) & (own[np.minimum(before, len(own) - 1)] == others)
    # The place of each hash in the sorted union; the estimate takes the first SKETCH_SIZE of the union.
    place = np.arange(1, SKETCH_SIZE + 1) + before - (np.cumsum(common, axis=1) - common)
    union = len(own) + np.sum(others != _NONE, axis=1) - np.sum(common, axis=1)
    both = np.sum(common & (place <= SKETCH_SIZE), axis=1)
    estimates: npt.NDArray[np.float64] = both / np.minimum(union, SKETCH_SIZE)
    return estimates
