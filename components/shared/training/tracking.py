"""Tracking training runs as they go: always with TensorBoard, and with W&B and MLflow if the recipe says so."""

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.shared.errors import InputError
from components.shared.loading import loading
from components.shared.settings import Settings

# The variables that trackers read their credentials from; on a cluster, also the keys of the secret.
CREDENTIALS = {"wandb": "WANDB_API_KEY", "mlflow": "MLFLOW_TRACKING_TOKEN"}


class TrackingSettings(Settings):
    """Where else training is tracked. Credentials come from the environment or a secret, never from a recipe."""

    report_to: list[Literal["wandb", "mlflow"]] = Field(
        [], description="Trackers besides TensorBoard, through TRL's integration; their packages must be installed."
    )
    project: str = Field("rloop", description="W&B project or MLflow experiment.")
    wandb_url: str = Field("", description="URL of a self-hosted W&B server; empty for W&B's own.")
    mlflow_url: str = Field(
        "", description="URL of the MLflow server; if empty, MLFLOW_TRACKING_URI is used if it is set."
    )
    secret: str = Field(
        "",
        description="Kubernetes secret for the training pods, with WANDB_API_KEY, MLFLOW_TRACKING_TOKEN or both, as "
        "report_to requires. Fixed when the pipeline is compiled, and so is report_to if there is a secret.",
    )


NO_TRACKERS = TrackingSettings()


def tensorboard(folder: str | Path) -> Any:
    """Returns a trainer callback that writes what is logged as TensorBoard event files.

    A stage that resumes after it was killed writes a new file from there on; the killed attempt's file survives only
    if its disk does, and is lost with a pod.

    Args:
        folder: Folder to create and fill; only rank 0 does so.
    """
    with loading():
        from transformers.integrations import TensorBoardCallback

        callback = TensorBoardCallback()
    callback.logging_dir = str(folder)
    return callback


def trackers(settings: TrackingSettings, run_name: str) -> dict[str, Any]:
    """Returns the arguments of a transformers trainer for the trackers, and sets their environment variables.

    Args:
        settings: The recipe's `tracking` section.
        run_name: Name of the run in the trackers.

    Raises:
        InputError: A tracker's package is not installed.
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
    """Returns the URL of the run that a trainer has just created, by tracker, if it has one."""
    found = {}
    if "wandb" in settings.report_to:
        import wandb

        found["wandb"] = wandb.run.url if wandb.run else None
    if "mlflow" in settings.report_to:
        import mlflow

        run, server = mlflow.last_active_run(), mlflow.get_tracking_uri().rstrip("/")
        found["mlflow"] = run and f"{server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return {name: url for name, url in found.items() if url and url.startswith(("http://", "https://"))}
