"""Similarity of completions by their token trigrams."""

import hashlib
import re
from array import array
from collections.abc import Sequence

_TOKEN = re.compile(r"\w+|[^\w\s]")
_SKETCH_SIZE = 48

Sketch = Sequence[int]


def solution_text(completion: str) -> str:
    """Normalises what does not make a completion a different solution: case and white space."""
    return " ".join(completion.lower().split())


def sketch(completion: str) -> Sketch:
    """Returns the smallest hashes of a completion's token trigrams, from which similarity can be estimated.

    Bottom-k sketches, Broder 1997; at most 48 numbers for a text of any length.
    """
    tokens = _TOKEN.findall(completion.lower())
    grams = {" ".join(tokens[i : i + 3]) for i in range(max(1, len(tokens) - 2))}
    hashes = sorted(int.from_bytes(hashlib.blake2b(g.encode(), digest_size=6).digest(), "big") for g in grams)
    return array("Q", hashes[:_SKETCH_SIZE])  # 384 bytes: one is kept for each correct trajectory


def similarity(a: Sketch, b: Sketch) -> float:
    """Estimates the Jaccard similarity, 0 to 1, of two texts' trigrams from their sketches."""
    union = sorted({*a, *b})[:_SKETCH_SIZE]
    both = set(a) & set(b)
    return sum(h in both for h in union) / len(union) if union else 1.0
