"""The `plan` command: estimates what a run will take before anything is started. docs/plan.md explains the model."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from components.preflight.memory import GIB
from launch.compiled import read_compiled
from launch.kubeflow.workflow_size import size_problem, workflow_size
from launch.options import iterations_option, recipe_option, set_option, vanilla_option
from launch.planning.cost_estimate import CostEstimate, StageCost
from launch.planning.devices import DEVICES, Device
from launch.planning.formatting import format_bytes, format_duration, format_tokens
from launch.planning.planned_run import PlannedRun, look_at_run
from launch.planning.remedies import warnings
from launch.recipe import Recipe, load_recipe


@click.command("plan")
@recipe_option
@iterations_option
@vanilla_option
@set_option
@click.option(
    "--gpu", metavar="NAME", help=f"Device to plan for (default: from the recipe's pools): {', '.join(DEVICES)}."
)
@click.pass_obj
def plan(
    compile_pipeline: Callable[[Recipe, Path], None],
    recipe_path: Path,
    iterations: int | None,
    vanilla: bool,
    overrides: tuple[str, ...],
    gpu: str | None,
) -> None:
    """Estimate what a run will take: GPU memory, tokens, disk, bytes moved and time, stage by stage.

    The figures are upper bounds. Starts nothing. Warns about stages that do not fit and names the recipe key to change.
    docs/plan.md explains the model.
    """
    recipe = load_recipe(recipe_path, overrides, iterations, vanilla)
    run, assumptions = look_at_run(recipe, gpu)
    costs = CostEstimate(run)
    stages = costs.stages()
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=160)
    _print_run(console, run, recipe_path, assumptions)
    console.print()
    console.print(_stage_table(stages))
    console.print()
    console.print(_memory_table(stages, run))
    console.print()
    for kind, stage in _accelerated(stages).items():
        console.print(f"{kind}: {stage.how}", markup=False)
    for warning in warnings(costs, stages):
        _print_warning(console, warning)
    _print_totals(console, stages, run)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "rloop.yaml"
        compile_pipeline(recipe, compiled)
        workflow = workflow_size(read_compiled(compiled))
    console.print(f"on a cluster: {workflow.words()}")
    if problem := size_problem(workflow, recipe.iterations):
        _print_warning(console, problem)


def _print_run(console: Console, run: PlannedRun, recipe_path: Path, assumptions: list[str]) -> None:
    """Prints what the plan is for, and what it assumes."""
    recipe, data = run.recipe, run.data
    training, inference = recipe.pools.training.accelerators, recipe.pools.inference.accelerators
    devices = " and ".join(dict.fromkeys([_per_pod(training, run.training), _per_pod(inference, run.inference)]))
    console.print(
        f"[bold]plan[/bold]  {recipe_path}, {recipe.iterations} iterations, on {devices}: "
        "upper bounds, see docs/plan.md"
    )
    console.print(
        f"{recipe.base_policy}: {run.model.parameters / 1e6:,.1f} million parameters, context {run.context}; "
        f"{data.training:,} training problems; {', '.join(f'{k} {v:,}' for k, v in data.benchmarks.items())}; "
        f"prompts of {data.prompt_tokens} tokens"
    )
    for line in assumptions:
        console.print(f"  assumed: {line}", markup=False)


def _print_warning(console: Console, text: str) -> None:
    console.print("\n[bold]warning[/bold]: ", end="")
    console.print(text, markup=False)


def _gpus(accelerators: int, device: Device) -> int:
    """Returns the number of GPUs in a pod; 0 on CPUs."""
    return max(1, accelerators) if device.gpu else 0


def _per_pod(accelerators: int, device: Device) -> str:
    return f"{accelerators} {device.name} per pod" if _gpus(accelerators, device) > 1 else device.name


def _stage_table(stages: list[StageCost]) -> Table:
    table = _table("stage", "times", "tokens sampled", "tokens trained", "pod disk", "moved", "time")
    for stage in stages:
        table.add_row(
            stage.name,
            str(stage.times),
            format_tokens(stage.sampled),
            format_tokens(stage.trained),
            format_bytes(stage.disk),
            format_bytes(stage.moved),
            format_duration(stage.seconds),
        )
    return table


# Columns of the memory table, by field of Memory; the first four are always shown.
_MEMORY_COLUMNS = {
    "weights": "weights",
    "optimiser": "optimiser",
    "activations": "activations",
    "cache": "KV cache",
    "exchanged": "communication",
    "engine": "vLLM",
}


def _memory_table(stages: list[StageCost], run: PlannedRun) -> Table:
    kinds = _accelerated(stages).items()
    memories = [memory for _, stage in kinds for memory in stage.memory.values()]
    fields = [
        name
        for number, name in enumerate(_MEMORY_COLUMNS)
        if number < 4 or any(getattr(memory, name) for memory in memories)
    ]
    table = _table("memory per accelerator", *(_MEMORY_COLUMNS[name] for name in fields), "total", "available")
    for kind, stage in kinds:
        limit_gib = run.device(stage.pool).memory_gib
        for phase, memory in stage.memory.items():
            fits = "" if memory.total <= limit_gib * GIB else ", does not fit"
            row = (*(getattr(memory, name) for name in fields), memory.total)
            table.add_row(f"{kind}: {phase}", *map(format_bytes, row), f"{limit_gib:.0f} GiB{fits}")
    return table


def _accelerated(stages: list[StageCost]) -> dict[str, StageCost]:
    """Returns one stage of each kind that uses an accelerator, by kind."""
    return {stage.kind: stage for stage in stages if stage.memory}


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print_totals(console: Console, stages: list[StageCost], run: PlannedRun) -> None:
    recipe = run.recipe
    gpus = {
        "training": max(recipe.rl.parallel.nodes, recipe.rft.parallel.nodes)
        * _gpus(recipe.pools.training.accelerators, run.training),
        "inference": _gpus(recipe.pools.inference.accelerators, run.inference),
    }

    def hours(pool: str) -> str:
        seconds = sum(stage.times * stage.seconds for stage in stages if stage.pool == pool)
        several = gpus.get(pool, 0) > 1
        return format_duration(seconds) + (f" ({seconds / 3600 * gpus[pool]:,.0f} GPU-hours)" if several else "")

    sampled = sum(stage.times * stage.sampled for stage in stages)
    trained = sum(stage.times * stage.trained for stage in stages)
    moved = sum(stage.times * stage.moved for stage in stages)
    console.print(
        f"\ntotal: {format_tokens(sampled)} tokens sampled, {format_tokens(trained)} trained, {format_bytes(moved)} "
        f"moved; training pool {hours('training')}, inference pool {hours('inference')}, CPU pool {hours('cpu')}"
    )
