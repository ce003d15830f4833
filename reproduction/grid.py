"""The runs that the comparison needs, and how to execute one: a pipeline run with vanilla RL beside RLoop.

Settings are chosen on the development set, with the same number of runs for both methods; the chosen ones then run with
every seed on every base policy, and only then are the test sets read.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.stage import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "reproduction.yaml"
BASES = {"A": "recipes/tiny/countdown", "B": "recipes/tiny/countdown-2"}
# Variants of RLoop, by name, and the recipe keys they change. They run only at SAME_RATE and are not tuned.
VARIANTS = {"all experts": ("experts_from=all", "rft_from=base")}
SAME_RATE = 3e-4  # the methods are always compared at this learning rate


@dataclass(frozen=True)
class Grid:
    """The size of the comparison."""

    learning_rates: tuple[float, ...]
    tuning_seeds: tuple[int, ...]  # with base policy A, to choose the learning rates
    seeds: dict[str, tuple[int, ...]]  # by base policy
    controls: bool  # whether to run with an RL learning rate of 0 too
    variants: bool  # whether to run VARIANTS too
    changes: tuple[str, ...] = ()  # recipe overrides, for smaller runs


FULL = Grid((1e-4, 3e-4, 6e-4), (1, 2), {"A": (1, 2, 3, 4, 5), "B": (1, 2)}, controls=True, variants=True)
SHORT = Grid(
    (1e-4, 3e-4),
    (1,),
    {"A": (1, 2)},
    controls=False,
    variants=False,
    changes=("iterations=2", "eval.samples=32", "rl.steps=40"),
)


@dataclass(frozen=True)
class Run:
    """One pipeline run from one base policy with one seed and one RL learning rate.

    It runs RLoop and vanilla RL; the control runs only RLoop.
    """

    base: str
    seed: int
    learning_rate: float
    changes: tuple[str, ...] = field(default=())
    variant: str = ""  # one of VARIANTS

    @property
    def name(self) -> str:
        """Name of the run's results."""
        variant = f"-{self.variant.replace(' ', '-')}" if self.variant else ""
        return f"{self.base}-seed{self.seed}-lr{self.learning_rate:g}{variant}"

    @property
    def place(self) -> str:
        """Folder of the run: runs of one base policy and seed share it, along with the stages they have in common."""
        return f"{self.base}-seed{self.seed}"

    def settings(self) -> list[str]:
        """Returns the overrides of the recipe."""
        own = [f"base_policy={BASES[self.base]}", f"seed={self.seed}", f"rl.learning_rate={self.learning_rate!r}"]
        # With vanilla RL beside it, a variant shares the stages of the run it varies up to the second iteration.
        variant = VARIANTS[self.variant] if self.variant else ()
        # The course of RL is drawn only for the first base policy and one learning rate.
        drawn = self.base == "A" and self.learning_rate == SAME_RATE
        return [*own, *self.changes, *variant, *(() if drawn else ("rl.snapshot_every=0",))]


Results = dict[Run, dict[str, Any]]  # of finished runs


def results_of(run: Run, output: Path) -> dict[str, Any] | None:
    """Returns a finished run's summary and its figures by problem; None if it has not run with these settings."""
    file = output / "results" / f"{run.name}.json"
    if not file.is_file():
        return None
    results: dict[str, Any] = read_json(file)
    return results if results["settings"] == run.settings() else None


def execute(run: Run, output: Path, threads: int) -> None:
    """Executes a run and keeps its figures; reuses the finished stages of earlier attempts.

    Args:
        run: what to run.
        output: folder of the whole comparison.
        threads: number of torch threads, so that parallel runs do not compete for cores.

    Raises:
        RuntimeError: the run failed; the message names its log.
    """
    folder, log = output / "runs" / run.place, output / "logs" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = [part for change in run.settings() for part in ("--set", change)]
    with log.open("w") as screen:
        done = subprocess.run(
            [sys.executable, "pipeline.py", "run", "--recipe", str(RECIPE), "--output-dir", str(folder), *arguments],
            cwd=ROOT,
            stdout=screen,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    if done.returncode:
        raise RuntimeError(f"the run {run.name} failed; see {log}")
    summary = read_json(folder / "summary.json")
    problems = read_json(folder / "problems.json")
    write_json(
        output / "results" / f"{run.name}.json",
        {"settings": run.settings(), "summary": summary, "problems": problems},
    )
    (output / "reports").mkdir(exist_ok=True)
    shutil.copyfile(folder / "report.html", output / "reports" / f"{run.name}.html")


def find_run(results: Results, base: str, seed: int, rate: float, variant: str = "") -> dict[str, Any] | None:
    """Returns the results of a run; None if it has not finished."""
    wanted = (base, seed, rate, variant)
    found = (r for run, r in results.items() if (run.base, run.seed, run.learning_rate, run.variant) == wanted)
    return next(found, None)


def last_policy(results: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns the summary's entry for the last policy of a kind."""
    found: dict[str, Any] = [p for p in results["summary"]["policies"] if p["kind"] == kind][-1]
    return found


def last_on_dev(results: dict[str, Any], method: str) -> dict[str, Any]:
    """Returns the figures of a method's last policy on the development set."""
    return next(e for e in last_policy(results, method)["evaluations"] if e["benchmark"] == "dev")
