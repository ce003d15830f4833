"""The folder that a stage's pod and the nodes that train for it share, on a volume that all of them mount.

The stage's pod leaves the call, as JSON, and the inputs; the nodes leave the outputs, their logs, what the call
returned, and what went wrong.
"""

import contextlib
import importlib
import inspect
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from components.shared.settings import Settings
from components.shared.stage import read_json, write_json
from components.shared.training.parallel import ParallelSettings

RESULT = "result.json"
ALIVE = "alive"  # touched by the stage's pod for as long as it needs the folder
POD_UID = "RLOOP_POD_UID"  # environment variable of a node: the UID of its pod
_CALL = "call.json"
_OURS = "components."
_TOUCH_SECONDS = 5.0
SWEEP_SECONDS = 3600.0
# Ends with the digest of a stage's call and the start of its pod's UID: the name of an attempt's TrainJob.
_FOLDER = re.compile(r"rloop-[a-z0-9-]+-[0-9a-f]{12}-[0-9a-f]{8}(-removed)?")
_REMOVED = "-removed"
_REMOVALS = 3


class Call(NamedTuple):
    """What the nodes call."""

    settings: ParallelSettings
    section: str  # recipe section, for messages
    function: Callable[..., Any]
    arguments: dict[str, Any]


class StagePod(NamedTuple):
    """The pod of the stage that the nodes train for."""

    name: str
    uid: str


def node_log(node: int) -> str:
    """Returns the name of the file that has a node's output."""
    return f"node-{node}.log"


def node_started(node: int) -> str:
    """Returns the name of the file that a node leaves when it starts, with its pod's UID."""
    return f"started-{node}"


def node_failed(node: int) -> str:
    """Returns the name of the file that says why a node failed, if it is nothing that the user can fix."""
    return f"failed-{node}.txt"


def arguments_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns all arguments of a call by name."""
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)


def write_call(
    folder: Path,
    settings: ParallelSettings,
    section: str,
    function: Callable[..., Any],
    arguments: dict[str, Any],
    pod: StagePod | None = None,
) -> None:
    """Writes what the nodes are to call.

    Args:
        folder: The shared folder.
        settings: The recipe's `rl.parallel` or `rft.parallel`.
        section: Recipe section, for messages.
        function: A function of one of our modules.
        arguments: Arguments by name: settings, paths, or what JSON can represent.
        pod: The stage's pod, which the nodes watch.
    """
    call = {
        "pod": pod,
        "parallel": settings.model_dump(),
        "section": section,
        "function": _qualified_name(function),
        "arguments": {name: _encoded(value) for name, value in arguments.items()},
    }
    write_json(folder / _CALL, call)


def read_call(folder: Path) -> Call:
    """Reads what `write_call` wrote.

    Raises:
        ValueError: The function is not one of ours.
    """
    call = read_json(folder / _CALL)
    settings = ParallelSettings.check(call["parallel"], call["section"])
    arguments = {name: _decoded(value) for name, value in call["arguments"].items()}
    return Call(settings, call["section"], _import(call["function"]), arguments)


def stage_pod(folder: Path) -> StagePod | None:
    """Returns the pod that `write_call` wrote, for which the nodes train."""
    pod = read_json(folder / _CALL)["pod"]
    return StagePod(*pod) if pod else None


@contextlib.contextmanager
def kept_alive(folder: Path) -> Iterator[None]:
    """Marks a folder as in use while the block runs: for the nodes, and for other stages' `sweep`."""
    done = threading.Event()

    def touch() -> None:
        while True:
            with contextlib.suppress(OSError):
                (folder / ALIVE).touch()
            if done.wait(_TOUCH_SECONDS):
                return

    toucher = threading.Thread(target=touch, name="alive", daemon=True)
    toucher.start()
    try:
        yield
    finally:
        done.set()
        toucher.join()


def remove(folder: Path) -> None:
    """Removes a shared folder while nodes may still be writing to it.

    Under another name, no process finds it any more to make new files, which would keep it from being removed.
    """
    if not folder.name.endswith(_REMOVED):
        with contextlib.suppress(OSError):
            folder = folder.rename(folder.with_name(folder.name + _REMOVED))
    for _ in range(_REMOVALS):  # a file may have been on its way when the folder was renamed
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def sweep(own: Path) -> None:
    """Removes the folders next to a stage's own that nothing has touched for an hour.

    They are of stages that were cancelled or lost. One that is in use has its file ALIVE touched every few seconds.
    """
    now = own.stat().st_mtime  # of the volume's clock: `own` is new
    for folder in own.parent.iterdir():
        if folder == own or not _FOLDER.fullmatch(folder.name):
            continue
        try:
            touched = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
        except OSError:  # it is just being changed
            continue
        if now - touched > SWEEP_SECONDS:
            remove(folder)


def _qualified_name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__name__}"


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not module.startswith(_OURS):
        raise ValueError(f"{name} is not of {_OURS}*")
    return getattr(importlib.import_module(module), attribute)


def _encoded(value: Any) -> Any:
    if isinstance(value, Settings):
        return {"settings": _qualified_name(type(value)), "values": value.model_dump(mode="json")}
    return {"path": str(value)} if isinstance(value, Path) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and "settings" in value:
        return _import(value["settings"]).model_validate(value["values"])
    return Path(value["path"]) if isinstance(value, dict) and "path" in value else value
