import importlib.util
import os

import pytest

from components.report.render import _tracked
from components.shared.errors import InputError
from components.shared.training.tracking import NO_TRACKERS, TrackingSettings, tracked_at, trackers


def test_no_tracker_is_asked_for_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    assert trackers(NO_TRACKERS, "RFT") == {"report_to": "none", "run_name": "RFT"}
    assert dict(os.environ) == before and tracked_at(NO_TRACKERS) == {}


def test_a_tracker_that_is_not_installed_is_an_error_that_says_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="tracking.report_to asks for wandb, .*: pip install wandb"):
        trackers(TrackingSettings(report_to=["wandb"]), "RFT")


def test_trackers_are_told_project_and_server_by_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(os, "environ", {})
    settings = TrackingSettings(report_to=["mlflow"], project="p", mlflow_url="https://m", wandb_url="https://w")
    assert trackers(settings, "RFT, iteration 2") == {"report_to": ["mlflow"], "run_name": "RFT, iteration 2"}
    assert os.environ == {"MLFLOW_EXPERIMENT_NAME": "p", "MLFLOW_TRACKING_URI": "https://m"}


def test_an_unknown_tracker_is_an_error() -> None:
    with pytest.raises(InputError, match="tracking.report_to"):
        TrackingSettings.check({"report_to": ["comet"]}, "tracking")


def test_the_report_links_to_what_was_tracked_and_says_nothing_where_nothing_was() -> None:
    address = "https://w/runs/1?a=1&b=2"
    followed = {"iteration": 1, "tracked_at": {"RL exploration": {"wandb": address}, "RFT": {}}}
    assert '<a href="https://w/runs/1?a=1&amp;b=2">iteration 1, RL exploration: wandb</a>' in _tracked([followed])
    assert _tracked([{"iteration": 1}, {"iteration": 2, "tracked_at": {"RFT": None}}]) == ""
