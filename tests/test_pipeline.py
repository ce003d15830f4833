"""The compiled pipeline: parsed strictly, nested as it should be, and the same for any N where it can be."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.version import VERSION
from launch.compiled import stage_paths
from launch.images import STAGES, image
from launch.parameters import run_parameters
from launch.recipe import load_recipe
from pipeline import main

ROOT = Path(__file__).resolve().parent.parent
LAPTOP = str(ROOT / "recipes" / "laptop.yaml")
STAGE_TASKS = {
    "rl-exploration",
    "rollout-harvesting",
    "verification-filtering",
    "rft",
    "evaluation-explored",
    "evaluation-rloop",
    "report",
}


def compiled(tmp_path: Path, iterations: int, *more: str) -> Path:
    output = tmp_path / f"rloop-{iterations}.yaml"
    arguments = ["compile", "--recipe", LAPTOP, "--iterations", str(iterations), "--output", str(output), *more]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return output


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_parses_strictly_as_a_pipeline_of_nested_iterations(tmp_path: Path, iterations: int) -> None:
    from kfp.kubernetes import kubernetes_executor_config_pb2

    specification, *platforms = documents(compiled(tmp_path, iterations))
    parsed = json_format.ParseDict(specification, pipeline_spec_pb2.PipelineSpec())  # an unknown field raises
    assert parsed.pipeline_info.name == "rloop"
    for platform in platforms:
        for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            json_format.ParseDict(executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    root = specification["root"]["dag"]["tasks"]
    names = ["iteration", *(f"iteration-{i}" for i in range(2, iterations + 1))]
    assert set(root) == {"preflight", "data-preparation", "evaluation-base", *names}
    for number, name in enumerate(names, 1):
        assert root[name]["taskInfo"]["name"] == f"Iteration {number}"
        inner = specification["components"][root[name]["componentRef"]["name"]]["dag"]["tasks"]
        assert set(inner) == STAGE_TASKS
        assert all(task["cachingOptions"] == {"enableCache": True} for task in inner.values())
        policy = inner["rft"]["inputs"]["artifacts"]["policy"]
        assert policy == {"componentInputArtifact": "policy"}  # the iteration's initial policy, never the explored one
        assert inner["rl-exploration"]["inputs"]["artifacts"]["policy"] == policy
        source = root[name]["inputs"]["artifacts"]["policy"]["taskOutputArtifact"]
        before = {"outputArtifactKey": "rloop_policy", "producerTask": names[number - 2]}
        assert source == ({"outputArtifactKey": "base_policy", "producerTask": "data-preparation"}, before)[number > 1]


def test_pods_have_a_place_resources_and_retries(tmp_path: Path) -> None:
    sets = (
        "pools.training={accelerators: 1, memory: 64Gi, shared_memory: 16Gi, timeout_hours: 2, "
        "node_selector: {rloop.dev/pool: gpu-training}}"
    )
    specification, platform = documents(compiled(tmp_path, 1, "--set", sets))
    executors = specification["deploymentSpec"]["executors"]
    resources = executors["exec-rft"]["container"]["resources"]
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert resources["accelerator"]["resourceCount"] == "1" and resources["resourceMemoryLimit"] == "64Gi"
    assert "accelerator" not in executors["exec-report"]["container"]["resources"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert pods["exec-rft"]["activeDeadlineSeconds"] == "7200"
    assert pods["exec-rft"]["emptyDirMounts"][0]["sizeLimit"] == "16Gi"
    assert pods["exec-rft"]["podMetadata"]["labels"]["rloop.dev/pool"] == "gpu-training"
    assert pods["exec-evaluation"]["podMetadata"]["labels"]["rloop.dev/pool"] == "gpu-inference"
    pools_given = specification["root"]["inputDefinitions"]["parameters"]["pools"]["defaultValue"]
    assert pools_given["training"]["node_selector"] == {"rloop.dev/pool": "gpu-training"}
    inner = specification["components"]["comp-iteration"]["dag"]["tasks"]
    assert all(task["retryPolicy"]["maxRetryCount"] == 3 for task in inner.values())


def test_where_several_nodes_train_the_stages_pod_mounts_their_volume_and_has_no_accelerators(tmp_path: Path) -> None:
    sets = ["pools.training={accelerators: 8, memory: 900Gi, shared_memory: 16Gi}", "pools.cpu.memory=8Gi"]
    sets += ["rl.parallel={nodes: 2, processes: 8, volume: rloop-shared}", "vanilla=true"]
    specification, platform = documents(compiled(tmp_path, 2, *(part for each in sets for part in ("--set", each))))
    executors = specification["deploymentSpec"]["executors"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    several = [name for name in executors if name.startswith("exec-rl-exploration")]
    assert several, "vanilla RL is an exploration too"
    for name in several:
        (mount,) = pods[name]["pvcMount"]
        assert mount["mountPath"] == "/rloop-shared" and mount["pvcNameParameter"] == {
            "runtimeValue": {"constant": "rloop-shared"}
        }
        asked = json.loads(pods[name]["podMetadata"]["annotations"]["rloop.dev/node-resources"])
        assert asked["limits"] == {"memory": "900Gi", "nvidia.com/gpu": "8"}
        resources = executors[name]["container"]["resources"]
        assert "accelerator" not in resources and resources["resourceMemoryLimit"] == "8Gi"
    assert "pvcMount" not in pods["exec-rft"] and "annotations" not in pods["exec-rft"]["podMetadata"]
    assert executors["exec-rft"]["container"]["resources"]["accelerator"]["resourceCount"] == "8"


def test_caching_can_be_turned_off(tmp_path: Path) -> None:
    specification = documents(compiled(tmp_path, 1, "--set", "caching=false"))[0]
    inner = specification["components"]["comp-iteration"]["dag"]["tasks"]
    assert not any(task["cachingOptions"].get("enableCache") for task in inner.values())


def test_no_mutable_tag_no_secret_and_small_enough_for_argo(tmp_path: Path) -> None:
    for iterations in (1, 20):
        text = compiled(tmp_path, iterations).read_text()
        specification, platform = documents(tmp_path / f"rloop-{iterations}.yaml")
        for executor in specification["deploymentSpec"]["executors"].values():
            assert re.fullmatch(r"rloop-[a-z-]+:[0-9a-f]{12}", executor["container"]["image"])
            assert "env" not in executor["container"], "what matters is a parameter; what is secret is a reference"
        assert "secret" not in json.dumps(platform).lower() and "AWS_" not in text and "HF_TOKEN" not in text
        root = json.dumps(documents(tmp_path / f"rloop-{iterations}.yaml")[0]["root"])
        assert len(root) < 128 * 1024 * 0.8, "the root DAG is one argument of the driver: 128 KiB at most"


def test_stages_that_use_the_object_store_get_its_address_and_a_reference_to_its_keys(tmp_path: Path) -> None:
    sets = "store={secret: rloop-object-store, endpoint: 'http://seaweedfs:8333', publish_uri: 's3://b/p'}"
    specification, platform = documents(compiled(tmp_path, 1, "--set", sets))
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in specification["deploymentSpec"]["executors"].items():
        uses = name not in ("exec-rollout-harvesting", "exec-report")
        env = executor["container"].get("env", [])
        assert env == ([{"name": "AWS_ENDPOINT_URL_S3", "value": "http://seaweedfs:8333"}] if uses else [])
        keys = [key["envVar"] for s in pods[name].get("secretAsEnv", []) for key in s["keyToEnv"]]
        assert sorted(keys) == (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] if uses else [])
    published = specification["components"]["comp-iteration"]["dag"]["tasks"]["publishing"]
    assert published["inputs"]["parameters"]["uri"]["runtimeValue"]["constant"] == "s3://b/p"


def test_training_pods_get_their_trackers_keys_by_reference(tmp_path: Path) -> None:
    sets = "tracking={report_to: [wandb], project: p, secret: rloop-trackers}"
    specification, platform = documents(compiled(tmp_path, 1, "--set", sets))
    for name, pod in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
        trains = name in ("exec-rl-exploration", "exec-rft")
        secrets = pod.get("secretAsEnv", [])
        names = [s["secretNameParameter"]["runtimeValue"]["constant"] for s in secrets]
        found = list(zip(names, (s["keyToEnv"][0]["envVar"] for s in secrets), strict=True))
        assert found == ([("rloop-trackers", "WANDB_API_KEY")] if trains else [])
    advanced = specification["root"]["inputDefinitions"]["parameters"]["advanced"]["defaultValue"]
    assert advanced["tracking"] == {"report_to": ["wandb"], "project": "p"}, "the secret's name is fixed when compiled"


def test_an_iteration_is_the_same_whatever_n_is(tmp_path: Path) -> None:
    few, many = (documents(compiled(tmp_path, n))[0] for n in (2, 5))
    assert few["components"] == many["components"]
    assert set(stage_paths(few)) < set(stage_paths(many)) and "iteration-5/rft" in stage_paths(many)
    tasks = many["root"]["dag"]["tasks"]
    assert {tasks[f"iteration-{n}"]["componentRef"]["name"] for n in (2, 3, 4, 5)} == {"comp-iteration-2"}


def test_images_come_from_content_and_the_registry(tmp_path: Path) -> None:
    options = ("--registry", "registry.example.com/me", "--allow-missing-images", "--set", "store.publish_uri=s3://b/p")
    specification = documents(compiled(tmp_path, 1, *options))[0]
    executors = specification["deploymentSpec"]["executors"]
    used = {executor["container"]["image"] for executor in executors.values()}
    assert used == {image(stage, "registry.example.com/me", "cpu") for stage in STAGES}  # no pool has accelerators


def test_every_parameter_has_a_default_and_a_description(tmp_path: Path) -> None:
    parameters = documents(compiled(tmp_path, 1))[0]["root"]["inputDefinitions"]["parameters"]
    for name, parameter in parameters.items():
        assert "defaultValue" in parameter, name
        assert parameter.get("description"), name
    assert set(parameters) == set(run_parameters(load_recipe(LAPTOP))) and len(parameters) <= 15
    assert parameters["rl_steps"]["defaultValue"] == 40
    assert [b["name"] for b in parameters["data_benchmarks"]["defaultValue"]] == ["dev", "test", "four", "large"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--recipe", "no.yaml"], "error: cannot read the recipe no.yaml"),
        (["run", "--recipe", LAPTOP, "--set", "rl.stepz=1"], "error: unknown recipe key 'rl.stepz'. Did you mean"),
        (
            ["run", "--recipe", LAPTOP, "--set", "rft.parallel={{nodes: 2, volume: v}}"],
            "error: training on several nodes needs a cluster; to run here, add --set rft.parallel.nodes=1",
        ),
        (["run", "--recipe", LAPTOP, "--until", "rtf"], "error: --until 'rtf' is not a stage. Did you mean 'rft'"),
        (["run", "--recipe", LAPTOP, "--output-dir", "{file}/x"], "error: cannot write to the output folder"),
        (["run", "--recipe", LAPTOP, "--continue", "{file}"], "this is not the folder of a run: it has no rloop.yaml"),
        (["compile", "--recipe", LAPTOP, "--output", "{file}/x.yaml"], "is not a folder"),
        (["compile", "--recipe", LAPTOP, "--output", "x.txt"], "expected a name that ends in .yaml"),
        (["compile", "--recipe", "{file}", "--output", "x.yaml"], "must be a mapping of keys"),
    ],
)
def test_bad_arguments_are_messages_before_anything_starts(tmp_path: Path, arguments: list[str], message: str) -> None:
    file = tmp_path / "file"
    file.touch()
    result = CliRunner().invoke(main, [argument.format(file=file) for argument in arguments])
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output


def test_stages_are_rooms() -> None:
    """A stage imports components/shared, never another stage; kfp and torch stay where they belong."""
    heavy = {"torch", "transformers", "trl", "peft", "vllm", "datasets", "accelerate"}
    for file in (ROOT / "components").rglob("*.py"):
        stage = file.relative_to(ROOT / "components").parts[0]
        tree = ast.parse(file.read_text())
        imports = {
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        for name in imports:
            if name.startswith("components."):
                assert name.split(".")[1] in ("shared", stage), f"{file} imports {name}"
            if name.split(".")[0] == "kfp":
                assert file.name == "component.py", f"{file} imports kfp"
        at_top = {
            name
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        # Subclasses of TRL's and transformers' classes; the stages import these modules when they train.
        subclasses = {
            "components.rl_exploration.trainer",
            "components.rl_exploration.step_callback",
            "components.rft.update_callback",
        }
        assert not subclasses & at_top, f"{file} imports {subclasses & at_top} at its top"
        if file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") not in subclasses:
            assert not heavy & {name.split(".")[0] for name in at_top}, f"{file} imports {at_top} at its top"


def test_vanilla_rl_goes_on_from_the_first_iterations_exploration(tmp_path: Path) -> None:
    specification = documents(compiled(tmp_path, 3, "--with-vanilla-rl"))[0]
    json_format.ParseDict(specification, pipeline_spec_pb2.PipelineSpec())
    root = specification["root"]["dag"]["tasks"]
    inner = [
        specification["components"][root[name]["componentRef"]["name"]]["dag"]["tasks"]
        for name in ("iteration", "iteration-2", "iteration-3")
    ]
    assert set(inner[0]) == STAGE_TASKS, "its exploration is vanilla RL's beginning"
    vanilla = {"vanilla-rl", "vanilla-harvesting", "evaluation-vanilla"}
    assert set(inner[1]) == set(inner[2]) == STAGE_TASKS | vanilla
    explorations = [specification["components"][tasks["rl-exploration"]["componentRef"]["name"]] for tasks in inner]
    kept = ["training_state" in exploration["outputDefinitions"]["artifacts"] for exploration in explorations]
    assert kept == [True, False, False], "the first exploration's training state is what vanilla RL goes on from"
    prolonged = inner[1]["vanilla-rl"]["inputs"]
    assert prolonged["artifacts"]["earlier_state"] == {"componentInputArtifact": "vanilla_state"}
    assert prolonged["artifacts"]["policy"] == {"componentInputArtifact": "base_policy"}
    assert prolonged["parameters"]["segment"] == {"componentInputParameter": "iteration"}
    assert prolonged["parameters"]["iteration"]["runtimeValue"]["constant"] == 1  # the same order of problems
    for name, before in (("iteration-2", "iteration"), ("iteration-3", "iteration-2")):
        state = root[name]["inputs"]["artifacts"]["vanilla_state"]["taskOutputArtifact"]
        assert state == {"outputArtifactKey": "vanilla_state", "producerTask": before}
    assert "vanilla_state" not in root["iteration"]["inputs"]["artifacts"]


def test_rft_can_start_from_the_explored_policy_to_see_what_that_costs(tmp_path: Path) -> None:
    specification = documents(compiled(tmp_path, 1, "--set", "rft_from=explored"))[0]
    policy = specification["components"]["comp-iteration"]["dag"]["tasks"]["rft"]["inputs"]["artifacts"]["policy"]
    assert policy["taskOutputArtifact"] == {"outputArtifactKey": "explored_policy", "producerTask": "rl-exploration"}


def test_experts_of_all_iterations_are_handed_on(tmp_path: Path) -> None:
    changes = ("--set", "experts_from=all", "--set", "rft_from=base")
    specification = documents(compiled(tmp_path, 3, *changes))[0]
    json_format.ParseDict(specification, pipeline_spec_pb2.PipelineSpec())
    root = specification["root"]["dag"]["tasks"]
    for name, before in (("iteration-2", "iteration"), ("iteration-3", "iteration-2")):
        experts = root[name]["inputs"]["artifacts"]["earlier_experts"]["taskOutputArtifact"]
        assert experts == {"outputArtifactKey": "experts", "producerTask": before}
        inner = specification["components"][root[name]["componentRef"]["name"]]["dag"]["tasks"]
        filtering, rft = (inner[task]["inputs"]["artifacts"] for task in ("verification-filtering", "rft"))
        assert filtering["earlier_experts"] == {"componentInputArtifact": "earlier_experts"}
        assert rft["policy"] == {"componentInputArtifact": "base_policy"}
    assert "earlier_experts" not in root["iteration"]["inputs"]["artifacts"]
    plain = documents(compiled(tmp_path, 3))[0]["root"]["dag"]["tasks"]["iteration-2"]["inputs"]["artifacts"]
    assert "earlier_experts" not in plain


@pytest.mark.parametrize("output", ["/proc/rloop.yaml", "/proc/rloop/rloop.yaml", "{tmp_path}", "{tmp_path}/a/b.yaml"])
def test_where_nothing_can_be_written_compile_says_so(tmp_path: Path, output: str) -> None:
    folder = tmp_path / "taken.yaml"
    folder.mkdir()
    (tmp_path / "a").write_text("no folder")
    path = output.format(tmp_path=tmp_path) if output != "{tmp_path}" else str(folder)
    result = CliRunner().invoke(main, ["compile", "--recipe", LAPTOP, "--output", path])
    assert result.exit_code == 2 and f"error: --output {path}: " in result.output and "Traceback" not in result.output


def test_help_lists_every_command_and_the_version() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    assert all(re.search(rf"^  {name} +\w", shown, re.MULTILINE) for name in main.commands)
    assert CliRunner().invoke(main, ["--version"]).output == f"rloop {VERSION}\n"
