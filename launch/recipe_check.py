"""The command `check`: everything that is wrong with a recipe and what it names, at once."""

from collections.abc import Callable
from typing import Any

from components.preflight.check import Findings, error_list, inspect_inputs
from components.preflight.settings import RunSize
from components.shared.data.sources import Source
from components.shared.errors import InputError
from launch.kubeflow.inputs import sources_of
from launch.recipe import Recipe, checked_recipe


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
        findings = inspect_inputs(policy, _clear_sources(values), None, 0.0) if isinstance(policy, str) else Findings()
    else:
        findings = inspect_inputs(
            recipe.base_policy,
            sources_of(recipe),
            RunSize.check(recipe.rl.model_dump(), "rl"),
            recipe.pools.training.accelerator_memory_gib or 0.0,
            recipe.grading,
            recipe.data.prompt_template,
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
