"""The commands that look after runs on Kubeflow: retry, status, cancel."""

import functools
import json
from collections.abc import Callable
from typing import Any

import click

from components.shared.errors import InputError
from launch.kubeflow.cluster import Cluster
from launch.kubeflow.rerun import rerun_from
from launch.kubeflow.server import Connection
from launch.kubeflow.status.display import (
    AT_WORK,
    as_json,
    follow,
    new_console,
    print_rerun,
    print_stages,
    print_status,
    state_in_words,
)
from launch.kubeflow.status.stages import FINISHED, run_state
from launch.kubeflow.status.workflow import progress_of


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say where Kubeflow is, and `--dry-run`; hands the command a `Connection` and `dry_run`."""
    dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing on the server.")
    return server_options(dry_run(command))


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say where Kubeflow is, and hands the command a `Connection`."""

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
                help="Address of Kubeflow Pipelines; without it, the cluster this runs in or kubeconfig's.",
            ),
            click.option(
                "--ui-host",
                envvar="KF_PIPELINES_UI_ENDPOINT",
                show_envvar=True,
                help="Address of its UI, for links; --host's if left out.",
            ),
            click.option("--namespace", help="Your namespace, where Kubeflow serves many users."),
            click.option(
                "--kfp-namespace",
                default="kubeflow",
                show_default=True,
                help="Where Kubeflow Pipelines is installed, to find it without --host.",
            ),
            click.option(
                "--existing-token",
                envvar="KF_PIPELINES_TOKEN",
                show_envvar=True,
                help="Bearer token; the variable keeps it out of the shell's history.",
            ),
            click.option(
                "--cookies",
                envvar="KF_PIPELINES_COOKIES",
                show_envvar=True,
                help="Cookies of a login, such as authservice_session=...",
            ),
            click.option("--kube-context", help="Context of the kubeconfig; its current one if left out."),
            click.option("--ssl-ca-cert", type=click.Path(exists=True), help="Certificate of your own authority."),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.1),
                default=30.0,
                show_default=True,
                help="Seconds to wait for an answer.",
            ),
        ]
    ):
        with_connection = option(with_connection)
    return with_connection


wait_option = click.option("--wait", is_flag=True, help="Show the stages until the run ends; exit 1 if it fails.")


@click.command("retry")
@click.argument("run_name", metavar="RUN")
@click.option("--from", "stage", metavar="STAGE", help="Start a new run that repeats STAGE and what follows it.")
@wait_option
@connection_options
def retry(run_name: str, stage: str | None, wait: bool, connection: Connection, dry_run: bool) -> None:
    """Run what failed of RUN again.

    RUN is a name or an id. In place, finished stages are kept and the same images run. With --from, a new run
    of the same pipeline and parameters takes everything before STAGE from the cache; STAGE is one such as rft,
    which repeats it in every iteration, iteration-2/rft, or iteration-2.
    """
    console, cluster = new_console(), Cluster(connection)
    run = cluster.run(run_name)
    if stage is None:
        if run.state not in ("FAILED", "CANCELED"):
            raise InputError(
                f"the run {run.display_name!r} is {state_in_words(run_state(run))}; only a failed "
                "or canceled one is retried in place. --from STAGE starts a new run from any stage"
            )
        if dry_run:
            console.print(f"would retry {run.display_name!r} ({run.run_id}) in place, from its failed stages:")
            print_stages(console, progress_of(cluster, run, cluster.specification(run)))
            return
        cluster.retry_run(run.run_id)
        console.print(f"retrying {run.display_name!r} in place")
        return follow(console, cluster, run.run_id, wait)
    rerun = rerun_from(cluster.specification(run), stage)
    name = f"{run.display_name} from {stage}"
    if dry_run:
        console.print(f"would start the run {name!r}, with the parameters of {run.display_name!r} ({run.run_id}).")
        print_rerun(console, rerun)
        return None
    description = f"repeats {run.display_name} ({run.run_id}) from {stage}"
    created = cluster.create_clone(name, run, rerun.specification, description)
    console.print(f"started {name!r}")
    print_rerun(console, rerun)
    return follow(console, cluster, created.run_id, wait)


@click.command("status")
@click.argument("run_name", metavar="RUN")
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
@wait_option
@connection_options
def status(run_name: str, json_wanted: bool, wait: bool, connection: Connection, dry_run: bool) -> None:
    """Show the stages of RUN, a name or an id: how they are doing, how long they took, where their logs are."""
    console, cluster = new_console(), Cluster(connection)
    run = cluster.run(run_name)
    if dry_run:
        console.print(f"would show the stages of {run.display_name!r} ({run.run_id})")
    elif wait:
        if json_wanted:
            raise InputError("--wait and --json do not go together: ask for --json when the run has ended")
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
    """End RUN, a name or an id.

    Its pods are ended. What its stages have finished stays in the cache, for any later run; a stage that is cut off
    leaves what it has kept at store.checkpoint_uri, and goes on from there when it runs again.
    """
    console, cluster = new_console(), Cluster(connection)
    run = cluster.run(run_name)
    if run.state in (*FINISHED, "CANCELING"):
        raise InputError(
            f"the run {run.display_name!r} is {state_in_words(run_state(run))}: there is nothing to cancel"
        )
    progress = progress_of(cluster, run, cluster.specification(run))
    at_work = [stage.title for stage in progress.stages if stage.state in AT_WORK]
    cut_off = f"cuts off {', '.join(at_work)}" if at_work else "no stage is at work"
    kept = "What has finished stays in the cache; what a long stage kept at store.checkpoint_uri, it goes on from."
    if dry_run:
        console.print(
            f"would cancel {run.display_name!r} ({run.run_id}), which is {state_in_words(run.state)}: {cut_off}."
        )
        console.print(kept)
        return
    cluster.terminate_run(run.run_id)
    console.print(f"cancelling {run.display_name!r}: {cut_off}. Its pods end within a minute.")
    console.print(f"{kept} python pipeline.py retry {run.run_id} lets it go on.")
    console.print(cluster.run_link(run.run_id))
