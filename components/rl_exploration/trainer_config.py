"""TRL's configuration of the trainer, from the recipe's `rl` section."""

from typing import TYPE_CHECKING, Any

from components.rl_exploration.run import ExplorationRun
from components.rl_exploration.settings import ExplorationSettings
from components.shared.accelerator import training_precision
from components.shared.policy import Policy
from components.shared.sampling.engines import Engine
from components.shared.training.parallel import sharding_arguments
from components.shared.training.tracking import TrackingSettings, trackers

if TYPE_CHECKING:
    from trl import GRPOConfig


def grpo_config(
    run: ExplorationRun, policy: Policy, engine: Engine, length: int, work: str, tracking: TrackingSettings
) -> "GRPOConfig":
    """Returns the configuration of a run's trainer.

    Args:
        run: The run.
        policy: The policy that training starts from.
        engine: The sampling engine.
        length: Tokens of the longest prompt and its completion together.
        work: Folder for the trainer's checkpoints.
        tracking: The recipe's `tracking` section.
    """
    from trl import GRPOConfig

    settings = run.settings
    return GRPOConfig(
        output_dir=work,
        max_steps=run.end_step * settings.updates_per_step,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        num_generations=settings.group_size,
        per_device_train_batch_size=settings.micro_batch_completions,
        gradient_accumulation_steps=settings.process_completions // settings.micro_batch_completions,
        generation_batch_size=settings.prompts_per_step * settings.group_size,
        max_completion_length=settings.max_completion_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        loss_type="dapo",
        epsilon=settings.clip_low,
        epsilon_high=settings.clip_high,
        beta=settings.kl_coefficient,
        mask_truncated_completions=settings.mask_truncated,
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=run.seed + run.iteration,  # a different order of problems in each iteration
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        **training_precision(settings.precision),
        **sharding_arguments(settings.parallel),
        **engine_arguments(engine, settings, length, policy.eos_token_ids),
        **trackers(tracking, run.title),
    )


def engine_arguments(engine: Engine, settings: ExplorationSettings, length: int, eos_ids: set[int]) -> dict[str, Any]:
    """Returns TRL's arguments for the sampling engine.

    Args:
        engine: The sampling engine.
        settings: The recipe's `rl` section.
        length: Tokens of the longest prompt and its completion together.
        eos_ids: Token IDs at which generation stops.
    """
    if engine == "transformers":
        return {}
    common = {"use_vllm": True, "generation_kwargs": {"stop_token_ids": sorted(eos_ids)}}
    if settings.vllm_server:
        return {**common, "vllm_mode": "server", "vllm_server_base_url": settings.vllm_server}
    return {
        **common,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": settings.gpu_memory_utilization,
        "vllm_enable_sleep_mode": settings.sleep_mode,
        "vllm_max_model_length": length,
    }
