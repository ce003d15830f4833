"""Settings of verification filtering: the recipe's `filter` section."""

from pydantic import Field

from components.shared.settings import Settings


class FilterSettings(Settings):
    """Which trajectories become experts.

    The paper keeps hard problems but does not say where hard begins; the defaults come from our small study on
    Countdown.
    """

    max_success_rate: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Keep trajectories of hard problems only: those with at most this success rate over the iteration.",
    )
    max_per_problem: int = Field(
        8,
        ge=0,
        description="Maximum trajectories kept per problem, the most different first, then early ones; 0: no limit.",
    )
    drop_duplicates: bool = Field(True, description="Keep identical solutions of a problem only once.")
