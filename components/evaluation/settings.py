"""Settings of evaluation: the recipe's `eval` section."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from components.shared.settings import Settings


class EvaluationSettings(Settings):
    """How a policy is measured on the benchmarks."""

    samples: int = Field(32, ge=1, description="Completions a problem: the n of avg@n.")
    pass_at: list[int] = Field(
        [1, 8, 32], min_length=1, description="The k of pass@k, each from 1 to eval.samples; 1 is always there."
    )
    max_completion_tokens: int = Field(8192, ge=1, description="Of a completion; a longer one is cut and wrong.")
    temperature: float = Field(1.0, ge=0, description="Of the sampling; 0 takes the likeliest token each time.")
    top_p: float = Field(1.0, gt=0, le=1, description="Of the sampling.")
    sequences_per_batch: int = Field(512, ge=1, description="Completions generated at once. Memory only.")

    @field_validator("pass_at")
    @classmethod
    def _with_one(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError("each k must be at least 1")
        return sorted({1, *value})

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.pass_at[-1] > self.samples:
            raise ValueError(
                f"eval.pass_at asks for pass@{self.pass_at[-1]}, but eval.samples is {self.samples}: pass@k needs at "
                f"least k samples a problem; raise eval.samples or lower k"
            )
        return self
