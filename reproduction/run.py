"""Tests the paper's claim: `make reproduce`, or `python -m reproduction.run --short`.

Runs the pipeline with vanilla RL beside RLoop for several learning rates, seeds and base policies, and writes
docs/reproduction.md. Finished runs are kept: the same command resumes where it was stopped.
"""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from reproduction.document import write_document
from reproduction.grid import (
    FULL,
    ROOT,
    SAME_RATE,
    SHORT,
    VARIANTS,
    Grid,
    Run,
    execute,
    last_on_dev,
    results_of,
)


@click.command()
@click.option("--short", is_flag=True, help="Use two learning rates, two seeds and one base policy: about 20 minutes.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of parallel runs; on two cores, one is fastest.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the runs (default: runs/reproduction).")
@click.option("--document", type=click.Path(path_type=Path), help="File to write (default: docs/reproduction.md).")
@click.option("--write-only", is_flag=True, help="Write the document from the finished runs without running anything.")
def main(short: bool, jobs: int, output: Path | None, document: Path | None, write_only: bool) -> None:
    """Compare RLoop with vanilla RL on a tiny policy and write the document."""
    grid = SHORT if short else FULL
    name = "reproduction-short" if short else "reproduction"
    output = output or ROOT / "runs" / name
    document = document or (output / f"{name}.md" if short else ROOT / "docs" / "reproduction.md")
    reproduce(grid, output, document, jobs, write_only)


def reproduce(grid: Grid, output: Path, document: Path, jobs: int, write_only: bool = False) -> None:
    """Chooses settings on the development set, executes the runs with them, and writes the document.

    Args:
        grid: size of the comparison.
        output: folder of the runs.
        document: file to write.
        jobs: number of parallel runs.
        write_only: write the document from the finished runs without running anything.
    """
    tuning = [Run("A", seed, rate, grid.changes) for seed in grid.tuning_seeds for rate in grid.learning_rates]
    if not write_only:
        run_all(tuning, output, jobs)
    chosen = choose(tuning, output)
    click.echo(f"chosen on the development set: vanilla RL {chosen['vanilla']:g}, RLoop {chosen['rloop']:g}")
    rates = sorted({SAME_RATE, *chosen.values()})
    headline = [
        Run(base, seed, rate, grid.changes, variant)
        for base, seeds in grid.seeds.items()
        for seed in seeds
        for rate, variant in [*((rate, "") for rate in rates), *((SAME_RATE, v) for v in VARIANTS if grid.variants)]
    ]
    controls = (
        [Run("A", seed, 0.0, (*grid.changes, "vanilla=false")) for seed in grid.tuning_seeds] if grid.controls else []
    )
    runs = list(dict.fromkeys([*tuning, *headline, *controls]))
    if not write_only:
        run_all(runs, output, jobs)
    results = {run: found for run in runs if (found := results_of(run, output))}
    write_document(document, grid, chosen, results, len(runs))
    click.echo(f"wrote {document}, from {len(results)} of {len(runs)} runs")


def choose(tuning: Iterable[Run], output: Path) -> dict[str, float]:
    """Returns, for each method, the learning rate whose last policy has the best avg@n on the development set."""
    figures: defaultdict[tuple[str, float], list[float]] = defaultdict(list)
    for run in tuning:
        if found := results_of(run, output):
            for method in ("vanilla", "rloop"):
                figures[method, run.learning_rate].append(last_on_dev(found, method)["avg"])
    if not figures:
        raise click.ClickException("no run has finished yet")
    means = {key: sum(values) / len(values) for key, values in figures.items()}
    return {
        method: max((rate for m, rate in means if m == method), key=lambda rate: means[method, rate])
        for method in ("vanilla", "rloop")
    }


def run_all(runs: list[Run], output: Path, jobs: int) -> None:
    """Executes the runs that have not finished; those with different folders run in parallel."""
    places: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if results_of(run, output) is None:
            places[run.place].append(run)
    left = sum(map(len, places.values()))
    click.echo(f"{len(runs) - left} of {len(runs)} runs finished; {left} to do, {jobs} in parallel")
    began = time.monotonic()

    def work(of_place: list[Run]) -> None:
        nonlocal left
        for run in of_place:
            started = time.monotonic()
            execute(run, output, threads=max(1, (os.cpu_count() or 1) // jobs))
            left -= 1
            spent, taken = time.monotonic() - began, time.monotonic() - started
            click.echo(f"  {run.name:<32} {taken:5.0f} s; {left} left, {spent / 60:.0f} minutes so far")

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work, of_place) for of_place in places.values()]:
            try:
                future.result()
            except RuntimeError as error:
                click.echo(f"error: {error}; waiting for the other runs in progress", err=True)
                pool.shutdown(cancel_futures=True)
                sys.exit(1)


if __name__ == "__main__":
    main()
