"""Normalises a problem's text, and derives the problem id from it."""

import hashlib
import re
import unicodedata

_LATEX_LAYOUT = re.compile(r"\\(left|right|displaystyle|,|;|:|!|quad|qquad)(?![a-zA-Z])|\\[()\[\]]|[$~]")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def normalise(text: str) -> str:
    """A text without differences in appearance only: case of words, white space, LaTeX layout, final punctuation."""
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", _LATEX_LAYOUT.sub(" ", text))
    text = re.sub(r"([_^])\s*(\w)", r" \1 \2 ", text)  # as LaTeX reads it: \log_82 is \log_8 2
    tokens = _TOKEN.findall(text)
    while tokens and tokens[-1] in ".?:;,":
        tokens.pop()
    # A single letter is a name in mathematics: f(A) is not f(a).
    return " ".join(token if len(token) == 1 else token.lower() for token in tokens)


def problem_id(text: str) -> str:
    """A problem's id: 16 hexadecimal digits of the SHA-256 hash of its normalised text."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:16]
