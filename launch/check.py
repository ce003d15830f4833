"""The `check` command: the checks of a run's first stage, done locally, and whether a cluster can run the recipe."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from components.preflight.bucket import check_bucket
from components.preflight.check import Findings, error_list, inspect_inputs
from components.preflight.settings import EvaluationSize, RunSize
from components.shared.data.sources import Source
from components.shared.errors import InputError
from launch.compiled import read_compiled
from launch.images import default_variant, require_images
from launch.kubeflow.commands import server_options
from launch.kubeflow.controller import retry_policy, workflows
from launch.kubeflow.inputs import require_visible, sources_of
from launch.kubeflow.server import Connection, Server
from launch.kubeflow.workflow_size import check_size, workflow_size
from launch.options import recipe_option, set_option, variant_option
from launch.recipe import Recipe, checked_recipe, recipe_values
from launch.store import check_apart


@click.command("check")
@recipe_option
@set_option
@click.option("--cluster", is_flag=True, help="Also check that a cluster's pods can read what the recipe names.")
@click.option("--registry", default="", help="Also check that this registry has the stages' images; implies --cluster.")
@variant_option
@click.option(
    "--pipeline-root",
    metavar="URI",
    help="Also check that artifacts can be written to and read from s3://BUCKET/PREFIX; implies --cluster.",
)
@click.option(
    "--s3-endpoint", envvar="AWS_ENDPOINT_URL_S3", show_envvar=True, help="URL of the object store; AWS if omitted."
)
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
    """Check everything a run needs, before it starts.

    Runs the checks of the run's first stage: recipe, data, base policy and memory. With --host, also shows what the
    cluster does with a stage that fails.
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
        require_visible(recipe)  # last: its remedy may be an upload, which needs all else in order
    click.echo(f"everything that could be checked is in order; data version {findings.version}")
    for key, prompt in findings.prompts.items():
        click.echo(f"  {key}, first problem as sent to the policy: {prompt!r}")
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
    """Checks a recipe, its sources and its base policy, as the run's first stage does, and runs further checks.

    Args:
        values: Values of the recipe, as `recipe_values` returns them.
        others: Further checks of a valid recipe, which raise InputError.

    Raises:
        InputError: Everything that is wrong. If the recipe itself is wrong, what it names is still checked as far as
            possible.
    """
    faults: list[str] = []
    recipe = None
    try:
        recipe = checked_recipe(values)
    except InputError as error:
        faults += str(error).split("\n")
        policy = values.get("base_policy")
        findings = inspect_inputs(policy, _clear_sources(values), None, 0.0) if isinstance(policy, str) else Findings()
    else:
        findings = inspect_inputs(
            recipe.base_policy,
            sources_of(recipe),
            RunSize.check(recipe.rl.model_dump(), "rl"),
            recipe.pools.training.accelerator_memory_gib or 0.0,
            recipe.grading,
            recipe.data.prompt_template,
            EvaluationSize.check(recipe.eval.model_dump(), "eval"),
            recipe.pools.inference.accelerator_memory_gib or 0.0,
        )
    faults += findings.errors
    for other in others:
        try:
            if recipe is not None:
                other(recipe)
        except InputError as error:
            faults.append(str(error))
    if faults or recipe is None:
        raise InputError(error_list(faults))
    return recipe, findings


def _clear_sources(values: dict[str, Any]) -> dict[str, Source]:
    """Returns the sources of a recipe by key, without those that are invalid themselves."""
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
        except InputError:  # reported with the recipe's faults
            continue
    return sources
