"""What a plan knows about a run before it starts: the recipe, the sizes of model and data, and the devices."""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from components.preflight.base_policy import inspect_policy
from components.preflight.fit import PROMPT_TOKENS
from components.shared.data.sources import Source, read_source
from components.shared.errors import InputError
from components.shared.object_store.store import split_uri
from components.shared.policy import Policy
from components.shared.policy.model_size import ModelSize
from launch.planning.devices import Device, device_for
from launch.recipe import Recipe

_ASSUMED_PROBLEMS = 1000  # for a source that is not on this machine and has no limit
_MEASURED_PROMPTS = 2000  # per source, to find the longest prompt


@dataclass(frozen=True)
class DataSize:
    """Number of problems, and length of their prompts."""

    training: int
    benchmarks: dict[str, int]
    prompt_tokens: int  # of the longest prompt


@dataclass(frozen=True)
class PlannedRun:
    """A recipe, with what its costs depend on."""

    recipe: Recipe
    model: ModelSize
    context: int  # of the base policy, in tokens
    data: DataSize
    training: Device  # of the training pool
    inference: Device  # of the inference pool

    def device(self, pool: str) -> Device:
        """Returns the device of a pool, `training` or `inference`."""
        return {"training": self.training, "inference": self.inference}[pool]


def look_at_run(recipe: Recipe, gpu: str | None) -> tuple[PlannedRun, list[str]]:
    """Finds the sizes and devices that a plan needs; downloads no weights and no data.

    Args:
        recipe: the run's recipe.
        gpu: device to plan for, one of DEVICES; None: what fits the recipe's pools.

    Returns:
        The run, and one line for each thing that had to be assumed.

    Raises:
        InputError: the device is unknown, or the base policy or a source cannot be read.
    """
    training, inference = (device_for(pool, gpu) for pool in (recipe.pools.training, recipe.pools.inference))
    model, context = policy_size(recipe.base_policy)
    data, assumptions = data_size(recipe, context)
    return PlannedRun(recipe, model, context, data, training, inference), assumptions


def policy_size(base_policy: str) -> tuple[ModelSize, int]:
    """Returns size and context length of the base policy; a local folder needs no more than a config.json."""
    folder = Path(base_policy)
    if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        parameters = count_parameters(folder)
        config = json.loads((folder / "config.json").read_text())
        return ModelSize.with_parameters(config, parameters), Policy(folder).context_length
    try:
        model, context, _ = inspect_policy(base_policy)
    except InputError as error:
        if not base_policy.startswith("hf://"):
            raise
        raise InputError(
            f"{error}\nTo plan without the hub, give a folder with the model's config.json: --set base_policy=FOLDER"
        ) from None
    return model, context


def count_parameters(folder: Path) -> int:
    """Counts the parameters of the model that a folder's config.json describes, without its weights.

    Raises:
        InputError: transformers does not know the model, or torch is not installed.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        raise InputError(
            f"base_policy: {folder} has no weights, and counting a model's parameters needs torch: "
            f"pip install '.[train]'"
        ) from None
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        with torch.device("meta"):  # shapes only
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"base_policy: {folder}/config.json does not describe a model that transformers knows: {error}"
        ) from None
    return sum(parameter.numel() for parameter in model.parameters())


def data_size(recipe: Recipe, context: int) -> tuple[DataSize, list[str]]:
    """Counts the problems and measures their prompts if that takes no download.

    Args:
        recipe: the run's recipe.
        context: context length of the base policy, in tokens.

    Returns:
        The sizes, and one line for each thing that had to be assumed.
    """
    assumptions: list[str] = []
    prompts: list[str] = []

    def count(key: str, source: Source) -> int:
        if _is_local(source):
            problems = read_source(source, key)
            first = list(islice(problems, _MEASURED_PROMPTS))
            prompts.extend(recipe.data.prompt_of(problem) for problem in first if problem.text)
            return len(first) + sum(1 for _ in problems)
        if source.limit is None:
            assumptions.append(f"{key} has {_ASSUMED_PROBLEMS:,} problems (set {key}.limit to be exact)")
        return source.limit or _ASSUMED_PROBLEMS

    training = sum(count(f"data.train.{number}", source) for number, source in enumerate(recipe.data.train))
    benchmarks = {name: count(f"data.benchmarks.{name}", source) for name, source in recipe.data.benchmarks.items()}
    folder = Path(recipe.base_policy)
    all_local = all(_is_local(source) for source in (*recipe.data.train, *recipe.data.benchmarks.values()))
    if all_local and any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        longest = max((len(ids) for ids in Policy(folder).prompt_token_ids(prompts)), default=1)
    else:
        longest = min(PROMPT_TOKENS, context)
        assumptions.append(f"prompts of {longest} tokens, since the tokenizer or some of the data is not local")
    return DataSize(training, benchmarks, longest), assumptions


def _is_local(source: Source) -> bool:
    """Returns whether a source is a file on this machine or generated on it."""
    return split_uri(source.uri)[0] in ("", "file", "countdown", "reasoning-gym")
