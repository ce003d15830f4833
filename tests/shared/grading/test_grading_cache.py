"""The grader's cache stays within its memory bound, whatever the texts are."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from components.shared.grading import Grader, GradingRow
from components.shared.grading.cache import CACHE_BYTES, BoundedCache

SCORER = "tests.shared.grading.test_grading_cache:ends_well"


def ends_well(answer: str, completion: str) -> bool:
    return completion.endswith(answer)


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=400)), max_size=60), st.integers(400, 4000))
def test_the_newest_stay_within_the_bound(keys: list[tuple[str, str]], limit: int) -> None:
    cache: BoundedCache[tuple[str, str], int] = BoundedCache(limit)
    for number, key in enumerate(keys):
        cache.add({key: number})
        assert cache.bytes <= limit
    if keys and cache.get(keys[-1]) is None:
        assert cache.bytes == 0, "evicted although there was room"
    known = [key for key in dict.fromkeys(keys) if cache.get(key) is not None]
    assert all(cache.get(key) == max(n for n, other in enumerate(keys) if other == key) for key in known)


def test_long_completions_take_no_more_memory_than_the_bound() -> None:
    cache: BoundedCache[tuple[str, str, str], tuple[bool, str, float]] = BoundedCache()
    tracemalloc.start()
    for number in range(200):  # 300 MB of completions
        batch = {("a.b:c", str(i), f"{number}-{i} " + "x" * 30_000): (True, "equal", 0.1) for i in range(50)}
        cache.add(batch)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1.2 * CACHE_BYTES and cache.get(("a.b:c", "49", "199-49 " + "x" * 30_000))


def test_a_grader_keeps_to_it() -> None:
    with Grader(workers=1) as grader:
        grader._cache = BoundedCache(100_000)
        for number in range(10):
            rows = [GradingRow(SCORER, "yes", f"{number}-{i} " + "x" * 30_000 + "yes") for i in range(4)]
            assert grader.grade(rows) == [True] * 4
        assert 0 < grader._cache.bytes <= 100_000
