"""Continuing another run: what is carried over from it, and where that is stored.

A run is continued after its last complete iteration: the last one whose report succeeded. For a run in a folder, links
lead from its stages to their artifacts. For a run on Kubeflow, its Argo workflow has the URIs, which KFP serves through
its older API: a stage's driver writes the arguments of the stage's pod into its node, including the URIs of inputs and
outputs. A driver that finds the result in the cache writes nothing; then the node of a stage that took the result as
an input may have its URI.
"""

import base64
import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.stage import read_json
from launch.compiled import read_compiled, stage_paths
from launch.kubeflow.cluster import Cluster
from launch.kubeflow.controller import get_run_v1beta1, workflow_of
from launch.kubeflow.server import NotFound
from launch.kubeflow.status.stages import FINISHED, run_state
from launch.parameters import carried_over
from launch.recipe import Recipe

_VANILLA, _EXPERTS = "vanilla_state", "experts"
# Stages of an iteration that take what is carried over as an input, and that input's name.
_CONSUMERS = {
    "policy": ("report", "rloop_policy"),
    "best_policy": ("publishing", "best_policy"),
    "results": ("publishing", "results"),
    _EXPERTS: ("rft", "experts"),
}


@dataclass(frozen=True)
class Earlier:
    """The run that another one continues.

    Attributes:
        iterations: Number of its iterations, including those of the runs that it continued itself.
        uris: URIs of what is carried over, by the names of `carried_over`.
    """

    iterations: int
    uris: dict[str, str]

    def __post_init__(self) -> None:
        if len(set(self.uris.values())) < len(self.uris):
            raise InputError(
                f"two of {', '.join(self.uris)} have the same URI, but Kubeflow's metadata store does not let a stage "
                f"take one artifact twice: {self.uris}"
            )

    def words(self) -> str:
        """Describes where the run continues, for people."""
        return f"continuing after iteration {self.iterations} with the policy {self.uris['policy']}"


def continued_folder(folder: Path, recipe: Recipe) -> Earlier:
    """Returns what a run carries over from the run in a folder.

    Args:
        folder: Output folder of a local run.
        recipe: Recipe of the new run.

    Raises:
        InputError: The folder has no run or no complete iteration, or the run does not fit the recipe.
    """
    if not (compiled := folder / "rloop.yaml").is_file():
        raise InputError(f"--continue {folder}: this is not the folder of a run: it has no rloop.yaml")
    specification = read_compiled(compiled)[0]
    last = max(
        (number for path in stage_paths(specification) if (number := _reported(path)) and _is_complete(folder, number)),
        default=0,
    )
    if not last:
        raise InputError(f"--continue {folder}: no iteration of this run has finished its report")
    _check_switches(specification, recipe, f"the run in {folder}")
    uris = {}
    for name in carried_over(recipe):
        stage, output = _producer(name, last)
        if not (there := folder / "stages" / f"iteration-{last}" / stage / output).exists():
            raise InputError(f"--continue {folder}: {there} no longer exists; repeat that folder's run")
        uris[name] = str(there.resolve())
    summary = read_json(Path(uris["results"]) / "summary.json")
    reported = {policy["name"]: policy["policy_id"] for policy in summary["policies"]}
    if reported.get(f"rloop-{last}") != Policy(uris["policy"]).id:
        raise InputError(
            f"--continue {folder}: the report of iteration {last} is about a different policy than the one in the "
            "folder: a later run has changed it and did not finish. Let that run finish first"
        )
    return Earlier(last, uris)


def continued_run(cluster: Cluster, name_or_id: str, recipe: Recipe) -> Earlier:
    """Returns what a run carries over from a run on Kubeflow.

    Args:
        cluster: The cluster of that run.
        name_or_id: Name or ID of that run.
        recipe: Recipe of the new run.

    Raises:
        InputError: There is no such run; it has not finished, has no complete iteration or came from the cache; or it
            does not fit the recipe.
    """
    run = cluster.run(name_or_id)
    named = f"the run {run.display_name!r}"
    if run_state(run) not in FINISHED:
        raise InputError(f"--continue {name_or_id}: {named} has not finished; wait for it or cancel it")
    specification = cluster.specification(run)
    specification = specification.get("pipeline_spec", specification)
    try:
        answer = cluster.read(f"reading the workflow of {named}", get_run_v1beta1, cluster, run.run_id)
    except NotFound:
        raise InputError(
            f"--continue {name_or_id}: {cluster.host} does not serve workflows (API v1beta1), which have the URIs of a "
            "run's artifacts"
        ) from None
    attempts = _Attempts(workflow_nodes(workflow_of(answer)))
    last = max((n for n in attempts.iterations() if attempts.succeeded(n, "report")), default=0)
    if not last:
        raise InputError(f"--continue {name_or_id}: no iteration of {named} has finished its report")
    _check_switches(specification, recipe, named)
    uris = {}
    for name in carried_over(recipe):
        stage, output = _producer(name, last)
        uri = attempts.uri(last, f"{stage}-driver", "outputs", output)
        if uri is None and name in _CONSUMERS:
            uri = attempts.uri(last, f"{_CONSUMERS[name][0]}-driver", "inputs", _CONSUMERS[name][1])
        if uri is None:
            raise InputError(_from_the_cache(cluster, run, stage, last))
        uris[name] = uri
    return Earlier(last, uris)


