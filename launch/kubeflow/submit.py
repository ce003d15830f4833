"""The `submit` command, and what it shares with `schedule`: options, compilation and upload of what to run.

Both compile the pipeline with the function in the click context's `obj` (launch/cli.py).
"""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from components.shared.object_store.s3 import shell_endpoint
from launch.compiled import read_compiled
from launch.continuation import Earlier, continued_run
from launch.images import default_variant, require_images
from launch.kubeflow.cluster import PIPELINE_NAME, Cluster, version_digest, version_name
from launch.kubeflow.commands import connection_options, wait_option
from launch.kubeflow.inputs import Upload, plan_uploads, require_visible, upload_input, upload_root, with_uploads
from launch.kubeflow.server import Connection
from launch.kubeflow.status.display import follow, new_console
from launch.kubeflow.workflow_size import WorkflowSize, check_size, workflow_size
from launch.options import (
    iterations_option,
    missing_images_option,
    recipe_option,
    registry_option,
    set_option,
    vanilla_option,
    variant_option,
)
from launch.parameters import run_parameters
from launch.recipe import Recipe, load_recipe

Compile = Callable[..., None]  # pipeline.py's compile_pipeline


@dataclass(frozen=True)
class RunOptions:
    """What to run, and how: the options that `submit` and `schedule` share."""

    recipe_path: Path
    iterations: int | None
    vanilla: bool
    overrides: tuple[str, ...]
    registry: str
    variant: str | None
    allow_missing_images: bool
    upload: bool
    upload_to: str | None
    experiment: str
    service_account: str | None

    @property
    def name(self) -> str:
        """Name of runs and versions: that of the recipe."""
        return self.recipe_path.stem


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that select what to run, and passes the command a `RunOptions`."""

    @functools.wraps(command)
    def with_options(*arguments: Any, **options: Any) -> Any:
        run_options = RunOptions(**{name: options.pop(name) for name in RunOptions.__dataclass_fields__})
        return command(*arguments, options=run_options, **options)

    for option in reversed(
        [
            recipe_option,
            iterations_option,
            vanilla_option,
            set_option,
            registry_option,
            variant_option,
            missing_images_option,
            click.option(
                "--upload",
                is_flag=True,
                help="Upload a local base policy and data files to the bucket of store.checkpoint_uri.",
            ),
            click.option("--upload-to", metavar="URI", help="Upload them to s3://BUCKET/PREFIX instead."),
            click.option("--experiment", default=PIPELINE_NAME, show_default=True, help="KFP experiment of the run."),
            click.option(
                "--service-account",
                help="Service account of the pods, such as rloop of the manifests; defaults to KFP's.",
            ),
        ]
    ):
        with_options = option(with_options)
    return with_options


@dataclass(frozen=True)
class PreparedRun:
    """What to run, ready to be submitted.

    Attributes:
        name: name of the recipe.
        compiled: path of the compiled pipeline.
        parameters: parameters of the run.
        size: predicted size of the run's workflow on the cluster.
        uploads: local files that its pods read.
    """

    name: str
    compiled: Path
    parameters: dict[str, Any]
    size: WorkflowSize
    uploads: list[Upload]


def prepare(
    console: Console,
    compile_pipeline: Compile,
    options: RunOptions,
    folder: str,
    find_earlier: Callable[[Recipe], Earlier] | None = None,
) -> PreparedRun:
    """Loads, checks and compiles what to run.

    Args:
        console: console for remarks.
        compile_pipeline: pipeline.py's function of this name.
        options: what to run.
        folder: folder for the compiled pipeline.
        find_earlier: finds the run to continue from, given the recipe; None for a run from scratch.

    Raises:
        InputError: the recipe is invalid, an image is missing, the recipe refers to files that pods cannot read, or it
            has more iterations than a single run can hold.
    """
    recipe = load_recipe(options.recipe_path, options.overrides, options.iterations, options.vanilla)
    earlier = find_earlier(recipe) if find_earlier else None
    if earlier:
        console.print(earlier.words(), soft_wrap=True)
    uploads = []
    if options.upload or options.upload_to:
        uploads = plan_uploads(recipe, upload_root(recipe, options.upload_to))
        recipe = with_uploads(recipe, uploads)
    if uploads and (here := shell_endpoint()) and not recipe.store.endpoint:
        console.print(
            f"note: this shell uploads to {here}, but store.endpoint is empty, so pods use AWS unless configured "
            "otherwise. Set store.endpoint to the address of the same store as seen by pods"
        )
    require_visible(recipe)
    variant = options.variant or default_variant(options.registry, recipe)
    if options.registry and not options.allow_missing_images:
        require_images(options.registry, variant)
    compiled = Path(folder) / f"{PIPELINE_NAME}.yaml"
    compile_pipeline(recipe, compiled, options.registry, variant, before=earlier.iterations if earlier else 0)
    parameters = run_parameters(recipe, earlier.uris if earlier else None)
    size = workflow_size(read_compiled(compiled), parameters)
    check_size(size, recipe.iterations)
    return PreparedRun(options.name, compiled, parameters, size, uploads)


def print_upload_plan(console: Console, cluster: Cluster, prepared: PreparedRun, experiment: str) -> None:
    """Prints what would be uploaded and created on the cluster."""
    console.print(f"on {cluster.host}:")
    for upload in prepared.uploads:
        console.print(f"  would upload {upload.path} to {upload.uri}, unless it exists")
    digest = version_digest(prepared.compiled)
    pipeline, version = cluster.find_version(prepared.name, digest)
    size = f"{prepared.compiled.stat().st_size / 1024:.0f} KiB"
    if version:
        console.print(f"  would use the existing version {version.display_name!r} of {PIPELINE_NAME}")
    else:
        create = "" if pipeline else f"create the pipeline {PIPELINE_NAME} and "
        console.print(f"  would {create}upload its version {version_name(prepared.name, digest)!r} ({size})")
    console.print(f"  {prepared.size.words()}")
    if cluster.find_experiment(experiment) is None:
        console.print(f"  would create the experiment {experiment!r}")


def upload_inputs(console: Console, prepared: PreparedRun) -> None:
    """Uploads the local files that the run's pods read."""
    for upload in prepared.uploads:
        console.print(f"{upload.key}: uploading {upload.path} to {upload.uri}")
        upload_input(upload)


