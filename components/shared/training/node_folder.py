"""The folder that a stage's pod and the nodes that train for it share, on a volume that all of them mount.

The stage's pod leaves the call, as JSON, and the inputs; the nodes leave the outputs, their logs, what the call
returned, and what went wrong.
"""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from components.shared.settings import Settings
from components.shared.stage import read_json, write_json
from components.shared.training.parallel import ParallelSettings

RESULT = "result.json"
ALIVE = "alive"  # touched by the stage's pod for as long as it waits
_CALL = "call.json"
_OURS = "components."


class Call(NamedTuple):
    """What the nodes call."""

    settings: ParallelSettings
    section: str  # recipe section, for messages
    function: Callable[..., Any]
    arguments: dict[str, Any]


def node_log(node: int) -> str:
    """Returns the name of the file that has a node's output."""
    return f"node-{node}.log"


def node_failed(node: int) -> str:
    """Returns the name of the file that says why a node failed, if it is nothing that the user can fix."""
    return f"failed-{node}.txt"


def arguments_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns all arguments of a call by name."""
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)


def write_call(
    folder: Path, settings: ParallelSettings, section: str, function: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    """Writes what the nodes are to call.

    Args:
        folder: The shared folder.
        settings: The recipe's `rl.parallel` or `rft.parallel`.
        section: Recipe section, for messages.
        function: A function of one of our modules.
        arguments: Arguments by name: settings, paths, or what JSON can represent.
    """
    call = {
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
