"""The `compare` command: compares runs with different seeds, to tell differences from seed noise."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click
import numpy as np
from rich.console import Console

from components.shared.errors import InputError
from components.shared.reporting.shown import SHOWN, spread
from components.shared.stage import read_json
from launch.analysis.policy_table import print_policy_table
from launch.analysis.seeds import Counts, difference, over_seeds_and_problems, values, wins

PolicyCounts = dict[str, Counts]  # by policy


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def compare(runs: tuple[Path, ...]) -> None:
    """Compare runs of one recipe with different seeds.

    RUNS are output folders of finished runs. Shows each policy's mean over the runs and the standard deviation between
    them, and how the last RLoop policy differs from the others, with intervals that account for seeds and problems. Of
    vanilla RL also the best policies on the validation benchmark: what both methods yield if stopped in time.
    """
    summaries, counts = zip(*(_read(run) for run in runs), strict=True)
    names = _common_policies(runs, counts)
    first = summaries[0]
    validation = first["chosen_by"]["benchmark"]
    most = {e["benchmark"]: int(list(e["pass_at_k"])[-1]) for e in first["policies"][0]["evaluations"]}
    seeds = ", ".join(str(summary["settings"]["seed"]) for summary in summaries)
    console = Console(highlight=False)
    console.print(f"{len(runs)} runs, seeds {seeds}; mean over runs ± standard deviation between runs")
    shown = spread(sorted({_iteration(name) for name in names} - {0}), SHOWN)
    cells = {name: _cells(name, counts, most) for name in names if _iteration(name) in (0, *shown)}
    print_policy_table(console, {name: ("avg@n", f"pass@{k}") for name, k in most.items()}, cells)
    tests = [name for name in most if name != validation] or [validation]
    console.print(f"\nmean of {', '.join(tests)}; 95 % intervals over seeds and problems\n")
    for label, one, other in _pairs(names, counts, validation):
        console.print(label, markup=False, soft_wrap=True)
        for line in _difference(one, other, tests, min(most[name] for name in tests)):
            console.print(line, markup=False, soft_wrap=True)


def _read(run: Path) -> tuple[dict[str, Any], PolicyCounts]:
    """Returns a run's summary and its counts per problem."""
    for name in ("summary.json", "problems.json"):
        if not (run / name).is_file():
            raise InputError(f"{run} has no {name}: expected the output folder of a finished run")
    return read_json(run / "summary.json"), read_json(run / "problems.json")


def _common_policies(runs: tuple[Path, ...], counts: tuple[PolicyCounts, ...]) -> list[str]:
    """Returns the policies that all runs have; raises InputError if the runs have different problems."""

    def shape(of_run: PolicyCounts) -> dict[str, int]:
        return {benchmark: len(table["correct"]) for benchmark, table in of_run["base"].items()}

    for run, of_run in zip(runs, counts, strict=True):
        if shape(of_run) != shape(counts[0]):
            raise InputError(
                f"{run} and {runs[0]} have different benchmarks ({shape(of_run)} and {shape(counts[0])}); compare "
                f"runs of one recipe that differ only in their seed"
            )
    return [name for name in counts[0] if all(name in of_run for of_run in counts)]


def _cells(name: str, counts: tuple[PolicyCounts, ...], most: dict[str, int]) -> dict[str, tuple[str, str]]:
    """Returns a policy's average and pass@k by benchmark, each as mean and standard deviation over runs."""

    def cell(benchmark: str, k: int) -> str:
        figures = [float(np.nanmean(values(of_run[name], benchmark, k))) for of_run in counts]
        return f"{fmean(figures):.3f}" + (f" ±{stdev(figures):.3f}" if len(figures) > 1 else "")

    return {benchmark: (cell(benchmark, 1), cell(benchmark, k)) for benchmark, k in most.items()}


def _iteration(name: str) -> int:
    """Returns the iteration that a policy's name ends with; 0 for the base policy."""
    return int(name.rpartition("-")[2]) if "-" in name else 0


def _pairs(
    names: list[str], counts: tuple[PolicyCounts, ...], validation: str
) -> Iterator[tuple[str, list[Counts], list[Counts]]]:
    """Yields the pairs of policies to compare, in each run: a label, the first policies and the second ones."""
    last = _of_kind(names, "rloop")[-1]
    for other in ("base", f"explored-{_iteration(last)}", f"vanilla-{_iteration(last)}"):
        if other in names:
            yield f"{last} over {other}", [of_run[last] for of_run in counts], [of_run[other] for of_run in counts]
    if vanilla := _of_kind(names, "vanilla"):
        one = [_best(of_run, _of_kind(names, "rloop"), validation) for of_run in counts]
        others = [_best(of_run, vanilla, validation) for of_run in counts]
        yield (
            f"best on {validation}: {', '.join(one)} over {', '.join(others)}",
            [of_run[name] for of_run, name in zip(counts, one, strict=True)],
            [of_run[name] for of_run, name in zip(counts, others, strict=True)],
        )


def _of_kind(names: list[str], kind: str) -> list[str]:
    return [name for name in names if name.startswith(f"{kind}-")]


def _best(of_run: PolicyCounts, names: list[str], validation: str) -> str:
    """Returns the policy of a run with the best average on the validation benchmark; the first of equals."""
    return max(names, key=lambda name: float(np.nanmean(values(of_run[name], validation, 1))))


def _difference(one: list[Counts], other: list[Counts], tests: list[str], k: int) -> Iterator[str]:
    """Yields lines that show how policies differ; each argument has one policy per run."""
    for figure, tries in (("avg@n", 1), (f"pass@{k}", k)):
        runs = [
            [np.stack([values(counts, test, tries) for counts in pair]) for test in tests]
            for pair in zip(one, other, strict=True)
        ]
        estimate = over_seeds_and_problems(runs, difference).signed
        yield f"  {figure:<8} {estimate}, better in {wins(runs)} of {len(runs)} runs"
