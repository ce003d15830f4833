from components.rollout_harvesting.similarity import SimilarityTally


def test_similarity_within_a_step_and_to_the_step_before_by_hand() -> None:
    tally = SimilarityTally()
    for step, completion in ((0, "a b c d"), (0, "a b c d"), (2, "a b c d"), (2, "w x y z"), (3, "w x y z")):
        tally.add("p", step, completion)
    tally.add("q", 3, "one two three")
    rows = {row["step"]: row for row in tally.by_step()}
    assert rows[0] == {"step": 0, "within_step": 1.0, "between_steps": None}
    assert rows[2] == {"step": 2, "within_step": 0.0, "between_steps": 0.5}  # alike are two of four pairs
    assert rows[3] == {"step": 3, "within_step": None, "between_steps": 0.5}  # q has nothing to compare with
    assert tally.distinct_solutions() == 1.5


def test_trigrams_shared_by_half() -> None:
    tally = SimilarityTally()
    tally.add("p", 0, "a b c d")  # abc, bcd
    tally.add("p", 0, "a b c e")  # abc, bce
    assert tally.by_step() == [{"step": 0, "within_step": 1 / 3, "between_steps": None}]


def test_without_correct_rollouts() -> None:
    assert SimilarityTally().by_step() == [] and SimilarityTally().distinct_solutions() == 0.0
