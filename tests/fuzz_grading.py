"""Fuzzes the grader (`make fuzz`) with mutated and hostile answers until time is up or something is found.

Looks for crashes of the caller, results that are not verdicts, answers that exceed their time limit, hostile answers
judged right, gold answers that are not right against themselves, and leaked processes or descriptors.
"""

import json
import random
import re
import sys
import time
from pathlib import Path

import click
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from components.shared.grading import Grader, GradingRow, GradingSettings  # noqa: E402
from tests.shared.grading.hostile import hostile_answers  # noqa: E402

SEEDS = r"""
\frac{1}{2} | 3x^2-2x+1 | (-\infty, 3] \cup [5, 7) | \{1,2,3\} | x = 5 \text{ cm} | 28\% | \pm\sqrt{2}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | 2\frac{1}{3} | 52_8 | 1:2:3 | 12:30 | \text{Monday} | (C) 12
\sin^2 x + \cos x | e^{i\pi} | -2 < x \le 3 | y = 2x + 1 | 1.5 \times 10^{-3} | 0.\overline{27} | \binom{5}{2}
""".strip()
SECONDS = 1.0


def mutated(draw: random.Random, seeds: list[str]) -> str:
    """Returns an answer with characters doubled, dropped or swapped, or with a piece of another one inserted."""
    text = draw.choice(seeds)
    for _ in range(draw.randint(0, 6)):
        if not text:
            break
        at, to = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        other = draw.choice(seeds)
        cut = other[draw.randrange(len(other)) :]
        text = draw.choice(
            (
                text[:at] + text[to:],
                text[:to] + text[at:],
                text[:at] + cut + text[to:],
                text[::-1] if to - at > 30 else text,
            )
        )
    return text[:3000]


def is_balanced(text: str) -> bool:
    """Whether a text's braces are balanced, so that a box around it contains all of it."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="Time to run for.")
@click.option("--seed", default=0, show_default=True, help="Random seed; 0 for a different one each time.")
def main(minutes: float, seed: int) -> None:
    """Fuzz the grader; on the first finding, write it to build/fuzz.jsonl and exit with status 1."""
    seed = seed or time.time_ns() % 10**9
    draw, seeds, process = (
        random.Random(seed),
        [s.strip() for s in SEEDS.replace("\n", "|").split("|")],
        psutil.Process(),
    )
    deadline, graded, slow = time.monotonic() + 60 * minutes, 0, 0
    descriptors = process.num_fds()
    while time.monotonic() < deadline:
        with Grader(GradingSettings(seconds=SECONDS)) as grader:
            for _ in range(10):
                golds = [mutated(draw, seeds) for _ in range(300)]
                rows = [GradingRow("math", gold, f"\\boxed{{{mutated(draw, seeds)}}}") for gold in golds]
                rows += [GradingRow("math", gold, f"The answer is $\\boxed{{{gold}}}$") for gold in golds]
                rows += [GradingRow("math", "7", text) for text in hostile_answers(200, draw.randrange(10**9))]
                verdicts = grader.judge(rows)
                found = [
                    (row, verdict)
                    for number, (row, verdict) in enumerate(zip(rows, verdicts, strict=True))
                    if verdict.correct not in (True, False, None)
                    or verdict.seconds > SECONDS + 1
                    or (number >= 600 and verdict.correct)
                    or (300 <= number < 600 and verdict.reason == "different" and is_balanced(row.answer))
                ]
                graded += len(rows)
                slow += sum(verdict.reason == "timed out" for verdict in verdicts)
                if found:
                    path = ROOT / "build" / "fuzz.jsonl"
                    path.parent.mkdir(exist_ok=True)
                    path.write_text("".join(json.dumps([*row, *verdict]) + "\n" for row, verdict in found))
                    sys.exit(f"seed {seed}: {len(found)} of {graded} answers were misjudged: {path}")
        if process.children(recursive=True) or process.num_fds() != descriptors:
            sys.exit(f"seed {seed}: processes or descriptors were left behind")
    print(f"seed {seed}: {graded} answers in {minutes:g} minutes, {slow} timed out, nothing found")


if __name__ == "__main__":
    main()
