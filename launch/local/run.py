"""Runs the compiled pipeline here with kfp.local, shows how it goes, and lays out what it made.

kfp.local runs each stage in a process of its own and keeps finished ones in its cache. This module adds
what a person wants to see: the stages as they happen, their progress and times, one log a stage, the error
of a stage that failed, the table at the end, and plain names for what lies where.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import psutil
from kfp import components, dsl, local
from kfp.local import status
from kfp.local.orchestrator import task_executor
from rich.console import Console

from components.shared.errors import InputError, nearest
from components.shared.progress.checkpoints import remove_finished
from components.shared.stage import whole_folder, write_json
from launch.compiled import read_compiled, stage_paths
from launch.continuation import Earlier
from launch.images import STAGES, image
from launch.local import cache as local_cache
from launch.local.display import Display, print_summary
from launch.local.docker import docker_runner
from launch.local.mirror import Mirror, s3_mirror
from launch.local.stage_log import StageLog, kept_progress, last_result
from launch.parameters import run_parameters
from launch.recipe import Recipe, data_version
from launch.store import check_apart

# Artifacts that are single files, by output name; KFP gives their paths no ending.
_SUFFIXES = {
    "page": ".html",
    "metrics": ".json",
    "report": ".json",
    "manifest": ".json",
}
_DONE, _FAILED, _INTERRUPTED = 0, 1, 130


class _StopHere(Exception):
    """The stage that `--until` names has run."""


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
        recipe_path: where it was read from, for display.
        output_dir: folder of the run.
        until: stop after the first run of this stage.
        compile_pipeline: pipeline.py's.
        runner: what runs a stage: a process of this environment, or a container of its image.
        store: where progress is kept and artifacts are mirrored: the run's folder alone, or an S3 server too.
        earlier: the run that it goes on from.

    Returns:
        The exit status: 0, 1 for a failed stage, 130 after an interruption.

    Raises:
        InputError: an unknown stage, several nodes, an output folder that cannot be used or is in use.
    """
    artifacts = output_dir.resolve() / "artifacts"
    check_apart({"store.checkpoint_uri": recipe.store.checkpoint_uri, "the run's artifacts": str(artifacts)})
    check_apart({"store.publish_uri": recipe.store.publish_uri, "the run's artifacts": str(artifacts)})
    if until is not None:
        until = until.replace("-", "_")
        if until not in STAGES:
            raise InputError(f"--until {until!r} is no stage.{nearest(until, STAGES)}")
    for section, settings in (("rl", recipe.rl), ("rft", recipe.rft)):
        if settings.parallel.nodes > 1:
            raise InputError(f"several nodes need a cluster: add --set {section}.parallel.nodes=1 to run it here")
    before = earlier.iterations if earlier else 0
    last = before + recipe.iterations
    words = f"from {before} to {last} iterations" if before else f"{last} iterations"
    console = Console(file=sys.stdout, highlight=False)  # the real one: kfp.local's output is redirected
    with _exclusive(output_dir), _terminate_like_interrupt(), _temporary_folder(output_dir):
        compiled = output_dir / "rloop.yaml"
        compile_pipeline(recipe, compiled, before=before)
        display = Display(
            console,
            total=len(stage_paths(read_compiled(compiled)[0])),
            title=f"{recipe_path}, {words}",
            output_dir=output_dir,
        )
        with s3_mirror(output_dir, artifacts, console) if store == "s3" else contextlib.nullcontext() as mirror:
            if mirror:
                check_apart({"store.publish_uri": recipe.store.publish_uri, "the run's own store": mirror.uri})
            progress = recipe.store.checkpoint_uri or (mirror.progress_uri if mirror else str(artifacts / ".progress"))
            arguments = run_parameters(recipe, earlier.uris if earlier else None)
            arguments["advanced"].setdefault("store", {})["checkpoint_uri"] = progress
            checked = _digest(data_version(recipe), arguments, image("preflight")) if recipe.caching else ""
            run = _Run(output_dir, display, until, mirror, checked)
            taken_over = [Path(uri) for uri in earlier.uris.values()] if earlier else []
            status = _execute(run, display, runner, recipe, compiled, output_dir, arguments, taken_over)
            if status == _DONE:
                _remove_progress(progress, output_dir, of_others=progress == recipe.store.checkpoint_uri)
        if status != _DONE or run.stopped:
            return status
        _publish(run.outputs[f"iteration-{last}/report"], output_dir)
        print_summary(console, output_dir)
        return _DONE


