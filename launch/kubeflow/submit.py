"""The `submit` command, and what `schedule` has in common with it: what to run, compiled and uploaded.

Both compile the pipeline with the function in the click context's `obj`, which pipeline.py sets: it has the graph, and
imports this module.
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
from launch.images import VARIANTS, default_variant, require_images
from launch.kubeflow.cluster import PIPELINE_NAME, Cluster, version_digest, version_name
from launch.kubeflow.commands import connection_options, wait_option
from launch.kubeflow.inputs import Upload, plan_uploads, require_visible, send, upload_root, with_uploads
from launch.kubeflow.server import Connection
from launch.kubeflow.status.display import follow, new_console
from launch.kubeflow.workflow_size import WorkflowSize, check_size, workflow_size
from launch.parameters import run_parameters
from launch.recipe import Recipe, load_recipe

Compile = Callable[..., None]  # pipeline.py's compile_pipeline


@dataclass(frozen=True)
class RunChoice:
    """What to run, and how: the options that `submit` and `schedule` have in common."""

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
        """What runs and versions are called: the recipe's name."""
        return self.recipe_path.stem


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say what to run, and hands the command a `RunChoice`."""

    @functools.wraps(command)
    def with_choice(*arguments: Any, **options: Any) -> Any:
        choice = RunChoice(**{name: options.pop(name) for name in RunChoice.__dataclass_fields__})
        return command(*arguments, choice=choice, **options)

    for option in reversed(
        [
            click.option(
                "--recipe",
                "recipe_path",
                required=True,
                type=click.Path(path_type=Path),
                help="YAML file that sets the run up.",
            ),
            click.option("--iterations", type=click.IntRange(min=1), help="Iterations; the recipe's if left out."),
            click.option("--with-vanilla-rl", "vanilla", is_flag=True, help="Run vanilla RL beside RLoop, to compare."),
            click.option(
                "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe key: rl.steps=20."
            ),
            click.option(
                "--registry", default="", help="Where the stages' images are, such as registry.example.com/me."
            ),
            click.option(
                "--variant",
                type=click.Choice(VARIANTS),
                help="Of the training stages' images; cuda where a pool of the recipe has accelerators, else cpu.",
            ),
            click.option(
                "--allow-missing-images", is_flag=True, help="Do not ask the registry whether it has the images."
            ),
            click.option(
                "--upload",
                is_flag=True,
                help="Upload a base policy and data files that lie here to the bucket where the recipe keeps progress.",
            ),
            click.option("--upload-to", metavar="URI", help="The same, to s3://BUCKET/PREFIX."),
            click.option("--experiment", default=PIPELINE_NAME, show_default=True, help="Experiment to run in."),
            click.option(
                "--service-account",
                help="Account of the pods, such as the manifests' rloop; KFP's if left out.",
            ),
        ]
    ):
        with_choice = option(with_choice)
    return with_choice


@dataclass(frozen=True)
class Prepared:
    """What to run, ready to be sent.

    Attributes:
        name: of the recipe.
        compiled: the compiled pipeline.
        parameters: of a run.
        size: of a run's workflow on the cluster.
        uploads: what its pods read and nobody but this machine has yet.
    """

    name: str
    compiled: Path
    parameters: dict[str, Any]
    size: WorkflowSize
    uploads: list[Upload]


def prepare(
    console: Console,
    compile_pipeline: Compile,
    choice: RunChoice,
    folder: str,
    goes_on_from: Callable[[Recipe], Earlier] | None = None,
) -> Prepared:
    """Reads and compiles what to run; says what may go wrong with it.

    Args:
        console: to say it on.
        compile_pipeline: pipeline.py's.
        choice: what to run.
        folder: for the compiled file.
        goes_on_from: finds what a run of the recipe takes over from the run that it goes on from.

    Raises:
        InputError: the recipe is wrong, an image is missing, the recipe names what no pod can see, or it has more
            iterations than one run can hold.
    """
    recipe = load_recipe(choice.recipe_path, choice.overrides, choice.iterations, choice.vanilla)
    earlier = goes_on_from(recipe) if goes_on_from else None
    if earlier:
        console.print(earlier.words(), soft_wrap=True)
    uploads = []
    if choice.upload or choice.upload_to:
        uploads = plan_uploads(recipe, upload_root(recipe, choice.upload_to))
        recipe = with_uploads(recipe, uploads)
    if uploads and (here := shell_endpoint()) and not recipe.store.endpoint:
        console.print(
            f"note: this shell uploads to {here}, but store.endpoint is empty: unless something else tells pods, they "
            "look at AWS. Set it to the same store's address as pods reach it"
        )
    require_visible(recipe)
    variant = choice.variant or default_variant(choice.registry, recipe)
    if choice.registry and not choice.allow_missing_images:
        require_images(choice.registry, variant)
    compiled = Path(folder) / f"{PIPELINE_NAME}.yaml"
    compile_pipeline(recipe, compiled, choice.registry, variant, before=earlier.iterations if earlier else 0)
    parameters = run_parameters(recipe, earlier.uris if earlier else None)
    size = workflow_size(read_compiled(compiled), parameters)
    check_size(size, recipe.iterations)
    return Prepared(choice.name, compiled, parameters, size, uploads)


def plan_sending(console: Console, cluster: Cluster, prepared: Prepared, experiment: str) -> None:
    """Says what would go to the cluster."""
    console.print(f"on {cluster.host}:")
    for upload in prepared.uploads:
        console.print(f"  would upload {upload.path} to {upload.uri}, unless it is there")
    digest = version_digest(prepared.compiled)
    pipeline, version = cluster.find_version(prepared.name, digest)
    size = f"{prepared.compiled.stat().st_size / 1024:.0f} KiB"
    if version:
        console.print(f"  would use the version {version.display_name!r} of {PIPELINE_NAME}, which has this content")
    else:
        first = "" if pipeline else f"create the pipeline {PIPELINE_NAME} and "
        console.print(f"  would {first}upload its version {version_name(prepared.name, digest)!r} ({size})")
    console.print(f"  {prepared.size.words()}")
    if cluster.find_experiment(experiment) is None:
        console.print(f"  would create the experiment {experiment!r}")


def upload_inputs(console: Console, prepared: Prepared) -> None:
    """Uploads what the run's pods read and nobody but this machine has yet."""
    for upload in prepared.uploads:
        console.print(f"{upload.key}: {upload.path} goes to {upload.uri}")
        send(upload)


