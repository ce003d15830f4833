"""Validation of requests to the stand-in server against the models of kfp_server_api."""

import json
import re
from typing import Any

import kfp_server_api as api

_WIRE = api.ApiClient()
_FILTER_KEYS = {"display_name", "name", "created_at", "description", "recurring_run_id"}


class Refusal(Exception):
    """A response with a status other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def checked(body: Any, model: str, required: set[str]) -> Any:
    """Returns a request's body as a model; raises a 400 if it is invalid."""
    if not isinstance(body, dict):
        raise Refusal(400, f"expected a {model}")
    _check(body, model, model)
    if missing := required - body.keys():
        raise Refusal(400, f"{model}: missing {sorted(missing)}")
    return _WIRE._ApiClient__deserialize(body, model)


def _check(value: Any, kind: str, where: str) -> None:
    if listed := re.fullmatch(r"list\[(.*)\]", kind):
        for item in value:
            _check(item, listed[1], where)
    elif mapped := re.fullmatch(r"dict\(str, (.*)\)", kind):
        for key, item in value.items():
            _check(item, mapped[1], f"{where}.{key}")
    elif kind in ("str", "int", "float", "bool"):
        if type(value).__name__ != kind:
            raise Refusal(400, f"{where}: {value!r} is no {kind}")
    elif kind not in ("object", "datetime"):
        model = getattr(api, kind)
        if not model.openapi_types:  # an enumeration
            if value not in model.allowable_values:
                raise Refusal(400, f"{where}: {value!r} is none of {model.allowable_values}")
            return
        kinds = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
        for key, item in value.items():
            if key not in kinds:
                raise Refusal(400, f"unknown field {where}.{key}")
            _check(item, kinds[key], f"{where}.{key}")


def listed(things: list[Any], query: dict[str, str]) -> list[Any] | None:
    """Returns the page that a list request's filter, page token and page size select."""
    return _page(things, query)[0] or None  # protobuf's JSON omits empty lists


def next_token(things: list[Any], query: dict[str, str]) -> str | None:
    """Returns the token of the next page, or None."""
    return _page(things, query)[1]


def _page(things: list[Any], query: dict[str, str]) -> tuple[list[Any], str | None]:
    wanted = json.loads(query.get("filter") or "{}")
    _check(wanted, "V2beta1Filter", "filter")
    for predicate in wanted.get("predicates", []):
        operation, key, text = (predicate.get(name) for name in ("operation", "key", "string_value"))
        if operation not in ("EQUALS", "IS_SUBSTRING") or key not in _FILTER_KEYS:
            raise Refusal(400, f"Invalid input error: filter {predicate}")
        whole = operation == "EQUALS"
        things = [t for t in things if (getattr(t, key) == text if whole else text in (getattr(t, key) or ""))]
    size, start = int(query.get("page_size") or 20), int(query.get("page_token") or 0)
    if not 0 < size <= 200:
        raise Refusal(400, f"Invalid input error: page size {size}")
    return things[start : start + size], str(start + size) if len(things) > start + size else None
