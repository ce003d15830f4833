"""One execution of a compiled pipeline with kfp.local, stage by stage."""

import contextlib
import io
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from kfp import components, dsl, local
from kfp.local import status
from kfp.local.orchestrator import task_executor

from launch.local import cache as local_cache
from launch.local.display import Display
from launch.local.mirror import Mirror
from launch.local.stage_log import StageLog, last_result

# File name extensions of artifacts that are single files, by output name; KFP gives their paths none.
_SUFFIXES = {
    "page": ".html",
    "metrics": ".json",
    "report": ".json",
    "manifest": ".json",
}


class StopRequested(Exception):
    """The stage that `--until` names has run."""


class PipelineRun:
    """One execution of the compiled pipeline.

    Args:
        output_dir: folder of the run, with the compiled pipeline in rloop.yaml.
        display: shows the stages.
        until: stop after the first execution of this stage.
        mirror: gets each stage's artifacts.
        checked: digest of what preflight checks, so that it does not check the same again; empty: it always runs.

    Attributes:
        until: stop after the first execution of this stage.
        stopped: whether the run stopped there.
        outputs: outputs of the finished stages, by the stage's path.
        failed: logs of the failed stages, by the stage's path.
    """

    def __init__(
        self, output_dir: Path, display: Display, until: str | None, mirror: Mirror | None, checked: str
    ) -> None:
        self._output_dir, self._display, self.until = output_dir, display, until
        self._artifacts, self._mirror = output_dir.resolve() / "artifacts", mirror
        self._checked = checked
        self.stopped = False
        self.outputs: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, Path] = {}

    def execute(self, runner: Any, arguments: dict[str, Any]) -> None:
        """Runs the pipeline; `failed` has the stages that failed.

        Args:
            runner: kfp.local's runner.
            arguments: of the pipeline.

        Raises:
            StopRequested: the stage that `until` names has run.
        """
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
            return self._execute_task(kfp_execute, *args, **kwargs)

        # kfp.local has no hook around a task; this is the one function that every task passes through.
        task_executor.execute_single_task = execute_single_task
        try:
            with contextlib.redirect_stdout(io.StringIO()), _quiet_logging():
                components.load_component_from_file(str(self._output_dir / "rloop.yaml"))(**arguments)
        finally:
            task_executor.execute_single_task = kfp_execute

    def _execute_task(self, kfp_execute: Callable[..., Any], **kwargs: Any) -> tuple[dict[str, Any], status.Status]:
        """Runs a task of the pipeline, as a stage unless it is an importer."""
        executor = kwargs["components"][kwargs["task_spec"].component_ref.name].executor_label
        if kwargs["executors"][executor].WhichOneof("spec") == "importer":
            imported: tuple[dict[str, Any], status.Status] = kfp_execute(**kwargs)
            return imported  # an artifact that exists already, not a stage
        path = _stage_path(kwargs["task_name"], kwargs["io_store"])
        kwargs = self._with_own_component(path, **kwargs)
        log_path = self._output_dir / "logs" / f"{path.replace('/', '.')}.log"
        log_path.parent.mkdir(exist_ok=True)
        self._display.stage_started(path)
        with StageLog(log_path, self._display.stage_output) as log, contextlib.redirect_stdout(log):  # type: ignore[type-var]
            outputs, task_status = kfp_execute(**kwargs)
        if task_status == status.Status.SUCCESS:
            self._keep_outputs(path, outputs, log_path, cached=log.is_empty)
        else:
            self.failed[path] = log_path
            self._display.stage_failed(path)
        stage = path.split("/")[-1].replace("-", "_")
        if self.until and (stage == self.until or stage.startswith(f"{self.until}_")) and not self.failed:
            self.stopped = True
            raise StopRequested
        return outputs, task_status

    def _with_own_component(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Returns a task's arguments with a component named after the task.

        Stages share components, and kfp.local uses a component's name for the task's folder and its cache entry.
        """
        spec = type(kwargs["task_spec"])()
        spec.CopyFrom(kwargs["task_spec"])
        spec.component_ref.name = f"comp-{path.replace('/', '.')}"
        spec.retry_policy.Clear()  # the user retries here, and should not have to wait for the back-off
        if path == "preflight" and self._checked:
            spec.caching_options.enable_cache, spec.caching_options.cache_key = True, self._checked
        shared = kwargs["components"][kwargs["task_spec"].component_ref.name]
        return {**kwargs, "task_spec": spec, "components": {spec.component_ref.name: shared}}

    def _keep_outputs(self, path: str, outputs: dict[str, Any], log_path: Path, cached: bool) -> None:
        """Keeps log and outputs of a stage that succeeded, and shows its result."""
        # The log is kept with the artifacts too: a cached stage shows the log of the execution that made them.
        folder = Path(next(a.path for a in outputs.values() if isinstance(a, dsl.Artifact))).parent
        if cached:
            shutil.copyfile(folder / "stage.log", log_path)
        else:
            shutil.copyfile(log_path, folder / "stage.log")
            local_cache.record_outputs(folder)
        if self._mirror:
            self._mirror.upload_stage(folder)
        self.outputs[path] = outputs
        self._link_outputs(path, outputs)
        self._display.stage_finished(path, cached, last_result(log_path))

    def _link_outputs(self, path: str, outputs: dict[str, Any]) -> None:
        """Makes each artifact available under a readable path, such as `stages/iteration-1/rft/rloop_policy`."""
        folder = self._output_dir / "stages" / path
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, artifact in outputs.items():
            if isinstance(artifact, dsl.Artifact):
                suffix = "" if Path(artifact.path).is_dir() else _SUFFIXES.get(name, "")
                if suffix:  # a copy, because browsers go by the name of a link's target
                    shutil.copyfile(artifact.path, folder / (name + suffix))
                else:
                    (folder / name).symlink_to(os.path.relpath(artifact.path, folder.resolve()))

    @staticmethod
    def end_processes() -> None:
        """Ends the running stage and everything it started."""
        children = psutil.Process().children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        _, alive = psutil.wait_procs(children, timeout=5)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def _stage_path(task_name: str, inputs: Any) -> str:
    """Returns a stage's path, such as `iteration-2/rft`, from its task's name and the inputs of its pipeline."""
    try:
        return f"iteration-{int(inputs.get_parent_input('iteration'))}/{task_name}"
    except ValueError:  # the root pipeline has no such input
        return task_name


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
