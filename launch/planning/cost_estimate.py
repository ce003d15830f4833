"""Upper bounds for what each stage of a run costs: tokens, memory, disk, bytes moved, time. See docs/plan.md.

Every completion is assumed to be as long as allowed, every prompt as long as the longest, and every rollout to become
an expert as far as the filter's limits permit.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from components.evaluation.settings import EvaluationSettings
from components.preflight.disk import checkpoint_bytes, checkpoints_disk, policy_bytes, rollout_bytes, sample_bytes
from components.preflight.memory import CACHE_PAIR_BYTES, WEIGHT_BYTES, Memory
from components.shared.sampling.placement import Placement
from components.shared.sampling.vllm_memory import EngineMemory
from launch.planning.formatting import format_count, format_seconds
from launch.planning.memory_estimate import MemoryEstimate
from launch.planning.planned_run import PlannedRun
from launch.planning.throughput import (
    FORWARD,
    RECOMPUTING,
    TRAINING,
    training_seconds,
    transformers_seconds,
    vllm_seconds,
)

_PAGE_BYTES = 200 * 1024  # a stage's page, log and metrics
_ROW_SECONDS = 0.0002  # time a CPU stage takes to read, judge and write one trajectory


@dataclass(frozen=True)
class StageCost:
    """What one execution of a stage costs."""

    name: str
    kind: str  # shared by stages that do the same under different names
    pool: str
    seconds: float
    how: str  # the arithmetic, spelled out
    disk: int  # bytes on its pod
    read: int  # bytes read from the object store
    written: int  # bytes of artifacts written to the object store
    progress: int = 0  # bytes of progress written to store.checkpoint_uri
    sampled: int = 0  # tokens
    trained: int = 0  # tokens
    memory: Mapping[str, Memory] = field(default_factory=dict)  # per accelerator, by phase
    times: int = 1  # executions per run

    @property
    def moved(self) -> int:
        """Bytes transferred from and to the object store."""
        return self.read + self.written + self.progress


class CostEstimate:
    """Estimates the costs of a run's stages.

    Args:
        run: the planned run.

    Attributes:
        run: the planned run.
        memory: the estimate of its stages' memory.
    """

    def __init__(self, run: PlannedRun) -> None:
        self.run, self.memory = run, MemoryEstimate(run)
        self._recipe, self._model, self._data = run.recipe, run.model, run.data
        self._training, self._inference = run.training, run.inference
        self._policy = policy_bytes(run.model)
        rl = run.recipe.rl
        self._completions = rl.prompts_per_step * rl.group_size
        self._rollouts = rl.steps * self._completions * (1 + rl.resample_rounds)  # if every round replaces every group
        self._rollout_bytes = rollout_bytes(self._rollouts, rl.max_completion_tokens)
        self._snapshots = rl.steps // rl.snapshot_every if rl.snapshot_every else 0

    def stages(self) -> list[StageCost]:
        """Returns the cost of every stage of the run, in order."""
        return list(self._stages())

    def _stages(self) -> Iterator[StageCost]:
        n, vanilla = self._recipe.iterations, self._recipe.vanilla
        later = n - 1 if vanilla else 0
        yield self._cpu_stage("preflight", 0, 0, 0, 1)
        yield self._cpu_stage("data preparation", 0, self._policy, self._policy, 1)
        yield self._evaluation("evaluation of base", 1)
        yield self._exploration("RL exploration", n)
        yield self._trajectory_stage("rollout harvesting", n)
        yield self._trajectory_stage("verification filtering", n)
        yield self._rft(n)
        yield self._evaluation("evaluation of rloop", n)
        yield self._evaluation("evaluation of explored", n, self._snapshots, initial=1)
        if later:
            yield self._exploration("vanilla RL", later)
            yield self._trajectory_stage("harvesting of vanilla RL", later)
            yield self._evaluation("evaluation of vanilla", later, self._snapshots)
        yield self._cpu_stage("report", 0, 3 * self._policy, self._policy, n)
        if self._recipe.store.publish_uri:
            published = self._policy + 2 * self._rollout_bytes
            yield self._cpu_stage("publishing", 0, published, published, n)

    def _trajectory_stage(self, name: str, times: int) -> StageCost:
        """A CPU stage that reads every rollout and writes it again."""
        return self._cpu_stage(name, self._rollouts, self._rollout_bytes, self._rollout_bytes, times)

    def _cpu_stage(self, name: str, rows: int, read: int, written: int, times: int) -> StageCost:
        """A stage without a GPU, given the trajectories it handles and the bytes it reads and writes."""
        seconds = self._training.start_seconds + rows * _ROW_SECONDS
        how = f"start {self._training.start_seconds:.0f} s + {rows:,} trajectories x {_ROW_SECONDS * 1000:g} ms"
        return StageCost(name, "on CPUs", "cpu", seconds, how, read + written, read, written + _PAGE_BYTES, times=times)

    def _exploration(self, name: str, times: int) -> StageCost:
        """RL: each step samples completions and trains on them; the optimiser state stays in memory throughout."""
        rl, model = self._recipe.rl, self._model
        device = self._training.per_process(rl.parallel.processes)
        sampling, training = self._rl_sampling_seconds(), self._rl_training_seconds()
        seconds = device.start_seconds + rl.steps * (sampling * (1 + rl.resample_rounds) + training)
        saved = self._checkpoints_saved(seconds)
        state = checkpoint_bytes(model) if self._recipe.vanilla else 0
        # Rollouts, final policy, intermediate checkpoints and, for vanilla RL, the training state.
        made = self._rollout_bytes + self._policy + self._snapshots * self._policy + state
        # A finished stage adds its outputs to its progress; rollouts and intermediate checkpoints are already there.
        progress = made + saved * checkpoint_bytes(model)
        return StageCost(
            name=name,
            kind="RL exploration",
            pool="training",
            sampled=self._rollouts * rl.max_completion_tokens,
            trained=rl.steps * self._rl_step_tokens,
            memory={
                "sampling": self.memory.rl_sampling(self.memory.process_completions),
                "training": self.memory.rl_training(rl.micro_batch_completions),
            },
            disk=self._policy + state + made + (checkpoints_disk(model) if saved or state else 0),
            read=self._policy + state,
            written=made + _PAGE_BYTES,
            progress=progress if self._recipe.store.checkpoint_uri else 0,
            seconds=seconds,
            how=(
                f"{rl.steps} steps x ({self._completions} completions x {rl.max_completion_tokens} tokens"
                f"{_with_vllm(self.memory.rl_engine)} in {format_seconds(sampling)}{_rounds(rl.resample_rounds)}, then "
                f"{self._rl_flops} FLOPs x {format_count(model.parameters)} parameters x "
                f"{format_count(self._rl_step_tokens)} tokens of prompts and completions in "
                f"{format_seconds(training)}){_processes(rl.parallel.world)}"
            ),
            times=times,
        )

    @property
    def _rl_step_tokens(self) -> int:
        """Tokens that an RL step trains on, prompts included."""
        return self._completions * self.memory.rl_lengths[1]

    @property
    def _rl_flops(self) -> int:
        """FLOPs per parameter and token of an RL step's training."""
        rl = self._recipe.rl
        flops = TRAINING + (RECOMPUTING if rl.gradient_checkpointing else 0)
        # Log-probabilities under the policy that sampled, if that is not the policy being trained.
        flops += FORWARD * (rl.updates_per_step > 1 or self.memory.rl_engine is not None)
        return flops + FORWARD * (rl.kl_coefficient > 0)

    def _rl_training_seconds(self) -> float:
        """Seconds of training in one RL step."""
        rl = self._recipe.rl
        device = self._training.per_process(rl.parallel.processes)
        passes = math.ceil(self._completions / rl.micro_batch_completions)
        return training_seconds(device, self._model, self._rl_step_tokens, self._rl_flops, passes, rl.parallel.world)

    def _rl_sampling_seconds(self) -> float:
        """Seconds of one round of sampling in one RL step."""
        rl, model = self._recipe.rl, self._model
        device = self._training.per_process(rl.parallel.processes)
        prompt, own = self.memory.rl_lengths[0], self.memory.process_completions
        if self.memory.rl_engine is not None:
            prompts = own // rl.group_size
            return vllm_seconds(device, model, self.memory.rl_engine, own, prompts, prompt, rl.max_completion_tokens)
        # Autocast reads the weights, writes them in half precision and reads those.
        weights = model.parameters * (8 if self.memory.mixed else WEIGHT_BYTES)
        pair = CACHE_PAIR_BYTES[self.memory.mixed]
        return transformers_seconds(device, model, own, prompt, rl.max_completion_tokens, weights, pair)

    def _checkpoints_saved(self, seconds: float) -> int:
        """Number of checkpoints that a stage saves to store.checkpoint_uri."""
        store = self._recipe.store
        return int(seconds / 60 / max(store.minutes, 0.1)) if store.checkpoint_uri else 0

    @cached_property
    def _experts(self) -> int:
        """Maximum number of trajectories that RFT trains on."""
        distinct = min(self._data.training, self._recipe.rl.steps * self._recipe.rl.prompts_per_step)
        limit = self._recipe.filter.max_per_problem
        own = min(self._rollouts, distinct * limit) if limit else self._rollouts
        return own * (self._recipe.iterations if self._recipe.experts_from == "all" else 1)

    def _rft(self, times: int) -> StageCost:
        """RFT on the maximum number of experts."""
        rft, model, tokens = self._recipe.rft, self._model, self.memory.rl_lengths[1]
        per_forward, processes = rft.micro_batch_trajectories, rft.parallel.world
        device = self._training.per_process(rft.parallel.processes)
        flops = TRAINING + (RECOMPUTING if rft.gradient_checkpointing else 0)
        trained = math.ceil(self._experts * rft.epochs) * tokens
        passes = math.ceil(self._experts * rft.epochs / per_forward)
        training = training_seconds(device, model, trained, flops, passes, processes)
        seconds = device.start_seconds + training
        experts = rollout_bytes(self._experts, self._recipe.rl.max_completion_tokens)
        saved = self._checkpoints_saved(seconds)
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
                f"up to {self._experts:,} experts x {rft.epochs:g} epochs x {tokens} tokens x {flops} FLOPs x "
                f"{format_count(model.parameters)} parameters in {format_seconds(training)}{_processes(processes)}"
            ),
            times=times,
        )

    def _evaluation(self, name: str, times: int, checkpoints: int = 0, initial: int = 0) -> StageCost:
        """Evaluation of a policy.

        Args:
            name: name of the stage.
            times: executions per run.
            checkpoints: intermediate checkpoints that are evaluated too.
            initial: 1 if the policy that RL started from is evaluated along with the checkpoints.
        """
        recipe, problems = self._recipe, self._data.benchmarks
        parts = [(count, recipe.eval.of(benchmark), 1) for benchmark, count in problems.items()]
        points = checkpoints + initial if checkpoints else 0
        if points:
            names = recipe.eval.curve_benchmarks or [recipe.report.validation or next(iter(recipe.data.benchmarks))]
            curve = recipe.eval.curve_problems
            parts += [(min(problems[name], curve), recipe.eval.of_curve(name), points) for name in names]
        return self._evaluation_of(name, times, parts, (1 + points) * self._policy)

    def _evaluation_of(
        self,
        name: str,
        times: int,
        parts: list[tuple[int, EvaluationSettings, int]],
        policies: int,
    ) -> StageCost:
        """Evaluation, given its benchmarks.

        Args:
            name: name of the stage.
            times: executions per run.
            parts: (problems, settings, policies) per benchmark.
            policies: bytes of all policies.
        """
        device, batch = self._inference, self._recipe.eval.sequences_per_batch
        seconds, sampled, size, terms = 0.0, 0, 0, []
        for problems, settings, points in parts:
            limit, samples = settings.max_completion_tokens, problems * settings.samples
            seconds += points * self._benchmark_seconds(problems, samples, limit)
            sampled += points * samples * limit
            size += points * sample_bytes(samples, limit)
            terms.append(f"{problems} x {settings.samples} x {limit}{f' x {points} policies' if points > 1 else ''}")
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
            progress=2 * size if self._recipe.store.checkpoint_uri else 0,  # batch by batch, and again at the end
            seconds=device.start_seconds + seconds,
            how=f"problems x samples x tokens: {' + '.join(terms)}; {at_once} at a time"
            f"{_with_vllm(engine) or ','} in {format_seconds(seconds)}{_replicas(self.memory.evaluation_placement)}",
            times=times,
        )

    def _benchmark_seconds(self, problems: int, samples: int, completion: int) -> float:
        """Seconds of sampling one benchmark with one policy.

        Args:
            problems: number of problems.
            samples: total number of samples.
            completion: tokens per completion.
        """
        model, batch, placement = self._model, self._recipe.eval.sequences_per_batch, self.memory.evaluation_placement
        prompt, _ = self.memory.lengths(completion)
        # The replicas share the samples of all benchmarks: as if each had an equal part of every benchmark.
        replicas, device = placement.replicas, self._inference.per_process(placement.replicas)
        if (engine := self.memory.evaluation_engine(batch)) is not None:
            own, own_problems = math.ceil(samples / replicas), math.ceil(problems / replicas)
            gpus = placement.tensor_parallel_size
            return vllm_seconds(device, model, engine, own, own_problems, prompt, completion, gpus)
        value = 2 if device.half else 4
        full, rest = divmod(samples, batch)
        seconds = sum(
            count
            * transformers_seconds(device, model, sequences, prompt, completion, model.parameters * value, 2 * value)
            for sequences, count in ((batch, full), (rest, 1))
            if sequences and count
        )
        return seconds / replicas


def _with_vllm(engine: EngineMemory | None) -> str:
    return f" with vLLM, whose KV cache holds {engine.fitting:,} full-length sequences," if engine else ""


def _processes(number: int) -> str:
    return f", on {number} processes" if number > 1 else ""


def _replicas(placement: Placement) -> str:
    if placement.replicas == 1:
        return ""
    size = placement.tensor_parallel_size
    return f", on {placement.replicas} replicas{f' of {size} GPUs each' if size > 1 else ''}"


def _rounds(resample_rounds: int) -> str:
    return f" (up to {1 + resample_rounds} times)" if resample_rounds else ""
