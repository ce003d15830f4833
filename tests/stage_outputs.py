"""Where the training stages of tests write."""

from pathlib import Path

_BOTH = {"policy_out": "policy", "log_out": "log.json", "page_out": "page.html", "tensorboard_out": "tensorboard"}
_EXPLORATION = {"rollouts_out": "rollouts", "snapshots_out": "snapshots", "state_out": "state", **_BOTH}


def exploration_outputs(out: Path) -> dict[str, Path]:
    """The arguments of `explore` for what it writes, all in one folder."""
    return {argument: out / name for argument, name in _EXPLORATION.items()}


def rft_outputs(out: Path) -> dict[str, Path]:
    """The arguments of `refine` for what it writes, all in one folder."""
    return {argument: out / name for argument, name in _BOTH.items()}
