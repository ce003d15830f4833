"""Runs the studies of docs/reproduction.md: `python -m reproduction.run [STUDY ...]`.

Finished runs and stages are kept: the same command resumes where it was stopped. What a run yields is written after
every budget, so that a stopped one can be compared at the budgets that it has reached.
"""

import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from reproduction.document import write_document, write_readme_section
from reproduction.grid import ROOT, SHORT, STUDIES, Run, Study, tuning_runs
from reproduction.methods import planned_runs
from reproduction.results import execute, read_results


@click.command()
@click.argument("studies", nargs=-1, type=click.Choice(list(STUDIES)))
@click.option("--short", is_flag=True, help="Compare on Countdown alone, up to 120 RL steps: about 10 minutes.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="one per core")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the runs (default: runs/reproduction).")
@click.option("--write-only", is_flag=True, help="Write the pages from the committed results; run nothing.")
def main(studies: tuple[str, ...], short: bool, jobs: int, output: Path | None, write_only: bool) -> None:
    """Compare RLoop with vanilla RL in STUDIES (all that need no vLLM, if omitted) and write what was found."""
    if write_only:
        page, results = ROOT / "docs" / "reproduction.md", ROOT / "reproduction" / "results"
        quoted = write_document(page, results, list(STUDIES.values()), remarks=True)
        write_readme_section(ROOT / "README.md", quoted)
        return
    output = (output or ROOT / "runs" / ("reproduction-short" if short else "reproduction")).resolve()
    chosen = [SHORT] if short else [STUDIES[name] for name in studies or ("countdown", "shortest-path")]
    for study in chosen:
        run_study(study, output, jobs)
    write_document(output / "reproduction.md", output / "results", chosen)
    click.echo(f"wrote {output / 'reproduction.md'}")


def run_study(study: Study, output: Path, jobs: int) -> None:
    """Executes a study's runs: first those that settings are chosen with, then those of the chosen settings.

    Args:
        study: the study.
        output: folder of the runs, with their result files in `results`.
        jobs: number of parallel runs.
    """
    run_all(tuning_runs(study), study, output, jobs)
    run_all(planned_runs(read_results(output / "results", study), study), study, output, jobs)


def run_all(runs: dict[Run, int], study: Study, output: Path, jobs: int) -> None:
    """Executes the runs, up to their iterations, that have not finished; those with different folders in parallel."""
    finished = read_results(output / "results", study)
    places: defaultdict[str, list[Run]] = defaultdict(list)
    for run, iterations in runs.items():
        if run not in finished or finished[run]["iterations"] < iterations:
            places[run.place].append(run)
    left = sum(map(len, places.values()))
    click.echo(f"{study.name}: {len(runs) - left} of {len(runs)} runs finished; {left} to do, {jobs} in parallel")
    began = time.monotonic()
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def work(of_place: list[Run]) -> None:
        nonlocal left
        for run in of_place:
            reached = finished[run]["iterations"] if run in finished else 0
            for budget in [b for b in study.budgets if reached < b <= runs[run]]:
                execute(run, study, budget, output, output / "results", threads)
            left -= 1
            click.echo(f"  {run.name:<40} {left} left, {(time.monotonic() - began) / 60:.0f} minutes so far")

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
