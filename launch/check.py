"""The `check` command: what a run's first stage looks at, looked at from here, and whether a cluster can have it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from components.preflight.bucket import check_bucket
from components.preflight.check import Findings, in_the_way, look
from components.preflight.settings import RunSize
from components.shared.data.sources import Source
from components.shared.errors import InputError
from launch.compiled import read_compiled
from launch.images import VARIANTS, default_variant, require_images
from launch.kubeflow.commands import server_options
from launch.kubeflow.controller import retry_policy, workflows
from launch.kubeflow.inputs import require_visible, sources_of
from launch.kubeflow.server import Connection, Server
from launch.kubeflow.workflow_size import check_size, workflow_size
from launch.recipe import Recipe, checked_recipe, recipe_values
from launch.store import check_apart


@click.command("check")
@click.option(
    "--recipe", "recipe_path", required=True, type=click.Path(path_type=Path), help="YAML file that sets the run up."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe key, such as rl.steps=20."
)
@click.option("--cluster", is_flag=True, help="Look also whether a cluster's pods can see what the recipe names.")
@click.option("--registry", default="", help="The same, and whether this registry has the stages' images.")
@click.option(
    "--variant", type=click.Choice(VARIANTS), help="Of the training stages' images; by the pools if left out."
)
@click.option("--pipeline-root", help="The same, and write to and read from where artifacts go: s3://BUCKET/PREFIX.")
@click.option("--s3-endpoint", envvar="AWS_ENDPOINT_URL_S3", show_envvar=True, help="URL of the store, if not AWS.")
@server_options
@click.pass_obj
def check(
    compile_pipeline: Callable[[Recipe, Path, str, str], None],
    recipe_path: Path,
    overrides: tuple[str, ...],
    cluster: bool,
    registry: str,
    variant: str | None,
    pipeline_root: str | None,
    s3_endpoint: str | None,
    connection: Connection,
) -> None:
    """Look at everything a run needs, as its first stage does: data, base policy, memory, images, bucket.

    With --host it also says what the cluster does with a stage that fails.
    """
    others: list[Callable[[Recipe], None]] = []
    if pipeline_root:
        others.append(lambda recipe: _check_root(recipe, pipeline_root, s3_endpoint))
    if registry:
        others.append(lambda recipe: require_images(registry, variant or default_variant(registry, recipe)))
    recipe, findings = check_everything(recipe_values(recipe_path, overrides), others)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "rloop.yaml"
        compile_pipeline(recipe, compiled, registry, variant or "")
        size = workflow_size(read_compiled(compiled))
    if cluster or registry or pipeline_root:
        check_size(size, recipe.iterations)
        require_visible(recipe)  # last: a remedy is to upload, which wants all else in order
    click.echo(f"everything that could be looked at is in order; data version {findings.version}")
    for key, prompt in findings.prompts.items():
        click.echo(f"  {key}, first problem as the policy is sent it: {prompt!r}")
    for name, value in findings.figures.items():
        click.echo(f"  {name.removesuffix('_gib').replace('_', ' '):<20} {value:8.2f} GiB")
    click.echo(f"on a cluster: {size.words()}")
    if connection.host:
        click.echo(retry_policy(connection, workflows(Server(connection))).sentence())


def _check_root(recipe: Recipe, pipeline_root: str, s3_endpoint: str | None) -> None:
    for key in ("checkpoint_uri", "publish_uri"):
        check_apart({f"store.{key}": getattr(recipe.store, key), "--pipeline-root": pipeline_root})
    check_bucket(pipeline_root, s3_endpoint)


def check_everything(values: dict[str, Any], others: list[Callable[[Recipe], None]]) -> tuple[Recipe, Findings]:
    """Checks a recipe, its sources and its base policy, as the run's first stage does, and what else is asked for.

    Args:
        values: of the recipe, as `recipe_values` reads them.
        others: more checks, which raise InputError; of a recipe that is in order.

    Raises:
        InputError: everything that is wrong. Where the recipe is wrong itself, what it names is looked at all the same,
            as far as that is clear.
    """
    faults: list[str] = []
    recipe = None
    try:
        recipe = checked_recipe(values)
    except InputError as error:
        faults += str(error).split("\n")
        policy = values.get("base_policy")
        findings = look(policy, _clear_sources(values), None, 0.0) if isinstance(policy, str) else Findings()
    else:
        findings = look(
            recipe.base_policy,
            sources_of(recipe),
            RunSize.check(recipe.rl.model_dump(), "rl"),
            recipe.pools.training.accelerator_memory_gib or 0.0,
            recipe.grading,
            recipe.data.prompt_template,
        )
    faults += findings.problems
    for other in others:
        try:
            if recipe is not None:
                other(recipe)
        except InputError as error:
            faults.append(str(error))
    if faults or recipe is None:
        raise InputError(in_the_way(faults))
    return recipe, findings


def _clear_sources(values: dict[str, Any]) -> dict[str, Source]:
    """The sources of a recipe by key; those that are wrong themselves are left out."""
    data = values.get("data")
    if not isinstance(data, dict):
        return {}
    train, benchmarks = data.get("train") or [], data.get("benchmarks") or {}
    entries = {f"data.train.{n}": one for n, one in enumerate(train if isinstance(train, list) else [train])}
    if isinstance(benchmarks, dict):
        entries |= {f"data.benchmarks.{name}": one for name, one in benchmarks.items()}
    else:
        listed = benchmarks if isinstance(benchmarks, list) else [benchmarks]
        entries |= {f"data.benchmarks.{number}": one for number, one in enumerate(listed)}
    sources = {}
    for key, entry in entries.items():
        try:
            sources[key] = Source.check({"uri": entry} if isinstance(entry, str) else entry, key)
        except InputError:  # named with the recipe's faults
            continue
    return sources
