"""The pipeline's parameters, as a recipe sets them.

Keys that people change have a parameter of their own. All others are in one document, `advanced`, by section of the
recipe, and only where they differ from their default: `components/preflight/resolve.py` puts them together again.
"""

from typing import Any

from pydantic import BaseModel

from components.preflight.resolve import OWN_PARAMETERS
from launch.recipe import Recipe

# Fixed when the pipeline is compiled: the rest of `store` says where pods find it and what is published.
_COMPILED = {"store": {"publish_uri", "secret", "endpoint"}, "tracking": {"secret"}}
# Given even where they have their default, since data preparation goes by them.
_ALWAYS = {"rl": {"max_completion_tokens"}, "eval": {"max_completion_tokens"}}


def carried_over(recipe: Recipe) -> list[str]:
    """Returns the names of what an iteration hands to the next one, and a run to the run that continues it."""
    names = ["policy", "best_policy", "results"]
    names += ["vanilla_state"] if recipe.vanilla else []
    names += ["experts"] if recipe.experts_from == "all" else []
    return names


def run_parameters(recipe: Recipe, uris: dict[str, str] | None = None) -> dict[str, Any]:
    """Every pipeline parameter's value for a recipe.

    Args:
        recipe: what to run.
        uris: of what it takes over, where it goes on from where another run ended.
    """
    parameters: dict[str, Any] = {"base_policy": recipe.base_policy, "seed": recipe.seed}
    advanced: dict[str, dict[str, Any]] = {}
    for section, own in OWN_PARAMETERS.items():
        settings: BaseModel = getattr(recipe, section)
        values = settings.model_dump(mode="json", exclude_none=True)  # KFP takes no null
        others = settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        parameters |= {f"{section}_{key}": others.get(key, values[key]) for key in own}
        others |= {key: values[key] for key in _ALWAYS.get(section, ())}
        hidden = {*own, *_COMPILED.get(section, ())}
        if kept := {key: value for key, value in others.items() if key not in hidden}:
            advanced[section] = kept
    parameters["pools"] = {
        name: pool.model_dump(include={"node_selector", "tolerations", "accelerator_memory_gib"}, exclude_none=True)
        for name, pool in recipe.pools
    }
    parameters["advanced"] = advanced
    # A list, since a mapping that passes through KFP loses its order.
    named = parameters["data_benchmarks"].items()
    parameters["data_benchmarks"] = [{**source, "name": name} for name, source in named]
    return parameters | {f"continue_{name}": uri for name, uri in (uris or {}).items()}
