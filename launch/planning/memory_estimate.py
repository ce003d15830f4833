"""What the stages that use accelerators hold on each of them, and vLLM's part of it."""

from dataclasses import dataclass, replace
from functools import cached_property

from components.preflight.estimate import (
    GIB,
    Memory,
    ModelSize,
    evaluation_memory,
    exploring_memory,
    training_memory,
    waiting_memory,
)
from components.preflight.vllm_memory import EngineMemory, engine_memory, samples_with_vllm
from launch.planning.devices import Device
from launch.recipe import Recipe

_MOST_SEQUENCES = 1024  # that vLLM has at once in evaluation: components/shared/sampling/vllm_engine.py


@dataclass(frozen=True)
class Problems:
    """What a plan knows of the data."""

    training: int
    benchmarks: dict[str, int]
    prompt_tokens: int  # of the longest prompt


class StageMemory:
    """The memory of a recipe's stages.

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
        self.training, self.inference = training, inference

    def lengths(self, completion: int) -> tuple[int, int]:
        """Tokens of a prompt and of the whole sequence, with a completion of so many."""
        tokens = min(self._context, self._problems.prompt_tokens + completion)
        return max(1, tokens - completion), tokens

    @cached_property
    def rl_lengths(self) -> tuple[int, int]:
        """Tokens of a prompt and of the whole sequence, in RL and RFT."""
        return self.lengths(self._recipe.rl.max_completion_tokens)

    @property
    def mixed(self) -> bool:
        """Whether RL trains in mixed precision."""
        return self._is_mixed(self._recipe.rl.precision)

    def _is_mixed(self, precision: str) -> bool:
        return precision == "bfloat16" or (precision == "auto" and self.training.half)

    @property
    def process_completions(self) -> int:
        """Completions of an RL step that a process samples."""
        rl = self._recipe.rl
        return rl.prompts_per_step * rl.group_size // rl.parallel.world

    @cached_property
    def rl_engine(self) -> EngineMemory | None:
        """vLLM beside the trainer; None where transformers samples."""
        return self.rl_engine_with(self._recipe.rl.gpu_memory_utilization)

    def rl_engine_with(self, utilization: float) -> EngineMemory | None:
        """vLLM beside the trainer with such a share of a GPU; None where transformers samples."""
        if not samples_with_vllm(self._recipe.rl.engine, self.training.gpu):
            return None
        share = int(utilization * self.training.memory_gib * GIB)
        return engine_memory(self._model, share, self.process_completions, self.rl_lengths[1])

    def rl_training(self, completions: int) -> Memory:
        """Of a forward and backward pass of RL on so many completions, and of vLLM if it does not sleep."""
        rl = self._recipe.rl
        trainer = training_memory(
            self._model,
            completions,
            self.rl_lengths[1],
            checkpointing=rl.gradient_checkpointing,
            mixed=self.mixed,
            reference=rl.kl_coefficient > 0,
            lora=rl.lora,
            parallel=rl.parallel,
        )
        return replace(trainer, engine=self.rl_engine.share if self.rl_engine and not rl.sleep_mode else 0)

    def rl_sampling(self, completions: int) -> Memory:
        """Of sampling in RL: by transformers so many completions at once, by vLLM as many as its share allows."""
        rl = self._recipe.rl
        reference = rl.kl_coefficient > 0
        if self.rl_engine is not None:
            return waiting_memory(
                self._model,
                self.rl_engine.share,
                reference=reference,
                lora=rl.lora,
                mixed=self.mixed,
                parallel=rl.parallel,
            )
        return exploring_memory(
            self._model,
            completions,
            *self.rl_lengths,
            mixed=self.mixed,
            reference=reference,
            lora=rl.lora,
            parallel=rl.parallel,
        )

    def rft(self, trajectories: int) -> Memory:
        """Of a forward and backward pass of RFT on so many trajectories."""
        rft = self._recipe.rft
        return training_memory(
            self._model,
            trajectories,
            self.rl_lengths[1],
            checkpointing=rft.gradient_checkpointing,
            mixed=self._is_mixed(rft.precision),
            lora=rft.lora,
            parallel=rft.parallel,
        )

    @cached_property
    def _evaluation_lengths(self) -> tuple[int, int]:
        return self.lengths(max(self._recipe.eval.of(name).max_completion_tokens for name in self._problems.benchmarks))

    @property
    def evaluation_gpus(self) -> int:
        """GPUs of a pod that evaluation uses: with vLLM all, or as many as it is told to; with transformers one."""
        if not samples_with_vllm(self._recipe.eval.engine, self.inference.gpu):
            return 1
        return self._recipe.eval.tensor_parallel_size or max(1, self._recipe.pools.inference.accelerators)

    def evaluation_engine(self, sequences: int) -> EngineMemory | None:
        """vLLM that is asked for so many of the longest completions at once; None where transformers samples."""
        recipe, device = self._recipe, self.inference
        if not samples_with_vllm(recipe.eval.engine, device.gpu):
            return None
        share = int(recipe.eval.gpu_memory_utilization * device.memory_gib * GIB)
        tokens, gpus = self._evaluation_lengths[1], self.evaluation_gpus
        return engine_memory(self._model, share, min(sequences, _MOST_SEQUENCES), tokens, gpus)

    def evaluation(self, sequences: int) -> Memory:
        """Of generating so many of the longest completions at once in evaluation."""
        if (engine := self.evaluation_engine(sequences)) is not None:
            return Memory(weights=engine.weights, activations=engine.activations, cache=engine.cache)
        return evaluation_memory(self._model, sequences, *self._evaluation_lengths, half=self.inference.half)
