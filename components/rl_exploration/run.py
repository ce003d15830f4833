"""What makes one exploration run, besides its inputs, and where its outputs go."""

from pathlib import Path
from typing import NamedTuple

from components.rl_exploration.settings import ExplorationSettings


class ExplorationRun(NamedTuple):
    """One run of RL: an iteration's, or a segment of a long one, whose steps are counted from the run's beginning."""

    settings: ExplorationSettings
    iteration: int  # of RLoop, from 1
    seed: int
    segment: int  # of a long run, from 1
    keep_state: bool  # whether to keep the training state at the end

    @property
    def first_step(self) -> int:
        """Number of RL steps that earlier segments made, which is this run's first step."""
        return (self.segment - 1) * self.settings.steps

    @property
    def end_step(self) -> int:
        """Number of RL steps made when this run ends."""
        return self.segment * self.settings.steps

    @property
    def title(self) -> str:
        """Name of the run in experiment trackers."""
        return (
            f"RL exploration, iteration {self.iteration}" if self.segment == 1 else f"Vanilla RL, part {self.segment}"
        )


class ExplorationOutputs(NamedTuple):
    """Paths of the files and folders that exploration writes."""

    rollouts: Path
    policy: Path
    log: Path
    page: Path
    snapshots: Path
    state: Path
    tensorboard: Path
