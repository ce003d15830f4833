from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.shared.data.ngrams import SKETCH_SIZE, Sketch, similarities, sketch, solution_text
from components.shared.data.schema import TRAJECTORIES, write_table
from components.verification_filtering.diversity import keep_most_different, most_different

texts = st.text(alphabet="ab1+= .", max_size=40)
long_texts = st.lists(st.sampled_from("abcdefgh"), max_size=150).map(" ".join)


def similarity(a: Sketch, b: Sketch) -> float:
    return float(similarities(a, b[None])[0])


def sketches(texts: list[str]) -> Any:
    return np.array([sketch(text) for text in texts]).reshape(-1, SKETCH_SIZE)


@given(texts, texts)
def test_similarity_is_symmetric_and_one_for_the_same_text(a: str, b: str) -> None:
    assert similarity(sketch(a), sketch(b)) == similarity(sketch(b), sketch(a))
    assert 0 <= similarity(sketch(a), sketch(b)) <= 1
    assert similarity(sketch(a), sketch(a)) == 1


@given(st.one_of(texts, long_texts), st.lists(st.one_of(texts, long_texts), min_size=1, max_size=5))
def test_similarities_are_those_of_the_smallest_hashes_of_both(one: str, others: list[str]) -> None:
    def hashes(text: str) -> set[int]:
        return {int(h) for h in sketch(text) if h < 1 << 48}

    expected = []
    for other in others:
        union = sorted(hashes(one) | hashes(other))[:SKETCH_SIZE]
        expected.append(sum(h in hashes(one) & hashes(other) for h in union) / len(union))
    assert similarities(sketch(one), sketches(others)).tolist() == expected


def test_a_sketch_estimates_the_share_of_common_trigrams() -> None:
    words = [f"w{i}" for i in range(600)]
    a, b = " ".join(words[:400]), " ".join(words[200:])
    assert len(sketch(a)) == SKETCH_SIZE and all(x < y for x, y in pairwise(sketch(a)))
    assert abs(similarity(sketch(a), sketch(b)) - 1 / 3) < 0.2
    assert similarity(sketch("1+2=3."), sketch("7*8=56.")) < 0.3


@given(st.lists(texts, max_size=12), st.integers(1, 6))
def test_picks_that_many_different_ones_the_first_first(texts: list[str], count: int) -> None:
    picked = most_different(sketches(texts), count)
    assert len(picked) == len(set(picked)) == min(count, len(texts))
    assert picked[:1] == [0][: len(texts)]


def test_a_different_solution_goes_before_an_earlier_copy() -> None:
    solutions = ["1+2=3,3*4=12.", "1+2=3,3*4=12 .", "4*3=12,12*1=12.", "2*6=12."]
    assert most_different(sketches(solutions), 2) == [0, 2]


def test_each_problem_is_decided_by_its_own_solutions_wherever_they_are(tmp_path: Path, rollout: Any) -> None:
    """Rows of two problems in turn, in a table of several batches, with others between them."""
    rest = {"verdict": True, "verdict_reason": None, "success_rate": 0.5, "dropped_because": None}
    texts = [f"{'a b c d' if i % 3 else 'x y z w'} {i % 7}" for i in range(5000)]
    write_table(
        tmp_path / "trajectories.parquet", TRAJECTORIES, (rollout("p", completion=text) | rest for text in texts)
    )
    rows = np.array([4999, 0, 2048, 4097, 1, 2047, 3000, 7])  # not ascending: ordered by problem and step
    kept = keep_most_different(tmp_path, rows, np.array([3, 3, 3, 3, 8, 8, 8, 8]), 2, tmp_path)
    for group in (slice(0, 4), slice(4, 8)):
        picked = most_different(sketches([texts[row] for row in rows[group]]), 2)
        assert np.flatnonzero(kept[group]).tolist() == sorted(picked)


def test_white_space_and_case_do_not_make_a_solution() -> None:
    assert solution_text(" So  X=1\n") == solution_text("so x=1")
