"""Settings of verification filtering: the recipe's `filter` section."""

from pydantic import Field

from components.shared.settings import Settings


class FilterSettings(Settings):
    """Which trajectories become experts.

    The paper says that hard problems are kept, not from where on a problem is hard; the defaults are those
    of a small study of ours on Countdown.
    """

    max_success_rate: float = Field(
        0.8, ge=0, le=1, description="A problem is hard, and kept, at or below this success rate over the iteration."
    )
    max_per_problem: int = Field(
        8, ge=0, description="Trajectories kept of one problem: different ones first, then early; 0: no limit."
    )
    drop_duplicates: bool = Field(True, description="Whether the same solution of a problem is kept only once.")
