"""Writes docs/parameters.md: every recipe key, from where it is defined. Run by `make docs`."""

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from components.preflight.resolve import OWN_PARAMETERS
from components.shared.data.sources import Source
from launch.pools import Pool
from launch.recipe import Recipe

PATH = Path(__file__).resolve().parent / "parameters.md"
INTRODUCTION = """# Parameters

Every key of a recipe, generated from where it is defined (`make docs`). A key that says *parameter* is a parameter
of the pipeline by that name, to be changed in the Kubeflow UI. The other keys are in the parameter `advanced` there, by
section, where they differ from their defaults: `{"rl": {"group_size": 8}, "filter": {"max_per_problem": 4}}`.
`--set SECTION.KEY=VALUE` changes any of them for one run.
"""


def markdown() -> str:
    """The whole document."""
    sections = {name: field for name, field in Recipe.model_fields.items() if _model(field)}
    top = {name: field for name, field in Recipe.model_fields.items() if name not in sections}
    parts = [INTRODUCTION, _table("Top level", "", top, {"base_policy": "base_policy", "seed": "seed"})]
    for name, field in sections.items():
        model = _model(field)
        assert model
        if name == "pools":
            own = dict.fromkeys(("node_selector", "tolerations", "accelerator_memory_gib"), "pools")
            title = "pools.cpu, pools.training, pools.inference"
            parts.append(_table(title, "pools.POOL.", Pool.model_fields, own))
        else:
            own = {key: f"{name}_{key}" for key in OWN_PARAMETERS[name]}
            parts.append(_table(name, f"{name}.", model.model_fields, own))
    parts.append(_table("A source of problems (data.train, data.benchmarks)", "", Source.model_fields, {}))
    return "\n".join(parts)


def _model(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(title: str, prefix: str, fields: dict[str, FieldInfo], parameters: dict[str, str]) -> str:
    lines = [f"## {title}", "", "| key | kind | default | what |", "|---|---|---|---|"]
    for name, field in _flat(fields):
        what = (field.description or "").replace("|", "\\|")
        if name in parameters:
            what += f" *Parameter `{parameters[name]}`.*"
        lines.append(f"| `{prefix}{name}` | {_kind(field.annotation)} | {_default(field)} | {what} |")
    return "\n".join([*lines, ""])


def _flat(fields: dict[str, FieldInfo], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in fields.items():
        if model := _model(field):
            yield from _flat(model.model_fields, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _kind(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if a is type(None) else _kind(a) for a in typing.get_args(annotation))
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    if origin in (list, dict):
        inner = [_kind(a) for a in typing.get_args(annotation)]
        return f"list of {inner[0]}" if origin is list else f"mapping to {inner[-1]}"
    name: str = annotation.__name__
    return names.get(name, name.lower())


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return "null" if field.default is None else f"`{field.default}`"


if __name__ == "__main__":
    PATH.write_text(markdown())
    print(f"wrote {PATH}")
