"""The `schedule` commands: create and manage recurring runs of the pipeline on Kubeflow."""

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
from launch.kubeflow.status.display import display_state, new_console, print_schedule
from launch.kubeflow.submit import Compile, RunOptions, prepare, print_upload_plan, recipe_options, upload_inputs


class _CreateByDefault(click.Group):
    """A command group in which `create` is the default command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group("schedule", cls=_CreateByDefault)
def schedule() -> None:
    """Run the pipeline on Kubeflow on a schedule.

    Each tick checks the data and the base model, and trains only if they or the code have changed. Otherwise, every
    stage except preflight comes from the cache. Missed ticks are not caught up, and runs never overlap.

    `schedule --recipe ... --cron ...` is short for `schedule create`.
    """


cluster_timezone_option = click.option(
    "--cluster-timezone",
    default="UTC",
    show_default=True,
    help="Time zone of the cluster's schedules (cronScheduleTimezone).",
)


@schedule.command("create")
@recipe_options
@click.option("--cron", "cron_text", required=True, help="Cron expression: '30 2 * * 1', KFP's six fields, or @daily.")
@click.option("--timezone", default="UTC", show_default=True, help="Time zone of --cron.")
@cluster_timezone_option
@click.option("--name", help="Name of the schedule; defaults to rloop and the recipe's name.")
@click.option("--replace", is_flag=True, help="Replace an existing schedule of this name if it differs.")
@connection_options
@click.pass_obj
def create(
    compile_pipeline: Compile,
    options: RunOptions,
    cron_text: str,
    timezone: str,
    cluster_timezone: str,
    name: str | None,
    replace: bool,
    connection: Connection,
    dry_run: bool,
) -> None:
    """Create a schedule, unless an identical one exists."""
    console = new_console()
    zone, cluster_zone = time_zone(timezone), time_zone(cluster_timezone, "--cluster-timezone")
    cron = parse_cron(cron_text)
    cluster_cron = in_cluster_zone(cron, zone, cluster_zone)
    name = name or f"{PIPELINE_NAME} {options.name}"
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(console, compile_pipeline, options, folder)
        cluster = Cluster(connection)
        version = cluster.find_version(prepared.name, version_digest(prepared.compiled))[1]
        existing = _find_existing(cluster, name)
        wanted = (version, str(cluster_cron), prepared.parameters, options.service_account)
        differences = cluster.schedule_differences(existing, *wanted) if existing else []
        if existing and not differences:
            console.print(f"the schedule {name!r} exists and is identical: nothing to do")
        elif existing and not replace:
            raise InputError(
                f"the schedule {name!r} exists and differs from this one: {', '.join(differences)}. Pass --replace to "
                "replace it, or --name to create another"
            )
        elif dry_run:
            print_upload_plan(console, cluster, prepared, options.experiment)
            console.print(f"  would {'replace' if existing else 'create'} the schedule {name!r}")
        else:
            upload_inputs(console, prepared)
            version = version or cluster.upload_version(prepared.name, prepared.compiled)
            created = cluster.create_schedule(
                name,
                description=f"{cron.words()}, {zone}",
                experiment_id=cluster.experiment(options.experiment).experiment_id,
                version=version,
                cron=str(cluster_cron),
                parameters=prepared.parameters,
                service_account=options.service_account,
            )
            if existing:
                cluster.delete_schedule(existing.recurring_run_id)
            console.print(f"{'replaced' if existing else 'created'} the schedule {name!r}")
            console.print(cluster.schedule_link(created.recurring_run_id))
    print_schedule(console, cron, cluster_cron, zone, cluster_zone)


def _find_existing(cluster: Cluster, name: str) -> Any | None:
    """Returns the schedule with this name, or None; several are an error."""
    existing = cluster.schedules(name)
    if len(existing) > 1:
        ids = ", ".join(each.recurring_run_id for each in existing)
        raise InputError(
            f"{len(existing)} schedules are named {name!r} ({ids}): delete all but one with `schedule delete ID`"
        )
    return existing[0] if existing else None


@schedule.command("list")
@cluster_timezone_option
@connection_options
def list_schedules(cluster_timezone: str, connection: Connection, dry_run: bool) -> None:
    """List schedules with their next tick, last run and state."""
    console, zone = new_console(), time_zone(cluster_timezone, "--cluster-timezone")
    cluster = Cluster(connection)
    schedules = cluster.schedules()
    if not schedules:
        console.print(f"{PIPELINE_NAME} has no schedules on {cluster.host}; create one with `schedule create`")
        return
    rows = [("name", "when", "next", "last run", "state")]
    for each in sorted(schedules, key=lambda s: (s.display_name, s.created_at)):
        enabled = each.status != "DISABLED"
        tick = _next_tick(each, zone) if enabled else None
        rows.append(
            (
                each.display_name,
                f"{_when(each)}, {zone}",
                f"{tick:%a %Y-%m-%d %H:%M %Z}" if tick else "-",
                _describe_run(cluster.last_run(each), zone),
                "on" if enabled else "paused",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        console.print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _command(name: str, help_text: str, act: Callable[[Cluster, Any], str]) -> click.Command:
    """Returns a command on a schedule; `act` executes it and returns the message to print."""

    @schedule.command(name, help=help_text)
    @click.argument("schedule_name", metavar="NAME")
    @connection_options
    def command(schedule_name: str, connection: Connection, dry_run: bool) -> None:
        console, cluster = new_console(), Cluster(connection)
        found = cluster.schedule(schedule_name)
        if dry_run:
            console.print(f"would {name} the schedule {found.display_name!r} ({found.recurring_run_id})")
        else:
            console.print(act(cluster, found))

    return command


def _pause(cluster: Cluster, found: Any) -> str:
    if found.status == "DISABLED":
        return f"the schedule {found.display_name!r} is already paused"
    cluster.enable_schedule(found.recurring_run_id, enabled=False)
    return f"paused the schedule {found.display_name!r}; a run in progress continues"


def _resume(cluster: Cluster, found: Any) -> str:
    if found.status != "DISABLED":
        return f"the schedule {found.display_name!r} is already on"
    cluster.enable_schedule(found.recurring_run_id, enabled=True)
    return f"resumed the schedule {found.display_name!r}; missed ticks are not caught up"


def _delete(cluster: Cluster, found: Any) -> str:
    cluster.delete_schedule(found.recurring_run_id)
    return f"deleted the schedule {found.display_name!r}; its runs are kept, and a run in progress continues"


pause = _command("pause", "Pause the schedule NAME, given by name or ID.", _pause)
resume = _command("resume", "Resume the schedule NAME, given by name or ID.", _resume)
delete = _command("delete", "Delete the schedule NAME, given by name or ID; its runs are kept.", _delete)


def _trigger(schedule: Any) -> Any:
    return schedule.trigger.cron_schedule or schedule.trigger.periodic_schedule


def _cron(schedule: Any) -> Cron | None:
    """Returns the schedule of a recurring run; None if the UI made it without a cron expression, such as @every 2h."""
    trigger = schedule.trigger.cron_schedule
    if trigger is None:
        return None
    # The UI accepts five fields, of which KFP reads the first as seconds.
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
    """Returns the next tick; None if there is no cron expression or the schedule has ended."""
    cron, trigger = _cron(schedule), _trigger(schedule)
    if cron is None:
        return None
    start = max(datetime.now(UTC), trigger.start_time or datetime.now(UTC))
    tick = next(cron.ticks(start, zone), None)
    return None if tick is None or (trigger.end_time and tick > trigger.end_time) else tick


def _describe_run(run: Any, zone: tzinfo) -> str:
    if run is None:
        return "none yet"
    # Kubeflow reports a canceled run as failed; its state history shows that it was canceled.
    cancelled = any(entry.state == "CANCELING" for entry in run.state_history or [])
    state = "cancelled" if cancelled and run.state in ("FAILED", "CANCELED") else display_state(run.state)
    return f"{state}, {run.created_at.astimezone(zone):%a %Y-%m-%d %H:%M %Z}"
