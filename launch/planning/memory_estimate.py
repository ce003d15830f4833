"""Memory that the stages hold on each accelerator, and vLLM's part of it."""

from dataclasses import replace
from functools import cached_property

from components.preflight.memory import (
    GIB,
    Memory,
    evaluation_memory,
    exploring_memory,
    training_memory,
    waiting_memory,
)
from components.shared.sampling.placement import Placement, place_vllm
from components.shared.sampling.vllm_memory import EngineMemory, engine_memory, samples_with_vllm
from launch.planning.planned_run import PlannedRun

_MAX_SEQUENCES = 1024  # vLLM's limit in evaluation: components/shared/sampling/vllm_engine.py


class MemoryEstimate:
    """Estimates the memory of a run's stages.

    Args:
        run: the planned run.
    """

    def __init__(self, run: PlannedRun) -> None:
        self._recipe, self._model, self._context, self._data = run.recipe, run.model, run.context, run.data
        self._training, self._inference = run.training, run.inference

    def lengths(self, completion: int) -> tuple[int, int]:
        """Returns the tokens of the prompt and of the whole sequence, for a completion of `completion` tokens."""
        tokens = min(self._context, self._data.prompt_tokens + completion)
        return max(1, tokens - completion), tokens

    @cached_property
    def rl_lengths(self) -> tuple[int, int]:
        """Tokens of the prompt and of the whole sequence, in RL and RFT."""
        return self.lengths(self._recipe.rl.max_completion_tokens)

    @property
    def mixed(self) -> bool:
        """Whether RL trains in mixed precision."""
        return self._is_mixed(self._recipe.rl.precision)

    def _is_mixed(self, precision: str) -> bool:
        return precision == "bfloat16" or (precision == "auto" and self._training.half)

    @property
    def process_completions(self) -> int:
        """Completions that one process samples per RL step."""
        rl = self._recipe.rl
        return rl.prompts_per_step * rl.group_size // rl.parallel.world

    @cached_property
    def rl_engine(self) -> EngineMemory | None:
        """vLLM beside the trainer; None if transformers samples."""
        rl = self._recipe.rl
        if not samples_with_vllm(rl.engine, self._training.gpu):
            return None
        share = int(rl.gpu_memory_utilization * self._training.memory_gib * GIB)
        return engine_memory(self._model, share, self.process_completions, self.rl_lengths[1])

    def rl_training(self, completions: int) -> Memory:
        """Returns the memory of one RL forward and backward pass, and of vLLM if it does not sleep meanwhile.

        Args:
            completions: completions per pass.
        """
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
        """Returns the memory of sampling in RL.

        Args:
            completions: completions that transformers samples at once; vLLM takes its share of the GPU regardless.
        """
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
        """Returns the memory of one RFT forward and backward pass.

        Args:
            trajectories: trajectories per pass.
        """
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
        return self.lengths(max(self._recipe.eval.of(name).max_completion_tokens for name in self._data.benchmarks))

    @cached_property
    def evaluation_placement(self) -> Placement:
        """Replicas of the policy in evaluation, and the GPUs of each: the recipe's, or what evaluation will choose."""
        evaluation, device = self._recipe.eval, self._inference
        gpus = max(1, self._recipe.pools.inference.accelerators)
        if not samples_with_vllm(evaluation.engine, device.gpu):
            return Placement(evaluation.parallel.replicas or (gpus if device.gpu else 1))
        share, sequences = self._evaluation_share, min(evaluation.sequences_per_batch, _MAX_SEQUENCES)
        return place_vllm(self._model, gpus, share, sequences, self._evaluation_lengths[1], evaluation.parallel)

    @property
    def _evaluation_share(self) -> int:
        """Bytes of each GPU that vLLM may use in evaluation."""
        return int(self._recipe.eval.gpu_memory_utilization * self._inference.memory_gib * GIB)

    def evaluation_engine(self, sequences: int) -> EngineMemory | None:
        """Returns the memory of each replica of vLLM in evaluation; None if transformers samples.

        Args:
            sequences: completions of maximum length that are requested at once of a replica.
        """
        if not samples_with_vllm(self._recipe.eval.engine, self._inference.gpu):
            return None
        tokens, gpus = self._evaluation_lengths[1], self.evaluation_placement.tensor_parallel_size
        return engine_memory(self._model, self._evaluation_share, min(sequences, _MAX_SEQUENCES), tokens, gpus)

    def evaluation(self, sequences: int) -> Memory:
        """Returns the memory of generating in evaluation.

        Args:
            sequences: completions of maximum length that are generated at once.
        """
        if (engine := self.evaluation_engine(sequences)) is not None:
            return Memory(weights=engine.weights, activations=engine.activations, cache=engine.cache)
        return evaluation_memory(self._model, sequences, *self._evaluation_lengths, half=self._inference.half)
