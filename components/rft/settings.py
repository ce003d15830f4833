"""Settings of RFT, rejection-sampling fine-tuning: the recipe's `rft` section."""

from typing import Literal, Self

from pydantic import Field, model_validator

from components.shared.settings import Settings
from components.shared.training.lora import ALL_WEIGHTS, LoRASettings
from components.shared.training.processes import ONE_PROCESS, ParallelSettings, check_parallel, share


class RFTSettings(Settings):
    """One iteration's fine-tuning of its initial policy on the experts.

    The paper does not tell its values; the defaults are those of a small study of ours on Countdown, with
    a learning rate that is usual for fine-tuning models of billions of parameters.
    """

    renamed = {"trajectories_per_forward": "micro_batch_size"}

    learning_rate: float = Field(1e-5, gt=0, description="Of AdamW, at its highest.")
    epochs: float = Field(3, gt=0, description="Passes over the experts.")
    batch_size: int = Field(64, ge=1, description="Trajectories of one optimiser update.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Trajectories of one forward and backward pass of a process; its share of the batch if left out. "
        "Memory only.",
    )
    lr_schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Of all updates, over which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="Of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of training: auto is bfloat16 on a GPU that has it, float32 elsewhere."
    )
    gradient_checkpointing: bool = Field(False, description="Saves memory for a third more compute.")
    lora: LoRASettings = Field(ALL_WEIGHTS, description="Adapters of low rank in place of all weights.")
    parallel: ParallelSettings = Field(ONE_PROCESS, description="Several processes, one for each GPU; several pods.")

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.process_trajectories % self.micro_batch_trajectories:
            raise ValueError(
                f"rft.micro_batch_size ({self.micro_batch_trajectories}) must divide a process's share of a batch, "
                f"{self.process_trajectories} trajectories (rft.batch_size / processes of rft.parallel)"
            )
        check_parallel(self.parallel, self.lora)
        return self

    @property
    def process_trajectories(self) -> int:
        """Trajectories of one optimiser update that a process has."""
        return share(self.batch_size, self.parallel.world, "rft.batch_size")

    @property
    def micro_batch_trajectories(self) -> int:
        """Trajectories of one forward and backward pass of a process."""
        return self.micro_batch_size or self.process_trajectories
