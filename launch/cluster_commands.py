"""The commands that work with Kubeflow: submit, schedule, retry, status, cancel.

`submit` and `schedule` compile the pipeline with the function in the click context's `obj`, which pipeline.py
sets: it has the graph, and imports this module.
"""

import functools
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from components.shared.errors import InputError
from launch.cluster import PIPELINE_NAME, Cluster, version_name
from launch.images import require_images
from launch.recipe import Recipe, load_recipe
from launch.rerun import rerun_from
from launch.run_display import (
    AT_WORK,
    as_json,
    follow,
    new_console,
    print_rerun,
    print_schedule,
    print_stages,
    print_status,
    state_in_words,
)
from launch.run_stages import FINISHED, run_progress, run_state
from launch.schedule import in_cluster_zone, parse_cron, time_zone
from launch.server import Connection

REFRESH = {"refresh": "[[ScheduledTime]]"}  # KFP puts a tick's time in, so that each tick looks at the sources again
Compile = Callable[[Recipe, Path, str], None]


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say where Kubeflow is, and hands the command a `Connection` and `dry_run`."""

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
            click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing on the server."),
        ]
    ):
        with_connection = option(with_connection)
    return with_connection


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say what to run."""
    for option in reversed(
        [
            click.option(
                "--recipe",
                "recipe_path",
                required=True,
                type=click.Path(path_type=Path),
                help="YAML file that sets the run up.",
            ),
            click.option("--iterations", type=click.IntRange(1, 30), help="Iterations; the recipe's if left out."),
            click.option("--with-vanilla-rl", "vanilla", is_flag=True, help="Run vanilla RL beside RLoop, to compare."),
            click.option(
                "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe key: rl.steps=20."
            ),
            click.option(
                "--registry", default="", help="Where the stages' images are, such as registry.example.com/me."
            ),
            click.option(
                "--allow-missing-images", is_flag=True, help="Do not ask the registry whether it has the images."
            ),
            click.option("--experiment", default=PIPELINE_NAME, show_default=True, help="Experiment to run in."),
            click.option(
                "--service-account",
                help="Account of the pods, such as the manifests' rloop; KFP's if left out.",
            ),
        ]
    ):
        command = option(command)
    return command


wait_option = click.option("--wait", is_flag=True, help="Show the stages until the run ends; exit 1 if it fails.")


@click.command("submit")
@recipe_options
@click.option("--run-name", help="Name of the run; the recipe's and the time if left out.")
@wait_option
@connection_options
@click.pass_obj
def submit(
    compile_pipeline: Compile,
    recipe_path: Path,
    iterations: int | None,
    vanilla: bool,
    overrides: tuple[str, ...],
    registry: str,
    allow_missing_images: bool,
    experiment: str,
    service_account: str | None,
    run_name: str | None,
    wait: bool,
    connection: Connection,
    dry_run: bool,
) -> None:
    """Run the pipeline on Kubeflow.

    The compiled pipeline is uploaded as a version of the pipeline `rloop`, unless the same content is there.
    """
    console = new_console()
    name = run_name or f"{recipe_path.stem} {datetime.now():%Y-%m-%d %H:%M:%S}"
    with tempfile.TemporaryDirectory() as folder:
        compiled = _compile(
            compile_pipeline, recipe_path, overrides, iterations, vanilla, registry, allow_missing_images, folder
        )
        cluster = Cluster(connection)
        if dry_run:
            console.print(f"on {cluster.host}:")
            _plan_version(console, cluster, compiled)
            _plan_experiment(console, cluster, experiment)
            console.print(f"  would start the run {name!r}")
            return
        version = cluster.upload_version(compiled)
    now = {"refresh": f"{datetime.now(UTC):%Y%m%d%H%M%S}"}  # as a schedule's tick: preflight always looks anew
    run = cluster.create_run(name, cluster.experiment(experiment).experiment_id, version, now, service_account)
    console.print(f"submitted {name!r}, {PIPELINE_NAME} version {version.display_name}")
    follow(console, cluster, run.run_id, wait)


