"""Estimates the memory and disk of a run's RL exploration, and tells what does not fit the training pool."""

import dataclasses
from collections.abc import Iterator

from components.preflight.disk import checkpoints_disk, policy_bytes, rollout_bytes
from components.preflight.memory import GIB, exploring_memory, training_memory, waiting_memory
from components.preflight.settings import EvaluationSize, RunSize
from components.shared.policy.model_size import ModelSize
from components.shared.sampling.placement import can_split
from components.shared.sampling.vllm_memory import EngineMemory, engine_memory, samples_with_vllm

PROMPT_TOKENS = 512  # assumed length of a prompt, if the context allows it


def _lengths(context: int, size: RunSize | EvaluationSize) -> tuple[int, int]:
    """Tokens of a prompt, and of prompt and completion."""
    tokens = min(context, PROMPT_TOKENS + size.max_completion_tokens)
    return max(1, tokens - size.max_completion_tokens), tokens


def vllm_beside_trainer(model: ModelSize, context: int, size: RunSize, accelerator_gib: float) -> EngineMemory | None:
    """The memory of vLLM colocated with the trainer; None if vLLM does not sample or the GPU's memory is unknown.

    Args:
        model: the policy's size.
        context: the model's context in tokens.
        size: the run's size.
        accelerator_gib: memory of one accelerator of the training pool; 0 if it has none or it is unknown.
    """
    if not samples_with_vllm(size.engine, accelerator_gib > 0):
        return None
    share = int(size.gpu_memory_utilization * accelerator_gib * GIB)
    return engine_memory(model, share, size.process_completions, _lengths(context, size)[1])


def estimates(model: ModelSize, context: int, size: RunSize, engine: EngineMemory | None) -> dict[str, float]:
    """Estimates RL exploration's memory on one accelerator, its rollouts and its pod's disk, in GiB.

    Args:
        model: the policy's size.
        context: the model's context in tokens.
        size: the run's size.
        engine: vLLM's memory; None if transformers samples.
    """
    prompt, tokens = _lengths(context, size)
    training = training_memory(
        model,
        size.micro_batch_completions,
        tokens,
        checkpointing=size.gradient_checkpointing,
        mixed=size.mixed,
        reference=size.reference,
        lora=size.lora,
        parallel=size.parallel,
    )
    if engine is None:
        sampling = exploring_memory(
            model,
            size.process_completions,
            prompt,
            tokens,
            mixed=size.mixed,
            reference=size.reference,
            lora=size.lora,
            parallel=size.parallel,
        )
    else:
        if not size.sleep_mode:
            training = dataclasses.replace(training, engine=engine.share)
        sampling = waiting_memory(
            model, engine.share, reference=size.reference, lora=size.lora, mixed=size.mixed, parallel=size.parallel
        )
    rollouts = rollout_bytes(size.steps * size.completions * (1 + size.resample_rounds), size.max_completion_tokens)
    # The launcher copies a stage's inputs to the pod's disk and its outputs from there: the rollouts, two policies, and
    # the intermediate checkpoints. The trainer's own checkpoints are there too, if progress is kept.
    disk = (2 + size.snapshots) * policy_bytes(model) + rollouts + checkpoints_disk(model)
    names = ("rl_training_gib", "rl_sampling_gib", "rollouts_gib", "training_pod_disk_gib")
    return dict(zip(names, (b / GIB for b in (training.total, sampling.total, rollouts, disk)), strict=True))


def oversized(
    figures: dict[str, float], size: RunSize, context: int, accelerator_gib: float, engine: EngineMemory | None
) -> Iterator[str]:
    """Error messages for what fits neither the model's context nor an accelerator, with the keys to change.

    Args:
        figures: as `estimates` returns them.
        size: the run's size.
        context: the model's context in tokens.
        accelerator_gib: memory of one accelerator of the training pool; 0 if it has none or it is unknown.
        engine: vLLM's memory; None if transformers samples.
    """
    if size.max_completion_tokens >= context:
        yield (
            f"rl.max_completion_tokens is {size.max_completion_tokens}, but the model's context is {context} tokens, "
            f"prompt included; lower rl.max_completion_tokens"
        )
    training = (
        "lower rl.micro_batch_size, turn on rl.gradient_checkpointing, train only adapters (rl.lora.rank), "
        "shard the policy over several GPUs (rl.parallel)"
    )
    sampling = "lower rl.prompts_per_step or rl.max_completion_tokens"
    if engine is not None:
        sampling = "lower rl.gpu_memory_utilization"
        training += "" if size.sleep_mode else ", let vLLM release its memory during training (rl.sleep_mode)"
        if engine.needed > engine.share:
            yield (
                f"vLLM may use {engine.share / GIB:.1f} GiB of an accelerator (rl.gpu_memory_utilization), but weights "
                f"and one sequence take {engine.needed / GIB:.1f} GiB; raise rl.gpu_memory_utilization"
            )
    for figure, what, remedy in (
        ("rl_training_gib", "training", training),
        ("rl_sampling_gib", "sampling a step's completions at once" if engine is None else "sampling", sampling),
    ):
        if accelerator_gib and figures[figure] > accelerator_gib:
            yield (
                f"{what} is estimated to take {figures[figure]:.0f} GiB, but an accelerator of the training pool has "
                f"{accelerator_gib:.0f} GiB (pools.training.accelerator_memory_gib); {remedy}, or use a larger one"
            )


def wrong_placement(model: ModelSize, context: int, size: EvaluationSize, accelerator_gib: float) -> Iterator[str]:
    """Error messages for a tensor parallel size of evaluation that vLLM cannot use.

    If none is given, evaluation chooses one on the GPUs that it finds.

    Args:
        model: the policy's size.
        context: the model's context in tokens.
        size: the recipe's evaluation.
        accelerator_gib: memory of one accelerator of the inference pool; 0 if it has none or it is unknown.
    """
    key, gpus = "eval.parallel.tensor_parallel_size", size.parallel.tensor_parallel_size
    if gpus is None or not samples_with_vllm(size.engine, accelerator_gib > 0):
        return
    if not can_split(model, gpus):
        yield (
            f"{key} is {gpus}, but {gpus} GPUs cannot share the policy's {model.heads} attention heads and "
            f"{model.key_value_heads} key-value heads; change it, or leave it out"
        )
        return
    share, tokens = int(size.gpu_memory_utilization * accelerator_gib * GIB), _lengths(context, size)[1]
    engine = engine_memory(model, share, size.sequences_per_batch, tokens, gpus)
    if engine.needed > engine.share:
        yield (
            f"vLLM may use {engine.share / GIB:.1f} GiB of an accelerator in evaluation (eval.gpu_memory_utilization), "
            f"but weights and one sequence take {engine.needed / GIB:.1f} GiB on each of {gpus}; raise {key}, or leave "
            f"it out"
        )
