"""Turns the pipeline's parameters into the settings of its stages.

The run form shows the keys that people change most as separate parameters, and all others in one parameter, `advanced`,
grouped by recipe section. Each stage gets only the sections it needs, so its cached result depends on nothing else.
"""

import copy
from typing import Any

from components.shared.errors import InputError, nearest

# Recipe keys that are separate pipeline parameters, called SECTION_KEY.
OWN_PARAMETERS = {
    "data": ("train", "benchmarks"),
    "rl": ("steps", "learning_rate"),
    "grading": (),
    "filter": ("max_success_rate",),
    "rft": ("learning_rate", "epochs"),
    "eval": ("samples",),
    "report": (),
    "store": (),
    "tracking": (),
}
# The sections that each stage reads: its settings, and so its cached result, depend on them.
READ_BY = {
    "preparation": ("data", "grading"),
    "exploration": ("rl", "grading", "store", "tracking"),
    "filtering": ("filter", "grading", "store"),
    "rft": ("rft", "store", "tracking"),
    "evaluation": ("eval", "grading", "store"),
    "report": ("report",),
}
_SEEDED = ("exploration", "rft", "evaluation")
POOLS = ("cpu", "training", "inference")


def resolve(parameters: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of every stage, and the node placement of every pool.

    Args:
        parameters: the pipeline's parameters: OWN_PARAMETERS; `seed`; `advanced`, the other keys by section, each
            optional; `pools`, with `node_selector`, `tolerations` and `accelerator_memory_gib` for each pool.

    Returns:
        `STAGE_settings` for each stage: the sections it reads, the seed if it samples or shuffles, and for data
        preparation the tokens of the longest completion. `POOL_nodes` and `POOL_taints` for each pool. Keys whose
        default depends on another key are filled in: the validation benchmark, and the benchmarks of the curve.

    Raises:
        InputError: an unknown section or pool, a key that has its own parameter, or a missing limit for completions.
    """
    advanced, pools = parameters["advanced"], parameters["pools"]
    _check_names("advanced", advanced, tuple(OWN_PARAMETERS))
    _check_names("pools", pools, POOLS)
    settings: dict[str, dict[str, Any]] = {}
    for section, own in OWN_PARAMETERS.items():
        others = advanced.get(section) or {}
        if not isinstance(others, dict):
            raise InputError(f"parameter advanced: {section!r} must be a mapping of keys to values, not {others!r}")
        for key in others:
            if key in own:
                raise InputError(f"parameter advanced: {section}.{key} has its own parameter: {section}_{key}")
        settings[section] = {**copy.deepcopy(others), **{key: parameters[f"{section}_{key}"] for key in own}}
    settings["store"].pop("cache_generation", None)  # used only by preflight, in the data version
    benchmarks = [benchmark["name"] for benchmark in settings["data"]["benchmarks"]]
    validation = settings["report"].setdefault("validation", benchmarks[0])
    if validation not in benchmarks:
        raise InputError(f"report.validation {validation!r} is not a benchmark.{nearest(validation, benchmarks)}")
    if not settings["eval"].get("curve_benchmarks"):
        settings["eval"]["curve_benchmarks"] = [validation]
    settings["store"]["uri"] = settings["store"].pop("checkpoint_uri", "")
    placement: dict[str, Any] = {}
    for name in POOLS:
        pool = pools.get(name) or {}
        placement[f"{name}_nodes"] = pool.get("node_selector") or {}
        placement[f"{name}_taints"] = pool.get("tolerations") or []
    stages: dict[str, dict[str, Any]] = {
        f"{stage}_settings": {section: settings[section] for section in sections} for stage, sections in READ_BY.items()
    }
    for stage in _SEEDED:
        stages[f"{stage}_settings"]["seed"] = parameters["seed"]
    stages["preparation_settings"]["completion_tokens"] = _completion_tokens(settings["rl"], settings["eval"])
    return {**stages, **placement}


def _check_names(parameter: str, values: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in values:
        if name not in known:
            raise InputError(f"parameter {parameter} has no section {name!r}.{nearest(name, known)}")


def _completion_tokens(rl: dict[str, Any], evaluation: dict[str, Any]) -> int:
    limits = [benchmark.get("max_completion_tokens") or 0 for benchmark in evaluation.get("benchmarks", {}).values()]
    for section, values in (("rl", rl), ("eval", evaluation)):
        if "max_completion_tokens" not in values:
            raise InputError(f"parameter advanced: {section}.max_completion_tokens is missing")
        limits.append(values["max_completion_tokens"])
    return int(max(limits))
