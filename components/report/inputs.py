"""What the report reads: the results of the previous report, and the reports of this iteration's stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from components.shared.reporting.reports import (
    CURVE,
    EVALUATION,
    EXPLORATION_LOG,
    FILTERING_REPORT,
    HARVESTING_REPORT,
    RFT_LOG,
    file_in,
)
from components.shared.stage import read_json

SUMMARY, PROBLEMS = "summary.json", "problems.json"


@dataclass(frozen=True)
class IterationFiles:
    """JSON files of an iteration's stages."""

    exploration: str | Path
    harvesting: str | Path
    filtering: str | Path
    rft: str | Path
    curve: str | Path | None = None  # of the intermediate checkpoints; None if none were saved

    @classmethod
    def of(cls, rft_log: Any, explored_evaluation: Any) -> Self:
        """Locates the files in KFP artifacts: RFT's log, and the evaluation of the explored policy."""
        log = Path(rft_log.path)
        return cls(
            exploration=log / EXPLORATION_LOG,
            harvesting=log / HARVESTING_REPORT,
            filtering=log / FILTERING_REPORT,
            rft=log / RFT_LOG,
            curve=file_in(explored_evaluation, CURVE),
        )


@dataclass(frozen=True)
class VanillaFiles:
    """Files of a segment of vanilla RL; all None for the first segment, which is iteration 1's exploration."""

    policy: str | Path | None = None
    evaluation: str | Path | None = None
    exploration: str | Path | None = None
    harvesting: str | Path | None = None
    curve: str | Path | None = None

    @classmethod
    def of(cls, policy: Any, evaluation: Any, report: Any) -> Self:
        """Locates the files in KFP artifacts, each of which may be None: the policy, its evaluation, its report."""
        return cls(
            policy=policy.path if policy else None,
            evaluation=file_in(evaluation, EVALUATION),
            exploration=file_in(report, EXPLORATION_LOG),
            harvesting=file_in(report, HARVESTING_REPORT),
            curve=file_in(evaluation, CURVE),
        )


class StageReports(NamedTuple):
    """What an iteration's stages reported."""

    exploration: dict[str, Any]
    harvesting: dict[str, Any]
    filtering: dict[str, Any]
    rft: dict[str, Any]
    curve: list[dict[str, Any]]  # points of the intermediate checkpoints


def read_previous(results: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the previous report's summary and counts by problem; before iteration 1, data preparation's report."""
    if results.is_dir():
        return read_json(results / SUMMARY), read_json(results / PROBLEMS)
    return {"policies": [], "iterations": [], "data": read_json(results)}, {}


def read_reports(files: IterationFiles) -> StageReports:
    """Reads the reports of an iteration's stages."""
    return StageReports(
        exploration=read_json(files.exploration),
        harvesting=read_json(files.harvesting),
        filtering=read_json(files.filtering),
        rft=read_json(files.rft),
        curve=read_json(files.curve)["points"] if files.curve else [],
    )


def read_vanilla_segment(vanilla: VanillaFiles | None) -> dict[str, Any] | None:
    """Reads what vanilla RL did during an iteration; None without vanilla RL, or if it was the exploration itself."""
    if vanilla is None or vanilla.exploration is None or vanilla.harvesting is None:
        return None
    exploration = read_json(vanilla.exploration)
    return {
        "exploration": exploration["steps"],
        "seconds": exploration.get("seconds"),
        "harvesting": read_json(vanilla.harvesting),
        "curve": read_json(vanilla.curve)["points"] if vanilla.curve else [],
    }
