"""Benchmarks the grader against plain math-verify: `make bench`.

There are two loads, both generated here so that the correct verdicts are known: rollouts of many problems, with the
repetition that rollouts have, and hard LaTeX answers that are all different. Three sides are timed: the grader,
math-verify in a `multiprocessing.Pool` on all cores, and math-verify in a loop. They run in turn, each in its own
process; the grader's time includes starting its workers, math-verify's excludes imports. The slow sides run on samples,
and their seconds for the full load are extrapolated (`timed_on` has the number of rows); `--whole` times the pool on
the full load. CPU seconds are reported along with wall-clock seconds, because machines are shared.
"""

import importlib
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import click
import psutil

from components.shared.grading import Grader, GradingRow, GradingSettings

SAMPLES = 100  # per problem
BATCH = 2048  # rows that the filter grades at a time
SENTENCES = [
    "First, note that ${a}x + {b} = {c}$, so $x = \\frac{{{c} - {b}}}{{{a}}}$ as long as ${a} \\neq 0$.",
    "Let $n$ be the number of ways; by symmetry there are $\\binom{{{a}}}{{2}}$ of them, which is more than {b}.",
    "Substituting back we get \\[ {a}y^2 - {b}y + {c} = 0, \\] a quadratic with discriminant ${b}^2 - 4({a})({c})$.",
    "Wait, I should check the case $k = {a}$ separately, because the denominator $k - {a}$ vanishes there.",
    "The triangle has sides ${a}$, ${b}$ and $\\sqrt{{{c}}}$, so its area follows from Heron's formula.",
    "Since $\\sin^2\\theta + \\cos^2\\theta = 1$, the term ${a}\\cos\\theta$ cancels and only {b} remains.",
    "Therefore the remainder modulo {a} is the same as that of ${b} \\cdot {c}$, and we go on from there.",
    "Multiplying both sides by $\\frac{{{a}}}{{{b}}}$ gives an expression that is easier to work with.",
    "That means {a} of the {b} marbles are red and the others are blue, so the chance is below $\\frac{{1}}{{2}}$.",
    "By the AM-GM inequality, $\\frac{{x + {a}}}{{2}} \\ge \\sqrt{{{a}x}}$, with equality if and only if $x = {a}$.",
    "We now have two equations in two unknowns; subtracting the second from the first eliminates $y$.",
    "Adding up, ${a} + {b} + {c}$ is what the first three terms of the sequence contribute.",
]


class Case(NamedTuple):
    """A row to judge and the correct verdict."""

    row: GradingRow
    right: bool


def completion(draw: random.Random, answer: str) -> tuple[str, bool, bool]:
    """Returns a derivation of 600 to 1,500 characters, whether it gives the answer, and whether it is truncated.

    Most end in a box, some have several boxes, some end in plain words, some give no answer.
    """
    length, text = draw.randint(550, 1350), ""
    while len(text) < length:
        a, b, c = (draw.randint(2, 99) for _ in range(3))
        text += draw.choice(SENTENCES).format(a=a, b=b, c=c) + draw.choice((" ", "\n\n"))
    chance = draw.random()
    if chance < 0.04:
        return text[: draw.randint(500, len(text) - 20)], False, True
    if chance < 0.06:
        return text + "I do not see how to go on.", False, False
    if chance < 0.10:
        return f"{text}So the answer is ${answer}$.", True, False
    if chance < 0.14:
        draft = f"A first guess is $\\boxed{{{draw.randint(2, 99)}}}$, but let me check that. "
        return f"{draft}{text}So the final answer is $\\boxed{{{answer}}}$.", True, False
    return f"{text}\n\n**Final answer**\n\\[ \\boxed{{{answer}}} \\]", True, False


def integer(draw: random.Random) -> tuple[object, list[str]]:
    """Returns a number and ways to write it, the usual one first."""
    n = draw.randint(-50, 5000)
    return n, [str(n), f"x = {n}", f"{n:,}", f"{n}\\text{{ cm}}", f"{n}.0"]


