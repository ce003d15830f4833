"""Base class of the stages' settings: pydantic models whose errors name the key and suggest the closest known one."""

import sys
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from components.shared.errors import InputError, nearest


class Settings(BaseModel):
    """Base class of every recipe section. Keys are documented at their fields; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    # Former to present names of keys, accepted for one release; a present one may be SECTION.KEY, a key that has moved
    # into a nested section.
    renamed: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not (former := values.keys() & cls.renamed.keys()):
            return values
        values = dict(values)
        for name in sorted(former):
            present = cls.renamed[name]
            section, _, key = present.rpartition(".")
            place = values
            if section:  # the key has moved into it
                given = values.get(section) or {}
                if not isinstance(given, dict):
                    continue  # an error, but of that key
                place = values[section] = dict(given)
            if key in place:
                raise ValueError(f"{name} is the former name of {present}, which is also set; remove {name}")
            _warn_about_former_name(name, present)
            place[key] = values.pop(name)
        return values

    @classmethod
    def check(cls, values: dict[str, Any], section: str) -> Self:
        """Validates the values of a recipe section.

        Args:
            values: keys and values, as read from YAML or from a pipeline parameter.
            section: the prefix of the keys in messages, such as `rl` for `rl.steps`.

        Raises:
            InputError: an unknown or missing key, or an invalid value.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError("\n".join(_explain(cls, problem, section) for problem in error.errors())) from None


@cache  # warns once per key: settings are validated many times
def _warn_about_former_name(name: str, present: str) -> None:
    print(
        f"warning: recipe key {name!r} is now called {present!r}; the next release will no longer accept the old name",
        file=sys.stderr,
    )


def _explain(model: type[BaseModel], problem: Any, section: str) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join([part for part in [section] if part] + path)
    if problem["type"] == "extra_forbidden":
        for part in path[:-1]:  # walk to the model that rejected the key
            field = model.model_fields.get(part)
            kind = field.annotation if field else None
            if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
                break
            model = kind
        return f"unknown recipe key {name!r}.{nearest(path[-1], model.model_fields)}"
    if problem["type"] == "missing":
        return f"recipe key {name!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if path:
        return f"recipe key {name!r}: {message} (got {problem['input']!r})"
    return f"{section}: {message}" if section else message
