"""What is made of the compiler's file: small, equal parts once, and no artifact twice in one task."""

import copy
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.errors import InputError
from launch.compiled import check_single_use, read_compiled, stage_paths
from launch.recipe import load_recipe
from pipeline import compile_pipeline

ROOT = Path(__file__).resolve().parents[2]
LAPTOP = ROOT / "recipes" / "laptop.yaml"
SWITCHES = {
    "vanilla": (False, True),
    "rft_from": ("initial", "explored", "base"),
    "experts_from": ("iteration", "all"),
}


def specification(tmp_path: Path, iterations: int = 3, *changes: str) -> dict[str, Any]:
    compiled = tmp_path / "rloop.yaml"
    compile_pipeline(load_recipe(LAPTOP, changes, iterations), compiled)
    return read_compiled(compiled)[0]


@pytest.mark.parametrize("vanilla", SWITCHES["vanilla"])
@pytest.mark.parametrize("experts_from", SWITCHES["experts_from"])
@pytest.mark.parametrize("rft_from", SWITCHES["rft_from"])
def test_no_task_takes_an_artifact_twice_whatever_the_switches(
    tmp_path: Path, vanilla: bool, experts_from: str, rft_from: str
) -> None:
    """Later iterations share a component: three are as good as any number."""
    own = [f"vanilla={vanilla}", f"experts_from={experts_from}", f"rft_from={rft_from}"]
    for snapshots, publish in ((0, "s3://bucket/published"), (10, "")):  # they do not meet in any task
        found = specification(tmp_path, 3, *own, f"rl.snapshot_every={snapshots}", f"store.publish_uri='{publish}'")
        check_single_use(found)
        json_format.ParseDict(found, pipeline_spec_pb2.PipelineSpec())


def test_an_artifact_that_reaches_a_task_twice_is_found_through_nested_pipelines(tmp_path: Path) -> None:
    sound = specification(tmp_path, 3, "vanilla=true")
    tasks = sound["root"]["dag"]["tasks"]
    first = copy.deepcopy(sound)
    given = first["root"]["dag"]["tasks"]["iteration"]["inputs"]["artifacts"]
    given["base_policy"] = dict(given["policy"])
    with pytest.raises(InputError, match=r"iteration takes the artifact data-preparation.base_policy both as .*policy"):
        check_single_use(first)
    # Of a later iteration: two names for what the RFT stage within the one before it made.
    later = copy.deepcopy(sound)
    given = later["root"]["dag"]["tasks"]["iteration-3"]["inputs"]["artifacts"]
    given["base_policy"] = {"taskOutputArtifact": {"producerTask": "iteration-2", "outputArtifactKey": "rloop_policy"}}
    with pytest.raises(InputError, match=r"iteration-3 takes the artifact iteration-2/rft.rloop_policy both as"):
        check_single_use(later)
    # Within an iteration: the component's own input, and the same under another name.
    within = copy.deepcopy(sound)
    inner = within["components"][tasks["iteration-2"]["componentRef"]["name"]]["dag"]["tasks"]
    inner["report"]["inputs"]["artifacts"]["previous_policy"] = dict(
        inner["report"]["inputs"]["artifacts"]["rloop_policy"]
    )
    with pytest.raises(InputError, match=r"iteration-2/report takes the artifact iteration-2/rft.rloop_policy both as"):
        check_single_use(within)


@pytest.mark.parametrize("vanilla", [False, True])
def test_the_file_hardly_grows_with_iterations(tmp_path: Path, vanilla: bool) -> None:
    sizes = {}
    for iterations in (3, 10):
        specification(tmp_path, iterations, f"vanilla={vanilla}")
        sizes[iterations] = (tmp_path / "rloop.yaml").stat().st_size
    assert sizes[10] <= 1.3 * sizes[3]
    assert sizes[10] < 75_000


def test_equal_components_and_executors_are_one(tmp_path: Path) -> None:
    found = specification(tmp_path, 4, "vanilla=true")
    executors = found["deploymentSpec"]["executors"]
    pods = read_compiled(tmp_path / "rloop.yaml")[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors.keys() == pods.keys()
    for group in (found["components"], {name: [executors[name], pods[name]] for name in executors}):
        assert len({str(value) for value in group.values()}) == len(group)
    assert len(executors) == 9, "one a stage, and another one for evaluation outside of iterations"
    assert len(stage_paths(found)) == 3 + 7 + 3 * 10


def test_a_component_carries_no_source_and_no_description(tmp_path: Path) -> None:
    found = specification(tmp_path)
    for executor in found["deploymentSpec"]["executors"].values():
        command = executor["container"]["command"]
        stage = executor["container"]["args"][-1]
        assert command[-1] == f"from components.{stage}.component import {stage}"
        assert sum(map(len, command)) < 300
    for component in found["components"].values():
        assert "description" not in str(component)
    parameters = found["root"]["inputDefinitions"]["parameters"]
    assert all(parameter["description"] for parameter in parameters.values()), "the run's own are for people"
    text = (tmp_path / "rloop.yaml").read_text()
    assert "#    rft: Fine-tunes the iteration's initial policy" in text, "and the stages' are a comment"
    assert "#        rloop_policy: The iteration's result" in text and "#    rl_steps: RL steps" in text


def test_what_nobody_takes_is_not_made(tmp_path: Path) -> None:
    def outputs(*changes: str) -> set[str]:
        found = specification(tmp_path, 1, *changes)
        artifacts = found["components"]["comp-rl-exploration"]["outputDefinitions"]["artifacts"]
        return set(artifacts)

    made = {"rollouts", "explored_policy", "page", "metrics"}
    assert outputs("rl.snapshot_every=0") == made
    assert outputs() == made | {"snapshots"}
    assert outputs("vanilla=true") == made | {"snapshots", "training_state"}


def test_dependencies_are_said_once(tmp_path: Path) -> None:
    tasks = specification(tmp_path, 4)["root"]["dag"]["tasks"]
    assert tasks["data-preparation"]["dependentTasks"] == ["preflight"]
    assert tasks["evaluation-base"]["dependentTasks"] == ["data-preparation"]
    assert tasks["iteration"]["dependentTasks"] == ["evaluation-base"]
    assert tasks["iteration-4"]["dependentTasks"] == ["iteration-3"]
