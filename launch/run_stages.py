"""The stages of a run on Kubeflow: which there are, how each is doing, and how to run again from one of them.

The API gives the nodes of the Argo workflow as a flat list without parents. For a stage `rft` these are
`rft-driver`, which looks into the cache, `rft`, and in it `executor`, which is skipped when the cache had it; an
iteration's nodes bear the same names as the one before. Iterations follow each other, so the second `rft` to
begin is that of iteration 2.
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.shared.errors import InputError, nearest

FINISHED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_CACHED_SECONDS = 3.0  # no container starts, fetches inputs and stores outputs in less


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    `state` is waiting, starting, running, succeeded, cached, failed, canceled or not reached.
    """

    path: str
    title: str
    state: str
    started: datetime | None = None
    ended: datetime | None = None
    pod: str | None = None
    error: str | None = None

    @property
    def seconds(self) -> float | None:
        """How long it ran, or has run so far."""
        if self.started is None:
            return None
        return max(0.0, ((self.ended or datetime.now(UTC)) - self.started).total_seconds())


def stages_of(run: Any, specification: dict[str, Any]) -> list[Stage]:
    """A run's stages, in the order in which they can run.

    Args:
        run: as the API gives it.
        specification: what it runs.
    """
    nodes: dict[str, list[Any]] = {}
    for node in sorted((run.run_details and run.run_details.task_details) or [], key=_began):
        nodes.setdefault(node.display_name, []).append(node)
    skipped = [
        _began(node) for name in nodes if name.startswith("executor") for node in nodes[name] if node.state == "SKIPPED"
    ]
    seen: dict[str, int] = {}
    stages = []
    for path, task in iterate_stages(specification):
        name = path.split("/")[-1]
        turn = seen[name] = seen.get(name, -1) + 1
        node, driver = (dict(enumerate(nodes.get(which, []))).get(turn) for which in (name, f"{name}-driver"))
        stages.append(_stage(path, _title(path, task), node, driver, run.state in FINISHED, skipped))
    return stages


def _stage(path: str, title: str, node: Any, driver: Any, over: bool, skipped: list[datetime]) -> Stage:
    if driver is not None and driver.state == "FAILED":
        return Stage(
            path,
            title,
            "failed",
            _time(driver.start_time),
            _time(driver.end_time),
            driver.pod_name,
            (driver.error and driver.error.message) or "its driver failed: see the driver's log",
        )
    if node is None or node.state in ("RUNTIME_STATE_UNSPECIFIED", "SKIPPED", None):
        state = "not reached" if over else "starting" if driver is not None else "waiting"
        return Stage(path, title, state)
    started, ended = _time(node.start_time), _time(node.end_time)
    state = {"PENDING": "starting", "CANCELING": "running"}.get(node.state, node.state.lower())
    if state in ("running", "starting") and over:
        state = "canceled"
    if state == "succeeded" and started and ended and (ended - started).total_seconds() < _CACHED_SECONDS:
        # KFP says of no stage that it came from the cache; its executor was skipped at that time.
        state = "cached" if any(started <= when <= ended for when in skipped) else state
    error = node.error.message if node.error else None
    return Stage(path, title, state, started, ended, node.pod_name, error)


def rerun_from(specification: dict[str, Any], stage: str) -> tuple[dict[str, Any], list[str]]:
    """A specification whose results before a stage come from the cache, and the stage's and later ones do not.

    KFP looks a task's result up by its `cacheKey`, where it has one, in place of its content. A key that was
    never used makes the stage run, and its new results make all that takes them run.

    Args:
        specification: of the run to repeat.
        stage: such as `rft` (in every iteration), `iteration-2/rft` or `iteration-2`.

    Returns:
        The specification, and the paths of the stages that got a new key.

    Raises:
        InputError: the run has no such stage.
    """
    changed: dict[str, Any] = json.loads(json.dumps(specification))
    wanted = stage.strip("/").replace("_", "-")
    tasks = dict(iterate_stages(changed))
    stages = {re.sub(r"^evaluation-.*", "evaluation", path.split("/")[-1]) for path in tasks}
    chosen = [
        path
        for path in tasks
        if wanted in (path, path.split("/")[0], path.split("/")[-1])
        or (wanted in stages and path.split("/")[-1].startswith(f"{wanted}-"))
    ]
    if not chosen:
        raise InputError(f"--from {stage!r} is no stage of this run.{nearest(wanted, [*stages, *tasks])}")
    for path in chosen:
        tasks[path].setdefault("cachingOptions", {})["cacheKey"] = f"{path} {uuid.uuid4()}"
    return changed, chosen


def iterate_stages(specification: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A pipeline's stages in the order in which they can run: paths such as `iteration-2/rft`, and task specs."""
    pipeline = specification.get("pipeline_spec", specification)

    def visit(dag: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        waiting = dict(sorted(dag["tasks"].items()))
        while waiting:
            ready = [n for n, task in waiting.items() if not waiting.keys() & set(task.get("dependentTasks", ()))]
            for name in ready:
                task = waiting.pop(name)
                inner = pipeline["components"][task["componentRef"]["name"]].get("dag")
                if inner:
                    yield from visit(inner, f"{prefix}{'iteration-1' if name == 'iteration' else name}/")
                else:
                    yield prefix + name, task

    return visit(pipeline["root"]["dag"], "")


def _title(path: str, task: dict[str, Any]) -> str:
    name = task.get("taskInfo", {}).get("name", path.split("/")[-1])
    return f"{path.split('/')[0].replace('-', ' ')}: {name}" if "/" in path else name


def _time(moment: datetime | None) -> datetime | None:
    """A moment, or None for the year 1 and 1970, which the API gives for what has not happened."""
    return moment if moment is not None and moment.year > 1970 else None


def _began(node: Any) -> datetime:
    return _time(node.start_time) or datetime.max.replace(tzinfo=UTC)
