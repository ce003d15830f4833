"""Settings of grading: the recipe's `grading` section, the same for reward, filter and evaluation."""

from typing import Literal

from pydantic import Field

from components.shared.settings import Settings


class GradingSettings(Settings):
    """Limits of a verdict, and the judgement calls on which graders differ."""

    seconds: float = Field(5.0, gt=0, description="An answer may take to judge; past it, it is wrong.")
    memory_mib: int = Field(2048, ge=512, description="Memory that judging an answer may take; past it, it is wrong.")
    percent: Literal["value", "either"] = Field(
        "value",
        description="28 % equals 0.28 and, if either, 28 too: the sign is often left out when asked for percent.",
    )
    rounded_gold: Literal["accept", "refuse"] = Field(
        "accept", description="Whether 100/3 is right where the gold answer is 33.3, rounded to 3 digits or more."
    )
    order: Literal["any", "as_written"] = Field(
        "any", description="Of a list without brackets. Tuples keep their order, sets have none."
    )
    units: Literal["required", "optional"] = Field(
        "required",
        description="Whether an answer may leave out the gold answer's unit of measurement; a degree sign "
        "it always may. "
        "A different one is converted or wrong.",
    )
    max_failed_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of completions on which a verifier of yours may fail, by an exception or by returning no "
        "verdict, before the stage ends; counted from the hundredth on. A failure is no verdict: neither right nor "
        "wrong.",
    )
