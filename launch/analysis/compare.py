"""The `compare` command: compares runs with different seeds, to tell differences from seed noise."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from components.shared.errors import InputError
from components.shared.stage import read_json
from launch.analysis.seeds import Counts, difference, over_seeds_and_problems, values

PolicyCounts = dict[str, Counts]  # by policy


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def compare(runs: tuple[Path, ...]) -> None:
    """Compare runs of one recipe with different seeds.

    RUNS are output folders of finished runs. Shows each policy's mean over the runs and the standard deviation between
    them, and how the last RLoop policy differs from the others, with intervals that account for seeds and problems.
    """
    summaries, counts = zip(*(_read(run) for run in runs), strict=True)
    names = _common_policies(runs, counts)
    first = summaries[0]
    validation = first["chosen_by"]["benchmark"]
    most = {e["benchmark"]: int(list(e["pass_at_k"])[-1]) for e in first["policies"][0]["evaluations"]}
    seeds = ", ".join(str(summary["settings"]["seed"]) for summary in summaries)
    console = Console(highlight=False)
    console.print(f"{len(runs)} runs, seeds {seeds}; mean over runs ± standard deviation between runs\n")
    console.print(_policy_table(names, counts, most))
    tests = [name for name in most if name != validation] or [validation]
    console.print(f"\nmean of {', '.join(tests)}; 95 % intervals over seeds and problems\n")
    for line in _differences(names, counts, tests, min(most[name] for name in tests)):
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


def _policy_table(names: list[str], counts: tuple[PolicyCounts, ...], most: dict[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("policy", no_wrap=True)
    for benchmark, k in most.items():
        table.add_column(f"{benchmark}\navg@n", justify="right")
        table.add_column(f"\npass@{k}", justify="right")
    for name in names:
        cells = []
        for benchmark, k in most.items():
            for tries in (1, k):
                figures = [float(np.nanmean(values(of_run[name], benchmark, tries))) for of_run in counts]
                spread = f" ±{stdev(figures):.3f}" if len(figures) > 1 else ""
                cells.append(f"{fmean(figures):.3f}{spread}")
        table.add_row(name, *cells)
    return table


def _differences(names: list[str], counts: tuple[PolicyCounts, ...], tests: list[str], k: int) -> list[str]:
    """Returns lines that show how the last RLoop policy differs from the others."""
    lines = []
    last = [name for name in names if name.startswith("rloop-")][-1]
    iteration = last.removeprefix("rloop-")
    for other in ("base", f"explored-{iteration}", f"vanilla-{iteration}"):
        if other in names:
            lines.append(f"{last} over {other}")
            for figure, tries in (("avg@n", 1), (f"pass@{k}", k)):
                runs = [
                    [np.stack([values(of_run[name], test, tries) for name in (last, other)]) for test in tests]
                    for of_run in counts
                ]
                won = sum(difference([np.nanmean(a, axis=1) for a in run]) > 0 for run in runs)
                estimate = over_seeds_and_problems(runs, difference).signed
                lines.append(f"  {figure:<8} {estimate}, better in {won} of {len(runs)} runs")
    return lines
