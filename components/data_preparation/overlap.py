"""Whether a training problem stands in a benchmark: the same text after normalising, or nearly so.

Nearly: many shared word n-grams, and the same numbers. Without the numbers, problems from one template
(`State the final answer to ...: 46 + 56`) would count as one.
"""

import dataclasses
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass

from components.data_preparation.text import normalise

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """Where a problem was found in a benchmark."""

    benchmark: str
    row: str  # which row of the benchmark's source
    kind: str  # exact | ngram
    share: float  # of the shorter text's n-grams that both have


class OverlapIndex:
    """The texts of all benchmarks, to look training problems up in.

    Args:
        ngram_words: words in an n-gram. Shorter texts are compared exactly alone.
        share: of the shorter text's n-grams that both must have to count as the same problem.
    """

    def __init__(self, ngram_words: int, share: float) -> None:
        self._words, self._share = ngram_words, share
        self._exact: dict[str, tuple[str, str]] = {}
        self._owners: defaultdict[int, set[int]] = defaultdict(set)  # n-gram hash -> benchmark problems
        self._problems: list[tuple[str, str, int, Counter[str]]] = []  # benchmark, row, n-grams, numbers

    def add(self, benchmark: str, row: str, text: str) -> None:
        """Adds a benchmark's problem."""
        self._exact.setdefault(normalise(text), (benchmark, row))
        ngrams = self._ngrams(text)
        for ngram in ngrams:
            self._owners[ngram].add(len(self._problems))
        self._problems.append((benchmark, row, len(ngrams), _numbers(text)))

    def find(self, text: str) -> Overlap | None:
        """The benchmark problem that this text repeats, if there is one."""
        if found := self._exact.get(normalise(text)):
            return Overlap(*found, kind="exact", share=1.0)
        ngrams = self._ngrams(text)
        shared: Counter[int] = Counter()
        for ngram in ngrams:
            shared.update(self._owners.get(ngram, ()))
        # All of them: a long problem that shares more n-grams may hide a short one that stands here whole.
        own, best = _numbers(text), None
        for index, count in shared.items():
            benchmark, row, size, numbers = self._problems[index]
            share = count / min(len(ngrams), size)
            if share >= self._share and (best is None or share > best.share) and _same_numbers(own, numbers):
                best = Overlap(benchmark, row, kind="ngram", share=share)
        return best and dataclasses.replace(best, share=round(best.share, 3))

    def _ngrams(self, text: str) -> set[int]:
        words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
        return {hash(tuple(words[i : i + self._words])) for i in range(len(words) - self._words + 1)}


def _numbers(text: str) -> Counter[str]:
    return Counter(re.findall(r"\d+", text))


def _same_numbers(a: Counter[str], b: Counter[str]) -> bool:
    """Whether the text with fewer numbers has nearly no number that the other lacks.

    The longer one may draw a figure with numbers of its own; one in ten may be a page or an item.
    """
    fewer = min(a.total(), b.total())
    return (a & b).total() >= 0.9 * fewer
