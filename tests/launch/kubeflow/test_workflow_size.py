"""The model of the workflow object's size, compared with a workflow of a real cluster, and its predictions for ours."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launch.compiled import read_compiled
from launch.kubeflow.workflow_size import LIMIT, SHARE, WorkflowSize, _Model, check_size, size_problem, workflow_size
from launch.recipe import load_recipe
from pipeline import compile_pipeline, main
from tests.launch.recordings import FOLDER, answer, versions

ROOT = Path(__file__).resolve().parents[3]
LAPTOP = ROOT / "recipes" / "laptop.yaml"
# As on the cluster where the workflow was recorded.
STORE = ["store.secret=mlpipeline-minio-artifact", "store.endpoint=http://seaweedfs.kubeflow:9000"]
STORE += ["store.checkpoint_uri=s3://mlpipeline/progress"]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    sizes: dict[str, Any] = json.loads((FOLDER / "workflow-sizes.json").read_text())
    return sizes


@pytest.fixture(scope="module")
def its_pipeline() -> list[dict[str, Any]]:
    reference = answer("run-succeeded-compressed")["pipeline_version_reference"]["pipeline_version_id"]
    specification = versions()[reference]["pipeline_spec"]
    return [specification["pipeline_spec"], specification["platform_spec"]]


def ours(iterations: int, vanilla: bool, tmp_path: Path, *changes: str) -> WorkflowSize:
    recipe = load_recipe(LAPTOP, [*STORE, *changes], iterations, vanilla)
    compiled = tmp_path / f"{iterations}.yaml"
    compile_pipeline(recipe, compiled, "registry.example.com/rloop", "cpu")
    return workflow_size(read_compiled(compiled))


def test_the_model_agrees_with_the_recorded_workflow(
    recorded: dict[str, Any], its_pipeline: list[dict[str, Any]]
) -> None:
    size = workflow_size(its_pipeline)
    assert size.stages == 23 and not size.fits_uncompressed
    assert size.specification == pytest.approx(recorded["specification"], rel=0.03)
    # Two of the recorded stages came from the cache, which the model does not suppose.
    assert size.nodes == pytest.approx(recorded["nodes"], rel=0.10)
    assert size.bytes == pytest.approx(recorded["specification"] + recorded["packed"], rel=0.10)


def test_every_node_is_as_large_as_the_recorded_one(
    recorded: dict[str, Any], its_pipeline: list[dict[str, Any]]
) -> None:
    prefix = "rloop-xqfqf(0)."
    nodes = {node["name"].removeprefix(prefix): node for node in _Model(its_pipeline, {}).nodes()}
    cached = ("data-preparation", "evaluation-base")
    there = {name for name in recorded["by_node"] if not any(stage in name for stage in cached)}
    there -= {"rloop-xqfqf", "rloop-xqfqf(0)"}
    assert there <= nodes.keys()
    for name in there:
        size = len(json.dumps(nodes[name], separators=(",", ":")))
        assert size == pytest.approx(recorded["by_node"][name], rel=0.05, abs=200), name


@pytest.mark.parametrize(("vanilla", "limit"), [(False, 800_000), (True, 940_000)])
def test_ten_iterations_fit(tmp_path: Path, vanilla: bool, limit: int) -> None:
    size = ours(10, vanilla, tmp_path)
    assert size.bytes < limit and size_problem(size, 10) is None
    assert (ours(1, vanilla, tmp_path).stages, size.stages) == ((10, 100) if vanilla else (10, 73))


def test_two_iterations_stay_unpacked(tmp_path: Path) -> None:
    """So that Kubeflow reports stages to the end: with a store's secret in the pods, or with checkpoints."""
    assert ours(2, False, tmp_path, "rl.snapshot_every=0").fits_uncompressed
    recipe = load_recipe(LAPTOP, [], 2)
    compile_pipeline(recipe, tmp_path / "plain.yaml", "registry.example.com/rloop", "cpu")
    assert workflow_size(read_compiled(tmp_path / "plain.yaml")).fits_uncompressed


def test_long_settings_count(tmp_path: Path) -> None:
    benchmarks = ", ".join(f"b{n}: 'countdown://test?count=20&seed={n}'" for n in range(60))
    many = ours(3, False, tmp_path, f"data.benchmarks={{{benchmarks}}}")
    assert many.bytes > ours(3, False, tmp_path).bytes


def test_what_does_not_fit_is_refused_with_the_way_on(tmp_path: Path) -> None:
    fits = WorkflowSize(stages=73, specification=100_000, nodes=9_000_000, compressed=int(SHARE * LIMIT) - 100_000)
    check_size(fits, 20)
    assert "compressed (8.7 times the limit uncompressed)" in fits.words()
    output = tmp_path / "large.yaml"
    arguments = ["compile", "--recipe", str(LAPTOP), "--iterations", "40", "--output", str(output)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "40 iterations make a workflow of" in result.output
    assert "then continue with `submit --continue RUN`" in result.output and not output.exists()
    fewer = int(result.output.split("Run ")[1].split(" iterations")[0])
    compile_pipeline(load_recipe(LAPTOP, [], fewer), output)
    assert size_problem(workflow_size(read_compiled(output)), fewer) is None and 15 < fewer < 40


def test_the_commands_say_the_size(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", "--recipe", str(LAPTOP)])
    assert result.exit_code == 0 and "on a cluster: 17 stages, workflow 1,0" in result.output, result.output
    too_many = CliRunner().invoke(main, ["plan", "--recipe", str(LAPTOP), "--iterations", "40"])
    assert too_many.exit_code == 0 and "on a cluster: 283 stages, workflow 1," in too_many.output
    assert "warning: 40 iterations make a workflow" in too_many.output
