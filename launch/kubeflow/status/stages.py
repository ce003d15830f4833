"""The stages of a run on Kubeflow and the state of each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from launch.compiled import leaves, stages_of
from launch.kubeflow.status.nodes import ENDED, Node, Nodes, time_of
from launch.kubeflow.status.pod_request import pod_request, queue_of

FINISHED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_CACHED = timedelta(seconds=3)  # no container can start, download inputs and upload outputs in less time
_LATE = timedelta(minutes=1)  # KFP normally receives Argo's updates within seconds


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    `state` is one of: waiting (for other stages), starting (its driver is running), pending (its pod waits in its
    queue, for a node or for its image), running, "running or pending" (indistinguishable), retrying (an attempt failed,
    another may follow), succeeded, cached, failed, canceled, not reached, and unknown (no longer reported by KFP).
    """

    path: str
    title: str
    state: str
    started: datetime | None = None
    ended: datetime | None = None
    attempt: int = 0  # current attempt of its pod; 0 before the first
    attempts: int = 1  # maximum number of attempts
    waits_for: str | None = None  # if pending: what its pod requests
    queue: str | None = None  # Kueue queue in which it may wait: its pod if pending, its TrainJob if running
    error: str | None = None

    def seconds(self, now: datetime) -> float | None:
        """Returns how long it ran, or has been running by `now`."""
        return None if self.started is None else max(0.0, ((self.ended or now) - self.started).total_seconds())


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run at a point in time.

    Attributes:
        state: state of the run.
        stages: its stages, in an order in which they can run.
        failed: stages that failed, nested pipelines whose driver failed, and importers that failed.
        notes: remarks to show with the stages.
        at: the point in time.
    """

    state: str
    stages: list[Stage]
    failed: list[Stage]
    notes: list[str]
    at: datetime


class _StageNodes(NamedTuple):
    """The nodes of a stage in the workflow."""

    path: str
    tasks: list[dict[str, Any]]  # specs of the enclosing nested pipelines' tasks, then its own
    driver: Node
    task: Node
    executor: Node | None  # of the task's last attempt
    earlier_pods: int  # pods in the task's earlier attempts


def run_progress(run: Any, specification: dict[str, Any], now: datetime | None = None) -> RunProgress:
    """Returns the progress of a run and its stages.

    Args:
        run: the run as the API returns it.
        specification: its pipeline specification.
        now: time at which the run was fetched; the current time if None.
    """
    nodes, state, now = Nodes(run), run_state(run), now or datetime.now(UTC)
    unreported = _reporting_stopped(nodes, run, now)
    parameters = (run.runtime_config and run.runtime_config.parameters) or {}
    entry, nested = nodes.entry_point(), dict[str, Stage]()
    if (driver := nodes.node(f"{entry}.root-driver", [f"{entry}.root"])).state == "FAILED":
        nested[""] = _driver_failed(driver, "", "The pipeline")
    found, importers = [], []
    for path, tasks, is_stage in leaves(specification):
        parent = _parent(nodes, entry, specification, path, tasks, nested)
        if is_stage:
            found.append(_stage_nodes(nodes, path, tasks, parent))
        elif importer := _failed_importer(nodes, path, tasks, parent):
            importers.append(importer)
    pods = nodes.pods_of([each.executor for each in found if each.executor and each.executor.attempts])
    failed = [_reconcile(stage, run, state, unreported) for stage in (*nested.values(), *importers)]
    stages = []
    for each in found:
        reported = _stage(each, pods.get(each.executor.name, []) if each.executor else [])
        stage = _reconcile(reported, run, state, unreported)
        if stage.state in ("pending", "running or pending"):
            stage = replace(stage, waits_for=pod_request(specification, parameters, each.tasks))
        if stage.state in ("pending", "running or pending", "running"):
            stage = replace(stage, queue=queue_of(specification, each.tasks, pod_runs=stage.state == "running"))
        stages.append(stage)
    return RunProgress(
        state,
        stages,
        [stage for stage in (*failed, *stages) if stage.state == "failed"],
        _notes(nodes, state, unreported),
        now,
    )


def run_state(run: Any) -> str:
    """Returns a run's state; CANCELED for a canceled run, which KFP reports as FAILED."""
    state = run.state or "PENDING"
    if state == "FAILED":
        history = [entry.state for entry in run.state_history or []][:-1]
        ended = max((i for i, earlier in enumerate(history) if earlier in FINISHED), default=-1)  # before a retry
        if "CANCELING" in history[ended + 1 :]:
            return "CANCELED"
    return "PENDING" if state == "RUNTIME_STATE_UNSPECIFIED" else str(state)


