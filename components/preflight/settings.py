"""The recipe keys that determine how much memory and disk a run takes."""

from pydantic import ConfigDict, Field

from components.shared.sampling.placement import ALL_GPUS, SamplingParallelSettings
from components.shared.settings import Settings
from components.shared.training.lora import ALL_WEIGHTS, LoRASettings
from components.shared.training.parallel import ONE_PROCESS, ParallelSettings


class EvaluationSize(Settings):
    """Keys of the recipe's `eval` section, with the same defaults."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    renamed = {"tensor_parallel_size": "parallel.tensor_parallel_size"}  # as in the `eval` section

    max_completion_tokens: int = Field(8192, ge=1, description="eval.max_completion_tokens")
    sequences_per_batch: int = Field(512, ge=1, description="eval.sequences_per_batch")
    engine: str = Field("auto", description="eval.engine")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="eval.gpu_memory_utilization")
    parallel: SamplingParallelSettings = Field(ALL_GPUS, description="eval.parallel")


class RunSize(Settings):
    """Keys of the recipe's `rl` section, with the same defaults."""

    # The stages themselves check the other keys.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    renamed = {  # as in the `rl` section
        "completions_per_forward": "micro_batch_size",
        "engine_sleeps": "sleep_mode",
        "refill_rounds": "resample_rounds",
    }

    steps: int = Field(ge=1, description="rl.steps")
    prompts_per_step: int = Field(512, ge=1, description="rl.prompts_per_step")
    group_size: int = Field(16, ge=1, description="rl.group_size")
    micro_batch_size: int | None = Field(None, description="rl.micro_batch_size")
    prompts_per_update: int | None = Field(None, description="rl.prompts_per_update")
    max_completion_tokens: int = Field(8192, ge=1, description="rl.max_completion_tokens")
    gradient_checkpointing: bool = Field(False, description="rl.gradient_checkpointing")
    precision: str = Field("auto", description="rl.precision")
    kl_coefficient: float = Field(0.0, description="rl.kl_coefficient")
    lora: LoRASettings = Field(ALL_WEIGHTS, description="rl.lora")
    parallel: ParallelSettings = Field(ONE_PROCESS, description="rl.parallel")
    engine: str = Field("auto", description="rl.engine")
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="rl.gpu_memory_utilization")
    sleep_mode: bool = Field(False, description="rl.sleep_mode")
    snapshot_every: int = Field(0, ge=0, description="rl.snapshot_every")
    resample_rounds: int = Field(0, ge=0, description="rl.resample_rounds")

    @property
    def completions(self) -> int:
        """Completions of one RL step, sampled at once."""
        return self.prompts_per_step * self.group_size

    @property
    def process_completions(self) -> int:
        """Completions of one RL step that one process samples."""
        return max(1, self.completions // self.parallel.world)

    @property
    def mixed(self) -> bool:
        """Whether an accelerator trains in bfloat16 mixed precision."""
        return self.precision != "float32"

    @property
    def reference(self) -> bool:
        """Whether a frozen copy of the initial policy is kept for the KL penalty."""
        return self.kl_coefficient > 0

    @property
    def snapshots(self) -> int:
        """Intermediate checkpoints that one iteration's exploration keeps."""
        return self.steps // self.snapshot_every if self.snapshot_every else 0

    @property
    def micro_batch_completions(self) -> int:
        """Completions in one forward and backward pass of one process."""
        update = (self.prompts_per_update or self.prompts_per_step) * self.group_size
        return self.micro_batch_size or max(1, update // self.parallel.world)
