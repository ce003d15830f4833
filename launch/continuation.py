"""Going on from where another run ended: what is taken over from it, and where that lies.

The last whole iteration counts: the last one whose report ended well. Of a run in a folder, the stages' links tell
where its artifacts are. Of a run on Kubeflow, its Argo workflow does, which KFP hands out by its older API: a stage's
driver writes into the node what the stage's pod is started with, the URIs of its inputs and outputs among it. A driver
that finds the result in the cache writes nothing; then a stage that took the result in may tell.
"""

import base64
import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.policy import policy_id
from components.shared.stage import read_json
from launch.compiled import read_compiled, stage_paths
from launch.kubeflow.cluster import Cluster
from launch.kubeflow.controller import get_run_v1beta1, workflow_of
from launch.kubeflow.server import NotFound
from launch.kubeflow.status.stages import FINISHED, run_state
from launch.parameters import taken_over
from launch.recipe import Recipe

_VANILLA, _EXPERTS = "vanilla_state", "experts"
# The stages of an iteration that take in what is handed on, and under which input.
_TAKERS = {
    "policy": ("report", "rloop_policy"),
    "best_policy": ("publishing", "best_policy"),
    "results": ("publishing", "results"),
    _EXPERTS: ("rft", "experts"),
}


@dataclass(frozen=True)
class Earlier:
    """The run that another one goes on from.

    Attributes:
        iterations: how many it has, with those of the runs that it went on from itself.
        uris: where that lies which is taken over, by the names of `taken_over`.
    """

    iterations: int
    uris: dict[str, str]

    def __post_init__(self) -> None:
        if len(set(self.uris.values())) < len(self.uris):
            raise InputError(
                f"two of {', '.join(self.uris)} lie in one place, which Kubeflow's metadata store does not let a stage "
                f"take twice: {self.uris}"
            )

    def words(self) -> str:
        """What is gone on from, for people."""
        return f"goes on after iteration {self.iterations}, from the policy {self.uris['policy']}"


def continued_folder(folder: Path, recipe: Recipe) -> Earlier:
    """What a run takes over from the one in a folder.

    Args:
        folder: output folder of a local run.
        recipe: of the run that goes on.

    Raises:
        InputError: the folder holds no run, or none with a whole iteration, or it does not fit the recipe.
    """
    if not (compiled := folder / "rloop.yaml").is_file():
        raise InputError(f"--continue {folder}: this is no folder of a run: it has no rloop.yaml")
    specification = read_compiled(compiled)[0]
    last = max(
        (number for path in stage_paths(specification) if (number := _reported(path)) and _whole(folder, number)),
        default=0,
    )
    if not last:
        raise InputError(f"--continue {folder}: no iteration of this run has come to its report")
    _check_switches(specification, recipe, f"the run in {folder}")
    uris = {}
    for name in taken_over(recipe):
        stage, output = _maker(name, last)
        if not (there := folder / "stages" / f"iteration-{last}" / stage / output).exists():
            raise InputError(f"--continue {folder}: {there} is not there any more; run that folder's run again")
        uris[name] = str(there.resolve())
    summary = read_json(Path(uris["results"]) / "summary.json")
    reported = {policy["name"]: policy["policy_id"] for policy in summary["policies"]}
    if reported.get(f"rloop-{last}") != policy_id(uris["policy"]):
        raise InputError(
            f"--continue {folder}: the report of iteration {last} is about another policy than the one that lies "
            "there: a later run in this folder has changed it and did not end. Let it end first"
        )
    return Earlier(last, uris)


def continued_run(cluster: Cluster, name_or_id: str, recipe: Recipe) -> Earlier:
    """What a run takes over from one on Kubeflow.

    Args:
        cluster: where that run is.
        name_or_id: of that run.
        recipe: of the run that goes on.

    Raises:
        InputError: there is no such run, it has not ended, has no whole iteration, or came from the cache; or it does
            not fit the recipe.
    """
    run = cluster.run(name_or_id)
    named = f"the run {run.display_name!r}"
    if run_state(run) not in FINISHED:
        raise InputError(f"--continue {name_or_id}: {named} has not ended; wait for it, or cancel it")
    specification = cluster.specification(run)
    specification = specification.get("pipeline_spec", specification)
    try:
        answer = cluster.read(f"reading the workflow of {named}", get_run_v1beta1, cluster, run.run_id)
    except NotFound:
        raise InputError(
            f"--continue {name_or_id}: {cluster.host} does not hand out workflows (API v1beta1), which tell where a "
            "run's artifacts lie"
        ) from None
    attempts = _Attempts(workflow_nodes(workflow_of(answer)))
    last = max((n for n in attempts.iterations() if attempts.succeeded(n, "report")), default=0)
    if not last:
        raise InputError(f"--continue {name_or_id}: no iteration of {named} has come to its report")
    _check_switches(specification, recipe, named)
    uris = {}
    for name in taken_over(recipe):
        stage, output = _maker(name, last)
        uri = attempts.uri(last, f"{stage}-driver", "outputs", output)
        if uri is None and name in _TAKERS:
            uri = attempts.uri(last, f"{_TAKERS[name][0]}-driver", "inputs", _TAKERS[name][1])
        if uri is None:
            raise InputError(_from_the_cache(cluster, run, stage, last))
        uris[name] = uri
    return Earlier(last, uris)


