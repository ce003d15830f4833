"""Displays runs and schedules on Kubeflow: one line per stage as for a local run, the outcome and links; or JSON."""

import sys
import time
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from launch.kubeflow.cluster import Cluster
from launch.kubeflow.cron import Cron
from launch.kubeflow.rerun import Rerun
from launch.kubeflow.server import Unreachable
from launch.kubeflow.status.stages import FINISHED, RunProgress, Stage
from launch.kubeflow.status.workflow import progress_of

WATCH_SECONDS = 5.0  # polling interval of --wait
PENDING_SECONDS = 60.0  # --wait shows a pod that is pending for longer
ACTIVE_STATES = ("starting", "pending", "running", "running or pending", "retrying")
_UNREACHABLE_SECONDS = 600.0  # --wait gives up if the server cannot be reached for longer


def new_console() -> Console:
    """Returns the console that the commands print to."""
    return Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)


def print_schedule(console: Console, cron: Cron, cluster_cron: Cron, zone: Any, cluster_zone: Any) -> None:
    """Prints when a schedule ticks.

    Args:
        console: console to print to.
        cron: schedule as the user gave it, in `zone`.
        cluster_cron: schedule as the cluster reads it, in `cluster_zone`.
        zone: time zone of the user.
        cluster_zone: time zone of the cluster.
    """
    console.print(f"{cron.words()}, {zone}")
    if str(cluster_cron) != str(cron) or str(zone) != str(cluster_zone):
        console.print(f"on the cluster: {cluster_cron} ({cluster_cron.words()}, {cluster_zone})")
    ticks = cluster_cron.ticks(datetime.now(UTC), cluster_zone)
    for _ in range(3):
        console.print(f"  next {next(ticks).astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}")
    console.print("A tick without new data, base model or code runs preflight and takes all else from the cache.")


def follow(console: Console, cluster: Cluster, run_id: str, wait: bool) -> None:
    """Prints the link to a run; with `wait`, shows its stages until it ends and exits with its status."""
    console.print(cluster.run_link(run_id))
    if wait:
        sys.exit(_watch(console, cluster, run_id))


def _watch(console: Console, cluster: Cluster, run_id: str) -> int:
    """Prints stages as they start and end until the run ends; returns the exit status."""
    run = cluster.run(run_id)
    specification, printed = cluster.specification(run), dict[str, str]()
    last_response = time.monotonic()
    try:
        with console.status("waiting for the first stage") as live:
            while True:
                progress = progress_of(cluster, run, specification)
                for number, stage in enumerate(progress.stages, 1):
                    if printed.get(stage.path) != _change(stage) and _worth_printing(stage, progress.at):
                        printed[stage.path] = _change(stage)
                        console.print(_stage_line(stage, number, progress))
                if progress.notes and "" not in printed:
                    printed[""] = "note"
                    console.print(progress.notes[0])
                if run.state in FINISHED:
                    break
                active = [stage.title for stage in progress.stages if stage.state in ACTIVE_STATES]
                live.update(f"{display_state(progress.state)}: {', '.join(active) or 'waiting for a stage'}")
                time.sleep(WATCH_SECONDS)
                try:
                    run, last_response = cluster.run(run_id), time.monotonic()
                except Unreachable as error:
                    if time.monotonic() - last_response > _UNREACHABLE_SECONDS:
                        raise
                    live.update(f"{error}; retrying")
    except KeyboardInterrupt:
        console.print(f"stopped watching; the run continues. To resume: python pipeline.py status {run_id} --wait")
        return 130
    _print_end(console, cluster, run, progress)
    return 0 if progress.state == "SUCCEEDED" else 1


def _change(stage: Stage) -> str:
    """What must change for a stage to be printed again."""
    return f"{stage.state}, attempt {stage.attempt}"


def _worth_printing(stage: Stage, now: datetime) -> bool:
    """Whether --wait prints a stage; every pod is pending for some seconds at its start."""
    if stage.state in ("pending", "running or pending"):
        return (stage.seconds(now) or 0.0) > PENDING_SECONDS
    return stage.state not in ("waiting", "starting", "unknown")


def print_status(console: Console, cluster: Cluster, run: Any, progress: RunProgress) -> None:
    """Prints a run: name, link, stages, notes, metrics, and state or outcome."""
    console.print(f"{run.display_name}  {run.run_id}", style="bold")
    console.print(cluster.run_link(run.run_id))
    print_stages(console, progress)
    for note in progress.notes:
        console.print(note)
    for name, value in _metrics(run).items():
        console.print(f"{name}  {value}")
    _print_end(console, cluster, run, progress)


def print_stages(console: Console, progress: RunProgress) -> None:
    """Prints one line per stage."""
    for number, stage in enumerate(progress.stages, 1):
        console.print(_stage_line(stage, number, progress))


def print_rerun(console: Console, rerun: Rerun) -> None:
    """Prints which stages a rerun executes and which it takes from the cache."""
    every = [*rerun.repeated, *rerun.downstream, *rerun.cached, *rerun.uncached]
    console.print(f"runs again: {_join_paths(rerun.repeated, every)}")
    if rerun.downstream:
        console.print(f"downstream of these: {_join_paths(rerun.downstream, every)}")
    if rerun.uncached:
        console.print(f"runs in any case, caching is off: {_join_paths(rerun.uncached, every)}")
    console.print(f"from the cache, unless an upstream result changes: {_join_paths(rerun.cached, every)}")


