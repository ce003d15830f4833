"""Settings of the report: the recipe's `report` section."""

from typing import Literal

from pydantic import Field

from components.shared.settings import Settings


class ReportSettings(Settings):
    """How the run's best policy is chosen."""

    validation: str | None = Field(
        None, description="Benchmark on which the best policy is chosen; if null, the first of data.benchmarks."
    )
    choose_by: Literal["avg", "pass_at_k"] = Field(
        "avg", description="Metric on the validation benchmark that decides: avg@n, or pass@k at the largest k."
    )