def fraction(draw: random.Random) -> tuple[object, list[str]]:
    """Returns a fraction and ways to write it."""
    f = Fraction(draw.randint(1, 60), draw.choice((7, 11, 12, 13, 20, 36)))
    p, q = f.numerator, f.denominator
    return f, [f"\\frac{{{p}}}{{{q}}}", f"{p}/{q}", f"\\dfrac{{{p}}}{{{q}}}", f"\\frac{{{2 * p}}}{{{2 * q}}}"]


def surd(draw: random.Random) -> tuple[object, list[str]]:
    """Returns a number with a root and ways to write it."""
    a, b, c = draw.randint(2, 9), draw.choice((2, 3, 5, 6, 7, 10)), draw.randint(1, 20)
    return (a, b, c), [f"{c} + {a}\\sqrt{{{b}}}", f"{a}\\sqrt{b}+{c}" if b < 10 else f"{c}+\\sqrt{{{a * a * b}}}"]


def polynomial(draw: random.Random) -> tuple[object, list[str]]:
    """Returns a polynomial and ways to write it."""
    a, b = draw.randint(2, 15), draw.randint(2, 15)
    return (a, b), [f"(x-{a})(x+{b})", f"x^2 {b - a:+d}x - {a * b}", f"(x+{b})(x-{a})"]


def point(draw: random.Random) -> tuple[object, list[str]]:
    """Returns a pair and ways to write it."""
    a, b = draw.randint(-9, 20), Fraction(draw.randint(1, 30), 7)
    text = f"{a}, \\frac{{{b.numerator}}}{{{b.denominator}}}"
    return (a, b), [f"({text})", f"\\left({text}\\right)", f"({a},{b})"]


KINDS = (integer, fraction, surd, polynomial, point)