def workflow_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the nodes of an Argo workflow, which are compressed if there are many."""
    status = workflow.get("status") or {}
    nodes = status.get("nodes")
    if packed := status.get("compressedNodes"):
        nodes = json.loads(gzip.decompress(base64.b64decode(packed)))
    return list((nodes or {}).values())


class _Attempts:
    """The nodes of a run by the task that they belong to, latest attempts first.

    Argo calls a node `WORKFLOW(0).root(0).iteration-2(0).rft-driver(0)`; the numbers count attempts.
    """

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        self._nodes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for node in sorted(nodes, key=lambda node: _numbers(node["name"]), reverse=True):
            tasks = tuple(re.sub(r"\(\d+\)$", "", part) for part in node["name"].split("."))
            self._nodes.setdefault(tasks[1:], []).append(node)

    def iterations(self) -> list[int]:
        """Returns the numbers of the iterations that have started."""
        return [_number(tasks[1]) for tasks in self._nodes if len(tasks) == 2 and _number(tasks[1])]

    def succeeded(self, iteration: int, stage: str) -> bool:
        """Returns whether a stage of an iteration succeeded."""
        return any(node.get("phase") == "Succeeded" for node in self._of(iteration, stage))

    def uri(self, iteration: int, driver: str, kind: str, name: str) -> str | None:
        """Returns the URI of a stage's input or output from its driver's node; None if it came from the cache."""
        for node in self._of(iteration, driver):
            artifacts = _executor_input(node).get(kind, {}).get("artifacts", {})
            if node.get("phase") == "Succeeded" and name in artifacts:
                return str(artifacts[name]["artifacts"][0]["uri"])
        return None

    def _of(self, iteration: int, task: str) -> list[dict[str, Any]]:
        names = {f"iteration-{iteration}", *(["iteration"] if iteration == 1 else [])}
        return [node for name in names for node in self._nodes.get(("root", name, task), [])]


def _executor_input(driver: dict[str, Any]) -> dict[str, Any]:
    """Returns the executor input that a driver passes to its stage's pod; empty if the stage came from the cache."""
    given = {p["name"]: p.get("value") for p in (driver.get("outputs") or {}).get("parameters", [])}
    if not (patch := given.get("pod-spec-patch")):
        return {}
    command = json.loads(patch)["containers"][0]["command"]
    return dict(json.loads(command[command.index("--executor_input") + 1]))


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\((\d+)\)", name)]


def _number(task: str) -> int:
    """Returns the number of an iteration's task; 0 for other tasks."""
    match = re.fullmatch(r"iteration(?:-(\d+))?", task)
    return int(match[1] or 1) if match else 0


def _reported(path: str) -> int:
    """Returns the iteration whose report a stage is; 0 for other stages."""
    iteration, _, stage = path.partition("/")
    return _number(iteration) if stage == "report" else 0


def _is_complete(folder: Path, iteration: int) -> bool:
    """Returns whether the report of an iteration exists and covers exactly the iterations up to it."""
    summary = folder / "stages" / f"iteration-{iteration}" / "report" / "results" / "summary.json"
    return summary.is_file() and len(read_json(summary)["iterations"]) == iteration


def _producer(name: str, iteration: int) -> tuple[str, str]:
    """Returns the stage, and its output, that produces what is carried over from an iteration."""
    return {
        "policy": ("rft", "rloop_policy"),
        "best_policy": ("report", "best_policy"),
        "results": ("report", "results"),
        # The first iteration's exploration is the beginning of vanilla RL.
        _VANILLA: ("rl-exploration" if iteration == 1 else "vanilla-rl", "training_state"),
        _EXPERTS: ("verification-filtering", "experts"),
    }[name]


def _check_switches(specification: dict[str, Any], recipe: Recipe, named: str) -> None:
    """Checks that the continued run hands on exactly what the recipe carries over."""
    tasks, components = specification["root"]["dag"]["tasks"], specification["components"]
    handed_on: set[str] = set()
    for name, task in tasks.items():
        if _number(name):
            outputs = components[task["componentRef"]["name"]].get("outputDefinitions", {})
            handed_on |= set(outputs.get("artifacts", {}))
    for output, what, add, leave in (
        (_VANILLA, "vanilla RL", "add --with-vanilla-rl", "leave out --with-vanilla-rl and the recipe's `vanilla`"),
        (_EXPERTS, "experts of all iterations", "add --set experts_from=all", "add --set experts_from=iteration"),
    ):
        has, takes = output in handed_on, output in carried_over(recipe)
        if has and not takes:
            raise InputError(f"--continue: {named} has {what}, which this run would drop: {add}")
        if takes and not has:
            raise InputError(f"--continue: {named} has no {what} to continue: {leave}")


def _from_the_cache(cluster: Cluster, run: Any, stage: str, iteration: int) -> str:
    """Returns the message about a run whose stage came from the cache."""
    message = (
        f"--continue {run.display_name}: {stage} of its iteration {iteration} came from the cache, and only the run "
        "that produced the result has its URI. "
    )
    if (same := cluster.same_before(run)) is not None:
        return (
            f"{message}Continue {same.run_id} ({same.display_name!r}) instead, an earlier run of the same version and "
            "parameters"
        )
    return (
        f"{message}Continue that run instead; its ID is part of the output URIs on the stage's page in the UI: "
        f"{cluster.run_link(run.run_id)}"
    )
