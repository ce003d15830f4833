"""Settings of RFT, rejection-sampling fine-tuning: the recipe's `rft` section."""

from typing import Literal, Self

from pydantic import Field, model_validator

from components.shared.settings import Settings
from components.shared.training.lora import ALL_WEIGHTS, LoRASettings
from components.shared.training.parallel import ONE_PROCESS, ParallelSettings, check_parallel, share


class RFTSettings(Settings):
    """One iteration's fine-tuning of its initial policy on the experts.

    The paper does not report its values; the defaults are those of a small study of ours on Countdown, with a learning
    rate that is usual for fine-tuning models with billions of parameters.
    """

    renamed = {"trajectories_per_forward": "micro_batch_size"}

    learning_rate: float = Field(1e-5, gt=0, description="Peak AdamW learning rate.")
    epochs: float = Field(3, gt=0, description="Passes over the experts.")
    batch_size: int = Field(64, ge=1, description="Trajectories per optimiser update.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Trajectories per forward and backward pass of a process; if omitted, its whole share of a batch. "
        "Affects memory only.",
    )
    lr_schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "cosine", description="Learning rate schedule after the warm-up."
    )
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="Share of all updates over which the learning rate rises from 0."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
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
        """A process's trajectories of one optimiser update."""
        return share(self.batch_size, self.parallel.world, "rft.batch_size")

    @property
    def micro_batch_trajectories(self) -> int:
        """Trajectories per forward and backward pass of a process."""
        return self.micro_batch_size or self.process_trajectories
