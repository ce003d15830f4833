"""A run's specification changed so that it repeats a stage and what follows from it, and nothing else.

KFP looks a stage's result up by what it takes in (artifacts, values of parameters), by what it puts out, and by its
image and command. So the stage to repeat is given one more parameter, which it does not read, with a value that was
never used: it runs, its result is in the cache under that value, and a repeat of the repeat finds it there. (With
caching switched off for the stage it would run too, but its result would be in no cache.) What takes an artifact of
it runs because that artifact is new. What takes only values from it is given the parameter as well.
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from components.shared.errors import InputError, nearest
from launch.kubeflow.status.stages import iterate_stages, task_names

PARAMETER = "repeat"  # that a repeated stage is given


@dataclass(frozen=True)
class Rerun:
    """A specification to run, and what it will do: paths of stages, in the order in which they can run."""

    specification: dict[str, Any]
    repeated: list[str]  # were asked for
    following: list[str]  # use what those make
    cached: list[str]  # come from the cache, as long as nothing before them gives another result
    uncached: list[str]  # have caching switched off, and so run whenever they are reached


def rerun_from(specification: dict[str, Any], stage: str) -> Rerun:
    """What repeats a stage of a run and all that follows from it.

    Args:
        specification: of the run to repeat.
        stage: such as `rft` (in every iteration), `iteration-2/rft` or `iteration-2`.

    Raises:
        InputError: the run has no such stage.
    """
    changed: dict[str, Any] = json.loads(json.dumps(specification))
    tasks = dict(iterate_stages(changed))
    repeated = _chosen(stage, tasks)
    by_artifact, by_value = _followers(changed, repeated)
    for path in [*repeated, *(by_value - by_artifact)]:
        _force(changed, path)
    others = [path for path in tasks if path not in {*repeated, *by_artifact, *by_value}]
    caches = {path for path, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    return Rerun(
        changed,
        repeated,
        [path for path in tasks if path in by_artifact | by_value and path not in repeated],
        [path for path in others if path in caches],
        [path for path in others if path not in caches],
    )


def _chosen(stage: str, tasks: dict[str, Any]) -> list[str]:
    wanted = stage.strip("/").replace("_", "-")
    stages = {re.sub(r"^evaluation-.*", "evaluation", path.split("/")[-1]) for path in tasks}
    chosen = [
        path
        for path in tasks
        if wanted in (path, path.split("/")[0], path.split("/")[-1])
        or (wanted in stages and path.split("/")[-1].startswith(f"{wanted}-"))
    ]
    if not chosen:
        raise InputError(f"--from {stage!r} is no stage of this run.{nearest(wanted, [*stages, *tasks])}")
    return chosen


def _followers(specification: dict[str, Any], repeated: list[str]) -> tuple[set[str], set[str]]:
    """The stages that take an artifact from a repeated stage or a follower of one, and those that take a value."""
    pipeline = specification.get("pipeline_spec", specification)
    again = set(repeated)
    by_artifact: set[str] = set()
    by_value: set[str] = set()
    for path, task in iterate_stages(specification):  # producers come before those that take from them
        names = task_names(path)
        for kind, found in (("artifacts", by_artifact), ("parameters", by_value)):
            inputs = task.get("inputs", {}).get(kind, {}).values()
            if any(producer in again for each in inputs for producer in _producers(pipeline, names[:-1], each)):
                found.add(path)
                again.add(path)
    return by_artifact, by_value


def _producers(pipeline: dict[str, Any], within: list[str], source: dict[str, Any]) -> Iterator[str]:
    """The paths of the stages that make what a task in a pipeline takes.

    Args:
        pipeline: the whole specification.
        within: the names of the tasks on the way to the pipeline that the task is in.
        source: the task's input.
    """
    for kind in ("Artifact", "Parameter"):
        outer = source.get(f"componentInput{kind}")
        output = source.get(f"taskOutput{kind}")
        if outer is not None and within:
            passed = _task(pipeline, within)["inputs"].get(f"{kind.lower()}s", {}).get(outer)
            if passed is not None:
                yield from _producers(pipeline, within[:-1], passed)
        elif output is not None:
            yield from _makers(pipeline, [*within, output["producerTask"]], kind, output[f"output{kind}Key"])


def _makers(pipeline: dict[str, Any], names: list[str], kind: str, key: str) -> Iterator[str]:
    """The path of the stage that makes an output of a task, which may be a nested pipeline."""
    dag = pipeline["components"][_task(pipeline, names)["componentRef"]["name"]].get("dag")
    if dag is None:
        yield _path(names)
        return
    output = dag["outputs"][f"{kind.lower()}s"][key]
    selectors = output.get("artifactSelectors") or [output["valueFromParameter"]]
    for selector in selectors:
        yield from _makers(pipeline, [*names, selector["producerSubtask"]], kind, selector[f"output{kind}Key"])


def _dag(pipeline: dict[str, Any], names: list[str]) -> dict[str, Any]:
    if not names:
        return dict(pipeline["root"]["dag"])
    return dict(pipeline["components"][_task(pipeline, names)["componentRef"]["name"]]["dag"])


def _task(pipeline: dict[str, Any], names: list[str]) -> Any:
    return _dag(pipeline, names[:-1])["tasks"][names[-1]]


def _path(names: list[str]) -> str:
    first, *rest = names
    return "/".join(["iteration-1" if rest and first == "iteration" else first, *rest])


def _force(specification: dict[str, Any], path: str) -> None:
    """Makes a stage run again, and leaves other tasks of the same component as they are."""
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
    """Gives a task a copy of its component, if others have the same."""
    task, components = _task(pipeline, names), pipeline["components"]
    name = task["componentRef"]["name"]
    dags = [pipeline["root"]["dag"], *(each["dag"] for each in components.values() if "dag" in each)]
    if sum(each["componentRef"]["name"] == name for dag in dags for each in dag["tasks"].values()) < 2:
        return
    own = next(free for number in range(2, 10_000) if (free := f"{name}-{number}") not in components)
    components[own] = json.loads(json.dumps(components[name]))
    task["componentRef"]["name"] = own
