"""Benchmarks compiling the pipeline for several numbers of iterations: `make bench`.

Prints the seconds, the size of the compiled file, and the size of the run's workflow object on a cluster, whose limit
is 1 MiB, as launch/kubeflow/workflow_size.py predicts it.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import click

from launch.compiled import read_compiled
from launch.kubeflow.workflow_size import LIMIT, workflow_size
from launch.recipe import load_recipe
from pipeline import compile_pipeline

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = "registry.example.com/rloop"


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), default=ROOT / "recipes" / "laptop.yaml")
@click.option("--iterations", multiple=True, type=int, default=(1, 2, 3, 10), show_default=True)
@click.option("--runs", default=3, show_default=True, help="Compilations of each; the median counts.")
def main(recipe: Path, iterations: tuple[int, ...], runs: int) -> None:
    """Compile a recipe's pipeline with each number of iterations, with and without vanilla RL, and print the sizes."""
    for vanilla in (False, True):
        for number in iterations:
            loaded = load_recipe(recipe, [], number, vanilla)
            seconds: list[float] = []
            with tempfile.TemporaryDirectory() as folder:
                compiled = Path(folder) / "rloop.yaml"
                for _ in range(runs):
                    began = time.process_time()
                    compile_pipeline(loaded, compiled, REGISTRY, "cpu")
                    seconds.append(time.process_time() - began)
                size = workflow_size(read_compiled(compiled))
                click.echo(
                    json.dumps(
                        {
                            "what": "compile",
                            "iterations": number,
                            "vanilla_rl": vanilla,
                            "stages": size.stages,
                            "cpu_seconds": round(statistics.median(seconds), 2),
                            "file_kb": round(compiled.stat().st_size / 1000),
                            "workflow_kb": round(size.bytes / 1000),
                            "share_of_limit": round(size.bytes / LIMIT, 2),
                            "stages_readable_to_the_end": size.fits_uncompressed,
                        }
                    )
                )


if __name__ == "__main__":
    main()