def _join_paths(paths: list[str], every: list[str]) -> str:
    """Joins paths of stages, abbreviating an iteration if all its stages are among them."""
    complete = {
        iteration
        for iteration in {path.split("/")[0] for path in paths if "/" in path}
        if {path for path in every if path.startswith(f"{iteration}/")} <= set(paths)
    }
    named = [f"all of {first}" if (first := path.split("/")[0]) in complete else path for path in paths]
    return ", ".join(dict.fromkeys(named)) or "nothing"


def _print_end(console: Console, cluster: Cluster, run: Any, progress: RunProgress) -> None:
    took = ""
    if run.state in FINISHED and run.finished_at and run.finished_at > run.created_at:
        took = f" after {_duration((run.finished_at - run.created_at).total_seconds())}"
    console.print(f"{display_state(progress.state)}{took}")
    if run.error and run.error.message:
        console.print(run.error.message)
    for stage in progress.failed:
        outcome = f"did not start: {stage.error}" if stage.error else f"failed in {_attempt(stage)}"
        console.print(f"{stage.title} {outcome}; its log: {cluster.run_link(run.run_id)}")
    if any(0 < stage.attempt < stage.attempts for stage in progress.failed) and run.state in FINISHED:
        console.print(
            "Kubeflow's own configuration starts again what was deleted or lost with its node, but nothing that "
            "failed by itself: docs/cluster.md"
        )
    if progress.state == "FAILED":
        if not progress.failed:
            console.print(
                "Kubeflow reports no failed stage. The workflow states why the run ended, while the cluster keeps it: "
                f"kubectl get workflow -l pipeline/runid={run.run_id} -o jsonpath='{{.items[*].status.message}}' "
                f"-n {cluster.namespace or 'kubeflow'}"
            )
        console.print(f"python pipeline.py retry {run.run_id} runs what failed again")


def _stage_line(stage: Stage, number: int, progress: RunProgress) -> str:
    seconds, width = stage.seconds(progress.at), max(len(each.title) for each in progress.stages)
    took = "cached" if stage.state == "cached" else "" if seconds is None else _duration(seconds)
    return f"[{number:>2}/{len(progress.stages)}] {stage.title:<{width}} {took:>11}  {_state_words(stage)}".rstrip()


def _state_words(stage: Stage) -> str:
    """The state of a stage as displayed: empty if it succeeded on its first attempt."""
    queue = f"in queue {stage.queue}, or " if stage.queue else ""
    waits = f"waits {queue}for a node or its image" + (f": {stage.waits_for}" if stage.waits_for else "")
    words = {
        "succeeded": "" if stage.started else "succeeded",
        "cached": "",
        "failed": "FAILED",
        "pending": waits,
        "running": f"running; its TrainJob may wait in queue {stage.queue}" if stage.queue else "running",
        "running or pending": f"runs, or {waits}",
        "retrying": f"{_attempt(stage)} failed; another attempt follows if the cluster's retry policy allows it",
        "unknown": "not reported",
    }.get(stage.state, stage.state)
    show_attempt = stage.attempt > 1 or (stage.state == "failed" and stage.attempt and stage.attempts > 1)
    if show_attempt and stage.state != "retrying":
        return f"{words}, {_attempt(stage)}".removeprefix(", ")
    return words


def _attempt(stage: Stage) -> str:
    # Argo may start a second round of attempts, such as after the deadline for all attempts of a stage.
    return f"attempt {stage.attempt}" + (f" of {stage.attempts}" if stage.attempt <= stage.attempts else "")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def display_state(state: str | None) -> str:
    """Returns a run's state as displayed: lower case, `pending` if KFP has not set one."""
    return (state or "pending").lower().replace("runtime_state_unspecified", "pending")


def _metrics(run: Any) -> dict[str, Any]:
    """Returns a run's metrics from server plugins such as MLflow's; KFP's API returns no others."""
    return {
        f"{plugin}.{name}": entry.value
        for plugin, output in (run.plugins_output or {}).items()
        for name, entry in (output.entries or {}).items()
        if output.state == "PLUGIN_SUCCEEDED" and entry.value not in (None, "")
    }


def as_json(cluster: Cluster, run: Any, progress: RunProgress) -> dict[str, Any]:
    """Returns a run and its stages as JSON values, for programs."""

    def moment(when: datetime | None) -> str | None:
        return when.isoformat() if when else None

    return {
        "run_id": run.run_id,
        "name": run.display_name,
        "state": progress.state,
        "created_at": moment(run.created_at),
        "finished_at": moment(run.finished_at if run.state in FINISHED else None),
        "error": run.error.message if run.error else None,
        "link": cluster.run_link(run.run_id),
        "metrics": _metrics(run),
        "notes": progress.notes,
        "failed": [stage.path for stage in progress.failed],
        "stages": [
            {
                "stage": stage.path,
                "title": stage.title,
                "state": stage.state,
                "started_at": moment(stage.started),
                "ended_at": moment(stage.ended),
                "seconds": stage.seconds(progress.at),
                "attempt": stage.attempt,
                "attempts": stage.attempts,
                "waits_for": stage.waits_for,
                "queue": stage.queue,
                "error": stage.error,
            }
            for stage in progress.stages
        ],
    }
