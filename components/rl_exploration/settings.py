"""Settings of RL exploration: the recipe's `rl` section.

Unless stated otherwise, defaults are those of DAPO's public verl recipe for Qwen2.5-Math-7B, our stand-in for values
that the RLoop paper does not report.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from components.shared.settings import Settings
from components.shared.training.lora import ALL_WEIGHTS, LoRASettings
from components.shared.training.parallel import ONE_PROCESS, ParallelSettings, check_parallel, share


class ExplorationSettings(Settings):
    """One iteration's RL run."""

    renamed = {
        "completions_per_forward": "micro_batch_size",
        "engine_sleeps": "sleep_mode",
        "refill_rounds": "resample_rounds",
    }

    steps: int = Field(ge=1, description="RL steps per iteration; each samples one batch of prompts.")
    learning_rate: float = Field(1e-6, ge=0, description="AdamW learning rate, constant after the warm-up.")
    prompts_per_step: int = Field(
        512, ge=1, description="Prompts sampled per step, with all their completions at once."
    )
    group_size: int = Field(
        16, ge=2, description="Completions per prompt; advantages compare them, so a group of one teaches nothing."
    )
    prompts_per_update: int | None = Field(
        None, ge=1, description="Prompts per optimiser update; all of the step's if omitted (on-policy)."
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Completions per forward and backward pass of a process; if omitted, its whole share of an update. "
        "Affects memory only.",
    )
    max_completion_tokens: int = Field(
        8192, ge=1, description="Maximum tokens per completion; longer ones are truncated and count as wrong."
    )
    temperature: float = Field(1.0, gt=0, description="Sampling temperature.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus (top-p) sampling threshold.")
    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto",
        description="Sampling engine; auto is vLLM if it is installed and there is a GPU, otherwise transformers. vLLM "
        "runs beside the trainer, which hands it the weights after each update.",
    )
    vllm_server: str = Field(
        "",
        description="URL of a vLLM server on other GPUs, such as http://vllm.rloop:8000, which samples instead of an "
        "engine beside the trainer and gets the weights over NCCL; docs/engines.md says how to start it.",
    )
    gpu_memory_utilization: float = Field(
        0.3, gt=0, le=1, description="Share of a GPU's memory that vLLM uses beside the trainer. TRL's default."
    )
    sleep_mode: bool = Field(
        False,
        description="Free vLLM's memory while the policy is trained (vLLM's sleep mode); costs some time per step.",
    )
    max_logprob_difference: float = Field(
        0.1,
        gt=0,
        description="Maximum mean absolute difference of a token's log-probability between vLLM and the trainer. Above "
        "it the run stops, because vLLM does not sample from the weights that are trained. 0.001 to 0.03 is usual.",
    )
    clip_low: float = Field(0.2, gt=0, description="Lower clip range of the probability ratio.")
    clip_high: float = Field(0.28, gt=0, description="Upper clip range of the probability ratio: DAPO's clip-higher.")
    kl_coefficient: float = Field(
        0.0, ge=0, description="Weight of the KL penalty to the initial policy; 0 disables it."
    )
    mask_truncated: bool = Field(
        False, description="Exclude truncated completions from the loss: DAPO's overlong filtering."
    )
    overlong_tokens: int = Field(
        0,
        ge=0,
        description="Number of tokens before max_completion_tokens over which a penalty on the reward rises from 0 to "
        "1: DAPO's soft overlong punishment; 0 disables it.",
    )
    resample_rounds: int = Field(
        0,
        ge=0,
        description="DAPO's dynamic sampling: how many times per step prompts whose completions all have the same "
        "reward are replaced by others, which are then sampled; 0 disables it. If prompts are still missing after "
        "that, the step trains on fewer.",
    )
    warmup_steps: int = Field(10, ge=0, description="Updates over which the learning rate rises from 0.")
    weight_decay: float = Field(0.1, ge=0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Maximum gradient norm, for clipping.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Training precision; auto is bfloat16 on a GPU that has it, otherwise float32."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory for a third more compute."
    )
    lora: LoRASettings = Field(ALL_WEIGHTS, description="Train low-rank adapters instead of all weights.")
    parallel: ParallelSettings = Field(
        ONE_PROCESS, description="Train in several processes, one per GPU, and in several pods."
    )
    snapshot_every: int = Field(
        0,
        ge=0,
        description="Number of RL steps between intermediate checkpoints, for the report's curves; 0 saves none.",
    )
    patience: int = Field(
        20, ge=1, description="Stop with an explanation after this many steps in a row without anything to learn from."
    )

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.prompts_per_step % self.update_prompts:
            raise ValueError(
                f"rl.prompts_per_step ({self.prompts_per_step}) must be a multiple of rl.prompts_per_update "
                f"({self.update_prompts})"
            )
        share(self.prompts_per_step, self.parallel.world, "rl.prompts_per_step")
        if self.process_completions % self.micro_batch_completions:
            raise ValueError(
                f"rl.micro_batch_size ({self.micro_batch_completions}) must divide a process's share of an update, "
                f"{self.process_completions} completions (rl.prompts_per_update x rl.group_size / "
                f"processes of rl.parallel)"
            )
        check_parallel(self.parallel, self.lora)
        if self.vllm_server and self.engine == "transformers":
            raise ValueError("rl.vllm_server has no effect with rl.engine: transformers; set rl.engine to vllm or auto")
        if self.overlong_tokens > self.max_completion_tokens:
            raise ValueError(
                f"rl.overlong_tokens ({self.overlong_tokens}) must be at most rl.max_completion_tokens "
                f"({self.max_completion_tokens})"
            )
        return self

    @property
    def update_prompts(self) -> int:
        """Prompts per optimiser update."""
        return self.prompts_per_update or self.prompts_per_step

    @property
    def process_completions(self) -> int:
        """A process's completions of one optimiser update: complete groups."""
        return share(self.update_prompts, self.parallel.world, "rl.prompts_per_update") * self.group_size

    @property
    def micro_batch_completions(self) -> int:
        """Completions per forward and backward pass of a process."""
        return self.micro_batch_size or self.process_completions

    @property
    def updates_per_step(self) -> int:
        """Optimiser updates on one step's samples."""
        return self.prompts_per_step // self.update_prompts
