"""What each stage of a run costs at most: tokens, memory, disk, bytes moved, time. docs/plan.md has the model.

Every completion is taken to be as long as it may get, every prompt as the longest, and every rollout to become an
expert where the filter's limits allow.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from components.evaluation.settings import EvaluationSettings
from components.preflight.estimate import (
    CACHE_PAIR_BYTES,
    WEIGHT_BYTES,
    Memory,
    ModelSize,
    checkpoint_bytes,
    checkpoints_disk,
    policy_bytes,
    rollout_bytes,
    sample_bytes,
)
from components.preflight.vllm_memory import EngineMemory
from launch.planning.devices import Device
from launch.planning.memory_estimate import Problems, StageMemory
from launch.planning.throughput import (
    FORWARD,
    RECOMPUTING,
    TRAINING,
    engine_seconds,
    sampling_seconds,
    training_seconds,
)
from launch.recipe import Recipe

_PAGE_BYTES = 200 * 1024  # of a stage's page, log and metrics
_ROW_SECONDS = 0.0002  # of a stage on CPUs, for a trajectory that it reads, judges and writes


@dataclass(frozen=True)
class StageCost:
    """One stage, once."""

    name: str
    kind: str  # what it has in common with stages of other names
    pool: str
    seconds: float
    how: str  # the arithmetic in words
    disk: int  # bytes of its pod
    read: int  # bytes from the object store
    written: int  # bytes of artifacts to the object store
    progress: int = 0  # bytes of progress to store.checkpoint_uri
    sampled: int = 0  # tokens
    trained: int = 0
    memory: Mapping[str, Memory] = field(default_factory=dict)  # of one accelerator, by what it does
    times: int = 1  # in a run

    @property
    def moved(self) -> int:
        """Bytes from and to the object store."""
        return self.read + self.written + self.progress


class Costs:
    """The costs of a recipe's stages.

    Args:
        recipe: the run.
        model: size of its base policy.
        context: of the base policy, in tokens.
        problems: of the run.
        training: device of the training pool.
        inference: device of the inference pool.
    """

    def __init__(
        self, recipe: Recipe, model: ModelSize, context: int, problems: Problems, training: Device, inference: Device
    ) -> None:
        self._recipe, self._model, self._problems = recipe, model, problems
        self._training, self._inference = training, inference
        self.memory = StageMemory(recipe, model, context, problems, training, inference)
        self._policy = policy_bytes(model)
        rl = recipe.rl
        self._completions = rl.prompts_per_step * rl.group_size
        self._rollouts = rl.steps * self._completions * (1 + rl.resample_rounds)  # if every round replaces every group
        self._rollout_bytes = rollout_bytes(self._rollouts, rl.max_completion_tokens)
        self._snapshots = rl.steps // rl.snapshot_every if rl.snapshot_every else 0

    def stages(self) -> list[StageCost]:
        """Every stage of a run, in its order."""
        return list(self._stages())

    def _stages(self) -> Iterator[StageCost]:
        n, vanilla = self._recipe.iterations, self._recipe.vanilla
        later = n - 1 if vanilla else 0
        yield self._on_cpus("preflight", 0, 0, 0, 1)
        yield self._on_cpus("data preparation", 0, self._policy, self._policy, 1)
        yield self._evaluation("evaluation of base", 1)
        yield self.exploration("RL exploration", n)
        yield self._harvesting("rollout harvesting", n)
        yield self._harvesting("verification filtering", n)
        yield self.refinement(n)
        yield self._evaluation("evaluation of rloop", n)
        yield self._evaluation("evaluation of explored", n, self._snapshots, initial=1)
        if later:
            yield self.exploration("vanilla RL", later)
            yield self._harvesting("harvesting of vanilla RL", later)
            yield self._evaluation("evaluation of vanilla", later, self._snapshots)
        yield self._on_cpus("report", 0, 3 * self._policy, self._policy, n)
        if self._recipe.store.publish_uri:
            published = self._policy + 2 * self._rollout_bytes
            yield self._on_cpus("publishing", 0, published, published, n)

    def _harvesting(self, name: str, times: int) -> StageCost:
        """A stage that reads every rollout and writes it again."""
        return self._on_cpus(name, self._rollouts, self._rollout_bytes, self._rollout_bytes, times)

    def _on_cpus(self, name: str, rows: int, read: int, written: int, times: int) -> StageCost:
        """A stage without a GPU, of so many trajectories and bytes."""
        seconds = self._training.start_seconds + rows * _ROW_SECONDS
        how = f"start {self._training.start_seconds:.0f} s + {rows:,} trajectories x {_ROW_SECONDS * 1000:g} ms"
        return StageCost(name, "on CPUs", "cpu", seconds, how, read + written, read, written + _PAGE_BYTES, times=times)

    def exploration(self, name: str, times: int) -> StageCost:
        """RL: sampling a step's completions and training on them, the optimiser's state there all the while."""
        rl, model = self._recipe.rl, self._model
        tokens = self.memory.rl_lengths[1]
        processes = rl.parallel.world
        device = self._training.of(rl.parallel.processes)
        memories = {
            "sampling": self.memory.rl_sampling(self.memory.process_completions),
            "training": self.memory.rl_training(rl.micro_batch_completions),
        }
        sampling = self._rl_sampling_seconds()
        flops = TRAINING + (RECOMPUTING if rl.gradient_checkpointing else 0)
        # Log-probabilities under the policy that sampled: where it is another than the one that is trained.
        flops += FORWARD * (rl.updates_per_step > 1 or self.memory.rl_engine is not None)
        flops += FORWARD * (rl.kl_coefficient > 0)
        step = self._completions * tokens
        passes = math.ceil(self._completions / rl.micro_batch_completions)
        training = training_seconds(device, model, step, flops, passes, processes)
        seconds = device.start_seconds + rl.steps * (sampling * (1 + rl.resample_rounds) + training)
        trained = rl.steps * step
        saved = 0
        if self._recipe.store.checkpoint_uri:
            saved = int(seconds / 60 / max(self._recipe.store.minutes, 0.1))
        kept = self._snapshots * self._policy
        state = checkpoint_bytes(model) if self._recipe.vanilla else 0
        made = self._rollout_bytes + self._policy + kept + state
        # A finished stage leaves its outputs; the rollouts and the policies on the way are there already.
        progress = made + saved * checkpoint_bytes(model)
        return StageCost(
            name=name,
            kind="RL exploration",
            pool="training",
            sampled=self._rollouts * rl.max_completion_tokens,
            trained=trained,
            memory=memories,
            disk=self._policy + state + made + (checkpoints_disk(model) if saved or state else 0),
            read=self._policy + state,
            written=made + _PAGE_BYTES,
            progress=progress if self._recipe.store.checkpoint_uri else 0,
            seconds=seconds,
            how=(
                f"{rl.steps} steps x ({self._completions} completions x {rl.max_completion_tokens} tokens"
                f"{_with_vllm(self.memory.rl_engine)} in {_seconds(sampling)}{_rounds(rl.resample_rounds)}, then "
                f"{flops} FLOPs x {_count(model.parameters)} parameters x {_count(step)} tokens of prompts and "
                f"completions in {_seconds(training)}){_by(processes)}"
            ),
            times=times,
        )

    def _rl_sampling_seconds(self) -> float:
        """Of one round of sampling of one step."""
        rl, model = self._recipe.rl, self._model
        device = self._training.of(rl.parallel.processes)
        prompt, own = self.memory.rl_lengths[0], self.memory.process_completions
        if self.memory.rl_engine is not None:
            prompts = own // rl.group_size
            return engine_seconds(device, model, self.memory.rl_engine, own, prompts, prompt, rl.max_completion_tokens)
        # Autocast reads the weights, writes them in half precision and reads those.
        weights = model.parameters * (8 if self.memory.mixed else WEIGHT_BYTES)
        pair = CACHE_PAIR_BYTES[self.memory.mixed]
        return sampling_seconds(device, model, own, prompt, rl.max_completion_tokens, weights, pair)

    @cached_property
    def experts(self) -> int:
        """Trajectories that RFT can have to learn from, at most."""
        distinct = min(self._problems.training, self._recipe.rl.steps * self._recipe.rl.prompts_per_step)
        limit = self._recipe.filter.max_per_problem
        own = min(self._rollouts, distinct * limit) if limit else self._rollouts
        return own * (self._recipe.iterations if self._recipe.experts_from == "all" else 1)

    def refinement(self, times: int) -> StageCost:
        """RFT on as many experts as there can be."""
        rft, model, tokens = self._recipe.rft, self._model, self.memory.rl_lengths[1]
        per_forward, processes = rft.micro_batch_trajectories, rft.parallel.world
        device = self._training.of(rft.parallel.processes)
        flops = TRAINING + (RECOMPUTING if rft.gradient_checkpointing else 0)
        trained = math.ceil(self.experts * rft.epochs) * tokens
        passes = math.ceil(self.experts * rft.epochs / per_forward)
        training = training_seconds(device, model, trained, flops, passes, processes)
        seconds = device.start_seconds + training
        experts = rollout_bytes(self.experts, self._recipe.rl.max_completion_tokens)
        saved = 0
        if self._recipe.store.checkpoint_uri:
            saved = int(seconds / 60 / max(self._recipe.store.minutes, 0.1))
        return StageCost(
            name="RFT",
            kind="RFT",
            pool="training",
            trained=trained,
            memory={"training": self.memory.rft(per_forward)},
            disk=2 * self._policy + experts + (checkpoints_disk(model) if saved else 0),
            read=self._policy + experts,
            written=self._policy + _PAGE_BYTES,
            progress=saved * checkpoint_bytes(model) + (self._policy if self._recipe.store.checkpoint_uri else 0),
            seconds=seconds,
            how=(
                f"{self.experts:,} experts at most x {rft.epochs:g} epochs x {tokens} tokens x {flops} FLOPs x "
                f"{_count(model.parameters)} parameters in {_seconds(training)}{_by(processes)}"
            ),
            times=times,
        )

    def _evaluation(self, name: str, times: int, checkpoints: int = 0, initial: int = 0) -> StageCost:
        """Of a policy, and of so many intermediate checkpoints and, with them, of the policy that RL began with."""
        recipe, problems = self._recipe, self._problems.benchmarks
        parts = [(count, recipe.eval.of(benchmark), 1) for benchmark, count in problems.items()]
        points = checkpoints + initial if checkpoints else 0
        if points:
            names = recipe.eval.curve_benchmarks or [recipe.report.validation or next(iter(recipe.data.benchmarks))]
            curve = recipe.eval.curve_problems
            parts += [(min(problems[name], curve), recipe.eval.of_curve(name), points) for name in names]
        return self._measuring(name, times, parts, (1 + points) * self._policy)

    def _measuring(
        self,
        name: str,
        times: int,
        parts: list[tuple[int, EvaluationSettings, int]],
        policies: int,
    ) -> StageCost:
        """Sampling on benchmarks: (problems, settings, policies) each."""
        device, batch = self._inference, self._recipe.eval.sequences_per_batch
        seconds, sampled, size, words = 0.0, 0, 0, []
        for problems, settings, points in parts:
            limit, samples = settings.max_completion_tokens, problems * settings.samples
            seconds += points * self._measuring_seconds(problems, samples, limit)
            sampled += points * samples * limit
            size += points * sample_bytes(samples, limit)
            words.append(f"{problems} x {settings.samples} x {limit}{f' x {points} policies' if points > 1 else ''}")
        largest = min(batch, max(problems * settings.samples for problems, settings, _ in parts))
        engine = self.memory.evaluation_engine(largest)
        at_once = largest if engine is None else engine.at_once
        return StageCost(
            name=name,
            kind="evaluation",
            pool="inference",
            sampled=sampled,
            memory={"sampling": self.memory.evaluation(largest)},
            disk=policies + 2 * size,
            read=policies,
            written=size + _PAGE_BYTES,
            progress=2 * size if self._recipe.store.checkpoint_uri else 0,  # as batches, and at the end
            seconds=device.start_seconds + seconds,
            how=f"problems x samples x tokens: {' + '.join(words)}; {at_once} at once"
            f"{_with_vllm(engine)}, in {_seconds(seconds)}",
            times=times,
        )

    def _measuring_seconds(self, problems: int, samples: int, completion: int) -> float:
        """Of so many samples of so many problems."""
        device, model, batch = self._inference, self._model, self._recipe.eval.sequences_per_batch
        prompt, _ = self.memory.lengths(completion)
        if (engine := self.memory.evaluation_engine(batch)) is not None:
            gpus = self.memory.evaluation_gpus
            return engine_seconds(device, model, engine, samples, problems, prompt, completion, gpus)
        value = 2 if device.half else 4
        whole, rest = divmod(samples, batch)
        return sum(
            count * sampling_seconds(device, model, sequences, prompt, completion, model.parameters * value, 2 * value)
            for sequences, count in ((batch, whole), (rest, 1))
            if sequences and count
        )


def _count(number: float) -> str:
    """A number with k, M, G or T."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _with_vllm(engine: EngineMemory | None) -> str:
    return f" with vLLM, whose cache holds {engine.fitting:,} of full length" if engine else ""


def _by(processes: int) -> str:
    return f", by {processes} processes" if processes > 1 else ""


def _rounds(refills: int) -> str:
    return f" (up to {1 + refills} times)" if refills else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.2g} s"
