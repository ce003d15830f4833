"""Times how each stage starts and ends: `make bench`.

Runs the laptop recipe in a reduced size, as `pipeline.py run` starts the stages, and measures in each stage's process
the seconds from its start to the first real work (the first training step, sampled batch or graded row; in the other
stages, the call that does all of the work) and from the end of the last work to the end of the process.
"""

import os
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
MARKS = Path(__file__).resolve().parent / "startup_marks"
SMALL = (
    "iterations=1",
    "rl.steps=2",
    "rl.snapshot_every=0",
    "filter.max_success_rate=1.0",
    "rft.epochs=1",
    "eval.samples=2",
    "eval.pass_at=[1, 2]",
    "data.benchmarks={dev: 'countdown://dev?numbers=3&low=1&high=9&count=20&seed=2'}",
)


def boot_to_monotonic(process: int) -> float:
    """Returns when a process was started, on the monotonic clock."""
    ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = ticks / os.sysconf("SC_CLK_TCK")
    return since_boot - time.clock_gettime(time.CLOCK_BOOTTIME) + time.monotonic()


class Watch:
    """Collects the marks of the stages' processes, and sees when they end."""

    def __init__(self) -> None:
        self.stages: dict[int, dict[str, Any]] = {}
        self._waiting: list[threading.Thread] = []

    def read(self, marks: int) -> None:
        """Reads marks until the run closes the pipe."""
        with os.fdopen(marks) as lines:
            for line in lines:
                process, stage, when, cpu, event = line.split()
                self._mark(int(process), stage, float(when), event)
                if event == "begins":
                    self.stages[int(process)]["cpu"] = float(cpu)
        for thread in self._waiting:
            thread.join()

    def _mark(self, process: int, stage: str, when: float, event: str) -> None:
        if event == "starts":
            self.stages[process] = {"stage": stage, "starts": boot_to_monotonic(process)}
            handle = os.pidfd_open(process)
            self._waiting.append(threading.Thread(target=self._wait, args=(process, handle)))
            self._waiting[-1].start()
        self.stages[process].setdefault(event, when)
        if event == "works":
            self.stages[process][event] = when

    def _wait(self, process: int, handle: int) -> None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll()
        self.stages[process]["ends"] = time.monotonic()
        os.close(handle)


def run_once(folder: Path) -> list[dict[str, Any]]:
    """Runs the recipe once; returns the times of each stage."""
    pipe = folder / "marks"
    os.mkfifo(pipe)
    sets = [part for change in SMALL for part in ("--set", change)]
    recipe = str(ROOT / "recipes" / "laptop.yaml")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(MARKS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "RLOOP_BENCH_MARKS": str(pipe),
    }
    watch = Watch()
    # Opened for reading and writing, opening does not wait for a stage; the write end is ours to close after the run.
    marks, keeper = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), os.open(pipe, os.O_WRONLY)
    os.set_blocking(marks, True)
    reader = threading.Thread(target=watch.read, args=(marks,))
    reader.start()
    try:
        subprocess.run(
            [sys.executable, "pipeline.py", "run", "--recipe", recipe, "--output-dir", str(folder / "run"), *sets],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    finally:
        os.close(keeper)
        reader.join()
    return list(watch.stages.values())


@click.command()
@click.option("--runs", default=1, show_default=True, help="Runs of the recipe.")
def main(runs: int) -> None:
    """Print, for each stage, the median seconds from start to first work, and from last work to exit."""
    times: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for found in run_once(Path(folder)):
                start, end = found["begins"] - found["starts"], found["ends"] - found["works"]
                times[found["stage"]].append((start, found["cpu"], end, found["ends"] - found["starts"]))
    headings = ("start to first work", "of it on the CPU", "last work to exit", "in all", "processes")
    click.echo(f"{'seconds, median':24}" + "".join(f"{text:>21}" for text in headings))
    for stage, pairs in times.items():
        medians = (statistics.median(column) for column in zip(*pairs, strict=True))
        click.echo(f"{stage:24}" + "".join(f"{value:21.2f}" for value in medians) + f"{len(pairs):21}")


if __name__ == "__main__":
    main()
