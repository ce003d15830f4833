"""Runs the bodies in processes of their own, measures their memory, and prints a table at the end."""

import contextlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.preflight.memory import GIB
from components.shared.accelerator import gpu_has_bfloat16
from launch.planning.devices import CPU, Device, device_for
from launch.planning.memory_estimate import MemoryEstimate
from launch.planning.planned_run import PlannedRun, data_size, policy_size
from launch.recipe import Recipe
from tests.gpu.bodies import ROOT, SMOLLM2, prepare, recipe_of

NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": ""}
LIMIT_SECONDS = 600  # of one body
_TABLE: list[list[str]] = []


def gpus() -> int:
    """Returns the number of GPUs."""
    import torch

    return torch.cuda.device_count()


def without(module: str) -> str | None:
    """Returns why a test cannot run if a package is not installed."""
    return None if importlib.util.find_spec(module) else f"{module} is not installed here"


@dataclass(frozen=True)
class Runner:
    """Runs bodies on one device; a call that was made before gives the same figures again."""

    folder: Path
    inputs: Callable[[str], Path]
    done: dict[str, dict[str, Any]]

    def __call__(
        self,
        body: str,
        policy: str,
        *changes: str,
        on_cpu: bool = False,
        single_precision: bool = False,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Returns the figures of a body with a policy's recipe, changed as by `--set`; `on_cpu` hides the GPUs."""
        call = {"body": body, "policy": policy, "changes": changes, "single_precision": single_precision}
        call |= {"given": str(self.inputs(policy)), "arguments": arguments}
        on_cpu = on_cpu or not gpus()
        key = json.dumps([call, on_cpu])
        if key not in self.done:
            out = self.folder / str(len(self.done))
            out.mkdir()
            (out / "call.json").write_text(json.dumps(call))
            began = time.monotonic()
            with memory_peak(on_cpu) as peak, (out / "log.txt").open("w") as log:
                command = [sys.executable, "-m", "tests.gpu.bodies", str(out / "call.json")]
                environment = os.environ | (NO_GPU if on_cpu else {})
                code = subprocess.run(
                    command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=LIMIT_SECONDS
                ).returncode
            if code:
                pytest.fail(f"{body} ended with exit code {code}:\n{(out / 'log.txt').read_text()[-6000:]}")
            figures = json.loads((out / "figures.json").read_text())
            if "message" in figures and arguments.get("rollouts") != "stale":
                pytest.fail(f"{body} stopped: {figures['message']}")
            self.done[key] = figures
            what = ", ".join([policy, *changes, *(f"{name}={value}" for name, value in arguments.items())])
            rates = (figures.get("tokens_per_second", math.nan), figures.get("step_seconds", math.nan))
            memory = (max(peak, default=0) / GIB, estimated(recipe_of(policy, changes), body, on_cpu))
            cells = [
                f"{v:,.{d}f}" for v, d in zip((*rates, *memory, time.monotonic() - began), (0, 3, 2, 2, 0), strict=True)
            ]
            _TABLE.append([body, what, "CPU" if on_cpu else "GPU", *(cell.replace("nan", "") for cell in cells)])
        return self.done[key]


@contextlib.contextmanager
def memory_peak(on_cpu: bool) -> Iterator[list[int]]:
    """Collects the bytes in use meanwhile: of the child processes, or more than before on the fullest GPU."""
    samples: list[int] = []
    before = [] if on_cpu else _gpu_memory()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            if on_cpu:
                samples.append(sum(_resident(child) for child in psutil.Process().children(recursive=True)))
            else:
                samples.append(max(now - then for now, then in zip(_gpu_memory(), before, strict=True)))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield samples
    finally:
        ended.set()
        watching.join()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _gpu_memory() -> list[int]:
    """Returns the bytes in use on each GPU, by all processes; 0 where the driver does not say (MIG)."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return [
        int(line) * 2**20 if line.isdigit() else 0 for line in subprocess.check_output(command, text=True).splitlines()
    ]


def estimated(recipe: Recipe, body: str, on_cpu: bool) -> float:
    """Returns what `plan` estimates for a stage on one of this machine's devices, in GiB."""
    device = device_for(recipe.pools.training, CPU)
    if not on_cpu:
        import torch

        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        device = Device(torch.cuda.get_device_name(0), memory, flops=1.0, bandwidth=1.0, half=gpu_has_bfloat16())
    model, context = policy_size(recipe.base_policy)
    memories = MemoryEstimate(PlannedRun(recipe, model, context, data_size(recipe, context)[0], device, device))
    if body == "RL exploration":
        training = memories.rl_training(recipe.rl.micro_batch_completions)
        return max(training.total, memories.rl_sampling(memories.process_completions).total) / GIB
    if body == "RFT":
        return memories.rft(recipe.rft.micro_batch_trajectories).total / GIB
    engine = memories.evaluation_engine(recipe.eval.sequences_per_batch)
    return (engine.share if engine else memories.evaluation(recipe.eval.sequences_per_batch).total) / GIB


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Runs a body on the GPU, or on the CPU if there is none."""
    prepared: dict[str, Path] = {}

    def inputs(policy: str) -> Path:
        if policy == "smollm2" and not SMOLLM2.exists():
            pytest.skip(f"there is no {SMOLLM2.relative_to(ROOT)}: `make smollm2` makes it")
        if policy not in prepared:
            prepared[policy] = prepare(policy, tmp_path_factory.mktemp(policy))
        return prepared[policy]

    return Runner(tmp_path_factory.mktemp("runs"), inputs, {})


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the table."""
    if not _TABLE:
        return
    heading = ["stage", "run", "on", "tokens/s", "s per step", "peak, GiB", "plan, GiB", "s in all"]
    widths = [max(len(row[column]) for row in [heading, *_TABLE]) for column in range(len(heading))]
    terminalreporter.section("figures")
    for row in [heading, *_TABLE]:
        cells = (c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        terminalreporter.write_line("  ".join(cells).rstrip())
    terminalreporter.write_line(
        "Peaks include the libraries: a CPU's are of all processes, a GPU's of the fullest one."
    )
