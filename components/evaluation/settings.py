"""Settings of evaluation: the recipe's `eval` section."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from components.shared.errors import InputError
from components.shared.sampling.placement import ALL_GPUS, SamplingParallelSettings
from components.shared.settings import Settings


class BenchmarkSettings(Settings):
    """Settings of one benchmark that differ from the general ones; omitted keys have the general values."""

    samples: int | None = Field(None, ge=1, description="Completions per problem.")
    pass_at: list[int] | None = Field(None, min_length=1, description="The k of pass@k.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Maximum tokens per completion.")
    temperature: float | None = Field(None, ge=0, description="Sampling temperature.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus (top-p) sampling threshold.")


class EvaluationSettings(Settings):
    """How a policy is measured on the benchmarks."""

    renamed = {"tensor_parallel_size": "parallel.tensor_parallel_size"}

    samples: int = Field(32, ge=1, description="Completions per problem: the n of avg@n.")
    pass_at: list[int] = Field(
        [1, 8, 32], min_length=1, description="The k of pass@k, each from 1 to eval.samples; 1 is always included."
    )
    max_completion_tokens: int = Field(
        8192, ge=1, description="Maximum tokens per completion; longer ones are truncated and count as wrong."
    )
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 always takes the most likely token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus (top-p) sampling threshold.")
    sequences_per_batch: int = Field(
        512, ge=1, description="Completions that each replica generates at once; affects memory only."
    )
    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto",
        description="Sampling engine; auto is vLLM if it is installed and there is a GPU, otherwise transformers.",
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="Share of a GPU's memory that vLLM uses for weights and KV cache."
    )
    parallel: SamplingParallelSettings = Field(ALL_GPUS, description="How the pod's GPUs share the sampling.")
    benchmarks: dict[str, BenchmarkSettings] = Field(
        {},
        description="Per benchmark: samples, pass_at, max_completion_tokens, temperature, top_p if not as above.",
    )
    curve_benchmarks: list[str] = Field(
        [],
        description="Benchmarks on which the intermediate checkpoints of rl.snapshot_every are measured; "
        "report.validation if empty.",
    )
    curve_problems: int = Field(64, ge=1, description="Problems of each curve benchmark to use, from the first.")
    curve_samples: int = Field(16, ge=1, description="Completions per problem for intermediate checkpoints.")

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
                f"least k samples per problem; raise eval.samples or lower k"
            )
        for benchmark, others in self.benchmarks.items():
            if others.model_dump(exclude_none=True):
                try:
                    self.of(benchmark)
                except InputError as error:
                    raise ValueError(f"eval.benchmarks.{benchmark}: {error}") from None
        return self

    def of(self, benchmark: str) -> "EvaluationSettings":
        """Returns the settings that apply to one benchmark."""
        others = self.benchmarks[benchmark].model_dump(exclude_none=True) if benchmark in self.benchmarks else {}
        return EvaluationSettings.check({**self.model_dump(), **others, "benchmarks": {}}, "eval")

    def of_curve(self, benchmark: str) -> "EvaluationSettings":
        """Returns the settings for intermediate checkpoints, which get fewer samples."""
        settings = self.of(benchmark)
        ks = [k for k in settings.pass_at if k <= self.curve_samples]
        others = {"samples": self.curve_samples, "pass_at": [*ks, self.curve_samples]}
        return EvaluationSettings.check({**settings.model_dump(), **others}, "eval")
