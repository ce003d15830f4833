"""The command that says what a run will take, before anything is started: docs/plan.md has the model."""

import json
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from components.preflight.base_policy import look_at_policy
from components.preflight.check import PROMPT_TOKENS
from components.preflight.estimate import GIB, ModelSize
from components.shared.data.sources import Source, read_source
from components.shared.errors import InputError
from components.shared.object_store.store import split_uri
from components.shared.policy import context_length, load_tokenizer, prompt_token_ids
from launch.compiled import read_compiled
from launch.kubeflow.workflow_size import size_problem, workflow_size
from launch.planning.cost_estimate import Costs, StageCost
from launch.planning.devices import DEVICES, Device, device_for
from launch.planning.formatting import size, time, tokens
from launch.planning.memory_estimate import Problems
from launch.planning.remedies import warnings
from launch.recipe import Recipe, load_recipe

_ASSUMED_PROBLEMS = 1000  # of a source that is not here and has no limit
_MEASURED_PROMPTS = 2000  # of each source, to find the longest prompt


@click.command("plan")
@click.option(
    "--recipe", "recipe_path", required=True, type=click.Path(path_type=Path), help="YAML file that sets the run up."
)
@click.option("--iterations", type=click.IntRange(min=1), help="Iterations of RLoop; the recipe's own if left out.")
@click.option(
    "--with-vanilla-rl", "vanilla", is_flag=True, help="Run vanilla RL of as many steps beside RLoop, to compare."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe key, such as rl.steps=20."
)
@click.option("--gpu", metavar="NAME", help=f"What it runs on, in place of the recipe's pools: {', '.join(DEVICES)}.")
@click.pass_obj
def plan(
    compile_pipeline: Callable[[Recipe, Path], None],
    recipe_path: Path,
    iterations: int | None,
    vanilla: bool,
    overrides: tuple[str, ...],
    gpu: str | None,
) -> None:
    """Say what a run will take at most: GPU memory, tokens, disk, bytes moved and time, stage by stage.

    Starts nothing. Warns where a stage does not fit and says which key to change. docs/plan.md has the model.
    """
    recipe = load_recipe(recipe_path, overrides, iterations, vanilla)
    pools = {"training": recipe.pools.training, "inference": recipe.pools.inference}
    devices = {name: device_for(pool, gpu) for name, pool in pools.items()}
    limits = {name: device.memory_gib for name, device in devices.items()}
    model, context = size_of_policy(recipe.base_policy)
    problems, assumed = problems_of(recipe, context)
    costs = Costs(recipe, model, context, problems, devices["training"], devices["inference"])
    stages = costs.stages()
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=160)
    names = " and ".join(dict.fromkeys(_several(pools[name].accelerators, device) for name, device in devices.items()))
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
    for warning in warnings(recipe, model, costs, stages, context, limits):
        console.print("\n[bold]warning[/bold]: ", end="")
        console.print(warning, markup=False)
    nodes = {"training": max(recipe.rl.parallel.nodes, recipe.rft.parallel.nodes), "inference": 1}
    gpus = {name: nodes[name] * _gpus(pools[name].accelerators, device) for name, device in devices.items()}
    _print_totals(console, stages, gpus)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "rloop.yaml"
        compile_pipeline(recipe, compiled)
        workflow = workflow_size(read_compiled(compiled))
    console.print(f"on a cluster: {workflow.words()}")
    if problem := size_problem(workflow, recipe.iterations):
        console.print("\n[bold]warning[/bold]: ", end="")
        console.print(problem, markup=False)


def _gpus(accelerators: int, device: Device) -> int:
    """GPUs of a pod; 0 where it has none."""
    return max(1, accelerators) if device.gpu else 0


def _several(accelerators: int, device: Device) -> str:
    return f"{accelerators} {device.name} a pod" if _gpus(accelerators, device) > 1 else device.name


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
            problems = read_source(source, key)
            first = list(islice(problems, _MEASURED_PROMPTS))
            prompts.extend(recipe.data.prompt_of(problem) for problem in first if problem.text)
            return len(first) + sum(1 for _ in problems)
        if source.limit is None:
            assumed.append(f"{key} has {_ASSUMED_PROBLEMS:,} problems ({key}.limit makes that sure)")
        return source.limit or _ASSUMED_PROBLEMS

    training = sum(count(f"data.train.{number}", source) for number, source in enumerate(recipe.data.train))
    benchmarks = {name: count(f"data.benchmarks.{name}", source) for name, source in recipe.data.benchmarks.items()}
    folder = Path(recipe.base_policy)
    elsewhere = [source for source in (*recipe.data.train, *recipe.data.benchmarks.values()) if not _is_here(source)]
    if not elsewhere and any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        longest = max((len(ids) for ids in prompt_token_ids(load_tokenizer(folder), prompts)), default=1)
    else:
        longest = min(PROMPT_TOKENS, context)
        assumed.append(f"prompts of {longest} tokens, since not all data and the tokenizer are here")
    return Problems(training, benchmarks, longest), assumed


def _is_here(source: Source) -> bool:
    """Whether a source is a file of this machine or made on it."""
    return split_uri(source.uri)[0] in ("", "file", "countdown", "reasoning-gym")


def _work(stages: list[StageCost]) -> Table:
    table = _table("stage", "times", "tokens sampled", "tokens trained", "pod's disk", "moved", "time")
    for stage in stages:
        table.add_row(
            stage.name,
            str(stage.times),
            tokens(stage.sampled),
            tokens(stage.trained),
            size(stage.disk),
            size(stage.moved),
            time(stage.seconds),
        )
    return table


# Columns of the table of memory; the first four are always there.
_PARTS = {
    "weights": "weights",
    "optimiser": "optimiser",
    "activations": "activations",
    "cache": "KV cache",
    "exchanged": "exchanged",
    "engine": "vLLM",
}


def _memory(stages: list[StageCost], limits: dict[str, float]) -> Table:
    kinds = _kinds(stages).items()
    memories = [memory for _, stage in kinds for memory in stage.memory.values()]
    parts = [part for i, part in enumerate(_PARTS) if i < 4 or any(getattr(memory, part) for memory in memories)]
    table = _table("memory of one accelerator", *(_PARTS[part] for part in parts), "in all", "there is")
    for kind, stage in kinds:
        for phase, memory in stage.memory.items():
            limit = limits[stage.pool]
            fits = "" if memory.total <= limit * GIB else ", does not fit"
            row = (*(getattr(memory, part) for part in parts), memory.total)
            table.add_row(f"{kind}: {phase}", *map(size, row), f"{limit:.0f} GiB{fits}")
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


def _print_totals(console: Console, stages: list[StageCost], gpus: dict[str, int]) -> None:
    sampled, trained, moved = (
        sum(stage.times * number for stage, number in zip(stages, numbers, strict=True))
        for numbers in zip(*((stage.sampled, stage.trained, stage.moved) for stage in stages), strict=True)
    )

    def hours(pool: str) -> str:
        seconds = sum(stage.times * stage.seconds for stage in stages if stage.pool == pool)
        several = gpus.get(pool, 0) > 1
        return time(seconds) + (f" ({seconds / 3600 * gpus[pool]:,.0f} GPU-hours)" if several else "")

    console.print(
        f"\nin all: {tokens(sampled)} tokens sampled, {tokens(trained)} trained, {size(moved)} moved; training pool "
        f"{hours('training')}, inference pool {hours('inference')}, CPU pool {hours('cpu')}"
    )
