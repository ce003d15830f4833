"""Stages of a run that KFP no longer reports, from its workflow: a recorded one, and one of the stand-in's."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from launch.kubeflow.status.stages import run_progress
from launch.kubeflow.status.workflow import with_rows
from tests.launch import recordings
from tests.launch.stand_in.server import FakeKfp

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def recorded_nodes() -> list[dict[str, Any]]:
    """The nodes of the run in run-succeeded-compressed.json.gz, without their inputs and outputs."""
    nodes: list[dict[str, Any]] = json.loads(
        gzip.decompress((recordings.FOLDER / "workflow-nodes.json.gz").read_bytes())
    )
    return nodes


def test_the_recorded_workflow_tells_what_the_api_did_not(recorded_nodes: list[dict[str, Any]]) -> None:
    run = recordings.run("run-succeeded-compressed")
    specification = dict(recordings.version(run).pipeline_spec)
    told = run_progress(run, specification)
    assert told.notes and sum(stage.started is None for stage in told.stages) == 13
    whole = run_progress(with_rows(run, recorded_nodes), specification)
    assert whole.notes == [] and whole.failed == []
    assert [stage.path for stage in whole.stages if stage.state == "cached"] == ["data-preparation", "evaluation-base"]
    assert {stage.state for stage in whole.stages} == {"cached", "succeeded"}
    seconds = {stage.path: stage.seconds(whole.at) for stage in whole.stages}
    assert seconds["iteration-2/vanilla-rl"] == 89 and seconds["iteration-2/report"] == 22
    # What the API did tell is the same.
    for before, after in zip(told.stages, whole.stages, strict=True):
        if before.started is not None:
            assert (before.state, before.started, before.ended) == (after.state, after.started, after.ended)


def test_a_workflow_in_the_midst_of_a_run(recorded_nodes: list[dict[str, Any]]) -> None:
    run = recordings.run("run-running-compressed")
    specification = dict(recordings.version(run).pipeline_spec)
    moment = "2026-11-28T16:18:25Z"  # when that run was asked for
    begun = [node for node in recorded_nodes if node["startedAt"] <= moment]
    ids = {node["id"] for node in begun}
    nodes = [
        {
            **node,
            "children": [child for child in node.get("children", []) if child in ids],
            **({"phase": "Running", "finishedAt": None} if node["finishedAt"] > moment else {}),
        }
        for node in begun
    ]
    whole = run_progress(with_rows(run, nodes), specification)
    states = {stage.path.removeprefix("iteration-2/"): stage.state for stage in whole.stages}
    assert whole.notes == [] and whole.state == "RUNNING"
    assert states["iteration-1/report"] == states["vanilla-rl"] == states["verification-filtering"] == "succeeded"
    assert "running" in states.values() and states["report"] == "waiting" and "unknown" not in states.values()


def test_status_goes_by_the_workflow_where_kfp_reports_no_more(
    kfp: FakeKfp, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.launch.stand_in import rows as kfp_rows

    monkeypatch.setattr(kfp_rows, "READABLE", 0)  # as of a workflow that has grown beyond 1 MiB
    call("submit")
    run = next(iter(kfp.runs))
    kfp.play(run)
    kfp.packs = True
    told = call("status", run).output
    assert "has reported no stage" not in told and "unknown" not in told
    assert re.search(r"\[ 6/6\] iteration 2: RFT .* s$", told, re.MULTILINE), told
    kfp.older_api = False
    assert "has reported no stage" in call("status", run).output, "a server without the older API"
