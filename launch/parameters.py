"""The pipeline's parameters: their types and descriptions, and their values for a recipe.

Recipe keys that people often change have a parameter of their own. All others share one document, `advanced`, by
section of the recipe and only if they differ from their defaults; `components/preflight/resolve.py` puts them together
again.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from components.preflight.resolve import OWN_PARAMETERS
from launch.recipe import Recipe

# Every parameter's type and description, which the Kubeflow UI shows.
PARAMETERS: dict[str, tuple[type, str]] = {
    "base_policy": (
        str,
        "Policy to start from: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].",
    ),
    "seed": (int, "Seed of all sampling and shuffling."),
    "data_train": (list, "Sources of training problems, each with a uri and, if needed, a verifier and columns."),
    "data_benchmarks": (list, "Benchmarks, each with a name and a uri."),
    "rl_steps": (int, "RL steps per iteration."),
    "rl_learning_rate": (float, "Peak learning rate of RL."),
    "filter_max_success_rate": (float, "Highest success rate at which a problem counts as hard and is kept."),
    "rft_learning_rate": (float, "Peak learning rate of fine-tuning on the experts."),
    "rft_epochs": (float, "Passes over the experts."),
    "eval_samples": (int, "Completions per problem in evaluation: the n of avg@n."),
    "pools": (
        dict,
        "node_selector, tolerations and accelerator_memory_gib of each node pool (cpu, training, inference).",
    ),
    "advanced": (dict, "All other recipe keys that differ from their defaults, by section (data, rl, grading, ...)."),
}
# The same for what a run takes from the run that it continues, as `continue_NAME`: URIs without a default.
CONTINUED = {
    "policy": "URI of the policy to start from: the last rloop_policy of the continued run.",
    "best_policy": "URI of the best policy of the continued run.",
    "results": "URI of the last results of the continued run.",
    "vanilla_state": "URI of the training state at the end of vanilla RL in the continued run.",
    "experts": "URI of the last experts of the continued run.",
}
# Fixed when the pipeline is compiled: the other keys of `store` tell pods where it is and what is published.
_COMPILED = {"store": {"publish_uri", "secret", "endpoint"}, "tracking": {"secret"}}
# Included even at their defaults, because data preparation needs them.
_ALWAYS = {"rl": {"max_completion_tokens"}, "eval": {"max_completion_tokens"}}


def carried_over(recipe: Recipe) -> list[str]:
    """Returns the names of what an iteration hands to the next one, and a run to the run that continues it."""
    names = ["policy", "best_policy", "results"]
    names += ["vanilla_state"] if recipe.vanilla else []
    names += ["experts"] if recipe.experts_from == "all" else []
    return names


def with_parameters(recipe: Recipe, continues: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns a decorator that gives a function of keywords the parameters of a recipe's pipeline.

    KFP reads parameters from a function's signature and their descriptions from its docstring, and calls the function
    with one value for each.

    Args:
        recipe: The recipe, whose values are the defaults.
        continues: Whether the pipeline continues another run.
    """
    taken = {f"continue_{name}": CONTINUED[name] for name in carried_over(recipe)} if continues else {}
    defaults = run_parameters(recipe)
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, keyword, annotation=str) for name in taken]
    parameters += [
        inspect.Parameter(name, keyword, annotation=kind, default=defaults[name])
        for name, (kind, _) in PARAMETERS.items()
    ]
    descriptions = taken | {name: description for name, (_, description) in PARAMETERS.items()}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def with_signature(*values: Any) -> None:
            function(**dict(zip(descriptions, values, strict=True)))

        described = [f"    {name}: {description}" for name, description in descriptions.items()]
        with_signature.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *described])
        with_signature.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return with_signature

    return decorate


def run_parameters(recipe: Recipe, uris: dict[str, str] | None = None) -> dict[str, Any]:
    """Returns the value of every pipeline parameter for a recipe.

    Args:
        recipe: The recipe to run.
        uris: URIs of what is carried over from the run that this one continues, by the names of `carried_over`.
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
