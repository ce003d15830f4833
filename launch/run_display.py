"""What is shown of runs and schedules on Kubeflow: a line a stage as for a local run, the end, links, or JSON."""

import sys
import time
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from launch.cluster import Cluster
from launch.run_stages import FINISHED, Stage, stages_of
from launch.schedule import Cron
from launch.server import Unreachable

WATCH_SECONDS = 5.0  # between looks at a run
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
                stages = stages_of(run, specification)
                for number, stage in enumerate(stages, 1):
                    if shown.get(stage.path) != stage.state and stage.state not in ("waiting", "starting"):
                        shown[stage.path] = stage.state
                        console.print(_stage_line(stage, number, len(stages)))
                if run.state in FINISHED:
                    break
                running = [stage.title for stage in stages if stage.state in ("running", "starting")]
                live.update(f"{state_in_words(run.state)}: {', '.join(running) or 'waiting for a stage'}")
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
    _print_end(console, cluster, run, stages)
    return 0 if run.state == "SUCCEEDED" else 1


def print_status(console: Console, cluster: Cluster, run: Any, stages: list[Stage]) -> None:
    """Prints a run: its name, its stages, its metrics, how it ended."""
    console.print(f"{run.display_name}  {run.run_id}", style="bold")
    console.print(cluster.run_link(run.run_id))
    print_stages(console, stages)
    for name, value in _metrics(run).items():
        console.print(f"{name}  {value}")
    _print_end(console, cluster, run, stages)


def print_stages(console: Console, stages: list[Stage]) -> None:
    """Prints a line a stage."""
    for number, stage in enumerate(stages, 1):
        console.print(_stage_line(stage, number, len(stages)))


def _print_end(console: Console, cluster: Cluster, run: Any, stages: list[Stage]) -> None:
    took = ""
    if run.state in FINISHED and run.finished_at and run.finished_at > run.created_at:
        took = f" after {_duration((run.finished_at - run.created_at).total_seconds())}"
    console.print(f"{state_in_words(run.state)}{took}")
    if run.error and run.error.message:
        console.print(run.error.message)
    failed = [stage for stage in stages if stage.state == "failed"]
    for stage in failed:
        said = f": {stage.error}" if stage.error else ""
        console.print(f"{stage.title} failed{said}; log: {cluster.log_link(run.run_id, stage.pod)}")
    if failed:
        console.print(f"python pipeline.py retry {run.run_id} runs what failed again")


def _stage_line(stage: Stage, number: int, total: int) -> str:
    took = "" if stage.seconds is None else _duration(stage.seconds)
    state = {"succeeded": "", "cached": "", "failed": "FAILED"}.get(stage.state, stage.state)
    took = "cached" if stage.state == "cached" else took
    return f"[{number:>2}/{total}] {stage.title:<42} {took:>11}  {state}".rstrip()


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
    }


def as_json(cluster: Cluster, run: Any, stages: list[Stage]) -> dict[str, Any]:
    """A run and its stages, for programs."""

    def moment(when: datetime | None) -> str | None:
        return when.isoformat() if when else None

    return {
        "run_id": run.run_id,
        "name": run.display_name,
        "state": run.state,
        "created_at": moment(run.created_at),
        "finished_at": moment(run.finished_at if run.state in FINISHED else None),
        "error": run.error.message if run.error else None,
        "link": cluster.run_link(run.run_id),
        "metrics": _metrics(run),
        "stages": [
            {
                "stage": stage.path,
                "title": stage.title,
                "state": stage.state,
                "started_at": moment(stage.started),
                "ended_at": moment(stage.ended),
                "seconds": stage.seconds,
                "log": cluster.log_link(run.run_id, stage.pod),
                "error": stage.error,
            }
            for stage in stages
        ],
    }
