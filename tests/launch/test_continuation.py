"""Going on from where a run ended: the compiled pipeline, and what is found of runs on a cluster and in folders."""

import gzip
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

import pipeline
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.stage import write_json
from launch.compiled import check_single_use, read_compiled, stage_paths
from launch.continuation import Earlier, _Attempts, continued_folder, workflow_nodes
from launch.kubeflow.status.stages import iterate_stages
from launch.kubeflow.workflow_size import workflow_size
from launch.parameters import carried_over, run_parameters
from launch.recipe import Recipe, load_recipe
from tests.launch.conftest import RECIPE, Call
from tests.launch.recordings import FOLDER
from tests.launch.stand_in.metadata import AlreadyExists
from tests.launch.stand_in.server import FakeKfp


def compiled(recipe: Recipe, output: Path, before: int) -> list[dict[str, Any]]:
    pipeline.compile_pipeline(recipe, output, before=before)
    return read_compiled(output)


# The compiled pipeline


@pytest.mark.parametrize(
    ("rft_from", "experts_from", "vanilla"),
    itertools.product(("initial", "explored", "base"), ("iteration", "all"), (False, True)),
)
def test_a_continued_pipeline_takes_over_what_the_recipe_needs_and_no_artifact_twice(
    tmp_path: Path, rft_from: str, experts_from: str, vanilla: bool
) -> None:
    changes = [f"rft_from={rft_from}", f"experts_from={experts_from}"]
    changes += ["store.publish_uri=s3://b/p"] if vanilla else ["rl.snapshot_every=0"]
    recipe = load_recipe(RECIPE, changes, 2, vanilla)
    specification, _ = compiled(recipe, tmp_path / "c.yaml", before=10)
    json_format.ParseDict(specification, pipeline_spec_pb2.PipelineSpec())  # an unknown field raises
    check_single_use(specification)
    tasks = specification["root"]["dag"]["tasks"]
    needed = carried_over(recipe)
    importers = ["importer", *(f"importer-{number}" for number in range(2, len(needed) + 1))]
    assert set(tasks) == {"preflight", "data-preparation", "iteration-11", "iteration-12", *importers}
    given = {name: f"s3://b/{name}" for name in needed}
    parameters = specification["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == set(run_parameters(recipe, given))
    assert len(parameters) == 12 + len(needed)
    assert not any("defaultValue" in parameters[f"continue_{name}"] for name in needed), "nobody can leave them out"
    assert all(parameter["description"] for parameter in parameters.values())
    assert [tasks[f"iteration-{n}"]["taskInfo"]["name"] for n in (11, 12)] == ["Iteration 11", "Iteration 12"]
    assert tasks["importer"]["taskInfo"]["name"] == "Policy of iteration 10"
    uri = tasks["importer"]["inputs"]["parameters"]["uri"]
    assert uri == {"componentInputParameter": "continue_policy"}, "the only source that KFP's importer reads"
    first, second = (tasks[f"iteration-{n}"]["inputs"]["artifacts"] for n in (11, 12))
    assert set(first) == set(second)
    assert first["policy"]["taskOutputArtifact"] == {"producerTask": "importer", "outputArtifactKey": "artifact"}
    assert second["policy"]["taskOutputArtifact"]["producerTask"] == "iteration-11"
    assert ("base_policy" in first) == (vanilla or rft_from == "base")
    results = tasks["preflight"]["inputs"]["artifacts"]["earlier_results"]
    assert results == first["results"]
    assert tasks["preflight"]["inputs"]["parameters"]["earlier_iterations"]["runtimeValue"]["constant"] == 10


def test_one_iteration_component_serves_all_and_data_preparation_is_that_of_the_run_before(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, (), 3)
    own, went_on = (compiled(recipe, tmp_path / f"{n}.yaml", before=n)[0] for n in (0, 10))
    tasks = went_on["root"]["dag"]["tasks"]
    assert {tasks[f"iteration-{n}"]["componentRef"]["name"] for n in (11, 12, 13)} == {"comp-iteration"}
    component, executor = "comp-data-preparation", "exec-data-preparation"  # of these the cache's key is made
    assert own["components"][component] == went_on["components"][component]
    assert own["deploymentSpec"]["executors"][executor] == went_on["deploymentSpec"]["executors"][executor]
    assert "iteration-13/rft" in stage_paths(went_on) and not any("importer" in path for path in stage_paths(went_on))
    text = (tmp_path / "0.yaml").read_text()
    assert "continue_" not in text and "continue_results" in (tmp_path / "10.yaml").read_text()


def test_the_size_is_that_of_the_continued_run_alone(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, (), 3, True)
    uris = {name: f"minio://mlpipeline/v2/artifacts/rloop/{'x' * 80}/{name}" for name in carried_over(recipe)}
    own, went_on = (compiled(recipe, tmp_path / f"{n}.yaml", before=n) for n in (0, 100))
    sizes = [workflow_size(own), workflow_size(went_on, run_parameters(recipe, uris))]
    assert sizes[1].stages == 2 + 3 * 10  # preflight and data preparation, and three iterations of ten stages
    assert sizes[0].bytes * 0.8 < sizes[1].bytes < sizes[0].bytes * 1.2


# Runs on a cluster


def submit(kfp: FakeKfp, *arguments: str, status: int = 0) -> Result:
    command = ["submit", "--recipe", str(RECIPE), "--host", kfp.host, *arguments]
    result = CliRunner().invoke(pipeline.main, command)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result


def newest(kfp: FakeKfp) -> str:
    return list(kfp.runs)[-1]


def submitted(kfp: FakeKfp, *arguments: str) -> str:
    """The id of a run that has gone to its end."""
    submit(kfp, *arguments)
    kfp.play(newest(kfp))
    assert kfp.runs[newest(kfp)].state == "SUCCEEDED"
    return newest(kfp)


def given(kfp: FakeKfp, run: str) -> dict[str, str]:
    parameters = kfp.runs[run].runtime_config.parameters
    return {key.removeprefix("continue_"): uri for key, uri in parameters.items() if key.startswith("continue_")}


def made(kfp: FakeKfp, run: str, iteration: str) -> dict[str, str]:
    """Where what an iteration handed on lies, as the stand-in's metadata store knows."""
    outputs = kfp.workflow(run).root.made[iteration].artifacts
    places = {name: kfp.metadata.places[number] for name, number in outputs.items()}
    return {"policy" if name == "rloop_policy" else name: uri for name, uri in places.items()}


SMALL = ("--set", "rl.snapshot_every=0")


def test_thirty_iterations_are_three_runs(kfp: FakeKfp, call: Call) -> None:
    options = (*SMALL, "--with-vanilla-rl", "--set", "experts_from=all")
    first = submitted(kfp, *options, "--iterations", "1")
    said = submit(kfp, *options, "--iterations", "2", "--continue", first, "--run-name", "second").output
    second = newest(kfp)
    assert f"continuing after iteration 1 with the policy minio://mlpipeline/v2/artifacts/rloop/{first}/rft/" in said
    assert given(kfp, second) == made(kfp, first, "iteration")
    assert "/rl-exploration/" in given(kfp, second)["vanilla_state"], "whose beginning is the first exploration"
    ran = kfp.play(second)
    assert kfp.runs[second].state == "SUCCEEDED"
    assert len(ran) == 1 + 2 * 10 and ran[0] == "preflight", "data preparation comes from the cache"
    assert {path.split("/")[0] for path in ran[1:]} == {"iteration-2", "iteration-3"}
    kfp.packs = True  # as Argo does beyond 1 MiB
    submit(kfp, *options, "--iterations", "1", "--continue", "second")
    third = newest(kfp)
    assert given(kfp, third) == made(kfp, second, "iteration-3")
    assert "/vanilla-rl/" in given(kfp, third)["vanilla_state"]
    assert {path.split("/")[0] for path in kfp.play(third)} == {"preflight", "iteration-4"}
    status = call("status", third)
    assert status.exit_code == 0 and "[12/12] iteration 4: Report" in status.output
    assert "Policy of iteration 3" not in status.output, "an importer is no stage"
    went_on = kfp.spec(third)
    assert sorted(path for path, _ in iterate_stages(went_on)) == sorted(stage_paths(went_on))
    assert "importer" not in call("retry", third, "--from", "report", "--dry-run").output


def test_a_failed_importer_is_named(kfp: FakeKfp, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    first = submitted(kfp, *SMALL, "--iterations", "1")
    submit(kfp, *SMALL, "--iterations", "1", "--continue", first)

    def fails(uri: str) -> int:
        raise AlreadyExists(uri)

    monkeypatch.setattr(kfp.metadata, "imported", fails)
    run = newest(kfp)
    kfp.play(run)
    said = call("status", run).output
    assert "Policy of iteration 1 (importer) failed in attempt 1 of 1; its log" in said and "[ 9/9]" in said
    assert "Kubeflow reports no failed stage" not in said
    told = json.loads(call("status", run, "--json").output)
    assert "importer" in told["failed"] and "importer" not in {stage["stage"] for stage in told["stages"]}


def test_the_same_continued_run_once_more_comes_from_the_cache(kfp: FakeKfp, call: Call) -> None:
    first = submitted(kfp, *SMALL, "--iterations", "1")
    went_on = ("--iterations", "1", "--continue", first)
    submitted(kfp, *SMALL, *went_on)
    versions = len(kfp.versions)
    submit(kfp, *SMALL, *went_on)
    assert kfp.play(newest(kfp)) == ["preflight"]
    assert len(kfp.versions) == versions, "URIs are parameters, not structure"


def test_what_came_from_the_cache_is_taken_from_a_stage_that_took_it_in_or_names_the_run_that_made_it(
    kfp: FakeKfp, call: Call
) -> None:
    first = submitted(kfp, *SMALL, "--iterations", "1", "--run-name", "one")
    cached = submitted(kfp, *SMALL, "--iterations", "1", "--run-name", "two")
    said = submit(kfp, *SMALL, "--iterations", "1", "--continue", cached, status=2).output
    assert "rft of its iteration 1 came from the cache" in said
    assert f"Continue {first} ('one') instead, an earlier run of the same version and parameters" in said
    kfp.returns = lambda path, output: f"another {output}" if output == "report_settings" else f"{output} of {path}"
    other = submitted(kfp, *SMALL, "--iterations", "1", "--set", "report.choose_by=pass_at_k")
    submit(kfp, *SMALL, "--iterations", "1", "--continue", other)
    uris = given(kfp, newest(kfp))
    assert f"/{first}/rft/" in uris["policy"] and f"/{other}/report/" in uris["results"]
    kfp.runs.pop(first)
    said = submit(kfp, *SMALL, "--iterations", "1", "--continue", cached, status=2).output
    assert "part of the output URIs on the stage's page in the UI" in said and f"/#/runs/details/{cached}" in said


def test_of_a_run_that_failed_the_last_whole_iteration_counts(kfp: FakeKfp, call: Call) -> None:
    submit(kfp, *SMALL, "--iterations", "3")
    run = newest(kfp)
    kfp.play(run, fails=lambda pod: pod.path == "iteration-3/rft")
    assert kfp.runs[run].state == "FAILED"
    said = submit(kfp, *SMALL, "--iterations", "1", "--continue", run).output
    assert "continuing after iteration 2" in said
    assert given(kfp, newest(kfp)) == made(kfp, run, "iteration-2")
    assert {path.split("/")[0] for path in kfp.play(newest(kfp))} == {"preflight", "iteration-3"}


@pytest.mark.parametrize("with_vanilla", [False, True])
def test_runs_that_cannot_be_gone_on_from_say_why(kfp: FakeKfp, call: Call, with_vanilla: bool) -> None:
    vanilla = ("--with-vanilla-rl",) if with_vanilla else ()
    submit(kfp, *SMALL, *vanilla, "--iterations", "1")
    run = newest(kfp)
    go_on = (*SMALL, "--iterations", "1", "--continue", run)
    assert "has not finished; wait for it or cancel it" in submit(kfp, *go_on, *vanilla, status=2).output
    kfp.play(run, fails=lambda pod: pod.path == "iteration-1/report")
    assert "no iteration of the run" in submit(kfp, *go_on, *vanilla, status=2).output
    call("retry", run)
    kfp.play(run)
    if with_vanilla:
        assert "has vanilla RL, which this run would drop: add --with" in submit(kfp, *go_on, status=2).output
    else:
        said = submit(kfp, *go_on, "--with-vanilla-rl", status=2).output
        assert "has no vanilla RL to continue: leave out --with-vanilla-rl" in said
    said = submit(kfp, *go_on, *vanilla, "--set", "experts_from=all", status=2).output
    assert "has no experts of all iterations to continue: add --set experts_from=iteration" in said
    assert "has no run named 'nothing'" in submit(kfp, *go_on[:-1], "nothing", status=2).output
    kfp.older_api = False
    assert "does not serve workflows (API v1beta1)" in submit(kfp, *go_on, *vanilla, status=2).output


def test_a_dry_run_starts_nothing(kfp: FakeKfp, call: Call) -> None:
    first = submitted(kfp, *SMALL, "--iterations", "1")
    before = len(kfp.writes())
    said = submit(kfp, *SMALL, "--iterations", "1", "--continue", first, "--dry-run").output
    assert "continuing after iteration 1" in said and "would start the run" in said
    assert len(kfp.writes()) == before


def test_reads_where_a_real_runs_artifacts_lie() -> None:
    """KFP 2.17.0 and Argo 4.0.5; of the nodes, what tells is kept."""
    workflow = json.loads(gzip.decompress((FOLDER / "workflow-drivers.json.gz").read_bytes()))
    attempts = _Attempts(workflow_nodes(workflow))
    assert sorted(set(attempts.iterations())) == [1, 2]
    assert attempts.succeeded(2, "report") and not attempts.succeeded(3, "report")
    root = "minio://mlpipeline/v2/artifacts/rloop/a8ce9411-939a-45c4-b4a2-7de129c3c1f2"
    policy = f"{root}/rft/25f30f28-0aac-42a3-a146-86dd31c70385/rloop_policy"
    assert attempts.uri(2, "rft-driver", "outputs", "rloop_policy") == policy
    assert attempts.uri(2, "report-driver", "inputs", "rloop_policy") == policy
    results = f"{root}/report/a8701cdb-2696-453f-98b9-f81482daea02/results"
    assert attempts.uri(2, "report-driver", "outputs", "results") == results
    state = f"{root}/rl-exploration/436bd56c-3324-40a4-bbab-c4a55487a097/training_state"
    assert attempts.uri(1, "rl-exploration-driver", "outputs", "training_state") == state
    assert attempts.uri(2, "vanilla-rl-driver", "inputs", "earlier_state") == state


# Runs in a folder


@pytest.fixture
def folder(tmp_path: Path, tiny_policy: Path) -> Callable[..., Path]:
    def make(iterations: int = 2, before: int = 0, vanilla: bool = False) -> Path:
        """What a run leaves, as far as another one looks at it."""
        output = tmp_path / "run"
        recipe = load_recipe(RECIPE, (), iterations, vanilla)
        output.mkdir()
        compiled(recipe, output / "rloop.yaml", before)
        for number in range(before + 1, before + iterations + 1):
            stages, artifacts = output / "stages" / f"iteration-{number}", output / "artifacts" / str(number)
            shutil.copytree(tiny_policy, artifacts / "rloop_policy")
            policies = [{"name": f"rloop-{number}", "policy_id": Policy(tiny_policy).id}]
            write_json(artifacts / "results/summary.json", {"policies": policies, "iterations": [{}] * number})
            (artifacts / "best_policy").mkdir()
            (artifacts / "training_state").mkdir()
            made = {"rft": ["rloop_policy"], "report": ["results", "best_policy"]}
            made["rl-exploration" if number == 1 else "vanilla-rl"] = ["training_state"]
            for stage, outputs in made.items():
                (stages / stage).mkdir(parents=True)
                for name in outputs:
                    (stages / stage / name).symlink_to(artifacts / name)
        return output

    return make


def test_goes_on_from_the_last_iteration_in_a_folder(folder: Callable[..., Path]) -> None:
    run = folder(2, before=10, vanilla=True)
    found = continued_folder(run, load_recipe(RECIPE, (), 5, True))
    assert found.iterations == 12
    names = {"policy": "rloop_policy", "best_policy": "best_policy", "results": "results"}
    names["vanilla_state"] = "training_state"
    assert found.uris == {name: str(run / "artifacts" / "12" / made) for name, made in names.items()}
    shutil.rmtree(run / "stages" / "iteration-12" / "report")  # the run was interrupted before
    assert continued_folder(run, load_recipe(RECIPE, (), 5, True)).iterations == 11


def test_folders_that_cannot_be_gone_on_from_say_why(folder: Callable[..., Path], tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, (), 2)
    with pytest.raises(InputError, match=r"not the folder of a run: it has no rloop\.yaml"):
        continued_folder(tmp_path, recipe)
    run = folder(2)
    with pytest.raises(InputError, match="has no vanilla RL to continue"):
        continued_folder(run, load_recipe(RECIPE, (), 2, True))
    policy = run / "artifacts" / "2" / "rloop_policy"
    weights = policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")  # by a later run with other settings
    with pytest.raises(InputError, match="the report of iteration 2 is about a different policy"):
        continued_folder(run, recipe)
    shutil.rmtree(policy)
    with pytest.raises(InputError, match="rloop_policy no longer exists"):
        continued_folder(run, recipe)
    shutil.rmtree(run / "stages")
    with pytest.raises(InputError, match="no iteration of this run has finished its report"):
        continued_folder(run, recipe)


def test_one_place_for_two_things_is_refused() -> None:
    with pytest.raises(InputError, match="two of policy, best_policy have the same URI"):
        Earlier(1, {"policy": "s3://a/b", "best_policy": "s3://a/b"})
