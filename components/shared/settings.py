"""Settings of the stages: pydantic models whose errors name the key and suggest the nearest known one."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.shared.errors import InputError, nearest


class Settings(BaseModel):
    """Base of every section of a recipe. Keys are documented at their fields; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def check(cls, values: dict[str, Any], section: str) -> Self:
        """Validates the values of a recipe section.

        Args:
            values: key and value, as read from YAML or from a pipeline parameter.
            section: what the keys are called by in messages, such as `rl` for `rl.steps`.

        Raises:
            InputError: an unknown key, a missing one, or a value of the wrong kind.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError("\n".join(_explain(cls, problem, section) for problem in error.errors())) from None


def _explain(model: type[BaseModel], problem: Any, section: str) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join([part for part in [section] if part] + path)
    if problem["type"] == "extra_forbidden":
        for part in path[:-1]:  # walk to the model that refused the key
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
