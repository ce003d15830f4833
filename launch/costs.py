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
    cache_bytes,
    checkpoint_bytes,
    evaluation_memory,
    exploring_memory,
    policy_bytes,
    rollout_bytes,
    sample_bytes,
    training_memory,
)
from launch.devices import Device
from launch.recipe import Recipe

# FLOPs a parameter and token: a forward pass 2, a backward pass twice that (Kaplan et al. 2020, arXiv 2001.08361), and
# one more forward pass with gradient checkpointing.
_FORWARD, _TRAINING, _RECOMPUTING = 2, 6, 2
# Host time that launching the kernels of one layer takes: measured with a batch of one and a model so small that its
# arithmetic takes no time.
_LAYER_SECONDS = 0.0005
# transformers' cache is read for attention, and read and written again to grow by a token.
_CACHE_PASSES = 3
_PAGE_BYTES = 200 * 1024  # of a stage's page, log and metrics
_ROW_SECONDS = 0.0002  # of a stage on CPUs, for a trajectory that it reads, judges and writes


@dataclass(frozen=True)
class Problems:
    """What a plan knows of the data."""

    training: int
    benchmarks: dict[str, int]
    prompt_tokens: int  # of the longest prompt


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
        self._recipe, self._model, self._context, self._problems = recipe, model, context, problems
        self._training, self._inference = training, inference
        self._policy = policy_bytes(model)
        rl = recipe.rl
        self._completions = rl.prompts_per_step * rl.group_size
        self._rollouts = rl.steps * self._completions * (1 + rl.refill_rounds)  # if every round replaces every group
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
        yield self._evaluation("evaluation of explored", n)
        if self._snapshots:
            yield self._curve("explored policies on the way", 1, n)
        if later:
            yield self.exploration("vanilla RL", later)
            yield self._harvesting("harvesting of vanilla RL", later)
            yield self._evaluation("evaluation of vanilla", later)
            if self._snapshots:
                yield self._curve("vanilla policies on the way", 0, later)
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

    @property
    def _mixed(self) -> bool:
        return self._is_mixed(self._recipe.rl.precision)

    def _is_mixed(self, precision: str) -> bool:
        return precision == "bfloat16" or (precision == "auto" and self._training.half)

    @cached_property
    def _rl_tokens(self) -> tuple[int, int]:
        """Of a prompt and of the whole sequence, in RL and RFT."""
        completion = self._recipe.rl.max_completion_tokens
        tokens = min(self._context, self._problems.prompt_tokens + completion)
        return max(1, tokens - completion), tokens

    def exploration(self, name: str, times: int) -> StageCost:
        """RL: sampling a step's completions and training on them, the optimiser's state there all the while."""
        rl, model, device = self._recipe.rl, self._model, self._training
        prompt, tokens = self._rl_tokens
        memories = {
            "sampling": self.rl_sampling_memory(self._completions),
            "training": self.rl_training_memory(rl.forward_completions),
        }
        # Autocast reads the weights, writes them in half precision and reads those.
        weights = model.parameters * (8 if self._mixed else WEIGHT_BYTES)
        sampling = _sampling_seconds(
            device,
            model,
            self._completions,
            prompt,
            rl.max_completion_tokens,
            weights,
            CACHE_PAIR_BYTES[self._mixed],
        )
        flops = _TRAINING + (_RECOMPUTING if rl.gradient_checkpointing else 0)
        flops += _FORWARD * (rl.updates_per_step > 1)  # log-probabilities under the policy that sampled
        flops += _FORWARD * (rl.kl_coefficient > 0)
        step = self._completions * tokens
        passes = math.ceil(self._completions / rl.forward_completions)
        training = _training_seconds(device, model, step, flops, passes)
        seconds = device.start_seconds + rl.steps * (sampling * (1 + rl.refill_rounds) + training)
        trained = rl.steps * step
        saved = 0
        if self._recipe.store.checkpoint_uri:
            saved = int(seconds / 60 / max(self._recipe.store.minutes, 0.1))
        kept = self._snapshots * self._policy
        state = checkpoint_bytes(model) if self._recipe.vanilla else 0
        made = self._rollout_bytes + self._policy + kept + state
        progress = self._rollout_bytes + kept + saved * checkpoint_bytes(model)
        return StageCost(
            name=name,
            kind="RL exploration",
            pool="training",
            sampled=self._rollouts * rl.max_completion_tokens,
            trained=trained,
            memory=memories,
            # Up to two checkpoints lie there: the one that is sent and the next.
            disk=self._policy + state + made + (2 * checkpoint_bytes(model) if saved or state else 0),
            read=self._policy + state,
            written=made + _PAGE_BYTES,
            progress=progress if self._recipe.store.checkpoint_uri else 0,
            seconds=seconds,
            how=(
                f"{rl.steps} steps x ({self._completions} completions x {rl.max_completion_tokens} tokens in "
                f"{_seconds(sampling)}{_rounds(rl.refill_rounds)}, then {flops} FLOPs x {_count(model.parameters)} "
                f"parameters x {_count(step)} tokens of prompts and completions in {_seconds(training)})"
            ),
            times=times,
        )

    def rl_training_memory(self, completions: int) -> Memory:
        """Memory of a forward and backward pass of RL on so many completions."""
        rl = self._recipe.rl
        return training_memory(
            self._model,
            completions,
            self._rl_tokens[1],
            checkpointing=rl.gradient_checkpointing,
            mixed=self._mixed,
            reference=rl.kl_coefficient > 0,
            lora=rl.lora,
        )

    def rl_sampling_memory(self, completions: int) -> Memory:
        """Memory of sampling so many completions at once in RL."""
        return exploring_memory(
            self._model,
            completions,
            *self._rl_tokens,
            mixed=self._mixed,
            reference=self._recipe.rl.kl_coefficient > 0,
            lora=self._recipe.rl.lora,
        )

    @cached_property
    def experts(self) -> int:
        """Trajectories that RFT can have to learn from, at most."""
        distinct = min(self._problems.training, self._recipe.rl.steps * self._recipe.rl.prompts_per_step)
        limit = self._recipe.filter.max_per_problem
        own = min(self._rollouts, distinct * limit) if limit else self._rollouts
        return own * (self._recipe.iterations if self._recipe.experts_from == "all" else 1)

    def rft_memory(self, trajectories: int) -> Memory:
        """Memory of a forward and backward pass of RFT on so many trajectories."""
        rft = self._recipe.rft
        return training_memory(
            self._model,
            trajectories,
            self._rl_tokens[1],
            checkpointing=rft.gradient_checkpointing,
            mixed=self._is_mixed(rft.precision),
            lora=rft.lora,
        )

    def refinement(self, times: int) -> StageCost:
        """RFT on as many experts as there can be."""
        rft, model, device, tokens = self._recipe.rft, self._model, self._training, self._rl_tokens[1]
        per_forward = rft.trajectories_per_forward or rft.batch_size
        flops = _TRAINING + (_RECOMPUTING if rft.gradient_checkpointing else 0)
        trained = math.ceil(self.experts * rft.epochs) * tokens
        training = _training_seconds(device, model, trained, flops, math.ceil(self.experts * rft.epochs / per_forward))
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
            memory={"training": self.rft_memory(per_forward)},
            disk=2 * self._policy + experts + (2 * checkpoint_bytes(model) if saved else 0),
            read=self._policy + experts,
            written=self._policy + _PAGE_BYTES,
            progress=saved * checkpoint_bytes(model),
            seconds=seconds,
            how=(
                f"{self.experts:,} experts at most x {rft.epochs:g} epochs x {tokens} tokens x {flops} FLOPs x "
                f"{_count(model.parameters)} parameters in {_seconds(training)}"
            ),
            times=times,
        )

    def evaluation_memory(self, sequences: int) -> Memory:
        """Memory of generating so many of the longest completions at once in evaluation."""
        longest = max(self._recipe.eval.of(name).max_completion_tokens for name in self._problems.benchmarks)
        prompt, tokens = self._evaluation_tokens(longest)
        return evaluation_memory(self._model, sequences, prompt, tokens, half=self._inference.half)

    def _evaluation_tokens(self, completion: int) -> tuple[int, int]:
        tokens = min(self._context, self._problems.prompt_tokens + completion)
        return max(1, tokens - completion), tokens

    def _evaluation(self, name: str, times: int) -> StageCost:
        own = {benchmark: self._recipe.eval.of(benchmark) for benchmark in self._problems.benchmarks}
        parts = [(count, own[benchmark], 1) for benchmark, count in self._problems.benchmarks.items()]
        return self._measuring(name, "evaluation", times, parts, self._policy)

    def _curve(self, name: str, initial: int, times: int) -> StageCost:
        recipe = self._recipe
        names = recipe.eval.curve_benchmarks or [recipe.report.validation or next(iter(recipe.data.benchmarks))]
        points = self._snapshots + initial
        parts = [
            (min(self._problems.benchmarks[name], recipe.eval.curve_problems), recipe.eval.of_curve(name), points)
            for name in names
        ]
        return self._measuring(name, "policies on the way", times, parts, (1 + self._snapshots) * self._policy)

    def _measuring(
        self,
        name: str,
        kind: str,
        times: int,
        parts: list[tuple[int, EvaluationSettings, int]],
        policies: int,
    ) -> StageCost:
        """Sampling on benchmarks: (problems, settings, policies) each."""
        device, model, batch = self._inference, self._model, self._recipe.eval.sequences_per_batch
        value = 2 if device.half else 4
        seconds, sampled, size, words = 0.0, 0, 0, []
        for problems, settings, points in parts:
            limit, samples = settings.max_completion_tokens, problems * settings.samples
            prompt, _ = self._evaluation_tokens(limit)
            whole, rest = divmod(samples, batch)
            for sequences, count in ((batch, whole), (rest, 1)):
                if sequences and count:
                    once = _sampling_seconds(
                        device, model, sequences, prompt, limit, model.parameters * value, 2 * value
                    )
                    seconds += points * count * once
            sampled += points * samples * limit
            size += points * sample_bytes(samples, limit)
            words.append(f"{problems} x {settings.samples} x {limit}{f' x {points} policies' if points > 1 else ''}")
        largest = min(batch, max(problems * settings.samples for problems, settings, _ in parts))
        return StageCost(
            name=name,
            kind=kind,
            pool="inference",
            sampled=sampled,
            memory={"sampling": self.evaluation_memory(largest)},
            disk=policies + 2 * size,
            read=policies,
            written=size + _PAGE_BYTES,
            progress=size if self._recipe.store.checkpoint_uri else 0,
            seconds=device.start_seconds + seconds,
            how=f"problems x samples x tokens: {' + '.join(words)}; {largest} at once, in {_seconds(seconds)}",
            times=times,
        )


