"""Settings of grading: the recipe's `grading` section, shared by reward, filter and evaluation."""

from typing import Literal

from pydantic import Field

from components.shared.settings import Settings


class GradingSettings(Settings):
    """Limits per answer, and the judgement calls on which graders differ."""

    seconds: float = Field(5.0, gt=0, description="Time limit for grading one answer; beyond it, the answer is wrong.")
    memory_mib: int = Field(
        2048, ge=512, description="Memory limit for grading one answer; beyond it, the answer is wrong."
    )
    percent: Literal["value", "either"] = Field(
        "value",
        description='28 % equals 0.28; with either, also 28: the sign is often omitted in answers to "what percent".',
    )
    rounded_gold: Literal["accept", "refuse"] = Field(
        "accept", description="Whether 100/3 is right if the gold answer is 33.3, rounded to 3 or more digits."
    )
    order: Literal["any", "as_written"] = Field(
        "any", description="Order of a list without brackets. Tuples are always ordered, sets never."
    )
    units: Literal["required", "optional"] = Field(
        "required",
        description="Whether an answer must state the gold answer's unit of measurement; a degree sign is always "
        "optional. A different unit is converted, or wrong.",
    )
    max_failed_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of completions on which your own verifier may fail (raise an exception or return something "
        "that is not a verdict) before the stage fails; applies from the hundredth completion on. A failure counts as "
        "neither right nor wrong.",
    )