def _parent(
    nodes: Nodes,
    entry: str,
    specification: dict[str, Any],
    path: str,
    tasks: list[dict[str, Any]],
    nested: dict[str, Stage],
) -> str:
    """Returns the full node name of the DAG that a stage is in, in its last attempt.

    Adds nested pipelines whose driver failed to `nested`.
    """
    pipeline = specification.get("pipeline_spec", specification)
    dag, parent = pipeline["root"]["dag"], f"{entry}.root"
    root = nodes.node(parent, _drivers(parent, dag))
    parent = root.attempts[-1] if root.attempts else parent
    for depth, name in enumerate(task_names(path)[:-1]):
        driver = nodes.node(f"{parent}.{name}-driver", [f"{parent}.{name}"])
        if driver.state == "FAILED":
            inner_path = "/".join(path.split("/")[: depth + 1])
            nested[inner_path] = _driver_failed(driver, inner_path, _title(tasks[: depth + 1], inner_path))
        dag = pipeline["components"][tasks[depth]["componentRef"]["name"]]["dag"]
        inner = nodes.node(f"{parent}.{name}", _drivers(f"{parent}.{name}", dag))
        parent = inner.attempts[-1] if inner.attempts else f"{parent}.{name}"
    return parent


def _drivers(parent: str, dag: dict[str, Any]) -> list[str]:
    return [f"{parent}.{name}-driver" for name in dag["tasks"]]


def _stage_nodes(nodes: Nodes, path: str, tasks: list[dict[str, Any]], parent: str) -> _StageNodes:
    name = f"{parent}.{task_names(path)[-1]}"
    driver, task = nodes.node(f"{name}-driver", [name]), nodes.node(name, [f"{name}.executor"])
    executors = [nodes.node(f"{attempt}.executor", ()) for attempt in task.attempts]
    earlier = sum(len(executor.attempts) for executor in executors[:-1])
    return _StageNodes(path, tasks, driver, task, executors[-1] if executors else None, earlier)


def _stage(nodes: _StageNodes, pods: list[Any]) -> Stage:
    """Returns a stage according to its nodes alone, regardless of how the run ended."""
    title, task = _title(nodes.tasks, nodes.path), nodes.task
    attempts = int(nodes.tasks[-1].get("retryPolicy", {}).get("maxRetryCount", 0)) + 1
    if nodes.driver.state == "FAILED":
        return _driver_failed(nodes.driver, nodes.path, title)
    if task.row is None or task.state is None or nodes.executor is None:
        return Stage(nodes.path, title, "waiting" if nodes.driver.state is None else "starting", attempts=attempts)
    started, ended = time_of(task.row.start_time), time_of(task.row.end_time)
    pods_started = len(nodes.executor.attempts)
    attempt = nodes.earlier_pods + pods_started
    stage = Stage(nodes.path, title, _stage_state(task.state), started, ended, attempt, attempts)
    if task.state == "SUCCEEDED" and not pods_started and started and ended and ended - started < _CACHED:
        return replace(stage, state="cached")
    if task.state not in ENDED:
        # KFP reports the task and its executor as running while their pod is pending and during the back-off.
        state = {
            frozenset({"PENDING"}): "pending",
            frozenset({"FAILED"}): "retrying",
            frozenset({"PENDING", "RUNNING"}): "running or pending",
        }.get(frozenset(pod.state for pod in pods), "running" if pods_started else "starting")
        return replace(stage, state=state, ended=None)
    return stage


def _driver_failed(driver: Node, path: str, title: str) -> Stage:
    row: Any = driver.row
    return Stage(path, title, "failed", time_of(row.start_time), time_of(row.end_time), error="its driver failed")


