"""The stages of a run on Kubeflow: which there are, and how each is doing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from launch.kubeflow.status.nodes import ENDED, Node, Nodes, time_of
from launch.kubeflow.status.pod_request import pod_request

FINISHED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_CACHED = timedelta(seconds=3)  # no container starts, fetches inputs and stores outputs in less
_LATE = timedelta(minutes=1)  # KFP hears from Argo within seconds


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    `state` is one of: waiting (for others), starting (its driver is at work), pending (its pod waits for a node or
    its image), running, "running or pending", retrying (an attempt failed, and another may follow), succeeded,
    cached, failed, canceled, not reached, and unknown, where KFP does not report it any more.
    """

    path: str
    title: str
    state: str
    started: datetime | None = None
    ended: datetime | None = None
    attempt: int = 0  # of its pod; 0 before the first
    attempts: int = 1  # as many as it may have
    waits_for: str | None = None  # of a pending stage: what its pod asks for
    error: str | None = None

    def seconds(self, now: datetime) -> float | None:
        """How long it ran, or has run by now."""
        return None if self.started is None else max(0.0, ((self.ended or now) - self.started).total_seconds())


@dataclass(frozen=True)
class RunProgress:
    """How a run is doing: its own state, its stages in the order in which they can run, and what is to be said of them.

    `failed` has the stages that failed, and nested pipelines whose start did. All is true of the time `at`.
    """

    state: str
    stages: list[Stage]
    failed: list[Stage]
    notes: list[str]
    at: datetime


class _StageNodes(NamedTuple):
    """What a stage consists of in the workflow."""

    path: str
    tasks: list[dict[str, Any]]  # its own, after those of the nested pipelines that it is in
    driver: Node
    task: Node
    executor: Node | None  # in the task's last attempt
    earlier_pods: int  # in its attempts before


def run_progress(run: Any, specification: dict[str, Any], now: datetime | None = None) -> RunProgress:
    """How a run and its stages are doing.

    Args:
        run: as the API gives it.
        specification: what it runs.
        now: the time at which it was asked for; the present if None.
    """
    nodes, state, now = Nodes(run), run_state(run), now or datetime.now(UTC)
    silent = _silent(nodes, run, now)
    given = (run.runtime_config and run.runtime_config.parameters) or {}
    entry, nested = nodes.root(), dict[str, Stage]()
    if (driver := nodes.node(f"{entry}.root-driver", [f"{entry}.root"])).state == "FAILED":
        nested[""] = _driver_failed(driver, "", "The pipeline")
    found = [
        _stage_nodes(nodes, path, tasks, _place(nodes, entry, specification, path, tasks, nested))
        for path, tasks in _enclosed_stages(specification)
    ]
    pods = nodes.pods_of([each.executor for each in found if each.executor and each.executor.attempts])
    failed = [_as_of(stage, run, state, silent) for stage in nested.values()]
    stages = []
    for each in found:
        stage = _as_of(_stage(each, pods.get(each.executor.name, []) if each.executor else []), run, state, silent)
        if stage.state in ("pending", "running or pending"):
            stage = replace(stage, waits_for=pod_request(specification, given, each.tasks))
        stages.append(stage)
    return RunProgress(
        state,
        stages,
        [stage for stage in (*failed, *stages) if stage.state == "failed"],
        _notes(nodes, state, silent),
        now,
    )


def run_state(run: Any) -> str:
    """A run's state; CANCELED also for one that ended because it was cancelled, which KFP calls failed."""
    state = run.state or "PENDING"
    if state == "FAILED":
        history = [entry.state for entry in run.state_history or []][:-1]
        ended = max((i for i, earlier in enumerate(history) if earlier in FINISHED), default=-1)  # before a retry
        if "CANCELING" in history[ended + 1 :]:
            return "CANCELED"
    return "PENDING" if state == "RUNTIME_STATE_UNSPECIFIED" else str(state)


def _place(
    nodes: Nodes,
    entry: str,
    specification: dict[str, Any],
    path: str,
    tasks: list[dict[str, Any]],
    nested: dict[str, Stage],
) -> str:
    """The full name of the pipeline that a stage is in, in its last attempt.

    Nested pipelines whose driver failed are added to `nested`.
    """
    pipeline = specification.get("pipeline_spec", specification)
    dag, place = pipeline["root"]["dag"], f"{entry}.root"
    root = nodes.node(place, _drivers(place, dag))
    place = root.attempts[-1] if root.attempts else place
    for depth, name in enumerate(task_names(path)[:-1]):
        driver = nodes.node(f"{place}.{name}-driver", [f"{place}.{name}"])
        if driver.state == "FAILED":
            where = "/".join(path.split("/")[: depth + 1])
            nested[where] = _driver_failed(driver, where, _title(tasks[: depth + 1], where))
        dag = pipeline["components"][tasks[depth]["componentRef"]["name"]]["dag"]
        inner = nodes.node(f"{place}.{name}", _drivers(f"{place}.{name}", dag))
        place = inner.attempts[-1] if inner.attempts else f"{place}.{name}"
    return place


def _drivers(place: str, dag: dict[str, Any]) -> list[str]:
    return [f"{place}.{name}-driver" for name in dag["tasks"]]


def _stage_nodes(nodes: Nodes, path: str, tasks: list[dict[str, Any]], place: str) -> _StageNodes:
    name = f"{place}.{task_names(path)[-1]}"
    driver, task = nodes.node(f"{name}-driver", [name]), nodes.node(name, [f"{name}.executor"])
    executors = [nodes.node(f"{attempt}.executor", ()) for attempt in task.attempts]
    earlier = sum(len(executor.attempts) for executor in executors[:-1])
    return _StageNodes(path, tasks, driver, task, executors[-1] if executors else None, earlier)


