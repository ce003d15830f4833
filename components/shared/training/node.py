"""One of the nodes that train a stage together, in each pod of a TrainJob.

`python -m components.shared.training.node FOLDER`

FOLDER is on a volume that all of them and the stage's own pod mount. In it the stage's pod has left what to call, as
JSON, and the inputs; the nodes leave the outputs, their logs, what the call returns, and what went wrong.

Kubeflow Trainer's torch runtime tells a pod where it stands by PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK,
PET_MASTER_ADDR and PET_MASTER_PORT (kubeflow/trainer, pkg/runtime/framework/plugins/torch/torch.go).
"""

import contextlib
import importlib
import inspect
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.memory_watch import watched_memory
from components.shared.settings import Settings
from components.shared.stage import note, read_json, write_json
from components.shared.training.processes import COMMON_FOLDER, MESSAGE, ParallelSettings, launch

CALL, RESULT = "call.json", "result.json"
ALIVE = "alive"  # touched by the stage's pod for as long as it waits
LEFT_SECONDS = 300.0
_MEETING_SECONDS = 3600  # a node may have to be added to the cluster first, and the image brought
_OURS = "components."


def node_log(node: int) -> str:
    """The file in the folder that has what a node printed."""
    return f"node-{node}.log"


def node_failed(node: int) -> str:
    """The file in the folder that says why a node failed, where that is nothing for the user to mend."""
    return f"failed-{node}.txt"


def write_call(
    folder: Path, settings: ParallelSettings, section: str, function: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    """Leaves in a folder what its nodes shall call.

    Args:
        folder: of the nodes.
        settings: the recipe's `rl.parallel` or `rft.parallel`.
        section: of the recipe, for messages.
        function: of a module of ours.
        arguments: by the function's names for them: settings, paths, or what JSON has.
    """
    call = {
        "parallel": settings.model_dump(),
        "section": section,
        "function": _name(function),
        "arguments": {name: _encoded(value) for name, value in arguments.items()},
    }
    write_json(folder / CALL, call)


def arguments_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)


def _name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__name__}"


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not module.startswith(_OURS):
        raise ValueError(f"{name} is not of {_OURS}*")
    return getattr(importlib.import_module(module), attribute)


def _encoded(value: Any) -> Any:
    if isinstance(value, Settings):
        return {"settings": _name(type(value)), "values": value.model_dump(mode="json")}
    return {"path": str(value)} if isinstance(value, Path) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and "settings" in value:
        return _named(value["settings"]).model_validate(value["values"])
    return Path(value["path"]) if isinstance(value, dict) and "path" in value else value


def run(folder: Path) -> None:
    """Runs the processes of this node; the first node leaves what the call returned in its first process.

    Raises:
        SystemExit: with status 1, after what went wrong was left in the folder.
    """
    node = int(os.environ["PET_NODE_RANK"])
    try:
        if (started := folder / f"started-{node}").exists():
            # Kubernetes starts a pod's container again; the other nodes and the stage do not wait for it.
            if (folder / MESSAGE).exists() or (folder / node_failed(node)).exists():
                sys.exit(1)
            raise RuntimeError("its container was killed, most often for memory; see pools.training.memory")
        started.touch()
        result = _launched(folder, node)
        if node == 0:
            write_json(folder / RESULT, result[0])
        return
    except InputError as error:
        (folder / MESSAGE).write_text(str(error))
    except Exception as error:
        traceback.print_exc()
        (folder / node_failed(node)).write_text(_reason(error))
    sys.exit(1)


def _reason(error: Exception) -> str:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not isinstance(error, ChildFailedError):
        return str(error) or type(error).__name__
    process, failure = error.get_first_failure()
    how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    return f"process {process} ended with {how}"


def _launched(folder: Path, node: int) -> dict[int, Any]:
    call = read_json(folder / CALL)
    settings, section = ParallelSettings.check(call["parallel"], call["section"]), call["section"]
    for name, wanted in (("PET_NNODES", settings.nodes), ("PET_NPROC_PER_NODE", settings.processes)):
        if (found := os.environ[name]) != str(wanted):
            raise InputError(f"the TrainJob's runtime sets {name} to {found}; {section}.parallel asks for {wanted}")
    work = folder / "work"
    work.mkdir(exist_ok=True)
    os.environ[COMMON_FOLDER] = str(work)
    # Static: the node's number is the one that the TrainJob gave it, and the first process the first node's.
    meeting = {
        "rdzv_backend": "static",
        "rdzv_endpoint": f"{os.environ['PET_MASTER_ADDR']}:{os.environ['PET_MASTER_PORT']}",
        "rdzv_configs": {"rank": node, "timeout": _MEETING_SECONDS},
    }
    arguments = {name: _decoded(value) for name, value in call["arguments"].items()}
    return launch(settings, section, folder, _named(call["function"]), (), arguments, meeting)


def print_to(path: Path) -> Callable[[], None]:
    """Sends what this process and its children print to a file too; call what it returns at the end."""
    pipe, into = os.pipe()
    out = os.dup(1)
    os.dup2(into, 1)
    os.dup2(into, 2)
    os.close(into)

    def copy() -> None:
        with path.open("ab", buffering=0) as file:
            while some := os.read(pipe, 1 << 16):
                os.write(out, some)
                file.write(some)

    copying = threading.Thread(target=copy, name="log", daemon=True)
    copying.start()

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(out, 1)
        os.dup2(out, 2)
        copying.join(10)  # a process that was left behind may hold the pipe open

    return end


def wait_until_left(alive: Path, seconds: float, every: float) -> None:
    """Returns when nobody has touched a file for so many seconds; looks every so many."""
    touched, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(every)
        with contextlib.suppress(OSError):
            if (now := alive.stat().st_mtime_ns) != touched:
                touched, since = now, time.monotonic()


def _stop_when_left(folder: Path) -> None:
    wait_until_left(folder / ALIVE, LEFT_SECONDS, 10.0)
    print("the stage's pod waits no more: this node stops", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)  # the launcher ends its processes


def main() -> None:
    """Runs this node in the folder that the command line names."""
    folder = Path(sys.argv[1])
    end = print_to(folder / node_log(int(os.environ["PET_NODE_RANK"])))
    threading.Thread(target=_stop_when_left, args=(folder,), name="alive", daemon=True).start()
    try:
        with watched_memory("pools.training.memory", note):
            run(folder)
    finally:
        end()


if __name__ == "__main__":
    main()
