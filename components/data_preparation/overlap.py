"""Finds training problems that are also in a benchmark: the same text after normalising, or nearly the same.

Nearly the same means many shared word n-grams and the same numbers. Without the numbers, problems from one template
(`State the final answer to ...: 46 + 56`) would count as one. N-grams of few different words, such as the open and
blocked cells of a grid, coincide by chance and do not count.
"""

import dataclasses
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

from components.data_preparation.text import normalise

_WORD = re.compile(r"\w+")
_COMMON_FROM = 8  # texts
_Part = TypeVar("_Part", int, str)  # an n-gram or a word
# Share of a shared n-gram's words, on average, that must be different and not those of the instructions. N-grams of two
# or three kinds of cells coincide by chance among some hundred grids; in prose, half of the words differ.
_TELLING_SHARE = 0.35


@dataclass(frozen=True)
class Common:
    """What most texts of a source share, such as instructions: it does not indicate a copy."""

    ngrams: Set[int] = frozenset()
    words: Set[str] = frozenset()


@dataclass(frozen=True)
class Overlap:
    """Where a problem was found in a benchmark."""

    benchmark: str
    row: str  # which row of the benchmark's source
    kind: str  # exact | ngram
    share: float  # of the shorter text's n-grams, those that both texts have


class OverlapIndex:
    """An index of all benchmarks' problems, in which training problems are looked up.

    Args:
        ngram_words: words per n-gram. Shorter texts are only compared exactly.
        share: minimum share of the shorter text's n-grams that both texts must have to count as the same problem.
    """

    def __init__(self, ngram_words: int, share: float) -> None:
        self._length, self._share = ngram_words, share
        self._exact: dict[str, tuple[str, str]] = {}
        self._owners: defaultdict[int, set[int]] = defaultdict(set)  # n-gram hash -> benchmark problems
        # benchmark, row, n-grams, numbers
        self._problems: list[tuple[str, str, set[int], Counter[str]]] = []
        self._common: dict[str, set[int]] = {}  # benchmark -> n-grams that most of its problems have

    def add(self, benchmark: str, row: str, text: str) -> None:
        """Adds a problem of a benchmark."""
        self._exact.setdefault(normalise(text), (benchmark, row))
        ngrams = self._ngrams(text)
        for ngram in ngrams:
            self._owners[ngram].add(len(self._problems))
        self._problems.append((benchmark, row, ngrams, _numbers(text)))
        self._common = {}

    def in_common(self, texts: Sequence[str]) -> Common:
        """What most of a source's texts share."""
        return Common(_common([self._ngrams(text) for text in texts]), _common([set(_words(text)) for text in texts]))

    def find(self, text: str, common: Common = Common()) -> Overlap | None:
        """The benchmark problem that a text repeats; None if there is none.

        Args:
            text: of a training problem.
            common: what most texts of the problem's source share.
        """
        if found := self._exact.get(normalise(text)):
            return Overlap(*found, kind="exact", share=1.0)
        windows = self._windows(text)
        ngrams = {hash(words) for words in windows} - common.ngrams
        shared: Counter[int] = Counter()
        for ngram in ngrams:
            shared.update(self._owners.get(ngram, ()))
        # Compare all of them: a long problem that shares more n-grams may hide a short one that is contained whole.
        own, best = _numbers(text), None
        for index, count in shared.items():
            benchmark, row, theirs, numbers = self._problems[index]
            left_out = self._common_of(benchmark)
            if left_out:
                count -= len(ngrams & theirs & left_out)
            share = count / max(1, min(len(ngrams - left_out), len(theirs - common.ngrams - left_out)))
            if (
                share >= self._share
                and (best is None or share > best.share)
                and _same_numbers(own, numbers)
                and self._telling_share(windows, ngrams & theirs - left_out, common.words) >= _TELLING_SHARE
            ):
                best = Overlap(benchmark, row, kind="ngram", share=share)
        return best and dataclasses.replace(best, share=round(best.share, 3))

    def _common_of(self, benchmark: str) -> set[int]:
        if benchmark not in self._common:
            self._common[benchmark] = _common([ngrams for name, _, ngrams, _ in self._problems if name == benchmark])
        return self._common[benchmark]

    def _ngrams(self, text: str) -> set[int]:
        return {hash(words) for words in self._windows(text)}

    def _windows(self, text: str) -> list[tuple[str, ...]]:
        words = _words(text)
        return [tuple(words[i : i + self._length]) for i in range(len(words) - self._length + 1)]

    def _telling_share(self, windows: list[tuple[str, ...]], ngrams: Set[int], instructions: Set[str]) -> float:
        """Share of the words of some of a text's n-grams, on average, that are different and no instructions."""
        telling = [len(set(words) - instructions) for words in windows if hash(words) in ngrams]
        return sum(telling) / len(telling) / self._length


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def _common(texts: Sequence[set[_Part]]) -> set[_Part]:
    """The n-grams or words in more than half of the texts; none for fewer than eight texts, which say too little."""
    if len(texts) < _COMMON_FROM:
        return set()
    counts = Counter(part for parts in texts for part in parts)
    return {part for part, count in counts.items() if count > len(texts) / 2}


def _numbers(text: str) -> Counter[str]:
    return Counter(re.findall(r"\d+", text))


def _same_numbers(a: Counter[str], b: Counter[str]) -> bool:
    """Whether nearly all numbers of the text with fewer numbers are in the other text too.

    The longer text may draw a figure with numbers of its own; one number in ten may be that of a page or an item.
    """
    fewer = min(a.total(), b.total())
    return (a & b).total() >= 0.9 * fewer
