"""Names of the small report files that stages write next to their data, for the report stage.

Reports travel with the data they describe: rollouts carry exploration's log; trajectories carry that log and
harvesting's report; experts carry both and the filter's report, and RFT passes all of them to the report with its own
log. As artifacts of their own, they would each take space in a cluster's workflow object and a box in its graph.
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
REPORTS = "reports"  # folder next to tables
TENSORBOARD = "tensorboard"  # folder of event files


def file_in(artifact: Any, name: str) -> Path | None:
    """A report in the folder of a KFP artifact; None if there is no artifact or it has no such report."""
    path = Path(artifact.path) / name if artifact else None
    return path if path and path.exists() else None


def copy_reports(source: str | Path, destination: str | Path, *names: str) -> None:
    """Copies reports of earlier stages into a folder that the next stage reads."""
    Path(destination).mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(Path(source) / name, Path(destination) / name)
