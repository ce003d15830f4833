"""Runs a compiled pipeline on this machine with kfp.local: the command `run`.

kfp.local runs each stage in its own process or container and caches finished ones. launch/local adds what the user
sees: the stages as they happen, their progress and times, one log per stage, the error of a failed stage, the table at
the end, and a readable layout of the outputs.
"""

import contextlib
import hashlib
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from kfp import local
from rich.console import Console

from components.shared.errors import InputError, nearest
from components.shared.progress.checkpoints import remove_finished
from launch.compiled import read_compiled, stage_paths
from launch.continuation import Earlier
from launch.images import STAGES, image
from launch.local.display import Display, print_summary
from launch.local.docker import docker_runner
from launch.local.mirror import Mirror, s3_mirror
from launch.local.pipeline_run import PipelineRun, StopRequested
from launch.local.run_folder import exclusive, publish, temporary_folder
from launch.local.stage_log import kept_progress
from launch.parameters import run_parameters
from launch.recipe import Recipe, data_version
from launch.store import check_apart

_SUCCEEDED, _FAILED, _INTERRUPTED = 0, 1, 130


def run_locally(
    recipe: Recipe,
    recipe_path: Path,
    output_dir: Path,
    until: str | None,
    compile_pipeline: Callable[..., None],
    runner: Literal["subprocess", "docker"] = "subprocess",
    store: Literal["folder", "s3"] = "folder",
    earlier: Earlier | None = None,
) -> int:
    """Compiles a recipe's pipeline and runs the compiled file.

    Args:
        recipe: what to run.
        recipe_path: where the recipe was read from, for display.
        output_dir: folder of the run.
        until: stop after the first execution of this stage.
        compile_pipeline: the function of pipeline.py that compiles.
        runner: how stages run: as processes of this environment or as containers of their images.
        store: where progress is kept and artifacts are mirrored: only in the run's folder, or also on an S3 server.
        earlier: the run that this one continues.

    Returns:
        The exit status: 0, 1 after a failed stage, 130 after an interruption.

    Raises:
        InputError: an unknown stage, training on several nodes, or an output folder that is unusable or in use.
    """
    artifacts = output_dir.resolve() / "artifacts"
    _check_stores(recipe, artifacts)
    until = _stage_named(until) if until is not None else None
    _check_single_node(recipe)
    before = earlier.iterations if earlier else 0
    last = before + recipe.iterations
    console = Console(file=sys.stdout, highlight=False)  # the real stdout: kfp.local's output is redirected
    with exclusive(output_dir), _sigterm_as_interrupt(), temporary_folder(output_dir):
        compiled = output_dir / "rloop.yaml"
        compile_pipeline(recipe, compiled, before=before)
        display = Display(
            console,
            total=len(stage_paths(read_compiled(compiled)[0])),
            title=f"{recipe_path}, " + (f"from {before} to {last} iterations" if before else f"{last} iterations"),
            output_dir=output_dir,
        )
        with s3_mirror(output_dir, artifacts, console) if store == "s3" else contextlib.nullcontext() as mirror:
            if mirror:
                check_apart({"store.publish_uri": recipe.store.publish_uri, "the run's own store": mirror.uri})
            progress_uri = _progress_uri(recipe, mirror, artifacts)
            arguments = run_parameters(recipe, earlier.uris if earlier else None)
            arguments["advanced"].setdefault("store", {})["checkpoint_uri"] = progress_uri
            checked = _digest(data_version(recipe), arguments, image("preflight")) if recipe.caching else ""
            run = PipelineRun(output_dir, display, until, mirror, checked)
            continued = [Path(uri) for uri in earlier.uris.values()] if earlier else []
            status = _execute(run, display, _kfp_runner(runner, recipe, compiled, output_dir, continued), arguments)
            if status == _SUCCEEDED:
                _remove_progress(progress_uri, output_dir, shared=progress_uri == recipe.store.checkpoint_uri)
        if status != _SUCCEEDED or run.stopped:
            return status
        publish(run.outputs[f"iteration-{last}/report"], output_dir)
        print_summary(console, output_dir)
        return _SUCCEEDED


def _check_stores(recipe: Recipe, artifacts: Path) -> None:
    """Raises InputError if one of the recipe's stores overlaps with the run's artifacts."""
    check_apart({"store.checkpoint_uri": recipe.store.checkpoint_uri, "the run's artifacts": str(artifacts)})
    check_apart({"store.publish_uri": recipe.store.publish_uri, "the run's artifacts": str(artifacts)})


def _stage_named(until: str) -> str:
    """Returns the stage that `--until` names; raises InputError if there is no such stage."""
    stage = until.replace("-", "_")
    if stage not in STAGES:
        raise InputError(f"--until {stage!r} is not a stage.{nearest(stage, STAGES)}")
    return stage


def _check_single_node(recipe: Recipe) -> None:
    """Raises InputError if the recipe trains on several nodes."""
    for section, settings in (("rl", recipe.rl), ("rft", recipe.rft)):
        if settings.parallel.nodes > 1:
            raise InputError(
                f"training on several nodes needs a cluster; to run here, add --set {section}.parallel.nodes=1"
            )


def _progress_uri(recipe: Recipe, mirror: Mirror | None, artifacts: Path) -> str:
    """Returns where the stages keep their progress: the recipe's place, the run's S3 server, or its folder."""
    if recipe.store.checkpoint_uri:
        return recipe.store.checkpoint_uri
    return mirror.progress_uri if mirror else str(artifacts / ".progress")


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _kfp_runner(
    runner: str, recipe: Recipe, compiled: Path, output_dir: Path, continued: Iterable[Path]
) -> contextlib.AbstractContextManager[Any]:
    if runner == "docker":
        return docker_runner(recipe, compiled, output_dir, continued)
    return contextlib.nullcontext(local.SubprocessRunner(use_venv=False))


def _execute(
    run: PipelineRun,
    display: Display,
    runner: contextlib.AbstractContextManager[Any],
    arguments: dict[str, Any],
) -> int:
    """Runs the stages and shows how the run ended; returns the exit status."""
    try:
        with runner as kfp_runner:
            run.execute(kfp_runner, arguments)
    except StopRequested:
        display.stopped(run.until or "")
        return _SUCCEEDED
    except KeyboardInterrupt:
        run.end_processes()
        display.interrupted()
        return _INTERRUPTED
    if run.failed:
        display.failed(run.failed)
        return _FAILED
    return _SUCCEEDED


def _remove_progress(uri: str, output_dir: Path, shared: bool) -> None:
    """Removes the progress of a finished run, whose outputs are in its folder.

    Args:
        uri: where the stages kept their progress.
        output_dir: folder of the run.
        shared: whether other runs keep progress there too, which must stay.
    """
    logs = sorted((output_dir / "logs").glob("*.log"))
    remove_finished(uri, [prefix for log in logs for prefix in kept_progress(log)] if shared else None)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Makes SIGTERM end the run the way Ctrl-C does, along with the stage's processes."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
