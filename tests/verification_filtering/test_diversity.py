from hypothesis import given
from hypothesis import strategies as st

from components.shared.data.ngrams import similarity, sketch, solution_text
from components.verification_filtering.diversity import most_different

texts = st.text(alphabet="ab1+= .", max_size=40)


@given(texts, texts)
def test_similarity_is_symmetric_and_one_for_the_same_text(a: str, b: str) -> None:
    assert similarity(sketch(a), sketch(b)) == similarity(sketch(b), sketch(a))
    assert 0 <= similarity(sketch(a), sketch(b)) <= 1
    assert similarity(sketch(a), sketch(a)) == 1


def test_a_sketch_estimates_the_share_of_common_trigrams() -> None:
    words = [f"w{i}" for i in range(600)]
    a, b = " ".join(words[:400]), " ".join(words[200:])
    assert len(sketch(a)) == 48
    assert abs(similarity(sketch(a), sketch(b)) - 1 / 3) < 0.2
    assert similarity(sketch("1+2=3."), sketch("7*8=56.")) < 0.3


@given(st.lists(st.tuples(st.integers(0, 5), texts.map(sketch)), max_size=12), st.integers(1, 6))
def test_picks_that_many_different_ones_the_earliest_first(candidates: list, count: int) -> None:
    picked = most_different(candidates, count)
    assert len(picked) == len(set(picked)) == min(count, len(candidates))
    if candidates:
        assert candidates[picked[0]][0] == min(step for step, _ in candidates)


def test_a_different_solution_goes_before_an_earlier_copy() -> None:
    solutions = ["1+2=3,3*4=12.", "1+2=3,3*4=12 .", "4*3=12,12*1=12.", "2*6=12."]
    candidates = [(step, sketch(text)) for step, text in enumerate(solutions)]
    assert most_different(candidates, 2) == [0, 2]


def test_white_space_and_case_do_not_make_a_solution() -> None:
    assert solution_text(" So  X=1\n") == solution_text("so x=1")
