"""Results of the runs: executes a run, keeps the figures that the document needs, and reads them again."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from components.shared.stage import read_json, whole_file
from launch.analysis.seeds import Counts
from reproduction.grid import ROOT, Run, Study

Results = dict[Run, dict[str, Any]]  # of runs that have finished at least their first budget


def execute(run: Run, study: Study, iterations: int, output: Path, results: Path, threads: int) -> None:
    """Executes a run for a number of iterations; reuses what an earlier attempt, or fewer iterations, have finished.

    Args:
        run: what to run.
        study: the run's study.
        iterations: number of iterations.
        output: folder of the runs and their logs.
        results: folder of the result files.
        threads: number of torch threads, so that parallel runs do not compete for cores.

    Raises:
        RuntimeError: the run failed; the message names its log.
    """
    folder, log = output / "runs" / run.place, output / "logs" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--recipe", f"recipes/{study.recipe}", "--output-dir", str(folder), "--iterations", str(iterations)]
    arguments += [part for change in run.settings(study) for part in ("--set", change)]
    started = time.monotonic()
    with log.open("w") as screen:
        done = subprocess.run(
            [sys.executable, "pipeline.py", "run", *arguments],
            cwd=ROOT,
            stdout=screen,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    if done.returncode:
        raise RuntimeError(f"the run {run.name} failed; see {log}")
    file = results / f"{run.name}.json"
    before = read_json(file)["hours"] if file.is_file() else 0.0
    keep(run, study, folder, file, before + (time.monotonic() - started) / 3600)


def keep(run: Run, study: Study, folder: Path, file: Path, hours: float) -> None:
    """Writes a run's result file: what the document needs of its summary and of its figures by problem.

    Args:
        run: the run.
        study: the run's study.
        folder: the run's output folder.
        file: JSON file to write.
        hours: what the run took.
    """
    summary, problems = read_json(folder / "summary.json"), read_json(folder / "problems.json")
    iterations = summary["iterations"]
    kept = {
        "run": asdict(run),
        "settings": run.settings(study),
        "iterations": len(iterations),
        "hours": round(hours, 3),
        "seconds": {
            "rl": [round(it["seconds"]["rl"], 1) for it in iterations],
            "rft": [round(it["seconds"]["rft"], 1) for it in iterations],
        },
        "experts": [it["filtering"]["experts"] + it["filtering"]["earlier_experts"] for it in iterations],
        "reward": {
            "explored": [_mean_reward(it["exploration"]) for it in iterations],
            # The first segment of vanilla RL is the first iteration's exploration.
            "vanilla": [
                _mean_reward((it["vanilla"] or it)["exploration"])
                for number, it in enumerate(iterations)
                if it["vanilla"] or number == 0
            ],
        },
        "problems": {
            p["name"]: {benchmark: _folded(table) for benchmark, table in problems[p["name"]].items()}
            for p in summary["policies"]
            if p["kind"] != "explored"
        },
    }
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(kept, separators=(",", ":")) + "\n")


def _folded(table: dict[str, list[int]]) -> dict[str, Any]:
    """Writes the number of samples only once if all problems have as many."""
    same = len(set(table["samples"])) == 1
    return {"samples": table["samples"][0] if same else table["samples"], "correct": table["correct"]}


def _mean_reward(steps: list[dict[str, Any]]) -> float:
    return round(fmean(step["reward"] for step in steps), 4)


def read_results(folder: Path, study: Study) -> Results:
    """Reads the result files of a study's runs; those with other settings than the study's are left out."""
    results: Results = {}
    for file in sorted(folder.glob(f"{study.name}-*.json")):
        found = read_json(file)
        run = Run(**found["run"])
        if run.study == study.name and found["settings"] == run.settings(study):
            results[run] = found
    return results


def counts(found: dict[str, Any], policy: str) -> Counts:
    """Returns a policy's number of samples and of correct ones for each problem, by benchmark."""
    unfolded = {}
    for benchmark, table in found["problems"][policy].items():
        samples = table["samples"]
        every = [samples] * len(table["correct"]) if isinstance(samples, int) else samples
        unfolded[benchmark] = {"samples": every, "correct": table["correct"]}
    return unfolded
