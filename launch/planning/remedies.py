"""What of a plan does not fit, and the recipe's key to change."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from components.preflight.estimate import GIB, Memory, ModelSize
from launch.planning.cost_estimate import Costs, StageCost
from launch.planning.devices import GPUS
from launch.planning.formatting import size, time
from launch.recipe import Recipe


def warnings(
    recipe: Recipe, model: ModelSize, costs: Costs, stages: list[StageCost], context: int, limits: dict[str, float]
) -> Iterator[str]:
    """What does not fit or is left idle, one sentence each.

    Args:
        recipe: the run.
        model: size of its base policy.
        costs: of its stages.
        stages: the costs by stage.
        context: of the base policy, in tokens.
        limits: GiB of one accelerator, by pool.
    """
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
    yield from _beside_the_trainer(recipe, costs, limits["training"])
    yield from _in_evaluation(recipe, model, costs, limits["inference"])
    yield from _idle(recipe, costs)
    for stage in stages:
        pool = getattr(recipe.pools, stage.pool)
        if stage.seconds > pool.timeout_hours * 3600:
            yield (
                f"{stage.name} may take {time(stage.seconds)}, but its pod is stopped after {pool.timeout_hours:g} "
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
        does_not = f"{self.what} takes {size(needed.total)}, but an accelerator has {limit_gib:.0f} GiB; "
        gpus = _larger_gpus(needed.total)
        if fitting:
            return does_not + " or ".join([f"lower {self.key} from {self.count} to {fitting}", *self.others, *gpus])
        return (
            does_not
            + " or ".join([*self.others, *gpus, "take a smaller base_policy"])
            + f" (lowering {self.key} alone does not do)"
        )


def _larger_gpus(needed: int) -> list[str]:
    names = [gpu.name for gpu in GPUS.values() if gpu.memory_gib * GIB >= needed]
    return [f"take a GPU with more memory ({', '.join(names)})"] if names else []


def _batches(recipe: Recipe, costs: Costs) -> Iterator[_Batch]:
    rl, rft, memory = recipe.rl, recipe.rft, costs.memory
    remedies: dict[str, list[str]] = {}
    for section, settings in (("rl", rl), ("rft", rft)):
        remedies[section] = []
        if not settings.gradient_checkpointing:
            remedies[section].append(f"turn on {section}.gradient_checkpointing")
        if settings.parallel.world > 1 and settings.parallel.sharding == "none" and not settings.lora.rank:
            remedies[section].append(f"set {section}.parallel.sharding to full")
    if memory.rl_engine and not rl.sleep_mode:
        remedies["rl"].append("set rl.sleep_mode to true")
    yield _Batch(
        "RL exploration, training",
        "training",
        "rl.micro_batch_size",
        rl.micro_batch_completions,
        _divisors(rl.process_completions, rl.micro_batch_completions),
        memory.rl_training,
        remedies["rl"],
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
        remedies["rft"],
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


def _divisors(number: int, below: int) -> list[int]:
    """Divisors of a number that are less than another, the greatest first."""
    return [n for n in range(min(number, below - 1), 0, -1) if number % n == 0]


def _beside_the_trainer(recipe: Recipe, costs: Costs, limit_gib: float) -> Iterator[str]:
    """vLLM in RL: whether its share of a GPU is enough for it, and leaves enough for the trainer."""
    engine, key, given = costs.memory.rl_engine, "rl.gpu_memory_utilization", recipe.rl.gpu_memory_utilization
    if engine is None:
        return
    limit, together = limit_gib * GIB, costs.memory.rl_sampling(0).total
    trainer = together - engine.share
    least, most = math.ceil(100 * engine.needed / limit) / 100, math.floor(100 * (1 - trainer / limit)) / 100
    spread = ["spread the policy over several GPUs (rl.parallel.sharding: full)"]
    if recipe.rl.parallel.sharding == "full" or recipe.rl.lora.rank:
        spread = []
    needs = f"weights and one sequence of {costs.memory.rl_lengths[1]} tokens take {size(engine.needed)}"
    if least > most:
        yield (
            f"RL exploration, sampling: the trainer keeps {size(trainer)} of an accelerator's {limit_gib:.0f} GiB "
            f"beside vLLM, whose {needs}; "
            + " or ".join([*spread, *_larger_gpus(trainer + engine.needed), "take a smaller base_policy"])
        )
    elif engine.needed > engine.share:
        yield (
            f"RL exploration, sampling: vLLM has {size(engine.share)} of an accelerator's {limit_gib:.0f} GiB, but "
            f"{needs}; raise {key} from {given:g} to at least {least:g}"
        )
    elif together > limit:
        yield (
            f"RL exploration, sampling: the trainer keeps {size(trainer)} and vLLM takes {size(engine.share)}, but an "
            f"accelerator has {limit_gib:.0f} GiB; "
            + " or ".join([f"lower {key} from {given:g} to at most {most:g}", *spread])
        )


def _in_evaluation(recipe: Recipe, model: ModelSize, costs: Costs, limit_gib: float) -> Iterator[str]:
    """vLLM in evaluation: whether it can spread the policy, and whether its share of each GPU is enough."""
    engine, gpus = costs.memory.evaluation_engine(recipe.eval.sequences_per_batch), costs.memory.evaluation_gpus
    if engine is None:
        return
    if not _can_spread(model, gpus):
        possible = next(n for n in range(gpus, 0, -1) if _can_spread(model, n))
        yield (
            f"evaluation: the policy's {model.heads} attention heads and {model.key_value_heads} key heads cannot be "
            f"spread over {gpus} GPUs; set eval.tensor_parallel_size to {possible}"
        )
    if engine.needed > engine.share:
        least = math.ceil(100 * engine.needed / (limit_gib * GIB)) / 100
        remedies = [f"raise eval.gpu_memory_utilization to at least {least:g}"] if least <= 1 else []
        yield (
            f"evaluation: vLLM has {size(engine.share)} of each accelerator's {limit_gib:.0f} GiB, but weights and one "
            f"of the longest sequences take {size(engine.needed)} on each of {gpus}; "
            + " or ".join([*remedies, "raise eval.tensor_parallel_size and pools.inference.accelerators"])
        )


def _can_spread(model: ModelSize, gpus: int) -> bool:
    """Whether vLLM can: equally many heads on each GPU, or a head of the keys copied to equally many."""
    keys = model.key_value_heads
    return model.heads % gpus == 0 and (keys % gpus == 0 or gpus % keys == 0)


def _idle(recipe: Recipe, costs: Costs) -> Iterator[str]:
    """GPUs of a pod that a stage leaves idle."""
    for section, processes in (("rl", recipe.rl.parallel.processes), ("rft", recipe.rft.parallel.processes)):
        if costs.memory.training.gpu and processes < (there := recipe.pools.training.accelerators):
            yield (
                f"{section}.parallel.processes is {processes}, but pools.training.accelerators is {there}: "
                f"{there - processes} of a pod's GPUs are idle; raise the one or lower the other"
            )
    used, there = costs.memory.evaluation_gpus, recipe.pools.inference.accelerators
    if costs.memory.inference.gpu and used < there:
        yield (
            f"evaluation uses {used} of a pod's {there} GPUs (pools.inference.accelerators); "
            + (
                "raise eval.tensor_parallel_size or lower it"
                if costs.memory.evaluation_engine(1)
                else "set eval.engine to vllm or lower it"
            )
        )