@click.command("submit")
@recipe_options
@click.option("--run-name", help="Name of the run; the recipe's and the time if left out.")
@click.option(
    "--continue",
    "continued",
    metavar="RUN",
    help="Go on from the last iteration of a run that has ended, by as many more; its name or id.",
)
@wait_option
@connection_options
@click.pass_obj
def submit(
    compile_pipeline: Compile,
    choice: RunChoice,
    run_name: str | None,
    continued: str | None,
    wait: bool,
    connection: Connection,
    dry_run: bool,
) -> None:
    """Run the pipeline on Kubeflow.

    The compiled pipeline is uploaded as a version of the pipeline `rloop`, unless one of the same code and structure is
    there; the recipe's values go with the run.
    """
    console = new_console()
    name = run_name or f"{choice.name} {datetime.now():%Y-%m-%d %H:%M:%S}"
    with tempfile.TemporaryDirectory() as folder:
        goes_on_from = (lambda recipe: continued_run(Cluster(connection), continued, recipe)) if continued else None
        prepared = prepare(console, compile_pipeline, choice, folder, goes_on_from)
        cluster = Cluster(connection)
        if dry_run:
            plan_sending(console, cluster, prepared, choice.experiment)
            console.print(f"  would start the run {name!r}")
            return
        upload_inputs(console, prepared)
        version = cluster.upload_version(prepared.name, prepared.compiled)
    experiment = cluster.experiment(choice.experiment).experiment_id
    run = cluster.create_run(name, experiment, version, prepared.parameters, choice.service_account)
    console.print(prepared.size.words())
    console.print(f"submitted {name!r}, version {version.display_name!r} of {PIPELINE_NAME}")
    follow(console, cluster, run.run_id, wait)
