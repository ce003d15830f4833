"""What the grader costs beside math-verify called plainly: `make bench`.

Two loads: rollouts of many problems with the repetition that rollouts have, and hard LaTeX answers that are all
different. Three sides: ours, math-verify in a loop, math-verify in a `multiprocessing.Pool` of all cores. The loop is
timed on a sample. Memory is that of a side's processes together, at its peak.
"""

import json
import multiprocessing
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import psutil

from components.shared.grading import Grader, GradingRow, GradingSettings

PROSE = (
    "we first note that the sum of these terms can be written as $x^2+3x$ and since the product is positive it follows "
    "that \\frac{1}{2} of the total remains, therefore we get an equation in one unknown, which gives us $\\sqrt{3}$ "
    "times the length, and by symmetry the other case is the same"
)
WORDS = re.split(" ", PROSE)


def completion(draw: random.Random, answer: str) -> str:
    """A derivation of 600 to 1,500 characters that ends in a box, as most do, or in plain words."""
    text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(120, 300)))
    if draw.random() < 0.03:
        return text  # no answer
    if draw.random() < 0.05:
        return f"{text}. The answer is {answer}."
    return f"{text}. So the answer is $\\boxed{{{answer}}}$."


def rollouts(count: int, draw: random.Random) -> list[GradingRow]:
    """Rollouts of count / 100 problems: the right answer often, a few wrong ones again and again, some only once."""
    rows = []
    for _ in range(count // 100):
        kind = draw.choices(("integer", "fraction", "surd"), (0.6, 0.25, 0.15))[0]
        gold, *wrong = (_answer(kind, draw) for _ in range(7))
        for _ in range(100):
            chance = draw.random()
            answer = gold if chance < 0.45 else draw.choice(wrong) if chance < 0.92 else _answer(kind, draw)
            rows.append(GradingRow("math", gold, completion(draw, answer)))
    draw.shuffle(rows)
    return rows


def _answer(kind: str, draw: random.Random) -> str:
    if kind == "integer":
        return str(draw.randint(-50, 2000))
    if kind == "fraction":
        return f"\\frac{{{draw.randint(1, 40)}}}{{{draw.randint(2, 40)}}}"
    return f"{draw.randint(2, 9)}\\sqrt{{{draw.randint(2, 30)}}} + {draw.randint(1, 9)}"


def hard_answers(count: int, draw: random.Random) -> list[GradingRow]:
    """Different answers in LaTeX; about half of them equal their gold answer in another form."""
    rows = []
    for _ in range(count):
        a, b, c, d = (draw.randint(2, 99) for _ in range(4))
        wrong = draw.randint(0, 1)
        gold, answer = draw.choice(_hard_pairs(a, b, c, d, wrong))
        rows.append(GradingRow("math", gold, f"Hence \\boxed{{{answer}}}."))
    return rows


def _hard_pairs(a: int, b: int, c: int, d: int, wrong: int) -> list[tuple[str, str]]:
    """A gold answer and the same in another form, or nearly the same where `wrong` is 1; one pair of each kind."""
    union = f"[{a}, {a + b}) \\cup ({a + b + c + wrong}, \\infty)"
    matrix = "\\begin{{{0}}} {1} & {2} \\\\ {3} & {4} \\end{{{0}}}"
    radicals = f"\\sqrt[3]{{{d + wrong}}} + \\sqrt{{{b}\\sqrt{{{c}}}+{a}}}"
    return [
        (f"\\frac{{{a}\\sqrt{{{b}}}}}{{{c}}}", f"\\frac{{{a * b}}}{{{c + wrong}\\sqrt{{{b}}}}}"),
        (f"(x-{a})(x+{b})", f"x^2 + {b - a}x - {a * b + wrong}"),
        (f"\\frac{{{a}}}{{{b}}} + \\frac{{{c}}}{{{d}}}", f"\\frac{{{a * d + b * c + wrong}}}{{{b * d}}}"),
        (f"{a}\\sin^2 t + {a}\\cos^2 t + {b}", str(a + b + wrong)),
        (f"\\left[{a}, {a + b}\\right) \\cup ({a + b + c}, \\infty)", union),
        (matrix.format("pmatrix", a, b, c, d), matrix.format("bmatrix", a, b, c, d + wrong)),
        (f"\\left( \\frac{{{a}}}{{{b}}}, -\\sqrt{{{c}}} \\right)", f"({a}/{b}, -\\sqrt{{{c + wrong}}})"),
        (f"\\log_2 {a} + \\log_2 {b}", f"\\frac{{\\ln {a * b + wrong}}}{{\\ln 2}}"),
        (f"\\sqrt{{{a}+{b}\\sqrt{{{c}}}}} + \\sqrt[3]{{{d}}}", radicals),
        (f"{a}^{{{b}}} - {c}", f"{a}^{{{b}}} - {c + wrong}"),
        (f"y = {a}x + {b}", f"{c * a}x - {c}y + {c * b + wrong} = 0"),
        (f"\\frac{{{a}}}{{x+{b}}} - \\frac{{{c}}}{{x}}", f"\\frac{{{a}x - {c}(x+{b + wrong})}}{{x(x+{b})}}"),
    ]


def ours(rows: Sequence[GradingRow]) -> list[bool | None]:
    """The grader, as the filter uses it."""
    with Grader(GradingSettings()) as grader:
        return [verdict for start in range(0, len(rows), 2048) for verdict in grader.grade(rows[start : start + 2048])]


def plain(row: GradingRow) -> bool:
    """math-verify as its README calls it."""
    from math_verify import parse, verify

    return bool(verify(parse(f"\\boxed{{{row.answer}}}"), parse(row.completion)))


def loop(rows: Sequence[GradingRow]) -> list[bool]:
    """math-verify in a loop."""
    return [plain(row) for row in rows]


def pool(rows: Sequence[GradingRow]) -> list[bool]:
    """math-verify in a pool of all cores."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as processes:
        return processes.map(plain, rows, chunksize=64)


def timed(
    side: Callable[[Sequence[GradingRow]], list[Any]], rows: Sequence[GradingRow]
) -> tuple[float, float, list[Any]]:
    """Seconds, peak MiB of the side's processes besides this one, and the verdicts."""
    process, done, peak = psutil.Process(), threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.2):
            sizes = []
            for child in process.children(recursive=True):
                try:
                    sizes.append(child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], sum(sizes) / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    verdicts = side(rows)
    seconds = time.monotonic() - began
    done.set()
    watcher.join()
    return seconds, peak[0], verdicts


