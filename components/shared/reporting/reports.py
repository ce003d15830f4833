"""Small files that stages leave in the folders they hand on, for the report.

Reports travel with the data they are about: rollouts carry exploration's log, trajectories that and harvesting's
report, experts both and the filter's, which RFT hands to the report beside its own. Each artifact between stages costs
room in the workflow object of a cluster, and a box in its graph.
"""

import shutil
from pathlib import Path
from typing import Any

EXPLORATION_LOG = "exploration.json"
HARVESTING_REPORT = "harvesting.json"
FILTERING_REPORT = "filtering.json"
RFT_LOG = "rft.json"
EVALUATION = "evaluation.json"
CURVE = "curve.json"
REPORTS = "reports"  # folder beside tables
TENSORBOARD = "tensorboard"  # folder of event files


def file_in(artifact: Any, name: str) -> Path | None:
    """A report in the folder of a KFP artifact; None where there is no artifact, or no such report in it."""
    path = Path(artifact.path) / name if artifact else None
    return path if path and path.exists() else None


def hand_on(source: str | Path, destination: str | Path, *names: str) -> None:
    """Copies reports of earlier stages into a folder that the next stage takes."""
    Path(destination).mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(Path(source) / name, Path(destination) / name)
