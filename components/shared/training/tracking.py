"""Following a training run while it goes on: TensorBoard always, W&B and MLflow where the recipe asks for them."""

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.shared.errors import InputError
from components.shared.settings import Settings

# What a tracker takes its credentials from, as it calls it itself; on a cluster, the keys of the secret.
CREDENTIALS = {"wandb": "WANDB_API_KEY", "mlflow": "MLFLOW_TRACKING_TOKEN"}


class TrackingSettings(Settings):
    """Where else training is followed. Credentials come from the environment or a secret; never from a recipe."""

    report_to: list[Literal["wandb", "mlflow"]] = Field(
        [], description="Trackers beside TensorBoard, by TRL's own integration; their packages have to be installed."
    )
    project: str = Field("rloop", description="W&B's project, MLflow's experiment.")
    wandb_url: str = Field("", description="Of a W&B server of one's own; empty: W&B's.")
    mlflow_url: str = Field("", description="Of the MLflow server; empty: what MLFLOW_TRACKING_URI says, if it is set.")
    secret: str = Field(
        "",
        description="Kubernetes secret for the training pods, with WANDB_API_KEY, MLFLOW_TRACKING_TOKEN or both, as "
        "report_to says. Fixed when the pipeline is compiled, as is report_to where there is a secret.",
    )


NO_TRACKERS = TrackingSettings()


def tensorboard(folder: str | Path) -> Any:
    """A trainer's callback that writes what is logged as TensorBoard event files.

    A stage that goes on after it was killed writes a file of its own from there on; what the killed attempt had
    written is there where its disk is, and lost with a pod's.

    Args:
        folder: to make and fill; made by the main process alone.
    """
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = str(folder)
    return callback


def trackers(settings: TrackingSettings, run_name: str) -> dict[str, Any]:
    """The arguments of a transformers trainer for the trackers; their own settings go to the environment.

    Args:
        settings: the recipe's `tracking` section.
        run_name: what the run is called there.

    Raises:
        InputError: a tracker's package is not installed.
    """
    for name in settings.report_to:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"tracking.report_to asks for {name}, whose package is not installed: pip install {name}")
    values = {
        "WANDB_PROJECT": settings.project,
        "WANDB_BASE_URL": settings.wandb_url,
        "MLFLOW_EXPERIMENT_NAME": settings.project,
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
    }
    os.environ.update(
        {key: value for key, value in values.items() if value and key.split("_")[0].lower() in settings.report_to}
    )
    return {"report_to": settings.report_to or "none", "run_name": run_name}


def tracked_at(settings: TrackingSettings) -> dict[str, str]:
    """The address of the run that a trainer just made, by tracker, where it has one."""
    found = {}
    if "wandb" in settings.report_to:
        import wandb

        found["wandb"] = wandb.run.url if wandb.run else None
    if "mlflow" in settings.report_to:
        import mlflow

        run, server = mlflow.last_active_run(), mlflow.get_tracking_uri().rstrip("/")
        found["mlflow"] = run and f"{server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return {name: url for name, url in found.items() if url and url.startswith(("http://", "https://"))}