def _stage(of: _StageNodes, pods: list[Any]) -> Stage:
    """A stage as its nodes are, whatever became of the run."""
    title, task = _title(of.tasks, of.path), of.task
    attempts = int(of.tasks[-1].get("retryPolicy", {}).get("maxRetryCount", 0)) + 1
    if of.driver.state == "FAILED":
        return _driver_failed(of.driver, of.path, title)
    if task.row is None or task.state is None or of.executor is None:
        return Stage(of.path, title, "waiting" if of.driver.state is None else "starting", attempts=attempts)
    started, ended = time_of(task.row.start_time), time_of(task.row.end_time)
    begun = len(of.executor.attempts)
    stage = Stage(of.path, title, _word(task.state), started, ended, of.earlier_pods + begun, attempts)
    if task.state == "SUCCEEDED" and not begun and started and ended and ended - started < _CACHED:
        return replace(stage, state="cached")
    if task.state not in ENDED:
        # The task and its executor run while their pod waits, or while there is a pause after a failed attempt.
        state = {
            frozenset({"PENDING"}): "pending",
            frozenset({"FAILED"}): "retrying",
            frozenset({"PENDING", "RUNNING"}): "running or pending",
        }.get(frozenset(pod.state for pod in pods), "running" if begun else "starting")
        return replace(stage, state=state, ended=None)
    return stage


def _driver_failed(driver: Node, path: str, title: str) -> Stage:
    row: Any = driver.row
    return Stage(path, title, "failed", time_of(row.start_time), time_of(row.end_time), error="its driver failed")


def _word(state: str) -> str:
    return {"PENDING": "starting", "CANCELING": "running"}.get(state, state.lower())


def _as_of(stage: Stage, run: Any, state: str, silent: bool) -> Stage:
    """A stage in the light of how its run ended, and of whether KFP still reports it."""
    cut_off = _cancelled_at(run) if state in ("CANCELED", "CANCELING") else None
    if stage.state == "failed" and cut_off and (stage.ended is None or stage.ended >= cut_off):
        return replace(stage, state="canceled", error=None)
    if stage.state in ("succeeded", "cached", "failed"):
        return stage
    if state == "SUCCEEDED" or silent:  # a pipeline without conditions succeeds when all its stages have
        gone = "succeeded" if state == "SUCCEEDED" else "unknown"
        return replace(stage, state=gone, started=None, ended=None, attempt=0)
    if state not in FINISHED:
        return stage
    if stage.state in ("waiting", "starting"):
        return replace(stage, state="not reached")
    return replace(stage, state="canceled", ended=time_of(run.finished_at))


def _cancelled_at(run: Any) -> datetime | None:
    return next((entry.update_time for entry in reversed(run.state_history or []) if entry.state == "CANCELING"), None)


def _silent(nodes: Nodes, run: Any, now: datetime) -> bool:
    """Whether KFP has stopped to report stages: Argo compresses a workflow of over 1 MiB, which KFP does not read."""
    top = nodes.top()
    if run.state in FINISHED:
        return top is None or top.state not in ENDED
    # The entries of ended stages in KFP's cache go on coming; of a pod that has ended, Argo tells soon after.
    news, ended = nodes.last_news(), [time for row in nodes.unnamed if (time := time_of(row.end_time))]
    return news is not None and any(time > news and now > time + _LATE for time in ended)


def _notes(nodes: Nodes, state: str, silent: bool) -> list[str]:
    if not silent:
        return []
    news = nodes.last_news()
    if news is None:
        return ["Kubeflow has reported no stage of this run: its workflow was too large, or could not be created."]
    ended = {row.execution_id: time_of(row.end_time) for row in nodes.unnamed if row.execution_id}
    later = sorted(time for time in ended.values() if time and time > news)
    note = (
        f"Kubeflow has reported no stage of this run since {_clock(news)}: beyond 1 MiB it does not read the "
        "run's workflow any more."
    )
    if later and state != "SUCCEEDED":
        were = "stage has" if len(later) == 1 else "stages have"
        note += f" At least {len(later)} more {were} ended since, the last one at {_clock(later[-1])}."
    return [note]


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%H:%M:%S} UTC"


def iterate_stages(specification: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A pipeline's stages in the order in which they can run: paths such as `iteration-2/rft`, and task specs."""
    return ((path, tasks[-1]) for path, tasks in _enclosed_stages(specification))


def task_names(path: str) -> list[str]:
    """The names of the tasks on the way to a stage: kfp calls the first iteration `iteration`."""
    first, *rest = path.split("/")
    return ["iteration" if rest and first == "iteration-1" else first, *rest]


def _enclosed_stages(specification: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The stages' paths, and their task specs after those of the nested pipelines that they are in."""
    pipeline = specification.get("pipeline_spec", specification)

    def visit(
        dag: dict[str, Any], prefix: str, enclosing: list[dict[str, Any]]
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        waiting = dict(sorted(dag["tasks"].items()))
        while waiting:
            ready = [n for n, task in waiting.items() if not waiting.keys() & set(task.get("dependentTasks", ()))]
            for name in ready:
                task = waiting.pop(name)
                inner = pipeline["components"][task["componentRef"]["name"]].get("dag")
                if inner:
                    path = f"{prefix}{'iteration-1' if name == 'iteration' else name}/"
                    yield from visit(inner, path, [*enclosing, task])
                else:
                    yield prefix + name, [*enclosing, task]

    return visit(pipeline["root"]["dag"], "", [])


def _title(tasks: list[dict[str, Any]], path: str) -> str:
    names = [task.get("taskInfo", {}).get("name", name) for task, name in zip(tasks, path.split("/"), strict=True)]
    return ": ".join([*(name[:1].lower() + name[1:] for name in names[:-1]), names[-1]])
