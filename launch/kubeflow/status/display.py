"""What is shown of runs and schedules on Kubeflow: a line a stage as for a local run, the end, links, or JSON."""

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

WATCH_SECONDS = 5.0  # between looks at a run
PENDING_SECONDS = 60.0  # after which a pod that waits is worth a line to those who watch
AT_WORK = ("starting", "pending", "running", "running or pending", "retrying")
_UNHEARD_SECONDS = 600.0  # how long watching bears a server that cannot be reached


def new_console() -> Console:
    """The console that the commands print on."""
    return Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)


def print_schedule(console: Console, cron: Cron, there: Cron, zone: Any, cluster_zone: Any) -> None:
    """Says when a schedule ticks.

    Args:
        console: where to.
        cron: as it was given, in `zone`.
        there: as the cluster reads it, in `cluster_zone`.
        zone: of the user.
        cluster_zone: of the cluster.
    """
    console.print(f"{cron.words()}, {zone}")
    if str(there) != str(cron) or str(zone) != str(cluster_zone):
        console.print(f"on the cluster: {there} ({there.words()}, {cluster_zone})")
    ticks = there.ticks(datetime.now(UTC), cluster_zone)
    for _ in range(3):
        console.print(f"  next {next(ticks).astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}")
    console.print("A tick with no new data, base model or code runs preflight and takes the rest from the cache.")


def follow(console: Console, cluster: Cluster, run_id: str, wait: bool) -> None:
    """Prints the link to a run; if asked to wait, shows it until it ends, and ends with its exit status."""
    console.print(cluster.run_link(run_id))
    if wait:
        sys.exit(_watch(console, cluster, run_id))


def _watch(console: Console, cluster: Cluster, run_id: str) -> int:
    """Prints stages as they begin and end, until the run ends; its exit status."""
    run = cluster.run(run_id)
    specification, shown = cluster.specification(run), dict[str, str]()
    heard = time.monotonic()
    try:
        with console.status("waiting for the first stage") as live:
            while True:
                progress = progress_of(cluster, run, specification)
                for number, stage in enumerate(progress.stages, 1):
                    if shown.get(stage.path) != _news(stage) and _is_news(stage, progress.at):
                        shown[stage.path] = _news(stage)
                        console.print(_stage_line(stage, number, progress))
                if progress.notes and "" not in shown:
                    shown[""] = "noted"
                    console.print(progress.notes[0])
                if run.state in FINISHED:
                    break
                at_work = [stage.title for stage in progress.stages if stage.state in AT_WORK]
                live.update(f"{state_in_words(progress.state)}: {', '.join(at_work) or 'waiting for a stage'}")
                time.sleep(WATCH_SECONDS)
                try:
                    run, heard = cluster.run(run_id), time.monotonic()
                except Unreachable as error:
                    if time.monotonic() - heard > _UNHEARD_SECONDS:
                        raise
                    live.update(f"{error}; asking again")
    except KeyboardInterrupt:
        console.print(f"stopped watching; the run goes on. Look again: python pipeline.py status {run_id} --wait")
        return 130
    _print_end(console, cluster, run, progress)
    return 0 if progress.state == "SUCCEEDED" else 1


def _news(stage: Stage) -> str:
    return f"{stage.state}, attempt {stage.attempt}"


def _is_news(stage: Stage, now: datetime) -> bool:
    """Whether somebody who watches should see a line: that a pod waits for seconds is part of every start."""
    if stage.state in ("pending", "running or pending"):
        return (stage.seconds(now) or 0.0) > PENDING_SECONDS
    return stage.state not in ("waiting", "starting", "unknown")


def print_status(console: Console, cluster: Cluster, run: Any, progress: RunProgress) -> None:
    """Prints a run: its name, its stages, its metrics, how it is doing or ended."""
    console.print(f"{run.display_name}  {run.run_id}", style="bold")
    console.print(cluster.run_link(run.run_id))
    print_stages(console, progress)
    for note in progress.notes:
        console.print(note)
    for name, value in _metrics(run).items():
        console.print(f"{name}  {value}")
    _print_end(console, cluster, run, progress)


def print_stages(console: Console, progress: RunProgress) -> None:
    """Prints a line a stage."""
    for number, stage in enumerate(progress.stages, 1):
        console.print(_stage_line(stage, number, progress))