def workflow_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of an Argo workflow, which are packed where they are many."""
    status = workflow.get("status") or {}
    nodes = status.get("nodes")
    if packed := status.get("compressedNodes"):
        nodes = json.loads(gzip.decompress(base64.b64decode(packed)))
    return list((nodes or {}).values())


class _Attempts:
    """The nodes of a run by the tasks that they belong to, the last attempts first.

    Argo calls a node `WORKFLOW(0).root(0).iteration-2(0).rft-driver(0)`; the numbers count attempts.
    """

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        self._nodes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for node in sorted(nodes, key=lambda node: _numbers(node["name"]), reverse=True):
            tasks = tuple(re.sub(r"\(\d+\)$", "", part) for part in node["name"].split("."))
            self._nodes.setdefault(tasks[1:], []).append(node)

    def iterations(self) -> list[int]:
        """The numbers of the iterations that began."""
        return [_number(tasks[1]) for tasks in self._nodes if len(tasks) == 2 and _number(tasks[1])]

    def succeeded(self, iteration: int, stage: str) -> bool:
        """Whether a stage of an iteration ended well."""
        return any(node.get("phase") == "Succeeded" for node in self._of(iteration, stage))

    def uri(self, iteration: int, driver: str, kind: str, name: str) -> str | None:
        """Where a stage's input or output lies, by what its driver prepared; None if the stage came from the cache."""
        for node in self._of(iteration, driver):
            artifacts = _executor_input(node).get(kind, {}).get("artifacts", {})
            if node.get("phase") == "Succeeded" and name in artifacts:
                return str(artifacts[name]["artifacts"][0]["uri"])
        return None

    def _of(self, iteration: int, task: str) -> list[dict[str, Any]]:
        names = {f"iteration-{iteration}", *(["iteration"] if iteration == 1 else [])}
        return [node for name in names for node in self._nodes.get(("root", name, task), [])]


def _executor_input(driver: dict[str, Any]) -> dict[str, Any]:
    """What a driver gives its stage's pod to know; empty where the stage came from the cache."""
    given = {p["name"]: p.get("value") for p in (driver.get("outputs") or {}).get("parameters", [])}
    if not (patch := given.get("pod-spec-patch")):
        return {}
    command = json.loads(patch)["containers"][0]["command"]
    return dict(json.loads(command[command.index("--executor_input") + 1]))


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\((\d+)\)", name)]


def _number(task: str) -> int:
    """Of an iteration's task; 0 for another task."""
    match = re.fullmatch(r"iteration(?:-(\d+))?", task)
    return int(match[1] or 1) if match else 0


def _reported(path: str) -> int:
    """The iteration whose report a stage is; 0 for another stage."""
    iteration, _, stage = path.partition("/")
    return _number(iteration) if stage == "report" else 0


def _whole(folder: Path, iteration: int) -> bool:
    """Whether the report of an iteration is there, whose results are its own."""
    summary = folder / "stages" / f"iteration-{iteration}" / "report" / "results" / "summary.json"
    return summary.is_file() and len(read_json(summary)["iterations"]) == iteration


def _maker(name: str, iteration: int) -> tuple[str, str]:
    """The stage and its output that make what is taken over from an iteration."""
    return {
        "policy": ("rft", "rloop_policy"),
        "best_policy": ("report", "best_policy"),
        "results": ("report", "results"),
        # The first iteration's exploration is the beginning of vanilla RL.
        _VANILLA: ("rl-exploration" if iteration == 1 else "vanilla-rl", "training_state"),
        _EXPERTS: ("verification-filtering", "experts"),
    }[name]


def _check_switches(specification: dict[str, Any], recipe: Recipe, named: str) -> None:
    """Makes sure that a run hands on what a recipe takes over, and that the recipe takes over all of it."""
    tasks, components = specification["root"]["dag"]["tasks"], specification["components"]
    handed_on: set[str] = set()
    for name, task in tasks.items():
        if _number(name):
            outputs = components[task["componentRef"]["name"]].get("outputDefinitions", {})
            handed_on |= set(outputs.get("artifacts", {}))
    for output, what, add, leave in (
        (_VANILLA, "vanilla RL", "add --with-vanilla-rl", "leave --with-vanilla-rl and the recipe's `vanilla` out"),
        (_EXPERTS, "experts of all iterations", "add --set experts_from=all", "add --set experts_from=iteration"),
    ):
        has, takes = output in handed_on, output in taken_over(recipe)
        if has and not takes:
            raise InputError(f"--continue: {named} has {what}, which this one would end: {add}")
        if takes and not has:
            raise InputError(f"--continue: {named} has no {what} to go on with: {leave}")


def _from_the_cache(cluster: Cluster, run: Any, stage: str, iteration: int) -> str:
    """What to say of a run whose stage came from the cache."""
    said = (
        f"--continue {run.display_name}: {stage} of its iteration {iteration} came from the cache, and only the run "
        "that made the result tells where it lies. "
    )
    if (same := cluster.same_before(run)) is not None:
        return f"{said}Name {same.run_id} ({same.display_name!r}), an earlier run of the same version and parameters"
    return (
        f"{said}The stage's page in the UI shows its outputs' URIs, which hold that run's id; name it: "
        f"{cluster.run_link(run.run_id)}"
    )
