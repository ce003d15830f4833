"""The command that says what a run will take, before anything is started: docs/plan.md has the model."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table

from components.preflight.check import PROMPT_TOKENS, look_at_policy
from components.preflight.estimate import GIB, Memory, ModelSize
from components.shared.errors import InputError
from components.shared.policy import context_length, load_tokenizer, prompt_token_ids
from components.shared.sources import Source, read_source
from launch.costs import Costs, Problems, StageCost
from launch.devices import DEVICES, GPUS, device_for
from launch.recipe import Recipe, load_recipe

_ASSUMED_PROBLEMS = 1000  # of a source that is not here and has no limit
_MEASURED_PROMPTS = 2000  # of each source, to find the longest prompt


@click.command("plan")
@click.option(
    "--recipe", "recipe_path", required=True, type=click.Path(path_type=Path), help="YAML file that sets the run up."
)
@click.option("--iterations", type=click.IntRange(1, 30), help="Iterations of RLoop; the recipe's own if left out.")
@click.option(
    "--with-vanilla-rl", "vanilla", is_flag=True, help="Run vanilla RL of as many steps beside RLoop, to compare."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe key, such as rl.steps=20."
)
@click.option("--gpu", metavar="NAME", help=f"What it runs on, in place of the recipe's pools: {', '.join(DEVICES)}.")
def plan(recipe_path: Path, iterations: int | None, vanilla: bool, overrides: tuple[str, ...], gpu: str | None) -> None:
    """Say what a run will take at most: GPU memory, tokens, disk, bytes moved and time, stage by stage.

    Starts nothing. Warns where a stage does not fit and says which key to change. docs/plan.md has the model.
    """
    recipe = load_recipe(recipe_path, overrides, iterations, vanilla)
    pools = {"training": recipe.pools.training, "inference": recipe.pools.inference}
    devices = {name: device_for(pool, gpu) for name, pool in pools.items()}
    limits = {
        name: devices[name].memory_gib if gpu else pool.accelerator_memory_gib or devices[name].memory_gib
        for name, pool in pools.items()
    }
    model, context = size_of_policy(recipe.base_policy)
    problems, assumed = problems_of(recipe, context)
    costs = Costs(recipe, model, context, problems, devices["training"], devices["inference"])
    stages = costs.stages()
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=120)
    names = " and ".join(dict.fromkeys(device.name for device in devices.values()))
    console.print(
        f"[bold]plan[/bold]  {recipe_path}, {recipe.iterations} iterations, on {names}: upper bounds, see docs/plan.md"
    )
    console.print(
        f"{recipe.base_policy}: {model.parameters / 1e6:,.1f} million parameters, context {context}; "
        f"{problems.training:,} training problems; {', '.join(f'{k} {v:,}' for k, v in problems.benchmarks.items())}; "
        f"prompts of {problems.prompt_tokens} tokens"
    )
    for line in assumed:
        console.print(f"  assumed: {line}", markup=False)
    console.print()
    console.print(_work(stages))
    console.print()
    console.print(_memory(stages, limits))
    console.print()
    for kind, stage in _kinds(stages).items():
        console.print(f"{kind}: {stage.how}", markup=False)
    for warning in _warnings(recipe, costs, stages, context, limits):
        console.print("\n[bold]warning[/bold]: ", end="")
        console.print(warning, markup=False)
    _print_totals(console, stages)


def size_of_policy(base_policy: str) -> tuple[ModelSize, int]:
    """Size and context of the base policy; a local folder need hold no more than a config.json."""
    folder = Path(base_policy)
    if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        parameters = parameters_of_config(folder)
        config = json.loads((folder / "config.json").read_text())
        return ModelSize.with_parameters(config, parameters), context_length(folder)
    try:
        model, context, _ = look_at_policy(base_policy)
    except InputError as error:
        if not base_policy.startswith("hf://"):
            raise
        raise InputError(
            f"{error}\nTo plan without the hub, give a folder with the model's config.json: --set base_policy=FOLDER"
        ) from None
    return model, context


def parameters_of_config(folder: Path) -> int:
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
        with torch.device("meta"):  # shapes alone
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"base_policy: {folder}/config.json describes no model that is known: {error}") from None
    return sum(parameter.numel() for parameter in model.parameters())


def problems_of(recipe: Recipe, context: int) -> tuple[Problems, list[str]]:
    """Counts the problems and measures their prompts where that takes no download; says what is assumed."""
    assumed: list[str] = []
    prompts: list[str] = []

    def count(key: str, source: Source) -> int:
        if _is_here(source):
            texts = (problem.text for problem in read_source(source, key))
            first = list(islice(texts, _MEASURED_PROMPTS))
            prompts.extend(text for text in first if text)
            return len(first) + sum(1 for _ in texts)
        if source.limit is None:
            assumed.append(f"{key} has {_ASSUMED_PROBLEMS:,} problems ({key}.limit makes that sure)")
        return source.limit or _ASSUMED_PROBLEMS

    training = sum(count(f"data.train.{number}", source) for number, source in enumerate(recipe.data.train))
    benchmarks = {name: count(f"data.benchmarks.{name}", source) for name, source in recipe.data.benchmarks.items()}
    folder = Path(recipe.base_policy)
    elsewhere = [source for source in (*recipe.data.train, *recipe.data.benchmarks.values()) if not _is_here(source)]
    if not elsewhere and any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        texts = [recipe.data.prompt_template.replace("{problem}", text) for text in prompts]
        tokens = max((len(ids) for ids in prompt_token_ids(load_tokenizer(folder), texts)), default=1)
    else:
        tokens = min(PROMPT_TOKENS, context)
        assumed.append(f"prompts of {tokens} tokens, since not all data and the tokenizer are here")
    return Problems(training, benchmarks, tokens), assumed


def _is_here(source: Source) -> bool:
    """Whether a source is a file of this machine or made on it."""
    return urlsplit(source.uri).scheme in ("", "countdown", "reasoning-gym")


def _work(stages: list[StageCost]) -> Table:
    table = _table("stage", "times", "tokens sampled", "tokens trained", "pod's disk", "moved", "time")
    for stage in stages:
        table.add_row(
            stage.name,
            str(stage.times),
            _tokens(stage.sampled),
            _tokens(stage.trained),
            _size(stage.disk),
            _size(stage.moved),
            _time(stage.seconds),
        )
    return table


def _memory(stages: list[StageCost], limits: dict[str, float]) -> Table:
    table = _table("memory of one accelerator", "weights", "optimiser", "activations", "KV cache", "in all", "there is")
    for kind, stage in _kinds(stages).items():
        for phase, memory in stage.memory.items():
            parts = (memory.weights, memory.optimiser, memory.activations, memory.cache, memory.total)
            limit = limits[stage.pool]
            fits = "" if memory.total <= limit * GIB else ", does not fit"
            table.add_row(f"{kind}: {phase}", *map(_size, parts), f"{limit:.0f} GiB{fits}")
    return table


def _kinds(stages: list[StageCost]) -> dict[str, StageCost]:
    """Of the stages that use an accelerator, one of each kind."""
    return {stage.kind: stage for stage in stages if stage.memory}


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print_totals(console: Console, stages: list[StageCost]) -> None:
    sampled, trained, moved = (
        sum(stage.times * number for stage, number in zip(stages, numbers, strict=True))
        for numbers in zip(*((stage.sampled, stage.trained, stage.moved) for stage in stages), strict=True)
    )
    hours = {
        pool: _time(sum(stage.times * stage.seconds for stage in stages if stage.pool == pool))
        for pool in ("training", "inference", "cpu")
    }
    console.print(
        f"\nin all: {_tokens(sampled)} tokens sampled, {_tokens(trained)} trained, {_size(moved)} moved; training pool "
        f"{hours['training']}, inference pool {hours['inference']}, CPU pool {hours['cpu']}"
    )


def _warnings(
    recipe: Recipe, costs: Costs, stages: list[StageCost], context: int, limits: dict[str, float]
) -> Iterator[str]:
    """What does not fit, and the key to change."""
    evaluations = (
        (f"eval.max_completion_tokens for {name}", recipe.eval.of(name).max_completion_tokens)
        for name in recipe.data.benchmarks
    )
    for key, tokens in (("rl.max_completion_tokens", recipe.rl.max_completion_tokens), *evaluations):
        if tokens >= context:
            yield f"{key} is {tokens}, but the model's context is {context} tokens, prompt included; lower it"
    for batch in _batches(recipe, costs):
        if remedy := batch.remedy(limits[batch.pool]):
            yield remedy
    for stage in stages:
        pool = getattr(recipe.pools, stage.pool)
        if stage.seconds > pool.timeout_hours * 3600:
            yield (
                f"{stage.name} may take {_time(stage.seconds)}, but its pod is stopped after {pool.timeout_hours:g} "
                f"hours; raise pools.{stage.pool}.timeout_hours"
            )


@dataclass(frozen=True)
class _Batch:
    """What goes through a GPU at once: how many, by which key, and what that takes."""

    what: str
    pool: str
    key: str
    count: int
    smaller: Sequence[int]  # counts that the key can take instead, the greatest first
    memory: Callable[[int], Memory]
    others: Sequence[str]  # further remedies

    def remedy(self, limit_gib: float) -> str | None:
        """What to change, where it does not fit."""
        needed = self.memory(self.count)
        if needed.total <= limit_gib * GIB:
            return None
        fitting = next((count for count in self.smaller if self.memory(count).total <= limit_gib * GIB), None)
        does_not = f"{self.what} takes {_size(needed.total)}, but an accelerator has {limit_gib:.0f} GiB; "
        larger = [gpu.name for gpu in GPUS.values() if gpu.memory_gib * GIB >= needed.total]
        gpus = [f"take a GPU with more memory ({', '.join(larger)})"] if larger else []
        if fitting:
            return does_not + " or ".join([f"lower {self.key} from {self.count} to {fitting}", *self.others, *gpus])
        return (
            does_not
            + " or ".join([*self.others, *gpus, "take a smaller base_policy"])
            + f" (lowering {self.key} alone does not do)"
        )


def _batches(recipe: Recipe, costs: Costs) -> Iterator[_Batch]:
    rl, rft = recipe.rl, recipe.rft
    checkpointing = "turn on {}.gradient_checkpointing"
    update = rl.update_prompts * rl.group_size
    yield _Batch(
        "RL exploration, training",
        "training",
        "rl.completions_per_forward",
        rl.forward_completions,
        _divisors(update, rl.forward_completions),
        costs.rl_training_memory,
        [] if rl.gradient_checkpointing else [checkpointing.format("rl")],
    )
    yield _Batch(
        "RL exploration, sampling",
        "training",
        "rl.prompts_per_step",
        rl.prompts_per_step,
        range(rl.prompts_per_step - 1, 0, -1),
        lambda prompts: costs.rl_sampling_memory(prompts * rl.group_size),
        ["lower rl.max_completion_tokens"],
    )
    per_forward = rft.trajectories_per_forward or rft.batch_size
    yield _Batch(
        "RFT",
        "training",
        "rft.trajectories_per_forward",
        per_forward,
        _divisors(rft.batch_size, per_forward),
        costs.rft_memory,
        [] if rft.gradient_checkpointing else [checkpointing.format("rft")],
    )
    batch = recipe.eval.sequences_per_batch
    yield _Batch(
        "evaluation",
        "inference",
        "eval.sequences_per_batch",
        batch,
        range(batch - 1, 0, -1),
        costs.evaluation_memory,
        ["lower eval.max_completion_tokens"],
    )


def _divisors(number: int, below: int) -> list[int]:
    """Divisors of a number that are less than another, the greatest first."""
    return [n for n in range(min(number, below - 1), 0, -1) if number % n == 0]


def _tokens(number: int) -> str:
    if not number:
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return str(number)


def _size(number: int) -> str:
    if not number:
        return "-"
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 2**10:,.1f} KiB"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"
