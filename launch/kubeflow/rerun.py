"""Rewrites a run's specification so that it repeats a stage and everything downstream of it, and nothing else.

KFP's cache key is made of a stage's inputs (artifacts and parameter values), its outputs, image and command. So the
stage to repeat gets an extra parameter, which it does not read, with a unique value. The stage runs, its result is
cached under that value, and a rerun of the rerun finds it there. (With caching disabled for the stage it would run too,
but its result would not be cached.) Stages that consume an artifact of it run because that artifact is new. Stages that
consume only its parameter values get the extra parameter as well.
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from components.shared.errors import InputError, nearest
from launch.kubeflow.status.stages import iterate_stages, task_names

PARAMETER = "repeat"  # extra parameter of a repeated stage


@dataclass(frozen=True)
class Rerun:
    """A specification to run, and what it will do: paths of stages, in an order in which they can run."""

    specification: dict[str, Any]
    repeated: list[str]  # requested explicitly
    downstream: list[str]  # consume outputs of these
    cached: list[str]  # come from the cache, unless an upstream result changes
    uncached: list[str]  # have caching disabled, and run whenever they are reached


def rerun_from(specification: dict[str, Any], stage: str) -> Rerun:
    """Returns what repeats a stage of a run and everything downstream of it.

    Args:
        specification: specification of the original run.
        stage: `rft` (in every iteration), `iteration-2/rft` or `iteration-2`, for example.

    Raises:
        InputError: the run has no such stage.
    """
    changed: dict[str, Any] = json.loads(json.dumps(specification))
    tasks = dict(iterate_stages(changed))
    repeated = _select(stage, tasks)
    by_artifact, by_value = _downstream(changed, repeated)
    for path in [*repeated, *(by_value - by_artifact)]:
        _force_rerun(changed, path)
    others = [path for path in tasks if path not in {*repeated, *by_artifact, *by_value}]
    caching = {path for path, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    return Rerun(
        changed,
        repeated,
        [path for path in tasks if path in by_artifact | by_value and path not in repeated],
        [path for path in others if path in caching],
        [path for path in others if path not in caching],
    )


def _select(stage: str, tasks: dict[str, Any]) -> list[str]:
    wanted = stage.strip("/").replace("_", "-")
    stages = {re.sub(r"^evaluation-.*", "evaluation", path.split("/")[-1]) for path in tasks}
    selected = [
        path
        for path in tasks
        if wanted in (path, path.split("/")[0], path.split("/")[-1])
        or (wanted in stages and path.split("/")[-1].startswith(f"{wanted}-"))
    ]
    if not selected:
        raise InputError(f"--from {stage!r} is not a stage of this run.{nearest(wanted, [*stages, *tasks])}")
    return selected


def _downstream(specification: dict[str, Any], repeated: list[str]) -> tuple[set[str], set[str]]:
    """Returns the stages downstream of the repeated ones: those that take an artifact, and those that take a value."""
    pipeline = specification.get("pipeline_spec", specification)
    again = set(repeated)
    by_artifact: set[str] = set()
    by_value: set[str] = set()
    for path, task in iterate_stages(specification):  # producers come before consumers
        names = task_names(path)
        for kind, found in (("artifacts", by_artifact), ("parameters", by_value)):
            inputs = task.get("inputs", {}).get(kind, {}).values()
            if any(producer in again for each in inputs for producer in _producers(pipeline, names[:-1], each)):
                found.add(path)
                again.add(path)
    return by_artifact, by_value


def _producers(pipeline: dict[str, Any], within: list[str], source: dict[str, Any]) -> Iterator[str]:
    """Yields the paths of the stages that produce an input of a task.

    Args:
        pipeline: complete pipeline specification.
        within: task names of the enclosing nested pipelines, outermost first.
        source: specification of the task's input.
    """
    for kind in ("Artifact", "Parameter"):
        outer = source.get(f"componentInput{kind}")
        output = source.get(f"taskOutput{kind}")
        if outer is not None and within:
            passed = _task(pipeline, within)["inputs"].get(f"{kind.lower()}s", {}).get(outer)
            if passed is not None:
                yield from _producers(pipeline, within[:-1], passed)
        elif output is not None:
            yield from _output_producers(pipeline, [*within, output["producerTask"]], kind, output[f"output{kind}Key"])


def _output_producers(pipeline: dict[str, Any], names: list[str], kind: str, key: str) -> Iterator[str]:
    """Yields the paths of the stages that produce an output of a task, which may be a nested pipeline."""
    dag = pipeline["components"][_task(pipeline, names)["componentRef"]["name"]].get("dag")
    if dag is None:
        yield _path(names)
        return
    output = dag["outputs"][f"{kind.lower()}s"][key]
    selectors = output.get("artifactSelectors") or [output["valueFromParameter"]]
    for selector in selectors:
        yield from _output_producers(
            pipeline, [*names, selector["producerSubtask"]], kind, selector[f"output{kind}Key"]
        )


def _dag(pipeline: dict[str, Any], names: list[str]) -> dict[str, Any]:
    if not names:
        return dict(pipeline["root"]["dag"])
    return dict(pipeline["components"][_task(pipeline, names)["componentRef"]["name"]]["dag"])


def _task(pipeline: dict[str, Any], names: list[str]) -> Any:
    return _dag(pipeline, names[:-1])["tasks"][names[-1]]


def _path(names: list[str]) -> str:
    first, *rest = names
    return "/".join(["iteration-1" if rest and first == "iteration" else first, *rest])


def _force_rerun(specification: dict[str, Any], path: str) -> None:
    """Makes a stage run again without affecting other tasks of the same component."""
    pipeline = specification.get("pipeline_spec", specification)
    names = task_names(path)
    for depth in range(1, len(names) + 1):
        _own_component(pipeline, names[:depth])
    task = _task(pipeline, names)
    task.setdefault("inputs", {}).setdefault("parameters", {})[PARAMETER] = {
        "runtimeValue": {"constant": str(uuid.uuid4())}
    }
    inputs = pipeline["components"][task["componentRef"]["name"]].setdefault("inputDefinitions", {})
    inputs.setdefault("parameters", {})[PARAMETER] = {"parameterType": "STRING", "isOptional": True}


def _own_component(pipeline: dict[str, Any], names: list[str]) -> None:
    """Gives a task its own copy of its component, if other tasks share it."""
    task, components = _task(pipeline, names), pipeline["components"]
    name = task["componentRef"]["name"]
    dags = [pipeline["root"]["dag"], *(each["dag"] for each in components.values() if "dag" in each)]
    if sum(each["componentRef"]["name"] == name for dag in dags for each in dag["tasks"].values()) < 2:
        return
    own = next(free for number in range(2, 10_000) if (free := f"{name}-{number}") not in components)
    components[own] = json.loads(json.dumps(components[name]))
    task["componentRef"]["name"] = own