def rollouts(count: int, draw: random.Random) -> list[Case]:
    """Returns samples of many problems: often the right answer, repeatedly a few wrong ones, some only once."""
    cases = []
    for _ in range(count // SAMPLES):
        kind = draw.choices(KINDS, (55, 20, 10, 8, 7))[0]
        value, writings = kind(draw)
        wrong: dict[object, str] = {}
        while len(wrong) < 6:
            other, texts = kind(draw)
            if other != value:
                wrong[other] = texts[0]
        skill = draw.betavariate(1, 1)
        for _ in range(SAMPLES):
            chance = draw.random()
            if chance < skill * 0.95:
                answer = draw.choices(writings, [20, *[1] * (len(writings) - 1)])[0]
            elif chance < 0.95:
                answer = draw.choices(list(wrong.values()), (32, 16, 8, 4, 2, 1))[0]
            else:
                answer = draw.choice(("\\frac{{{}", "n = {} m", "\\text{{case {}}}")).format(round(draw.random(), 9))
            text, gives, cut = completion(draw, answer)
            right = chance < skill * 0.95 and gives
            cases.append(Case(GradingRow("math", writings[0], text, cut), right))
    draw.shuffle(cases)
    return cases


def hard_answers(count: int, draw: random.Random) -> list[Case]:
    """Returns distinct answers in LaTeX; about half equal their gold answer in another form."""
    cases: dict[tuple[str, str], Case] = {}
    while len(cases) < count:
        wrong = draw.randint(0, 1)
        gold, answer = draw.choice(hard_pairs(draw, wrong))
        cases[gold, answer] = Case(GradingRow("math", gold, f"Hence \\boxed{{{answer}}}."), not wrong)
    return list(cases.values())


def hard_pairs(draw: random.Random, w: int) -> list[tuple[str, str]]:
    """Returns one pair of each kind: a gold answer and the same in another form, or slightly off if `w` is 1."""
    a, b, c, d = (draw.randint(2, 99) for _ in range(4))
    e = a + b
    norm = c * c + d * d
    matrix = "\\begin{{{0}}} {1} & {2} \\\\ {3} & {4} \\end{{{0}}}"
    return [
        # Fractions
        (f"\\frac{{{a}}}{{{b}}} + \\frac{{{c}}}{{{d}}}", f"\\frac{{{a * d + b * c + w}}}{{{b * d}}}"),
        (
            f"\\frac{{\\frac{{{a}}}{{{b}}} + \\frac{{{c}}}{{{d}}}}}{{\\frac{{{a}}}{{{d}}}}}",
            f"\\dfrac{{{a * d + b * c}}}{{{a * b + w}}}",
        ),
        (f"{a} + \\cfrac{{1}}{{{b} + \\cfrac{{1}}{{{c}}}}}", f"\\frac{{{a * (b * c + 1) + c + w}}}{{{b * c + 1}}}"),
        # Roots
        (f"\\frac{{{a}\\sqrt{{{b}}}}}{{{c}}}", f"\\frac{{{a * b}}}{{{c + w}\\sqrt{{{b}}}}}"),
        (f"\\sqrt{{{e + 2 * w} + 2\\sqrt{{{a * b}}}}}", f"\\sqrt{{{a}}} + \\sqrt{{{b}}}"),
        (f"\\sqrt{{{a * a * d}}} + \\sqrt{{{b * b * d}}}", f"{e + w}\\sqrt{{{d}}}"),
        (f"\\frac{{{c}}}{{\\sqrt{{{e}}} - \\sqrt{{{b}}}}}", f"\\frac{{{c}(\\sqrt{{{e}}} + \\sqrt{{{b}}})}}{{{a + w}}}"),
        (
            f"\\sqrt{{{a}+{b}\\sqrt{{{c}}}}} + \\sqrt[3]{{{d}}}",
            f"\\sqrt[3]{{{d + w}}} + \\sqrt{{{b}\\sqrt{{{c}}}+{a}}}",
        ),
        # Powers and logarithms
        (f"{a}^{{{b}}} - {c}", f"{a}^{{{b}}} - {c + w}"),
        (f"\\log_2 {a} + \\log_2 {b}", f"\\frac{{\\ln {a * b + w}}}{{\\ln 2}}"),
        (f"{b}\\ln {a} - \\ln {c}", f"\\ln\\left(\\frac{{{a}^{{{b}}}}}{{{c + w}}}\\right)"),
        (f"e^{{\\ln {a} + {b}}}", f"{a + w} e^{{{b}}}"),
        (f"{c}^{{\\frac{{{2 * a + 1}}}{{2}}}}", f"{c}^{{{a + w}}}\\sqrt{{{c}}}"),
        # Trigonometry
        (f"{a}\\sin^2 t + {a}\\cos^2 t + {b}", str(e + w)),
        (f"{a}\\cos\\frac{{\\pi}}{{12}} + {b}", f"{b} + \\frac{{{a + w}(\\sqrt{{6}} + \\sqrt{{2}})}}{{4}}"),
        (f"{a}\\sin 2x + {b}", f"{2 * a + w}\\sin x \\cos x + {b}"),
        (f"\\arctan\\frac{{{a}}}{{{b}}}", f"\\frac{{\\pi}}{{2}} - \\arctan\\frac{{{b}}}{{{a + w}}}"),
        # Polynomials and rational functions
        (f"(x-{a})(x+{b})", f"x^2 {b - a:+d}x - {a * b + w}"),
        (
            f"(x-{a})(x-{b})(x+{c})",
            f"x^3 {c - e:+d}x^2 {a * b - e * c:+d}x + {a * b * c + w}",
        ),
        (f"\\frac{{{a}}}{{x+{b}}} - \\frac{{{c}}}{{x}}", f"\\frac{{{a}x - {c}(x+{b + w})}}{{x(x+{b})}}"),
        (f"\\frac{{x^2 - {a * a}}}{{{b}(x - {a})}}", f"\\frac{{x + {a + w}}}{{{b}}}"),
        # Complex numbers, sums, binomials
        (
            f"\\frac{{{a} + {b}i}}{{{c} + {d}i}}",
            f"\\frac{{{a * c + b * d + w}}}{{{norm}}} + \\frac{{{b * c - a * d}}}{{{norm}}}i",
        ),
        (f"\\sum_{{k=1}}^{{{a}}} ({b}k + {c})", str(b * a * (a + 1) // 2 + a * c + w)),
        (f"\\binom{{{e}}}{{2}} \\cdot {c}", f"\\frac{{{c} \\cdot {e} \\cdot {e - 1 + 2 * w}}}{{2}}"),
        # Several values
        (f"\\left[{a}, {e}\\right) \\cup ({e + c}, \\infty)", f"[{a}, {e}) \\cup ({e + c + w}, \\infty)"),
        (f"\\left(-\\infty, \\frac{{{a}}}{{{b}}}\\right]", f"x \\le \\frac{{{a * c}}}{{{b * c + w}}}"),
        (matrix.format("pmatrix", a, b, c, d), matrix.format("bmatrix", a, b, c, d + w)),
        (
            matrix.format("pmatrix", f"\\frac{{{a}}}{{{b}}}", f"\\sqrt{{{c * c * d}}}", 0, 1),
            matrix.format("pmatrix", f"\\frac{{{a * c}}}{{{b * c}}}", f"{c + w}\\sqrt{{{d}}}", 0, 1),
        ),
        (f"\\left( \\frac{{{a}}}{{{b}}}, -\\sqrt{{{c}}} \\right)", f"({a}/{b}, -\\sqrt{{{c + w}}})"),
        (
            f"\\left\\{{ \\frac{{{a}}}{{{b}}}, \\sqrt{{{c}}}, {-d} \\right\\}}",
            f"\\{{{-d - w}, \\frac{{{2 * a}}}{{{2 * b}}}, \\sqrt{{{c}}}\\}}",
        ),
        (
            f"\\frac{{{a} \\pm \\sqrt{{{b}}}}}{{{c}}}",
            f"\\frac{{{a} - \\sqrt{{{b}}}}}{{{c}}}, \\frac{{{a} + \\sqrt{{{b + w}}}}}{{{c}}}",
        ),
        (f"y = {a}x + {b}", f"{c * a}x - {c}y + {c * b + w} = 0"),
    ]


LOADS: dict[str, Callable[[int, random.Random], list[Case]]] = {"rollouts": rollouts, "hard LaTeX": hard_answers}


def grader(rows: Sequence[GradingRow]) -> list[bool | None]:
    """Grades with the grader, as the filter does."""
    with Grader(GradingSettings()) as ours:
        return [verdict for start in range(0, len(rows), BATCH) for verdict in ours.grade(rows[start : start + BATCH])]


def plain(row: GradingRow) -> bool:
    """Grades with math-verify, as in its README."""
    from math_verify import parse, verify

    return bool(verify(parse(f"\\boxed{{{row.answer}}}"), parse(row.completion)))


def loop(rows: Sequence[GradingRow]) -> list[bool | None]:
    """Grades with math-verify in a loop."""
    return [plain(row) for row in rows]


def pool(rows: Sequence[GradingRow]) -> list[bool | None]:
    """Grades with math-verify in a pool on all cores."""
    with multiprocessing.Pool(os.cpu_count()) as processes:
        return [*processes.map(plain, rows, chunksize=64)]


SIDES: dict[str, Callable[[Sequence[GradingRow]], list[bool | None]]] = {"grader": grader, "pool": pool, "loop": loop}


def measured(side: str, rows: Sequence[GradingRow]) -> dict[str, Any]:
    """Runs a side in this process; returns its seconds, its peak memory in MiB and its verdicts."""
    if side != "grader":  # imported beforehand, so that small samples are not charged for it
        importlib.import_module("math_verify")
    me, done = psutil.Process(), threading.Event()
    cpu: dict[int, float] = {}  # seconds per process, as last seen
    peak = {"parent": 0, "workers": 0}

    def look() -> None:
        sizes = {"parent": 0, "workers": 0}
        for process in (me, *me.children(recursive=True)):
            try:
                sizes["parent" if process == me else "workers"] += process.memory_info().rss >> 20
                cpu[process.pid] = sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        peak.update({who: max(peak[who], size) for who, size in sizes.items()})

    def watch() -> None:
        while not done.wait(0.25):
            look()

    look()
    before, began = sum(cpu.values()), time.monotonic()
    watcher = threading.Thread(target=watch)
    watcher.start()
    verdicts = SIDES[side](rows)
    seconds = time.monotonic() - began
    done.set()
    watcher.join()
    return {"seconds": seconds, "cpu": sum(cpu.values()) - before, "peak_mib": peak, "verdicts": verdicts}


def in_own_process(side: str, load: str, count: int, rows: int) -> dict[str, Any]:
    """Runs `measured` in its own process on the first `rows` rows of a load."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        order = ["--side", side, "--load", load, "--count", str(count), "--rows", str(rows), "--out", str(out)]
        subprocess.run([sys.executable, __file__, *order], check=True, stderr=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def not_right(verdicts: Sequence[bool | None], cases: Sequence[Case]) -> int:
    """Returns the number of wrong verdicts on the first cases."""
    return sum(bool(verdict) != case.right for verdict, case in zip(verdicts, cases, strict=False))


def compare(load: str, count: int, sizes: dict[str, int], runs: int, differences: int) -> None:
    """Prints what the sides cost on a load, and rows on which their verdicts are wrong."""
    found = {side: [in_own_process(side, load, count, sizes[side])] for side in sizes}
    for _ in range(runs - 1):
        for side in ("grader", "pool"):
            found[side].append(in_own_process(side, load, count, sizes[side]))
    seconds, cpu = (
        {side: statistics.median(run[key] for run in results) * count / sizes[side] for side, results in found.items()}
        for key in ("seconds", "cpu")
    )
    cases = LOADS[load](count, random.Random(1))
    theirs = found["pool"][0]["verdicts"]
    ours = found["grader"][0]["verdicts"][: len(theirs)]
    click.echo(
        json.dumps(
            {
                "what": load,
                "answers": count,
                "timed_on": sizes,
                "seconds_for_all": {side: round(value, 1) for side, value in seconds.items()},
                "cpu_seconds_for_all": {side: round(value, 1) for side, value in cpu.items()},
                "times_as_fast_as_pool": round(seconds["pool"] / seconds["grader"], 2),
                "times_as_fast_as_pool_by_cpu": round(cpu["pool"] / cpu["grader"], 2),
                "peak_mib": {side: results[0]["peak_mib"] for side, results in found.items() if side != "loop"},
                "verdicts_compared": len(theirs),
                "verdicts_that_differ": sum(a != b for a, b in zip(ours, theirs, strict=True)),
                "verdicts_not_right": {
                    "grader": not_right(ours[: len(theirs)], cases),
                    "pool": not_right(theirs, cases),
                },
                "runs": runs,
            }
        )
    )
    differing = [(case, a, b) for case, a, b in zip(cases, ours, theirs, strict=False) if a != b or a != case.right]
    differing.sort(key=lambda found: found[1] == found[0].right)  # the grader's errors first
    for case, a, b in differing[:differences]:
        click.echo(f"{case.row.answer}  |  {case.row.completion[-90:]!r}  |  {case.right}; grader {a}, math-verify {b}")


@click.command()
@click.option("--rollouts", "rollout_count", default=100_000, show_default=True, help="Number of rollouts.")
@click.option("--hard", "hard_count", default=2_000, show_default=True, help="Number of hard LaTeX answers.")
@click.option("--runs", default=3, show_default=True, help="Runs of the grader and the pool; the loop runs once.")
@click.option("--whole", is_flag=True, help="Time the pool on all rows instead of a sample.")
@click.option("--differences", default=0, show_default=True, help="Number of rows to print on which a side is wrong.")
@click.option("--side", type=click.Choice(sorted(SIDES)), hidden=True)
@click.option("--load", type=click.Choice(sorted(LOADS)), hidden=True)
@click.option("--count", default=0, hidden=True)
@click.option("--rows", default=0, hidden=True)
@click.option("--out", type=click.Path(path_type=Path), hidden=True)
def main(
    rollout_count: int,
    hard_count: int,
    runs: int,
    whole: bool,
    differences: int,
    side: str | None,
    load: str | None,
    count: int,
    rows: int,
    out: Path | None,
) -> None:
    """Time the grader and math-verify, and print the ratios."""
    if side and load and out:
        out.write_text(json.dumps(measured(side, [case.row for case in LOADS[load](count, random.Random(1))[:rows]])))
        return
    for name, total, sample in (("rollouts", rollout_count, 5_000), ("hard LaTeX", hard_count, 2_000)):
        sizes = {"grader": total, "pool": total if whole else min(sample, total), "loop": min(sample // 4, total)}
        compare(name, total, sizes, runs, differences)


if __name__ == "__main__":
    main()
