import pytest

from components.data_preparation.overlap import OverlapIndex

PROBLEM = (
    "Every morning Aya goes for a 9-kilometer-long walk and stops at a coffee shop afterwards. When she walks at a "
    "constant speed of s kilometers per hour, the walk takes her 4 hours, including t minutes in the coffee shop."
)


@pytest.fixture
def index() -> OverlapIndex:
    built = OverlapIndex(ngram_words=10, share=0.5)
    built.add("aime24", "line 1", PROBLEM)
    built.add("short", "line 7", "What is 2 + 3?")
    return built


def test_the_same_text_is_found_exactly(index: OverlapIndex) -> None:
    found = index.find(PROBLEM.replace("Every", "every").replace(" ", "  "))
    assert found and (found.benchmark, found.row, found.kind) == ("aime24", "line 1", "exact")
    found = index.find("what is $2+3$")
    assert found and found.benchmark == "short"


def test_a_reworded_copy_is_found_by_its_ngrams(index: OverlapIndex) -> None:
    found = index.find(PROBLEM.replace("Every morning", "Each day") + " Find the answer.")
    assert found and found.kind == "ngram" and found.share >= 0.5


def test_the_same_words_with_other_numbers_are_another_problem(index: OverlapIndex) -> None:
    assert index.find(PROBLEM.replace("4 hours", "6 hours").replace("9-kilometer", "8-kilometer")) is None


def test_problems_from_one_template_are_told_apart() -> None:
    index = OverlapIndex(ngram_words=10, share=0.5)
    template = "State the final answer to the following arithmetic problem: {} ="
    index.add("test", "problem 0", template.format("46 + 56 + 76"))
    assert index.find(template.format("46 + 56 + 77")) is None
    assert index.find(template.format("46 + 56 + 76")) is not None


INSTRUCTIONS = (
    "Solve the following mathematics problem carefully, think step by step, and put your final answer, and nothing "
    "else, within a box at the very end of your solution. "
)
THINGS = ["apples", "pears", "plums", "nuts", "figs", "dates", "limes", "kiwis", "grapes", "melons"]


def question(number: int) -> str:
    thing = THINGS[number % 10]
    return f"Ann has {number + 3} {thing} and buys {2 * number + 5} more {thing}; how many {thing} has she got now?"


@pytest.mark.parametrize("benchmark_has_them", ["all", "one"])
def test_instructions_that_problems_share_are_no_sign_of_a_copy(benchmark_has_them: str) -> None:
    index = OverlapIndex(ngram_words=10, share=0.5)
    for number in range(26):
        before = INSTRUCTIONS if benchmark_has_them == "all" or number == 0 else ""
        index.add("test", f"row {number}", f"{before}What is the square of the {number}th prime, less one?")
    train = [INSTRUCTIONS + question(number) for number in range(26)]
    common = index.in_common(train)
    assert [text for text in train if index.find(text, common)] == []
    copy = f"{INSTRUCTIONS}What is the square of the 7th prime, less one?"
    found = index.find(copy.replace("less one", "minus one"), common)
    assert found is None or found.row == "row 7"


def test_a_copy_behind_shared_instructions_is_found() -> None:
    index = OverlapIndex(ngram_words=10, share=0.5)
    for number in range(26):
        index.add("test", f"row {number}", INSTRUCTIONS + question(number))
    index.add("test", "row 99", INSTRUCTIONS + PROBLEM)
    train = [INSTRUCTIONS + text.replace("?", "!") for text in map(question, range(100, 126))]
    train.append("Read the text and answer. " + PROBLEM.replace("Every morning", "Each day"))
    common = index.in_common(train)
    assert [text for text in train[:-1] if index.find(text, common)] == []
    found = index.find(train[-1], common)
    assert found and found.row == "row 99" and found.kind == "ngram"


@pytest.mark.parametrize("task", ["shortest_path", "game_of_life", "rotten_oranges", "largest_island", "n_queens"])
def test_grids_coincide_only_by_chance(task: str) -> None:
    import reasoning_gym

    texts = [str(entry["question"]) for entry in reasoning_gym.create_dataset(task, size=300, seed=1)]
    index = OverlapIndex(10, 0.5)
    for number, text in enumerate(texts[:150]):
        index.add("dev", str(number), text)
    common = index.in_common(texts[150:])
    found = [index.find(text, common) for text in texts[150:] if text not in texts[:150]]
    assert len(found) > 75 and not any(found)
    copied = index.find(texts[3].replace("\n", "  \n"), common)
    assert copied and (copied.row, copied.kind) == ("3", "exact")


def test_of_few_problems_nothing_is_common() -> None:
    index = OverlapIndex(ngram_words=10, share=0.5)
    index.add("test", "row 0", PROBLEM)
    copies = [PROBLEM.replace("Every morning", day) for day in ("Each day", "On Mondays", "Every noon")]
    common = index.in_common(copies)
    assert all(index.find(text, common) for text in copies)


def test_another_text_is_not_found(index: OverlapIndex) -> None:
    assert (
        index.find("Natalia sold clips to 48 of her friends in April, and then she sold half as many in May.") is None
    )


def test_long_decoys_do_not_hide_a_short_problem_that_stands_there_whole() -> None:
    index = OverlapIndex(ngram_words=10, share=0.5)
    short = "Find the sum of all primes below ten that are odd and greater than two"
    story = " ".join(f"word{i}" for i in range(60))
    for number in range(7):  # each shares more n-grams with the training problem than the short one has
        index.add("long", f"line {number}", f"{story} " + " ".join(f"other{number}x{i}" for i in range(200)))
    index.add("short", "line 1", short)
    found = index.find(f"{story} {short}")
    assert found and (found.benchmark, found.share) == ("short", 1.0)


def test_of_several_the_nearest_is_named() -> None:
    index = OverlapIndex(ngram_words=3, share=0.5)
    words = [f"w{i}" for i in range(40)]
    for number, kept in enumerate((24, 40, 30)):
        index.add("b", f"line {number}", " ".join(words[:kept] + [f"z{number}x{i}" for i in range(40 - kept)]))
    found = index.find(" ".join([*words, "end"]))
    assert found and found.row == "line 1"