def _failed_importer(nodes: Nodes, path: str, tasks: list[dict[str, Any]], parent: str) -> Stage | None:
    """Returns an importer that failed, like a stage: it is a single pod, without a driver."""
    node = nodes.node(f"{parent}.{task_names(path)[-1]}", ())
    if node.row is None or node.state != "FAILED":
        return None
    started, ended, pods = time_of(node.row.start_time), time_of(node.row.end_time), len(node.attempts)
    return Stage(path, f"{_title(tasks, path)} (importer)", "failed", started, ended, pods, pods)


def _stage_state(state: str) -> str:
    return {"PENDING": "starting", "CANCELING": "running"}.get(state, state.lower())


def _reconcile(stage: Stage, run: Any, state: str, unreported: bool) -> Stage:
    """Adjusts a stage for how its run ended, and for whether KFP still reports it."""
    canceled_at = _canceled_at(run) if state in ("CANCELED", "CANCELING") else None
    if stage.state == "failed" and canceled_at and (stage.ended is None or stage.ended >= canceled_at):
        return replace(stage, state="canceled", error=None)
    if stage.state in ("succeeded", "cached", "failed"):
        return stage
    if state == "SUCCEEDED" or unreported:  # a pipeline without conditions succeeds only if all its stages do
        inferred = "succeeded" if state == "SUCCEEDED" else "unknown"
        return replace(stage, state=inferred, started=None, ended=None, attempt=0)
    if state not in FINISHED:
        return stage
    if stage.state in ("waiting", "starting"):
        return replace(stage, state="not reached")
    return replace(stage, state="canceled", ended=time_of(run.finished_at))


def _canceled_at(run: Any) -> datetime | None:
    return next((entry.update_time for entry in reversed(run.state_history or []) if entry.state == "CANCELING"), None)


def _reporting_stopped(nodes: Nodes, run: Any, now: datetime) -> bool:
    """Whether KFP no longer reports stages: it cannot read workflows that Argo compresses, those of over 1 MiB."""
    workflow = nodes.workflow_row()
    if run.state in FINISHED:
        return workflow is None or workflow.state not in ENDED
    # KFP's cache still gets an entry when a stage ends; normally, Argo's update on its pod follows within seconds.
    update, ended = nodes.last_update(), [time for row in nodes.unnamed if (time := time_of(row.end_time))]
    return update is not None and any(time > update and now > time + _LATE for time in ended)


def _notes(nodes: Nodes, state: str, unreported: bool) -> list[str]:
    if not unreported:
        return []
    update = nodes.last_update()
    if update is None:
        return ["Kubeflow has reported no stage of this run: its workflow was too large, or could not be created."]
    ended = {row.execution_id: time_of(row.end_time) for row in nodes.unnamed if row.execution_id}
    later = sorted(time for time in ended.values() if time and time > update)
    note = (
        f"Kubeflow has reported no stage of this run since {_clock(update)}: beyond 1 MiB it does not read the "
        "run's workflow any more."
    )
    if later and state != "SUCCEEDED":
        stages_have = "stage has" if len(later) == 1 else "stages have"
        note += f" At least {len(later)} more {stages_have} ended since, the last one at {_clock(later[-1])}."
    return [note]


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%H:%M:%S} UTC"


def iterate_stages(specification: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a pipeline's stages in an order in which they can run: paths such as `iteration-2/rft` and task specs."""
    return ((stage.path, stage.tasks[-1]) for stage in stages_of(specification))


def task_names(path: str) -> list[str]:
    """Returns the names of the tasks in a stage's path; kfp names the first iteration `iteration`."""
    first, *rest = path.split("/")
    return ["iteration" if rest and first == "iteration-1" else first, *rest]


def _title(tasks: list[dict[str, Any]], path: str) -> str:
    names = [task.get("taskInfo", {}).get("name", name) for task, name in zip(tasks, path.split("/"), strict=True)]
    return ": ".join([*(name[:1].lower() + name[1:] for name in names[:-1]), names[-1]])
