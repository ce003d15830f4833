"""Warns about what does not fit in a plan or is left idle, and names the recipe key to change."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from components.preflight.memory import GIB, Memory
from components.rft.settings import RFTSettings
from components.rl_exploration.settings import ExplorationSettings
from components.shared.sampling.placement import can_split
from launch.planning.cost_estimate import CostEstimate, StageCost
from launch.planning.devices import GPUS
from launch.planning.formatting import format_bytes, format_duration
from launch.planning.memory_estimate import MemoryEstimate
from launch.planning.planned_run import PlannedRun
from launch.recipe import Recipe


def warnings(costs: CostEstimate, stages: list[StageCost]) -> Iterator[str]:
    """Yields one sentence for each thing that does not fit or is left idle.

    Args:
        costs: the estimate of the run's costs.
        stages: the cost of each stage.
    """
    run = costs.run
    yield from _context_length(run)
    for batch in _batches(run.recipe, costs.memory):
        if remedy := batch.remedy(run.device(batch.pool).memory_gib):
            yield remedy
    yield from _vllm_beside_trainer(run, costs.memory)
    yield from _vllm_in_evaluation(run, costs.memory)
    yield from _idle_gpus(run, costs.memory)
    for stage in stages:
        pool = getattr(run.recipe.pools, stage.pool)
        if stage.seconds > pool.timeout_hours * 3600:
            yield (
                f"{stage.name} may take {format_duration(stage.seconds)}, but its pod is stopped after "
                f"{pool.timeout_hours:g} hours; raise pools.{stage.pool}.timeout_hours"
            )


def _context_length(run: PlannedRun) -> Iterator[str]:
    """Completions that leave no room for a prompt."""
    recipe = run.recipe
    evaluations = (
        (f"eval.max_completion_tokens for {name}", recipe.eval.of(name).max_completion_tokens)
        for name in recipe.data.benchmarks
    )
    for key, tokens in (("rl.max_completion_tokens", recipe.rl.max_completion_tokens), *evaluations):
        if tokens >= run.context:
            yield f"{key} is {tokens}, but the model's context is {run.context} tokens, prompt included; lower it"


@dataclass(frozen=True)
class _Batch:
    """What goes through a GPU at once: its size, the key that sets it, and the memory it takes."""

    what: str
    pool: str
    key: str
    count: int
    smaller: Sequence[int]  # smaller values that the key can take, largest first
    memory: Callable[[int], Memory]
    others: Sequence[str]  # other remedies

    def remedy(self, limit_gib: float) -> str | None:
        """Returns what to change; None if the batch fits."""
        needed = self.memory(self.count)
        if needed.total <= limit_gib * GIB:
            return None
        fitting = next((count for count in self.smaller if self.memory(count).total <= limit_gib * GIB), None)
        problem = f"{self.what} takes {format_bytes(needed.total)}, but an accelerator has {limit_gib:.0f} GiB; "
        gpus = _larger_gpus(needed.total)
        if fitting:
            return problem + " or ".join([f"lower {self.key} from {self.count} to {fitting}", *self.others, *gpus])
        return (
            problem
            + " or ".join([*self.others, *gpus, "use a smaller base_policy"])
            + f" (lowering {self.key} alone is not enough)"
        )


def _larger_gpus(needed: int) -> list[str]:
    names = [gpu.name for gpu in GPUS.values() if gpu.memory_gib * GIB >= needed]
    return [f"use a GPU with more memory ({', '.join(names)})"] if names else []


def _batches(recipe: Recipe, memory: MemoryEstimate) -> Iterator[_Batch]:
    rl, rft = recipe.rl, recipe.rft
    yield _Batch(
        "RL exploration, training",
        "training",
        "rl.micro_batch_size",
        rl.micro_batch_completions,
        _divisors(rl.process_completions, rl.micro_batch_completions),
        memory.rl_training,
        _training_remedies("rl", rl, sleepless_vllm=memory.rl_engine is not None and not rl.sleep_mode),
    )
    if memory.rl_engine is None:
        processes = rl.parallel.world
        yield _Batch(
            "RL exploration, sampling",
            "training",
            "rl.prompts_per_step",
            rl.prompts_per_step,
            range(rl.prompts_per_step - processes, 0, -processes),
            lambda prompts: memory.rl_sampling(prompts * rl.group_size // processes),
            ["lower rl.max_completion_tokens"],
        )
    yield _Batch(
        "RFT",
        "training",
        "rft.micro_batch_size",
        rft.micro_batch_trajectories,
        _divisors(rft.process_trajectories, rft.micro_batch_trajectories),
        memory.rft,
        _training_remedies("rft", rft),
    )
    batch = recipe.eval.sequences_per_batch
    if memory.evaluation_engine(batch) is None:
        yield _Batch(
            "evaluation",
            "inference",
            "eval.sequences_per_batch",
            batch,
            range(batch - 1, 0, -1),
            memory.evaluation,
            ["lower eval.max_completion_tokens"],
        )


def _training_remedies(
    section: str, settings: ExplorationSettings | RFTSettings, sleepless_vllm: bool = False
) -> list[str]:
    """Returns remedies other than a smaller batch for training with a recipe section, `rl` or `rft`."""
    remedies = []
    if not settings.gradient_checkpointing:
        remedies.append(f"turn on {section}.gradient_checkpointing")
    if settings.parallel.world > 1 and settings.parallel.sharding == "none" and not settings.lora.rank:
        remedies.append(f"set {section}.parallel.sharding to full")
    if sleepless_vllm:
        remedies.append("set rl.sleep_mode to true")
    return remedies


def _divisors(number: int, below: int) -> list[int]:
    """Returns the divisors of a number that are less than `below`, largest first."""
    return [n for n in range(min(number, below - 1), 0, -1) if number % n == 0]


def _vllm_beside_trainer(run: PlannedRun, memory: MemoryEstimate) -> Iterator[str]:
    """vLLM in RL: whether its share of a GPU is enough for it and leaves enough for the trainer."""
    rl, engine, limit_gib = run.recipe.rl, memory.rl_engine, run.training.memory_gib
    if engine is None:
        return
    key, given = "rl.gpu_memory_utilization", rl.gpu_memory_utilization
    limit, together = limit_gib * GIB, memory.rl_sampling(0).total
    trainer = together - engine.share
    least, most = math.ceil(100 * engine.needed / limit) / 100, math.floor(100 * (1 - trainer / limit)) / 100
    can_shard = rl.parallel.sharding != "full" and not rl.lora.rank
    shard = ["shard the policy over several GPUs (rl.parallel.sharding: full)"] if can_shard else []
    needs = f"weights and one sequence of {memory.rl_lengths[1]} tokens take {format_bytes(engine.needed)}"
    if least > most:
        yield (
            f"RL exploration, sampling: the trainer keeps {format_bytes(trainer)} of an accelerator's {limit_gib:.0f} "
            f"GiB beside vLLM, whose {needs}; "
            + " or ".join([*shard, *_larger_gpus(trainer + engine.needed), "use a smaller base_policy"])
        )
    elif engine.needed > engine.share:
        yield (
            f"RL exploration, sampling: vLLM has {format_bytes(engine.share)} of an accelerator's {limit_gib:.0f} GiB, "
            f"but {needs}; raise {key} from {given:g} to at least {least:g}"
        )
    elif together > limit:
        yield (
            f"RL exploration, sampling: the trainer keeps {format_bytes(trainer)} and vLLM takes "
            f"{format_bytes(engine.share)}, but an accelerator has {limit_gib:.0f} GiB; "
            + " or ".join([f"lower {key} from {given:g} to at most {most:g}", *shard])
        )


def _vllm_in_evaluation(run: PlannedRun, memory: MemoryEstimate) -> Iterator[str]:
    """vLLM in evaluation: whether it can split the policy, and whether its share of each GPU is enough."""
    engine = memory.evaluation_engine(run.recipe.eval.sequences_per_batch)
    gpus = memory.evaluation_placement.tensor_parallel_size
    model, limit_gib = run.model, run.inference.memory_gib
    if engine is None:
        return
    if not can_split(model, gpus):
        possible = next(n for n in range(gpus, 0, -1) if can_split(model, n))
        yield (
            f"evaluation: the policy's {model.heads} attention heads and {model.key_value_heads} key-value heads "
            f"cannot be split over {gpus} GPUs; set eval.parallel.tensor_parallel_size to {possible}"
        )
    if engine.needed > engine.share:
        least = math.ceil(100 * engine.needed / (limit_gib * GIB)) / 100
        remedies = [f"raise eval.gpu_memory_utilization to at least {least:g}"] if least <= 1 else []
        yield (
            f"evaluation: vLLM has {format_bytes(engine.share)} of each accelerator's {limit_gib:.0f} GiB, but weights "
            f"and one sequence of maximum length take {format_bytes(engine.needed)} on each of {gpus}; "
            + " or ".join([*remedies, "raise eval.parallel.tensor_parallel_size"])
        )


def _idle_gpus(run: PlannedRun, memory: MemoryEstimate) -> Iterator[str]:
    """GPUs of a pod that a stage leaves idle."""
    recipe = run.recipe
    for section, processes in (("rl", recipe.rl.parallel.processes), ("rft", recipe.rft.parallel.processes)):
        if run.training.gpu and processes < (gpus := recipe.pools.training.accelerators):
            yield (
                f"{section}.parallel.processes is {processes}, but pools.training.accelerators is {gpus}: "
                f"{gpus - processes} of a pod's GPUs are idle; raise the former or lower the latter"
            )
    used, gpus = memory.evaluation_placement.gpus, recipe.pools.inference.accelerators
    if run.inference.gpu and used < gpus:
        yield (
            f"evaluation uses {used} of a pod's {gpus} GPUs; leave eval.parallel.replicas out, or lower "
            f"pools.inference.accelerators"
        )