def _remove_progress(uri: str, output_dir: Path, of_others: bool) -> None:
    """Removes what the run's stages, whose outputs are here, have left; where other runs' lies too, theirs stays."""
    logs = sorted((output_dir / "logs").glob("*.log"))
    remove_finished(uri, [prefix for log in logs for prefix in kept_progress(log)] if of_others else None)


def _execute(
    run: "_Run",
    display: Display,
    runner: str,
    recipe: Recipe,
    compiled: Path,
    output_dir: Path,
    arguments: dict[str, Any],
    taken_over: list[Path],
) -> int:
    """Runs the stages; returns the exit status."""
    try:
        with _kfp_runner(runner, recipe, compiled, output_dir, taken_over) as kfp_runner:
            run.execute(compiled, kfp_runner, arguments)
    except _StopHere:
        run.stopped = True
        display.stopped(run.until or "")
        return _DONE
    except KeyboardInterrupt:
        run.end_processes()
        display.interrupted()
        return _INTERRUPTED
    if run.failed:
        display.failed(run.failed)
        return _FAILED
    return _DONE


def _kfp_runner(
    runner: str, recipe: Recipe, compiled: Path, output_dir: Path, taken_over: list[Path]
) -> contextlib.AbstractContextManager[Any]:
    if runner == "docker":
        return docker_runner(recipe, compiled, output_dir, taken_over)
    return contextlib.nullcontext(local.SubprocessRunner(use_venv=False))


