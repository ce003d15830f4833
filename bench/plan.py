"""Compares the estimates of `pipeline.py plan` with what a run of the laptop recipe uses, stage by stage.

    OMP_NUM_THREADS=1 python bench/plan.py

runs one iteration in reduced size and prints the table in docs/plan.md. Memory is the peak of a stage's process minus
the memory of a process that has loaded only the libraries and the base policy. Seconds are CPU seconds of that process
on one core: what the stage takes on an otherwise idle machine.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psutil

from components.shared.data.schema import read_rows
from components.shared.policy import Policy
from components.shared.reporting.reports import CURVE, EVALUATION
from components.shared.stage import read_json
from launch.planning.cost_estimate import CostEstimate, StageCost
from launch.planning.planned_run import look_at_run
from launch.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "laptop.yaml"
CHANGES = ("rl.steps=20",)
STAGES = {  # paths by the plan's names
    "evaluation of base": "evaluation-base",
    "RL exploration": "iteration-1/rl-exploration",
    "rollout harvesting": "iteration-1/rollout-harvesting",
    "verification filtering": "iteration-1/verification-filtering",
    "RFT": "iteration-1/rft",
    "evaluation of rloop": "iteration-1/evaluation-rloop",
    "evaluation of explored": "iteration-1/evaluation-explored",
}
_BASE = """
import psutil, torch, trl, datasets
from trl import GRPOTrainer, SFTTrainer
from components.shared.policy import Policy
model = Policy("recipes/tiny/countdown").load_model()
print(psutil.Process().memory_info().rss)
"""


def run(folder: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Runs the recipe; returns CPU seconds and peak memory in bytes, by stage."""
    command = [sys.executable, "pipeline.py", "run", "--recipe", str(RECIPE), "--iterations", "1"]
    command += [part for change in CHANGES for part in ("--set", change)] + ["--output-dir", str(folder)]
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr) as process:
        while process.poll() is None:
            logs = sorted((folder / "logs").glob("*.log"), key=lambda log: log.stat().st_mtime)
            if logs:
                stage = logs[-1].stem.replace(".", "/")
                for took, memory in _processes(process.pid):
                    seconds[stage] = max(seconds.get(stage, 0.0), took)
                    peaks[stage] = max(peaks.get(stage, 0), memory)
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return seconds, peaks


def _processes(pid: int) -> Iterator[tuple[float, int]]:
    """Yields CPU seconds and memory of a process's descendants."""
    for child in psutil.Process(pid).children(recursive=True):
        try:
            times = child.cpu_times()
            yield times.user + times.system, child.memory_info().rss
        except psutil.NoSuchProcess:
            continue


def used(folder: Path, path: str) -> tuple[int, int, int]:
    """Returns a stage's tokens sampled, tokens trained on and bytes of artifacts."""
    stage = folder / "stages" / path
    size = sum(file.stat().st_size for file in _files(stage))
    if path.endswith("rl-exploration"):
        rows = list(read_rows(stage / "rollouts", ["prompt", "completion_ids"]))
        sampled = sum(len(row["completion_ids"]) for row in rows)
        return sampled, sampled + _prompt_tokens(rows), size
    if path.endswith("rft"):
        rows = list(read_rows(stage.parent / "verification-filtering" / "experts", ["prompt", "completion_ids"]))
        tokens = sum(len(row["completion_ids"]) for row in rows) + _prompt_tokens(rows)
        return 0, round(tokens * float(load_recipe(RECIPE).rft.epochs)), size
    if "evaluation" in path:
        measured = [read_json(stage / "evaluation" / EVALUATION)]
        if (curve := stage / "evaluation" / CURVE).exists():
            measured += read_json(curve)["points"]
        return sum(_evaluated(each["evaluations"]) for each in measured), 0, size
    return 0, 0, size


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():  # the names are links to the artifacts
        yield from (file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def _prompt_tokens(rows: list[dict[str, Any]]) -> int:
    policy = Policy(ROOT / "recipes" / "tiny" / "countdown")
    return sum(len(ids) for ids in policy.prompt_token_ids([row["prompt"] for row in rows]))


def _evaluated(evaluations: list[dict[str, Any]]) -> int:
    return int(sum(e["mean_tokens"] * e["n"] * e["problems"] for e in evaluations))


def planned() -> dict[str, StageCost]:
    """Returns the plan's stages, by name."""
    planned, _ = look_at_run(load_recipe(RECIPE, CHANGES, 1), gpu=None)
    return {stage.name: stage for stage in CostEstimate(planned).stages()}


@click.command()
def main() -> None:
    """Run the recipe and print the table."""
    base = int(subprocess.run([sys.executable, "-c", _BASE], cwd=ROOT, capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "run"
        seconds, peaks = run(folder)
        click.echo(json.dumps({"base": base, "peaks": peaks, "seconds": seconds}), err=True)
        click.echo("| stage | figure | plan | used | plan / used |\n|---|---|---|---|---|")
        for name, cost in planned().items():
            if name not in STAGES:
                continue
            sampled, trained, size = used(folder, STAGES[name])
            memory = peaks.get(STAGES[name], 0) - base
            rows = [
                ("tokens sampled", cost.sampled, sampled, "{:,}"),
                ("tokens trained on", cost.trained, trained, "{:,}"),
                (
                    "memory, MiB",
                    max((m.total for m in cost.memory.values()), default=0) // 2**20,
                    memory // 2**20,
                    "{:,}",
                ),
                ("artifacts, KiB", cost.written // 2**10, size // 2**10, "{:,}"),
                ("seconds", cost.seconds, seconds[STAGES[name]], "{:,.0f}"),
            ]
            for figure, plan, real, form in rows:
                if plan and real > 0:
                    click.echo(f"| {name} | {figure} | {form.format(plan)} | {form.format(real)} | {plan / real:.1f} |")
        total = sum(cost.seconds * cost.times for cost in planned().values())
        click.echo(
            f"| all | seconds | {total:,.0f} | {sum(seconds.values()):,.0f} | {total / sum(seconds.values()):.1f} |"
        )


if __name__ == "__main__":
    main()
