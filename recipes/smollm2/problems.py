"""Generates the problems of recipes/smollm2-135m.yaml: `python recipes/smollm2/problems.py`.

Sums and differences of two numbers from 1 to 12, phrased as "What is 7 + 5?", and one-step word problems of our own as
another kind. Seeded; the files are committed beside this one. Train, dev and test have different pairs of numbers.
"""

import json
import random
from itertools import combinations_with_replacement
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAIRS = {"train": 54, "dev": 12, "test": 12}
WORDS = 40
STORIES = {
    "+": (
        "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
        "There are {a} {things} in one box and {b} {things} in another. How many {things} are there in all?",
    ),
    "-": (
        "{name} has {a} {things} and gives away {b}. How many {things} does {name} have left?",
        "There were {a} {things} on the table. {name} took {b} of them. How many {things} are on the table now?",
    ),
}
NAMES = ("Anna", "Ben", "Lea", "Mia", "Omar", "Tom")
THINGS = ("apples", "books", "cards", "coins", "pens", "stickers")


def main() -> None:
    """Writes train.jsonl, dev.jsonl, test.jsonl and words.jsonl."""
    rng = random.Random(1)
    pairs = list(combinations_with_replacement(range(1, 13), 2))
    rng.shuffle(pairs)
    for name, size in PAIRS.items():
        problems: list[tuple[int, str, int]] = []
        for low, high in (pairs.pop() for _ in range(size)):
            problems += dict.fromkeys([(low, "+", high), (high, "+", low), (high, "-", low)])
        write(name, [(f"What is {a} {sign} {b}?", result(a, sign, b)) for a, sign, b in problems])
    stories = []
    for i in range(WORDS):
        sign = "+-"[i % 2]
        low, high = sorted(rng.sample(range(2, 20), 2))
        story = rng.choice(STORIES[sign]).format(name=rng.choice(NAMES), things=rng.choice(THINGS), a=high, b=low)
        stories.append((story, result(high, sign, low)))
    write("words", stories)


def result(a: int, sign: str, b: int) -> int:
    """Returns the result of a sum or a difference."""
    return a + b if sign == "+" else a - b


def write(name: str, problems: list[tuple[str, int]]) -> None:
    """Writes problems and their answers, one JSON object per line."""
    lines = (json.dumps({"problem": problem, "answer": str(answer)}) for problem, answer in problems)
    (HERE / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
