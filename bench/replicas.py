"""Benchmarks how much faster two replicas of the transformers engine sample than one, with one thread each.

Each side evaluates few and then many completions per problem; the difference in seconds has no start-up in it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from stages import POLICY, write_problems

from components.shared.data.schema import BENCHMARK_ORDER
from components.shared.stage import write_json


def seconds(work: Path, replicas: int, samples: int) -> float:
    """Returns the wall-clock seconds of evaluating the tiny policy, in this process and its replicas."""
    from components.evaluation.evaluate import evaluate
    from components.evaluation.settings import EvaluationSettings
    from components.shared.grading import GradingSettings

    settings = {"samples": samples, "pass_at": [1], "max_completion_tokens": 40, "sequences_per_batch": 256}
    out = work / f"{replicas}-{samples}"
    began = time.monotonic()
    evaluate(
        POLICY,
        work / "benchmarks",
        EvaluationSettings.check({**settings, "parallel": {"replicas": replicas}}, "eval"),
        GradingSettings(),
        name="base",
        kind="base",
        iteration=0,
        seed=1,
        samples_out=out,
        evaluation_out=out / "evaluation.json",
        page_out=out / "page.html",
    )
    return time.monotonic() - began


@click.command()
@click.option("--side", type=(click.Path(path_type=Path), int, int), hidden=True)
@click.option(
    "--samples", nargs=2, type=int, default=(16, 80), show_default=True, help="Samples per problem, few and many."
)
def main(side: tuple[Path, int, int] | None, samples: tuple[int, int]) -> None:
    """Time evaluation with one and with two replicas, and print the ratio."""
    if side:
        work, replicas, count = side
        write_json(work / "seconds.json", seconds(work, replicas, count))
        return
    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_problems(work / "benchmarks" / "dev.parquet", 150, "dev")
        write_json(work / "benchmarks" / BENCHMARK_ORDER, ["dev"])
        for replicas in (1, 2):
            points = []
            for count in samples:
                command = [sys.executable, __file__, "--side", folder, str(replicas), str(count)]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                subprocess.run(command, check=True, capture_output=True, env=environment)
                points.append(float(json.loads((work / "seconds.json").read_text())))
            taken[replicas] = points[1] - points[0]
        one, two = (work / f"{n}-{samples[1]}" / "samples.parquet" for n in (1, 2))
        same = one.read_bytes() == two.read_bytes()
    figures = {"one": round(taken[1], 1), "two": round(taken[2], 1), "ratio": round(taken[1] / taken[2], 2)}
    click.echo(json.dumps({**figures, "same_samples": same}))


if __name__ == "__main__":
    main()
