"""Settings of the report: the recipe's `report` section."""

from typing import Literal

from pydantic import Field

from components.shared.settings import Settings


class ReportSettings(Settings):
    """How the run's policy is chosen."""

    validation: str | None = Field(
        None, description="The benchmark that chooses; the first of data.benchmarks if null."
    )
    choose_by: Literal["avg", "pass_at_k"] = Field(
        "avg", description="Figure on the validation benchmark: avg@n, or pass@k at the largest k."
    )
