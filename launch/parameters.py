"""The pipeline's parameters, as a recipe sets them."""

from typing import Any

from pydantic import BaseModel

from launch.recipe import Recipe

# Recipe keys that are pipeline parameters of their own; the rest of a section is one `..._settings` document.
OWN_PARAMETERS = {
    "data": ("train", "benchmarks"),
    "rl": ("steps", "learning_rate", "prompts_per_step", "group_size"),
    "grading": (),
    "store": ("checkpoint_uri",),
    "filter": ("max_success_rate", "max_per_problem"),
    "rft": ("learning_rate", "epochs"),
    "eval": ("samples",),
    "report": (),
    "tracking": (),
}


def run_parameters(recipe: Recipe) -> dict[str, Any]:
    """The pipeline parameters as a recipe sets them."""
    defaults: dict[str, Any] = {
        "base_policy": recipe.base_policy,
        "seed": recipe.seed,
        "data_completion_tokens": recipe.completion_tokens,
    }
    for section, own in OWN_PARAMETERS.items():
        settings: BaseModel = getattr(recipe, section)
        values = settings.model_dump(mode="json", exclude_none=True)  # KFP takes no null
        if section == "store":  # where pods find it and what is published is fixed when the pipeline is compiled
            values = {key: values[key] for key in ("checkpoint_uri", "minutes", "keep_days")}
        if section == "tracking":
            del values["secret"]  # fixed too
        if own:
            defaults |= {f"{section}_{key}": values.pop(key) for key in own}
        defaults[f"{section}_settings"] = values
    for name, pool in recipe.pools:
        defaults[f"pool_{name}_node_selector"] = dict(pool.node_selector)
        defaults[f"pool_{name}_tolerations"] = list(pool.tolerations)
    defaults["pool_training_accelerator_memory_gib"] = recipe.pools.training.accelerator_memory_gib or 0.0
    # A list, since a mapping that passes through KFP loses its order.
    defaults["data_benchmarks"] = [{**source, "name": name} for name, source in defaults["data_benchmarks"].items()]
    validation = recipe.report.validation or next(iter(recipe.data.benchmarks))
    defaults["report_settings"]["validation"] = validation
    defaults["eval_settings"]["curve_benchmarks"] = recipe.eval.curve_benchmarks or [validation]
    return defaults
