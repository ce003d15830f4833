"""Times a stage's process from the inside; bench/startup.py puts this folder on the PYTHONPATH of a local run.

Python imports `sitecustomize` when it starts. In a process that runs a stage, this writes one line (process ID, stage,
time, CPU time, event) to the pipe $RLOOP_BENCH_MARKS when the stage's work begins and whenever a part of it ends; in
all other processes it does nothing.
"""

import importlib.abc
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Where each stage's work is done: the module, and the function or method that is called for every part of it.
WORK = {
    "preflight": ("components.preflight.check", "run_preflight"),
    "data_preparation": ("components.data_preparation.prepare", "prepare_data"),
    "rl_exploration": ("transformers.trainer", "Trainer.training_step"),
    "rollout_harvesting": ("components.rollout_harvesting.harvest", "harvest"),
    "verification_filtering": ("components.shared.grading.grader", "Grader.judge"),
    "rft": ("transformers.trainer", "Trainer.training_step"),
    "evaluation": ("transformers.generation.utils", "GenerationMixin.generate"),
    "report": ("components.report.report", "report"),
}


class WorkFinder(importlib.abc.MetaPathFinder):
    """Finds the module that does the work, and wraps its function once it is loaded.

    Args:
        stage: The stage.
        marks: File descriptor of the pipe.
    """

    def __init__(self, stage: str, marks: int) -> None:
        self.stage, self.marks, self.begun = stage, marks, False

    def mark(self, event: str) -> None:
        """Writes a line."""
        os.write(self.marks, f"{os.getpid()} {self.stage} {time.monotonic()} {time.process_time()} {event}\n".encode())

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Wraps the loading of the module; knows no other."""
        if name != WORK[self.stage][0]:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec and spec.loader
        execute = spec.loader.exec_module

        def execute_and_wrap(module: ModuleType) -> None:
            execute(module)
            *owners, function = WORK[self.stage][1].split(".")
            owner: Any = getattr(module, owners[0]) if owners else module
            setattr(owner, function, self.wrapped(getattr(owner, function)))

        spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec

    def wrapped(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function with marks around its calls."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.begun:
                self.mark("begins")
                self.begun = True
            try:
                return work(*args, **kwargs)
            finally:
                self.mark("works")

        return timed


def stage_of(arguments: list[str]) -> str:
    """Returns the stage that a command line runs; empty if it runs none."""
    flag = "--function_to_execute"
    stage = arguments[arguments.index(flag) + 1] if flag in arguments[:-1] else ""
    return stage if "kfp.dsl.executor_main" in arguments and stage in WORK else ""


if "RLOOP_BENCH_MARKS" in os.environ and (stage := stage_of(sys.orig_argv)):
    finder = WorkFinder(stage, os.open(os.environ["RLOOP_BENCH_MARKS"], os.O_WRONLY))
    finder.mark("starts")
    sys.meta_path.insert(0, finder)
