"""The commands that manage runs on Kubeflow: retry, status, cancel."""

import functools
import json
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from components.shared.errors import InputError
from launch.kubeflow.cluster import Cluster
from launch.kubeflow.rerun import rerun_from
from launch.kubeflow.server import Connection
from launch.kubeflow.status.display import (
    ACTIVE_STATES,
    as_json,
    display_state,
    follow,
    new_console,
    print_rerun,
    print_stages,
    print_status,
)
from launch.kubeflow.status.stages import FINISHED, run_state
from launch.kubeflow.status.workflow import progress_of


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the connection options and `--dry-run`; passes the command a `Connection` and `dry_run`."""
    dry_run = click.option("--dry-run", is_flag=True, help="Print what would be done without changing anything.")
    return server_options(dry_run(command))


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the connection options and passes the command a `Connection`."""

    @functools.wraps(command)
    def with_connection(*arguments: Any, **options: Any) -> Any:
        connection = Connection(**{name: options.pop(name) for name in Connection.__dataclass_fields__})
        return command(*arguments, connection=connection, **options)

    for option in reversed(
        [
            click.option(
                "--host",
                envvar="KF_PIPELINES_ENDPOINT",
                show_envvar=True,
                help="URL of Kubeflow Pipelines; defaults to the current cluster or that of the kubeconfig.",
            ),
            click.option(
                "--ui-host",
                envvar="KF_PIPELINES_UI_ENDPOINT",
                show_envvar=True,
                help="URL of the UI, used in links; defaults to --host.",
            ),
            click.option("--namespace", help="Your namespace in a multi-user installation."),
            click.option(
                "--kfp-namespace",
                default="kubeflow",
                show_default=True,
                help="Namespace of Kubeflow Pipelines itself, used to find it without --host.",
            ),
            click.option(
                "--existing-token",
                envvar="KF_PIPELINES_TOKEN",
                show_envvar=True,
                help="Bearer token; set the variable to keep it out of the shell history.",
            ),
            click.option(
                "--cookies",
                envvar="KF_PIPELINES_COOKIES",
                show_envvar=True,
                help="Session cookies, such as authservice_session=...",
            ),
            click.option("--kube-context", help="Kubeconfig context; defaults to the current context."),
            click.option(
                "--ssl-ca-cert", type=click.Path(exists=True), help="CA certificate, for a server with a private CA."
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.1),
                default=30.0,
                show_default=True,
                help="Seconds to wait for a response.",
            ),
        ]
    ):
        with_connection = option(with_connection)
    return with_connection


wait_option = click.option(
    "--wait", is_flag=True, help="Show stages until the run ends; exit with status 1 if it fails."
)


@click.command("retry")
@click.argument("run_name", metavar="RUN")
@click.option("--from", "stage", metavar="STAGE", help="Start a new run that repeats STAGE and its downstream stages.")
@wait_option
@connection_options
def retry(run_name: str, stage: str | None, wait: bool, connection: Connection, dry_run: bool) -> None:
    """Retry the failed stages of RUN, given by name or ID.

    By default, RUN is retried in place: completed stages are kept, and the same images are used. With --from, a new
    run with the same pipeline and parameters takes everything before STAGE from the cache. STAGE is a stage in every
    iteration (rft), a stage of one iteration (iteration-2/rft) or an entire iteration (iteration-2).
    """
    console, cluster = new_console(), Cluster(connection)
    run = cluster.run(run_name)
    if stage is None:
        _retry_in_place(console, cluster, run, wait, dry_run)
    else:
        _retry_from(console, cluster, run, stage, wait, dry_run)


def _retry_in_place(console: Console, cluster: Cluster, run: Any, wait: bool, dry_run: bool) -> None:
    if run.state not in ("FAILED", "CANCELED"):
        raise InputError(
            f"run {run.display_name!r} is {display_state(run_state(run))}; only a failed or canceled run can be "
            "retried in place. Use --from STAGE to start a new run from any stage"
        )
    if dry_run:
        console.print(f"would retry {run.display_name!r} ({run.run_id}) in place, from its failed stages:")
        print_stages(console, progress_of(cluster, run, cluster.specification(run)))
        return
    cluster.retry_run(run.run_id)
    console.print(f"retrying {run.display_name!r} in place")
    follow(console, cluster, run.run_id, wait)


def _retry_from(console: Console, cluster: Cluster, run: Any, stage: str, wait: bool, dry_run: bool) -> None:
    rerun = rerun_from(cluster.specification(run), stage)
    name = f"{run.display_name} from {stage}"
    if dry_run:
        console.print(f"would start the run {name!r} with the parameters of {run.display_name!r} ({run.run_id}).")
        print_rerun(console, rerun)
        return
    description = f"repeats {run.display_name} ({run.run_id}) from {stage}"
    created = cluster.create_clone(name, run, rerun.specification, description)
    console.print(f"started {name!r}")
    print_rerun(console, rerun)
    follow(console, cluster, created.run_id, wait)


@click.command("status")
@click.argument("run_name", metavar="RUN")
@click.option("--json", "json_wanted", is_flag=True, help="Print the status as JSON.")
@wait_option
@connection_options
def status(run_name: str, json_wanted: bool, wait: bool, connection: Connection, dry_run: bool) -> None:
    """Show the stages of RUN, given by name or ID: their state, duration and a link to their logs."""
    console, cluster = new_console(), Cluster(connection)
    run = cluster.run(run_name)
    if dry_run:
        console.print(f"would show the stages of {run.display_name!r} ({run.run_id})")
    elif wait:
        if json_wanted:
            raise InputError("--wait and --json cannot be combined: use --json once the run has ended")
        follow(console, cluster, run.run_id, wait)
    else:
        progress = progress_of(cluster, run, cluster.specification(run))
        if json_wanted:
            click.echo(json.dumps(as_json(cluster, run, progress), indent=2))
        else:
            print_status(console, cluster, run, progress)


@click.command("cancel")
@click.argument("run_name", metavar="RUN")
@connection_options
def cancel(run_name: str, connection: Connection, dry_run: bool) -> None:
    """Cancel RUN, given by name or ID.

    The run's pods are terminated. The results of completed stages stay in the cache for later runs. An interrupted
    stage keeps its checkpoints at store.checkpoint_uri and resumes from them when it runs again.
    """
    console, cluster = new_console(), Cluster(connection)
    run = cluster.run(run_name)
    if run.state in (*FINISHED, "CANCELING"):
        raise InputError(f"run {run.display_name!r} is {display_state(run_state(run))}: there is nothing to cancel")
    progress = progress_of(cluster, run, cluster.specification(run))
    active = [stage.title for stage in progress.stages if stage.state in ACTIVE_STATES]
    effect = f"interrupts {', '.join(active)}" if active else "no stage is running"
    kept = (
        "Results of completed stages stay in the cache; a long stage resumes from its checkpoint at "
        "store.checkpoint_uri."
    )
    if dry_run:
        console.print(
            f"would cancel {run.display_name!r} ({run.run_id}), which is {display_state(run.state)}: {effect}."
        )
        console.print(kept)
        return
    cluster.terminate_run(run.run_id)
    console.print(f"canceling {run.display_name!r}: {effect}. Its pods terminate within a minute.")
    console.print(f"{kept} To continue this run: python pipeline.py retry {run.run_id}")
    console.print(cluster.run_link(run.run_id))