class _Run:
    """One execution of the compiled pipeline, stage by stage."""

    def __init__(
        self, output_dir: Path, display: Display, until: str | None, mirror: Mirror | None, checked: str
    ) -> None:
        self._output_dir, self._display, self.until = output_dir, display, until
        self._artifacts, self._mirror = output_dir.resolve() / "artifacts", mirror
        self._checked = checked  # what preflight looks at, as a digest: here it need not look at the same twice
        self.stopped = False  # at the stage that `until` names
        self.outputs: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, Path] = {}

    def execute(self, compiled: Path, runner: Any, arguments: dict[str, Any]) -> None:
        """Runs the pipeline; `failed` tells which stages failed."""
        warnings.filterwarnings("ignore", module=r"kfp\.local")  # image names, display names, local no-ops
        local.init(
            runner,
            pipeline_root=str(self._artifacts),
            raise_on_error=False,
            enable_caching=True,
        )
        local_cache.use(self._artifacts)
        kfp_execute = task_executor.execute_single_task

        def execute_single_task(*args: Any, **kwargs: Any) -> tuple[dict[str, Any], status.Status]:
            return self._stage(kfp_execute, *args, **kwargs)

        # kfp.local has no hook around a task; this is the one function that every task passes through.
        task_executor.execute_single_task = execute_single_task
        try:
            with contextlib.redirect_stdout(io.StringIO()), _quiet_logging():
                components.load_component_from_file(str(compiled))(**arguments)
        finally:
            task_executor.execute_single_task = kfp_execute

    def _stage(self, kfp_execute: Callable[..., Any], **kwargs: Any) -> tuple[dict[str, Any], status.Status]:
        executor = kwargs["components"][kwargs["task_spec"].component_ref.name].executor_label
        if kwargs["executors"][executor].WhichOneof("spec") == "importer":
            imported: tuple[dict[str, Any], status.Status] = kfp_execute(**kwargs)
            return imported  # what is there: no stage of the run
        path = _path(kwargs["task_name"], kwargs["io_store"])
        kwargs = self._own_component(path, **kwargs)
        log_path = self._output_dir / "logs" / f"{path.replace('/', '.')}.log"
        log_path.parent.mkdir(exist_ok=True)
        self._display.stage_begins(path)
        with StageLog(log_path, self._display.stage_says) as log, contextlib.redirect_stdout(log):  # type: ignore[type-var]
            outputs, task_status = kfp_execute(**kwargs)
        if task_status == status.Status.SUCCESS:
            # The log lies beside the artifacts too: a stage from the cache shows the log of when those were made.
            kept = Path(next(a.path for a in outputs.values() if isinstance(a, dsl.Artifact))).parent / "stage.log"
            cached = log.is_empty
            if cached:
                shutil.copyfile(kept, log_path)
            else:
                shutil.copyfile(log_path, kept)
                local_cache.record_outputs(kept.parent)
            if self._mirror:
                self._mirror.stage_done(kept.parent)
            self.outputs[path] = outputs
            self._name_outputs(path, outputs)
            self._display.stage_ends(path, cached, last_result(log_path))
        else:
            self.failed[path] = log_path
            self._display.stage_fails(path)
        stage = path.split("/")[-1].replace("-", "_")
        if self.until and (stage == self.until or stage.startswith(f"{self.until}_")) and not self.failed:
            raise _StopHere
        return outputs, task_status

    def _own_component(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """The arguments of a task with a component of its own name.

        Stages share components, and kfp.local takes a component's name for the task: for its folder and in the cache.
        """
        spec = type(kwargs["task_spec"])()
        spec.CopyFrom(kwargs["task_spec"])
        spec.component_ref.name = f"comp-{path.replace('/', '.')}"
        spec.retry_policy.Clear()  # here a person retries, and need not wait for the back-off
        if path == "preflight" and self._checked:
            spec.caching_options.enable_cache, spec.caching_options.cache_key = True, self._checked
        shared = kwargs["components"][kwargs["task_spec"].component_ref.name]
        return {**kwargs, "task_spec": spec, "components": {spec.component_ref.name: shared}}

    def _name_outputs(self, path: str, outputs: dict[str, Any]) -> None:
        """Puts each artifact under a plain name, such as `stages/iteration-1/rft/rloop_policy`."""
        folder = self._output_dir / "stages" / path
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, artifact in outputs.items():
            if isinstance(artifact, dsl.Artifact):
                suffix = "" if Path(artifact.path).is_dir() else _SUFFIXES.get(name, "")
                if suffix:  # a copy: browsers go by the name of what a link points to
                    shutil.copyfile(artifact.path, folder / (name + suffix))
                else:
                    (folder / name).symlink_to(os.path.relpath(artifact.path, folder.resolve()))

    @staticmethod
    def end_processes() -> None:
        """Ends the stage that is running and all that it started."""
        children = psutil.Process().children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        _, alive = psutil.wait_procs(children, timeout=5)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _path(task_name: str, inputs: Any) -> str:
    """A task's path, such as `iteration-2/rft`, by its name and the inputs of the pipeline that it is in."""
    try:
        return f"iteration-{int(inputs.get_parent_input('iteration'))}/{task_name}"
    except ValueError:  # the root has no such input
        return task_name


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _publish(last_report: dict[str, Any], output_dir: Path) -> None:
    """Copies the last report's page, numbers and policy to the top of the run's folder."""
    for source, name in (
        (Path(last_report["page"].path), "report.html"),
        (Path(last_report["results"].path) / "summary.json", "summary.json"),
        (Path(last_report["results"].path) / "problems.json", "problems.json"),
    ):
        temporary = output_dir / f".{name}.tmp"
        shutil.copyfile(source, temporary)
        os.replace(temporary, output_dir / name)
    with whole_folder(output_dir / "policy") as folder:
        shutil.copytree(last_report["best_policy"].path, folder, dirs_exist_ok=True)


@contextlib.contextmanager
def _exclusive(output_dir: Path) -> Iterator[None]:
    """Makes the run's folder and keeps other runs out of it."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = (output_dir / ".lock").open("w")
        write_json(output_dir / ".writable", {})
        (output_dir / ".writable").unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to the output folder {output_dir}: {error.strerror}; choose another with --output-dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run is using {output_dir}; wait for it, or choose another folder with --output-dir"
            ) from None
        yield


@contextlib.contextmanager
def _temporary_folder(output_dir: Path) -> Iterator[None]:
    """Lets stages keep temporary files on the output's disk, and removes them at the end."""
    for left in output_dir.glob(".tmp-*"):  # of a run that was killed; the lock says none is running
        shutil.rmtree(left, ignore_errors=True)
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".tmp-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = str(Path(folder).resolve())
        tempfile.tempdir = None  # look at TMPDIR again
        try:
            yield
        finally:
            tempfile.tempdir = None
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


@contextlib.contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """A polite kill ends the run as Ctrl-C does, with the stage's processes."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Keeps kfp.local's warnings, which go to the root logger between stages, off the screen."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