@click.command()
@click.option("--rollouts", "rollout_count", default=100_000, show_default=True)
@click.option("--hard", "hard_count", default=2_000, show_default=True)
@click.option("--differences", default=0, show_default=True, help="Print so many rows on which the two differ.")
def main(rollout_count: int, hard_count: int, differences: int) -> None:
    """Times the grader beside math-verify and prints the ratios."""
    draw = random.Random(1)
    for name, rows in (("rollouts", rollouts(rollout_count, draw)), ("hard LaTeX", hard_answers(hard_count, draw))):
        sample = rows[: len(rows) // 20] if name == "rollouts" else rows[: len(rows) // 4]
        seconds, memory, verdicts = timed(ours, rows)
        loop_seconds, _, _ = timed(loop, sample)
        pool_seconds, pool_memory, theirs = timed(pool, rows)
        differing = [(row, a, b) for row, a, b in zip(rows, verdicts, theirs, strict=True) if a != b]
        click.echo(
            json.dumps(
                {
                    "what": name,
                    "answers": len(rows),
                    "answers_per_second": {
                        "grader": round(len(rows) / seconds),
                        "loop": round(len(sample) / loop_seconds),
                        "pool": round(len(rows) / pool_seconds),
                    },
                    "ratio_to_pool": round(pool_seconds / seconds, 2),
                    "peak_mib_of_workers": {"grader": round(memory), "pool": round(pool_memory)},
                    "own_mib": round(psutil.Process().memory_info().rss / 2**20),
                    "verdicts_that_differ": len(differing),
                }
            )
        )
        for row, a, b in differing[:differences]:
            click.echo(f"  {row.answer}  |  {row.completion[-80:]}  |  grader {a}, math-verify {b}")


if __name__ == "__main__":
    main()