def _training_seconds(device: Device, model: ModelSize, tokens: int, flops: int, passes: int) -> float:
    """Arithmetic at the share of the peak, or, for a model that is too small for it, the launching of kernels."""
    arithmetic = flops * model.parameters * tokens / (device.flops * device.flops_share)
    return max(arithmetic, passes * model.layers * 3 * _LAYER_SECONDS)


def _sampling_seconds(
    device: Device, model: ModelSize, sequences: int, prompt: int, completion: int, weights: int, pair_bytes: int
) -> float:
    """A batch of completions, all of the greatest length.

    Each token of the batch takes the longest of: reading weights and cache, arithmetic, launching kernels. The cache is
    half as long as at the end on the average.
    """
    flops, bandwidth = device.flops * device.flops_share, device.bandwidth * device.bandwidth_share
    cache = sequences * (prompt + completion / 2) * cache_bytes(model, pair_bytes)
    token = max(
        (weights + _CACHE_PASSES * cache) / bandwidth,
        _FORWARD * model.parameters * sequences / flops,
        model.layers * _LAYER_SECONDS,
    )
    return completion * token + _FORWARD * model.parameters * sequences * prompt / flops


def _count(number: float) -> str:
    """A number with k, M, G or T."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _rounds(refills: int) -> str:
    return f" (up to {1 + refills} times)" if refills else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.2g} s"
