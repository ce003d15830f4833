"""The command line: its commands, `compile` and `run` among them, and how it reports errors."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from components.shared.errors import InputError
from components.shared.stage import disk_problem, whole_file
from components.shared.version import VERSION
from launch.analysis.compare import compare
from launch.analysis.grade import grade
from launch.check import check
from launch.compiled import read_compiled
from launch.continuation import continued_folder
from launch.images import STAGES, default_variant, require_images
from launch.images_command import images
from launch.kubeflow.cluster import PIPELINE_NAME
from launch.kubeflow.commands import cancel, retry, status
from launch.kubeflow.schedule import schedule
from launch.kubeflow.submit import submit
from launch.kubeflow.workflow_size import check_size, workflow_size
from launch.local.run import run_locally
from launch.options import (
    iterations_option,
    missing_images_option,
    recipe_option,
    registry_option,
    set_option,
    vanilla_option,
    variant_option,
)
from launch.planning.plan import plan
from launch.recipe import load_recipe


@click.command("compile")
@recipe_option
@iterations_option
@vanilla_option
@set_option
@registry_option
@variant_option
@missing_images_option
@click.option("--output", required=True, type=click.Path(path_type=Path), help="YAML file to write.")
@click.pass_obj
def compile_command(
    compile_pipeline: Callable[..., None],
    recipe_path: Path,
    iterations: int | None,
    vanilla: bool,
    overrides: tuple[str, ...],
    registry: str,
    variant: str | None,
    allow_missing_images: bool,
    output: Path,
) -> None:
    """Compile the pipeline to a YAML file for Kubeflow."""
    recipe = load_recipe(recipe_path, overrides, iterations, vanilla)
    _prepare_output(output)
    variant = variant or default_variant(registry, recipe)
    if registry and not allow_missing_images:
        require_images(registry, variant)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / output.name
        compile_pipeline(recipe, compiled, registry, variant)
        size = workflow_size(read_compiled(compiled))
        check_size(size, recipe.iterations)
        try:
            with whole_file(output) as temporary:
                shutil.copyfile(compiled, temporary)
        except OSError as error:
            raise InputError(f"--output {output}: cannot write it: {error.strerror}; choose another folder") from None
    click.echo(
        f"wrote {output}: pipeline {PIPELINE_NAME} with {recipe.iterations} iterations, "
        f"{output.stat().st_size / 1000:,.0f} KB"
    )
    click.echo(f"on a cluster: {size.words()}")


def _prepare_output(output: Path) -> None:
    """Checks the name of the file to write and makes its folder."""
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output {output}: expected a name that ends in .yaml")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--output {output}: {output.parent} is not a folder") from None
    except OSError as error:
        raise InputError(f"--output {output}: cannot create {output.parent}: {error.strerror}") from None


@click.command("run")
@recipe_option
@iterations_option
@vanilla_option
@set_option
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    help="Folder of the run; if omitted, runs/RECIPE, or runs/RECIPE-from-K with --continue, K being the first "
    "iteration.",
)
@click.option(
    "--runner",
    type=click.Choice(["subprocess", "docker"]),
    default="subprocess",
    show_default=True,
    help="Where each stage runs: in a process of this environment, or in a container of its image.",
)
@click.option(
    "--store",
    type=click.Choice(["folder", "s3"]),
    default="folder",
    show_default=True,
    help="Where artifacts and progress are kept: in the run's folder, or also on an S3 server started for the run.",
)
@click.option(
    "--continue",
    "continued",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Continue the run in FOLDER: start after its last complete iteration and run --iterations more.",
)
@click.option("--until", metavar="STAGE", help=f"Stop after the first run of this stage: {', '.join(STAGES)}.")
@click.pass_obj
def run_command(
    compile_pipeline: Callable[..., None],
    recipe_path: Path,
    iterations: int | None,
    vanilla: bool,
    overrides: tuple[str, ...],
    output_dir: Path | None,
    runner: Literal["subprocess", "docker"],
    store: Literal["folder", "s3"],
    continued: Path | None,
    until: str | None,
) -> None:
    """Run the pipeline locally, without a cluster.

    Compiles the pipeline and runs the compiled file. Results of finished stages are kept: the same command again runs
    only the stages that failed, were interrupted or have changed.
    """
    recipe = load_recipe(recipe_path, overrides, iterations, vanilla)
    earlier = continued_folder(continued, recipe) if continued else None
    if continued and output_dir and output_dir.resolve() == continued.resolve():
        raise InputError(f"--output-dir {output_dir} is the folder of the run to continue: choose another")
    name = f"{recipe_path.stem}-from-{earlier.iterations + 1}" if earlier else recipe_path.stem
    output_dir = output_dir or Path("runs") / name
    sys.exit(run_locally(recipe, recipe_path, output_dir, until, compile_pipeline, runner, store, earlier))


# The commands as `--help` lists them.
SECTIONS = {
    "Prepare a run": (check, plan, images),
    "Run locally": (run_command,),
    "Run on Kubeflow": (compile_command, submit, schedule, status, retry, cancel),
    "Analyze results": (compare, grade),
}


class Commands(click.Group):
    """Lists the commands by section, and prints errors that are meant for the user without a traceback."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections of commands."""
        width = max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                short = formatter.width - width - 6  # click's margins
                formatter.write_dl([(f"{c.name:{width}}", c.get_short_help_str(short)) for c in commands])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; exits with status 2 on an error that is meant for the user."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
        except OSError as error:
            if (message := disk_problem(error)) is None:
                raise
            click.echo(f"error: {message}", err=True)
        ctx.exit(2)


def command_line(compile_pipeline: Callable[..., None]) -> click.Group:
    """Returns the command line.

    Args:
        compile_pipeline: Compiles a recipe's pipeline: pipeline.py's function, which commands get as the context's
            `obj`. The modules under launch do not import pipeline.py, which imports them.
    """

    @click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "obj": compile_pipeline})
    @click.version_option(VERSION, prog_name="rloop", message="%(prog)s %(version)s")
    def main() -> None:
        """Post-train a language model with RLoop, locally or on Kubeflow Pipelines.

        RLoop alternates RL exploration with fine-tuning on correct rollouts of hard problems. A run is set up by a
        recipe, a YAML file: see recipes/ for examples and docs/parameters.md for all keys.
        """

    for commands in SECTIONS.values():
        for command in commands:
            main.add_command(command)
    return main
