"""What preflight reads of the recipe: the keys that decide how much memory and disk a run takes."""

from pydantic import ConfigDict, Field

from components.shared.settings import Settings
from components.shared.training.lora import ALL_WEIGHTS, LoRASettings
from components.shared.training.processes import ONE_PROCESS, ParallelSettings


class RunSize(Settings):
    """Keys of the recipe's `rl` section, with their defaults there."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False
    )  # the other keys are the stages' to check

    steps: int = Field(ge=1, description="rl.steps")
    prompts_per_step: int = Field(512, ge=1, description="rl.prompts_per_step")
    group_size: int = Field(16, ge=1, description="rl.group_size")
    completions_per_forward: int | None = Field(None, description="rl.completions_per_forward")
    prompts_per_update: int | None = Field(None, description="rl.prompts_per_update")
    max_completion_tokens: int = Field(8192, ge=1, description="rl.max_completion_tokens")
    gradient_checkpointing: bool = Field(False, description="rl.gradient_checkpointing")
    precision: str = Field("auto", description="rl.precision")
    kl_coefficient: float = Field(0.0, description="rl.kl_coefficient")
    lora: LoRASettings = Field(ALL_WEIGHTS, description="rl.lora")
    parallel: ParallelSettings = Field(ONE_PROCESS, description="rl.parallel")
    engine: str = Field("auto", description="rl.engine")
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="rl.gpu_memory_utilization")
    engine_sleeps: bool = Field(False, description="rl.engine_sleeps")
    snapshot_every: int = Field(0, ge=0, description="rl.snapshot_every")
    refill_rounds: int = Field(0, ge=0, description="rl.refill_rounds")

    @property
    def completions(self) -> int:
        """Completions of one RL step, sampled at once."""
        return self.prompts_per_step * self.group_size

    @property
    def process_completions(self) -> int:
        """Of those, the ones that a process samples."""
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
        """Policies that an iteration's exploration keeps on the way."""
        return self.steps // self.snapshot_every if self.snapshot_every else 0

    @property
    def forward_completions(self) -> int:
        """Completions of one forward and backward pass of a process."""
        update = (self.prompts_per_update or self.prompts_per_step) * self.group_size
        return self.completions_per_forward or max(1, update // self.parallel.world)
