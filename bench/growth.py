"""Benchmarks how harvesting and filtering grow with the number of rollouts: `make bench`.

The rollouts are synthetic: 8,192 a step, 512 for each problem, completions of about 400 characters and 100 tokens that
end in a boxed integer, which is right at a rate of the problem's own; some correct ones are duplicates. Integers are
compared without a worker process, so that this measures the tables; bench/grading.py measures the grading. Each stage
runs in its own process. Memory is that process's peak, less what it has after its imports.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from components.rollout_harvesting.harvest import harvest
from components.shared.data.schema import PROBLEMS, ROLLOUTS, table_writer, write_table
from components.shared.grading import GradingSettings
from components.verification_filtering.filter import filter_trajectories
from components.verification_filtering.settings import FilterSettings

PER_STEP, GROUP, PER_PROBLEM = 8192, 16, 512
DUPLICATES = 0.2  # share of the correct rollouts
WORDS = re.findall(
    r"\S+",
    "so then we get note that the sum of both sides is equal to x = 3 , y + 7 which gives n ^ 2 - 4 because every "
    "term after first one divides 12 and hence \\frac{a}{b} cannot be 5 unless k is odd . Let us try case where",
)
STAGES = ("harvesting", "filtering")


def make_rollouts(folder: Path, count: int) -> None:
    """Writes the problems and the rollout shards, one per step.

    Args:
        folder: folder for the folders `problems` and `rollouts`.
        count: number of rollouts.
    """
    draw = random.Random(1)
    problems = max(1, count // PER_PROBLEM)
    skills = [draw.betavariate(1, 1.5) for _ in range(problems)]
    write_table(
        folder / "problems" / "problems.parquet",
        PROBLEMS,
        (
            {
                "problem_id": f"problem-{number:09d}",
                "prompt": f"What is {number}?",
                "answer": str(number),
                "source": "synthetic",
                "verifier": "math",
                "difficulty": None,
            }
            for number in range(problems)
        ),
    )
    for step, first in enumerate(range(0, count, PER_STEP)):
        size = min(PER_STEP, count - first)
        numbers = [(first + i) // GROUP % problems for i in range(size)]
        right = [draw.random() < skills[number] for number in numbers]
        columns = {
            "problem_id": [f"problem-{number:09d}" for number in numbers],
            "iteration": [1] * size,
            "step": [step] * size,
            "rank": [0] * size,
            "group_id": [f"{step}-{i // GROUP}" for i in range(size)],
            "sample_index": list(range(size)),
            "prompt": [f"What is {number}?" for number in numbers],
            "completion": [completion(draw, n, good) for n, good in zip(numbers, right, strict=True)],
            "completion_ids": [draw.choices(range(50_000), k=100)] * size,
            "finish_reason": ["stop" if draw.random() < 0.97 else "length" for _ in range(size)],
            "reward": [float(good) for good in right],
            "policy_id": ["base"] * size,
            "sampled_at": [datetime.now(UTC)] * size,
        }
        with table_writer(folder / "rollouts" / f"step-{step:06d}-rank-0.parquet", ROLLOUTS) as shard:
            shard.write_batch(pa.table(columns, schema=ROLLOUTS))


def completion(draw: random.Random, number: int, good: bool) -> str:
    """Returns a derivation that ends in the right answer, `number`, or a wrong one."""
    source = random.Random(number) if good and draw.random() < DUPLICATES else draw
    answer = number if good else number + 1 + int(draw.random() * 9)
    return f"{' '.join(source.choices(WORDS, k=100))} Therefore the answer is \\boxed{{{answer}}}."


def run_stage(stage: str, folder: Path) -> dict[str, Any]:
    """Runs a stage in this process; returns its seconds, its memory in MiB and its figures."""
    before, began, cpu = _memory(), time.monotonic(), sum(os.times()[:4])
    if stage == "harvesting":
        figures = harvest(
            folder / "rollouts",
            trajectories_out=folder / "trajectories",
            success_rates_out=folder / "success-rates",
            report_out=folder / "harvesting.json",
            page_out=folder / "harvesting.html",
        )
    else:
        figures = filter_trajectories(
            folder / "trajectories",
            folder / "problems",
            FilterSettings.check({}, "filter"),
            GradingSettings(),
            experts_out=folder / "experts",
            dropped_out=folder / "dropped",
            report_out=folder / "filtering.json",
            page_out=folder / "filtering.html",
        )
    seconds = {"seconds": time.monotonic() - began, "cpu_seconds": sum(os.times()[:4]) - cpu}
    return {**seconds, "mib": _memory() - before, "figures": figures}


def _memory() -> float:
    # Not getrusage, whose peak begins with that of the process that started this one.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak
    return int(peak[1]) / 1024


def in_own_process(stage: str, folder: Path) -> dict[str, Any]:
    """Runs `run_stage` in its own process."""
    order = [sys.executable, __file__, "--stage", stage, "--work", str(folder)]
    output = subprocess.run(order, check=True, stdout=subprocess.PIPE, text=True).stdout
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


@click.command()
@click.option("--rollouts", "counts", multiple=True, type=int, default=(200_000, 1_000_000), show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the tables in this folder.")
@click.option("--stage", type=click.Choice(STAGES), hidden=True)
@click.option("--work", type=click.Path(path_type=Path), hidden=True)
def main(counts: tuple[int, ...], keep: Path | None, stage: str | None, work: Path | None) -> None:
    """Time both stages for each number of rollouts, and print how they grow; 10 million need 6 GB of disk."""
    if stage and work:
        click.echo(json.dumps(run_stage(stage, work)))
        return
    measured: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in STAGES}
    for count in sorted(counts):
        with tempfile.TemporaryDirectory() as temporary:
            folder = keep / str(count) if keep else Path(temporary)
            if not (folder / "rollouts").is_dir():
                make_rollouts(folder, count)
            for name in STAGES:
                measured[name][count] = found = in_own_process(name, folder)
                click.echo(
                    json.dumps(
                        {
                            "what": name,
                            "rollouts": count,
                            "seconds": round(found["seconds"], 1),
                            "cpu_seconds": round(found["cpu_seconds"], 1),
                            "rollouts_per_second": round(count / found["seconds"]),
                            "mib": round(found["mib"]),
                            "figures": found["figures"],
                        }
                    )
                )
    if len(set(counts)) > 1:
        for name, runs in measured.items():
            click.echo(json.dumps({"what": f"growth of {name}", **growth(runs)}))


def growth(found: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Returns what a million more rollouts cost, from the smallest and the largest number, and 10 million by that."""
    small, large = min(found), max(found)
    more = (large - small) / 1e6
    result = {"times_the_rollouts": round(large / small, 1)}
    for key in ("seconds", "cpu_seconds", "mib"):
        each = (found[large][key] - found[small][key]) / more
        result[f"times_the_{key}"] = round(found[large][key] / found[small][key], 1)
        result[f"{key}_per_million_more"] = round(each, 1)
        result[f"{key}_for_10_million_extrapolated"] = round(found[large][key] + each * (10 - large / 1e6))
    return result


if __name__ == "__main__":
    main()
