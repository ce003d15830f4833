"""The `schedule` commands: run the pipeline on Kubeflow again and again, and look after what does so."""

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any

import click

from components.shared.errors import InputError
from launch.kubeflow.cluster import PIPELINE_NAME, Cluster, version_digest
from launch.kubeflow.commands import connection_options
from launch.kubeflow.cron import Cron, in_cluster_zone, parse_cron, time_zone
from launch.kubeflow.server import Connection
from launch.kubeflow.status.display import new_console, print_schedule, state_in_words
from launch.kubeflow.submit import Compile, RunChoice, plan_sending, prepare, recipe_options, upload_inputs


class _Group(click.Group):
    """A group whose `create` need not be said."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group("schedule", cls=_Group)
def schedule() -> None:
    """Run the pipeline on Kubeflow again and again.

    Each tick looks at the data and the base model again, and trains only if they or the code have changed: otherwise
    every stage but preflight comes from the cache. Missed ticks are not caught up, and runs never overlap.

    `schedule --recipe ... --cron ...` is short for `schedule create`.
    """


cluster_timezone_option = click.option(
    "--cluster-timezone",
    default="UTC",
    show_default=True,
    help="Time zone in which the cluster reads schedules: its cronScheduleTimezone.",
)


@schedule.command("create")
@recipe_options
@click.option("--cron", "cron_text", required=True, help="When: '30 2 * * 1', KFP's six fields, or @daily.")
@click.option("--timezone", default="UTC", show_default=True, help="Time zone in which --cron is meant.")
@cluster_timezone_option
@click.option("--name", help="Name of the schedule; rloop and the recipe's if left out.")
@click.option("--replace", is_flag=True, help="Replace a schedule of this name that differs.")
@connection_options
@click.pass_obj
def create(
    compile_pipeline: Compile,
    choice: RunChoice,
    cron_text: str,
    timezone: str,
    cluster_timezone: str,
    name: str | None,
    replace: bool,
    connection: Connection,
    dry_run: bool,
) -> None:
    """Create a schedule, unless the same is there."""
    console = new_console()
    zone, cluster_zone = time_zone(timezone), time_zone(cluster_timezone, "--cluster-timezone")
    cron = parse_cron(cron_text)
    cron_there = in_cluster_zone(cron, zone, cluster_zone)
    name = name or f"{PIPELINE_NAME} {choice.name}"
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(console, compile_pipeline, choice, folder)
        cluster = Cluster(connection)
        version = cluster.find_version(prepared.name, version_digest(prepared.compiled))[1]
        existing = cluster.schedules(name)
        if len(existing) > 1:
            ids = ", ".join(each.recurring_run_id for each in existing)
            raise InputError(
                f"{len(existing)} schedules are called {name!r} ({ids}): delete all but one, with `schedule delete ID`"
            )
        there = existing[0] if existing else None
        wanted = (version, str(cron_there), prepared.parameters, choice.service_account)
        differences = cluster.schedule_differences(there, *wanted) if there else []
        if existing and not differences:
            console.print(f"the schedule {name!r} is there and the same: nothing to do")
        elif existing and not replace:
            raise InputError(
                f"there is a schedule {name!r} with {_listed(differences)}; --replace replaces it, --name makes another"
            )
        elif dry_run:
            plan_sending(console, cluster, prepared, choice.experiment)
            console.print(f"  would {'replace' if existing else 'create'} the schedule {name!r}")
        else:
            upload_inputs(console, prepared)
            version = version or cluster.upload_version(prepared.name, prepared.compiled)
            created = cluster.create_schedule(
                name,
                description=f"{cron.words()}, {zone}",
                experiment_id=cluster.experiment(choice.experiment).experiment_id,
                version=version,
                cron=str(cron_there),
                parameters=prepared.parameters,
                service_account=choice.service_account,
            )
            for earlier in existing:
                cluster.delete_schedule(earlier.recurring_run_id)
            console.print(f"{'replaced' if existing else 'created'} the schedule {name!r}")
            console.print(cluster.schedule_link(created.recurring_run_id))
    print_schedule(console, cron, cron_there, zone, cluster_zone)


@schedule.command("list")
@cluster_timezone_option
@connection_options
def list_schedules(cluster_timezone: str, connection: Connection, dry_run: bool) -> None:
    """List the schedules: when they tick, when next, how the last run ended, and whether they are paused."""
    console, zone = new_console(), time_zone(cluster_timezone, "--cluster-timezone")
    cluster = Cluster(connection)
    there = cluster.schedules()
    if not there:
        console.print(f"{PIPELINE_NAME} has no schedules on {cluster.host}; `schedule create` makes one")
        return
    rows = [("name", "when", "next", "last run", "state")]
    for each in sorted(there, key=lambda s: (s.display_name, s.created_at)):
        on = each.status != "DISABLED"
        tick = _next_tick(each, zone) if on else None
        rows.append(
            (
                each.display_name,
                f"{_when(each)}, {zone}",
                f"{tick:%a %Y-%m-%d %H:%M %Z}" if tick else "-",
                _last(cluster.last_run(each), zone),
                "on" if on else "paused",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        console.print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _command(name: str, doing: str, help_text: str, act: Callable[[Cluster, Any], str]) -> click.Command:
    """A command that does something with a schedule; `act` does it and says what has been done."""

    @schedule.command(name, help=help_text)
    @click.argument("schedule_name", metavar="NAME")
    @connection_options
    def command(schedule_name: str, connection: Connection, dry_run: bool) -> None:
        console, cluster = new_console(), Cluster(connection)
        found = cluster.schedule(schedule_name)
        if dry_run:
            console.print(f"would {doing} the schedule {found.display_name!r} ({found.recurring_run_id})")
        else:
            console.print(act(cluster, found))

    return command


def _pause(cluster: Cluster, found: Any) -> str:
    if found.status == "DISABLED":
        return f"the schedule {found.display_name!r} is paused already"
    cluster.switch_schedule(found.recurring_run_id, on=False)
    return f"paused the schedule {found.display_name!r}; a run that has begun goes on"


def _resume(cluster: Cluster, found: Any) -> str:
    if found.status != "DISABLED":
        return f"the schedule {found.display_name!r} is on already"
    cluster.switch_schedule(found.recurring_run_id, on=True)
    return f"resumed the schedule {found.display_name!r}; the ticks that it missed are not caught up"


def _delete(cluster: Cluster, found: Any) -> str:
    cluster.delete_schedule(found.recurring_run_id)
    return f"deleted the schedule {found.display_name!r}; its runs stay, and one that has begun goes on"


pause = _command("pause", "pause", "Pause the schedule NAME, a name or an id.", _pause)
resume = _command("resume", "resume", "Let the schedule NAME, a name or an id, tick again.", _resume)
delete = _command("delete", "delete", "Delete the schedule NAME, a name or an id; its runs stay.", _delete)


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def _trigger(schedule: Any) -> Any:
    return schedule.trigger.cron_schedule or schedule.trigger.periodic_schedule


def _cron(schedule: Any) -> Cron | None:
    """When a recurring run ticks; None for what the UI knows besides cron expressions, such as @every 2h."""
    trigger = schedule.trigger.cron_schedule
    if trigger is None:
        return None
    # Of five fields, which the UI takes, KFP reads the first as seconds.
    text = f"{trigger.cron} *" if len(trigger.cron.split()) == 5 else trigger.cron
    try:
        return parse_cron(text)
    except InputError:
        return None


def _when(schedule: Any) -> str:
    if (cron := _cron(schedule)) is not None:
        return cron.words()
    trigger = _trigger(schedule)
    return str(trigger.cron) if schedule.trigger.cron_schedule else f"every {trigger.interval_second} s"


def _next_tick(schedule: Any, zone: tzinfo) -> datetime | None:
    """The next tick, where a cron expression tells it and the schedule has not ended."""
    cron, trigger = _cron(schedule), _trigger(schedule)
    if cron is None:
        return None
    start = max(datetime.now(UTC), trigger.start_time or datetime.now(UTC))
    tick = next(cron.ticks(start, zone), None)
    return None if tick is None or (trigger.end_time and tick > trigger.end_time) else tick


def _last(run: Any, zone: tzinfo) -> str:
    if run is None:
        return "none yet"
    # Kubeflow calls a cancelled run failed, and keeps in its history that it was cancelled.
    cancelled = any(entry.state == "CANCELING" for entry in run.state_history or [])
    state = "cancelled" if cancelled and run.state in ("FAILED", "CANCELED") else state_in_words(run.state)
    return f"{state}, {run.created_at.astimezone(zone):%a %Y-%m-%d %H:%M %Z}"