@click.command("schedule")
@recipe_options
@click.option("--cron", "cron_text", required=True, help="When: '30 2 * * 1', KFP's six fields, or @daily.")
@click.option("--timezone", default="UTC", show_default=True, help="Time zone in which --cron is meant.")
@click.option(
    "--cluster-timezone",
    default="UTC",
    show_default=True,
    help="Time zone in which the cluster reads schedules: its cronScheduleTimezone.",
)
@click.option("--name", help="Name of the schedule; rloop and the recipe's if left out.")
@click.option("--replace", is_flag=True, help="Replace a schedule of this name that differs.")
@connection_options
@click.pass_obj
def schedule(
    compile_pipeline: Compile,
    recipe_path: Path,
    iterations: int | None,
    vanilla: bool,
    overrides: tuple[str, ...],
    registry: str,
    allow_missing_images: bool,
    experiment: str,
    service_account: str | None,
    cron_text: str,
    timezone: str,
    cluster_timezone: str,
    name: str | None,
    replace: bool,
    connection: Connection,
    dry_run: bool,
) -> None:
    """Run the pipeline on Kubeflow again and again.

    Each tick looks at the data and the base model again, and trains only if they or the code have changed:
    otherwise every stage comes from the cache. Missed ticks are not caught up, and runs never overlap.
    """
    console = new_console()
    zone, cluster_zone = time_zone(timezone), time_zone(cluster_timezone, "--cluster-timezone")
    cron = parse_cron(cron_text)
    cron_there = in_cluster_zone(cron, zone, cluster_zone)
    name = name or f"{PIPELINE_NAME} {recipe_path.stem}"
    with tempfile.TemporaryDirectory() as folder:
        compiled = _compile(
            compile_pipeline, recipe_path, overrides, iterations, vanilla, registry, allow_missing_images, folder
        )
        cluster = Cluster(connection)
        version = cluster.find_version(version_name(compiled))[1]
        existing = cluster.find_schedules(name)
        if len(existing) > 1:
            ids = ", ".join(each.recurring_run_id for each in existing)
            raise InputError(f"{len(existing)} schedules are called {name!r} ({ids}): delete all but one in the UI")
        there = existing[0] if existing else None
        wanted = (version, str(cron_there), REFRESH, service_account)
        differences = cluster.schedule_differences(there, *wanted) if there else []
        if existing and not differences:
            console.print(f"the schedule {name!r} is there and the same: nothing to do")
        elif existing and not replace:
            raise InputError(
                f"there is a schedule {name!r} with {' and '.join(differences)}; --replace replaces it, "
                "--name makes another"
            )
        elif dry_run:
            console.print(f"on {cluster.host}:")
            _plan_version(console, cluster, compiled)
            _plan_experiment(console, cluster, experiment)
            verb = "replace" if existing else "create"
            console.print(f"  would {verb} the schedule {name!r}")
        else:
            version = version or cluster.upload_version(compiled)
            created = cluster.create_schedule(
                name,
                description=f"{cron.words()}, {zone}",
                experiment_id=cluster.experiment(experiment).experiment_id,
                version=version,
                cron=str(cron_there),
                parameters=REFRESH,
                service_account=service_account,
            )
            for earlier in existing:
                cluster.delete_schedule(earlier.recurring_run_id)
            console.print(f"{'replaced' if existing else 'created'} the schedule {name!r}")
            console.print(cluster.schedule_link(created.recurring_run_id))
    print_schedule(console, cron, cron_there, zone, cluster_zone)


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
            print_stages(console, run_progress(run, cluster.specification(run)))
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
        progress = run_progress(run, cluster.specification(run))
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
    at_work = [stage.title for stage in run_progress(run, cluster.specification(run)).stages if stage.state in AT_WORK]
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


def _compile(
    compile_pipeline: Compile,
    recipe_path: Path,
    overrides: tuple[str, ...],
    iterations: int | None,
    vanilla: bool,
    registry: str,
    allow_missing_images: bool,
    folder: str,
) -> Path:
    if registry and not allow_missing_images:
        require_images(registry)
    compiled = Path(folder) / f"{PIPELINE_NAME}.yaml"
    compile_pipeline(load_recipe(recipe_path, overrides, iterations, vanilla), compiled, registry)
    return compiled


def _plan_version(console: Console, cluster: Cluster, compiled: Path) -> None:
    pipeline, version = cluster.find_version(version_name(compiled))
    size = f"{compiled.stat().st_size / 1024:.0f} KiB"
    if version:
        console.print(f"  would use the version {version.display_name} of {PIPELINE_NAME}, which has this content")
    else:
        first = "" if pipeline else f"create the pipeline {PIPELINE_NAME} and "
        console.print(f"  would {first}upload its version {version_name(compiled)} ({size})")


def _plan_experiment(console: Console, cluster: Cluster, name: str) -> None:
    if cluster.find_experiment(name) is None:
        console.print(f"  would create the experiment {name!r}")
