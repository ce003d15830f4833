"""What a pod of our own pipeline requests, according to the recipe and to the run form."""

from pathlib import Path

from launch.compiled import read_compiled
from launch.kubeflow.status.pod_request import pod_request, queue_of
from launch.recipe import load_recipe
from pipeline import compile_pipeline

LAPTOP = Path(__file__).resolve().parents[3] / "recipes" / "laptop.yaml"
TRAINING = "pools.training={accelerators: 2, cpu: '8', memory: 96Gi, node_selector: {rloop.dev/pool: gpu-training}}"


def test_the_nodes_are_the_recipes_or_those_of_the_run_form(tmp_path: Path) -> None:
    compile_pipeline(load_recipe(LAPTOP, [TRAINING, "pools.cpu.node_selector={disk: fast}"]), tmp_path / "rloop.yaml")
    pipeline, platform = read_compiled(tmp_path / "rloop.yaml")
    specification = {"pipeline_spec": pipeline, "platform_spec": platform}
    root = pipeline["root"]["dag"]["tasks"]
    inner = pipeline["components"][root["iteration-2"]["componentRef"]["name"]]["dag"]["tasks"]

    def words(*tasks: dict[str, object], **parameters: object) -> str:
        return pod_request(specification, parameters, list(tasks))

    asked = "8 CPUs, 96Gi, 2 nvidia.com/gpu"
    assert words(root["iteration-2"], inner["rft"]) == f"rloop.dev/pool=gpu-training, {asked}"
    other = {"training": {"node_selector": {"zone": "b"}}}
    assert words(root["iteration-2"], inner["rft"], pools=other) == f"zone=b, {asked}"
    assert words(root["iteration-2"], inner["report"]) == "disk=fast, 1 CPU, 4Gi"
    assert words(root["data-preparation"]) == words(root["preflight"]) == "disk=fast, 1 CPU, 4Gi"
    assert words(root["data-preparation"], pools=other) == "1 CPU, 4Gi"


def test_the_queue_is_that_of_the_pod_or_of_its_nodes(tmp_path: Path) -> None:
    queues = ["pools.training.queue=team-a", "pools.inference.queue=evaluations"]
    several = ["rl.parallel={nodes: 2, volume: shared}"]
    compile_pipeline(load_recipe(LAPTOP, [*queues, *several]), tmp_path / "rloop.yaml")
    pipeline, platform = read_compiled(tmp_path / "rloop.yaml")
    specification = {"pipeline_spec": pipeline, "platform_spec": platform}
    inner = pipeline["components"][pipeline["root"]["dag"]["tasks"]["iteration"]["componentRef"]["name"]]["dag"][
        "tasks"
    ]

    def queue(name: str) -> list[str | None]:
        return [queue_of(specification, [inner[name]], pod_runs) for pod_runs in (False, True)]

    assert queue("rft") == ["team-a", None]
    assert queue("rl-exploration") == [None, "team-a"], "the stage's own pod does not queue"
    assert queue("evaluation-explored") == ["evaluations", None] and queue("report") == [None, None]