@click.command("submit")
@recipe_options
@click.option("--run-name", help="Name of the run; defaults to the recipe's name and the time.")
@click.option(
    "--continue",
    "continued",
    metavar="RUN",
    help="Continue RUN, given by name or ID, for --iterations more iterations; RUN must have ended.",
)
@wait_option
@connection_options
@click.pass_obj
def submit(
    compile_pipeline: Compile,
    options: RunOptions,
    run_name: str | None,
    continued: str | None,
    wait: bool,
    connection: Connection,
    dry_run: bool,
) -> None:
    """Run the pipeline on Kubeflow.

    The compiled pipeline is uploaded as a version of the pipeline `rloop`, unless a version with the same code and
    structure exists. The recipe's values are sent as parameters of the run.
    """
    console = new_console()
    name = run_name or f"{options.name} {datetime.now():%Y-%m-%d %H:%M:%S}"
    with tempfile.TemporaryDirectory() as folder:
        find_earlier = (lambda recipe: continued_run(Cluster(connection), continued, recipe)) if continued else None
        prepared = prepare(console, compile_pipeline, options, folder, find_earlier)
        cluster = Cluster(connection)
        if dry_run:
            print_upload_plan(console, cluster, prepared, options.experiment)
            console.print(f"  would start the run {name!r}")
            return
        upload_inputs(console, prepared)
        version = cluster.upload_version(prepared.name, prepared.compiled)
    experiment = cluster.experiment(options.experiment).experiment_id
    run = cluster.create_run(name, experiment, version, prepared.parameters, options.service_account)
    console.print(prepared.size.words())
    console.print(f"submitted {name!r}, version {version.display_name!r} of {PIPELINE_NAME}")
    follow(console, cluster, run.run_id, wait)