def print_rerun(console: Console, rerun: Rerun) -> None:
    """Says what a repeat of a run will do."""
    every = [*rerun.repeated, *rerun.following, *rerun.cached, *rerun.uncached]
    console.print(f"runs again: {_listed(rerun.repeated, every)}")
    if rerun.following:
        console.print(f"then, since they use what those make: {_listed(rerun.following, every)}")
    if rerun.uncached:
        console.print(f"as in every run, since they are not cached: {_listed(rerun.uncached, every)}")
    console.print(f"from the cache, if nothing before them gives another result: {_listed(rerun.cached, every)}")


def _listed(paths: list[str], every: list[str]) -> str:
    """Paths of stages; an iteration of which all stages are among them is named as a whole."""
    whole = {
        iteration
        for iteration in {path.split("/")[0] for path in paths if "/" in path}
        if {path for path in every if path.startswith(f"{iteration}/")} <= set(paths)
    }
    named = [f"all of {first}" if (first := path.split("/")[0]) in whole else path for path in paths]
    return ", ".join(dict.fromkeys(named)) or "nothing"


def _print_end(console: Console, cluster: Cluster, run: Any, progress: RunProgress) -> None:
    took = ""
    if run.state in FINISHED and run.finished_at and run.finished_at > run.created_at:
        took = f" after {_duration((run.finished_at - run.created_at).total_seconds())}"
    console.print(f"{state_in_words(progress.state)}{took}")
    if run.error and run.error.message:
        console.print(run.error.message)
    for stage in progress.failed:
        said = f"did not start: {stage.error}" if stage.error else f"failed in {_attempt(stage)}"
        console.print(f"{stage.title} {said}; its log: {cluster.run_link(run.run_id)}")
    if any(0 < stage.attempt < stage.attempts for stage in progress.failed) and run.state in FINISHED:
        console.print(
            "Kubeflow's own configuration starts again what was deleted or lost with its node, but nothing that "
            "failed by itself: docs/cluster.md"
        )
    if progress.state == "FAILED":
        if not progress.failed:
            console.print(
                "Kubeflow names no stage that failed. Why the run ended, the workflow says while the cluster keeps it: "
                f"kubectl get workflow -l pipeline/runid={run.run_id} -o jsonpath='{{.items[*].status.message}}' "
                f"-n {cluster.namespace or 'kubeflow'}"
            )
        console.print(f"python pipeline.py retry {run.run_id} runs what failed again")


def _stage_line(stage: Stage, number: int, progress: RunProgress) -> str:
    seconds, width = stage.seconds(progress.at), max(len(each.title) for each in progress.stages)
    took = "cached" if stage.state == "cached" else "" if seconds is None else _duration(seconds)
    return f"[{number:>2}/{len(progress.stages)}] {stage.title:<{width}} {took:>11}  {_state_words(stage)}".rstrip()


def _state_words(stage: Stage) -> str:
    """How a stage is doing: nothing for one that went well at once."""
    waits = "waits for a node or its image" + (f": {stage.waits_for}" if stage.waits_for else "")
    words = {
        "succeeded": "" if stage.started else "succeeded",
        "cached": "",
        "failed": "FAILED",
        "pending": waits,
        "running or pending": f"runs, or {waits}",
        "retrying": f"{_attempt(stage)} failed; the next one follows, if the cluster's configuration has it",
        "unknown": "not reported",
    }.get(stage.state, stage.state)
    again = stage.attempt > 1 or (stage.state == "failed" and stage.attempt and stage.attempts > 1)
    if again and stage.state != "retrying":
        return f"{words}, {_attempt(stage)}".removeprefix(", ")
    return words


def _attempt(stage: Stage) -> str:
    # Argo may begin a second round of attempts, as when a stage's time for all of them is over.
    return f"attempt {stage.attempt}" + (f" of {stage.attempts}" if stage.attempt <= stage.attempts else "")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def state_in_words(state: str | None) -> str:
    """A run's state as a person would say it."""
    return (state or "pending").lower().replace("runtime_state_unspecified", "pending")


def _metrics(run: Any) -> dict[str, Any]:
    """What plugins of the server, such as MLflow's, tell of a run; KFP's API gives no other metrics."""
    return {
        f"{plugin}.{name}": entry.value
        for plugin, output in (run.plugins_output or {}).items()
        for name, entry in (output.entries or {}).items()
        if output.state == "PLUGIN_SUCCEEDED" and entry.value not in (None, "")
    }


def as_json(cluster: Cluster, run: Any, progress: RunProgress) -> dict[str, Any]:
    """A run and its stages, for programs."""

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
                "error": stage.error,
            }
            for stage in progress.stages
        ],
    }
