"""User functions as verifiers: how they are called, and what counts as a verdict.

Supported are functions of one completion, `f(answer, completion)`, and TRL reward functions,
`f(completions, answer, **kwargs)`, which get batches of one; both may be async. A verdict is True, False, or None if
the problem cannot be scored; 1 and 0 of any numeric type are accepted. Anything else, including an exception, is a
failure of the verifier and implies nothing about the answer.
"""

import asyncio
import importlib
import inspect
import numbers
from collections.abc import Callable
from functools import cache
from typing import Any

from components.shared.errors import InputError

FAILED = "verifier failed"
# Parameter names that receive the problem's `answer`, in batch functions and functions of one completion.
_GOLD = ("answer", "gold", "ground_truth", "solution", "target", "reference", "expected", "label")
_COMPLETION = ("completion", "response", "output", "prediction", "generation", "text", "solution_str")
_PASSED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def user_verdict(name: str, gold: str, completion: str) -> tuple[bool | None, str]:
    """Returns a user function's verdict and the reason; on failure, the reason is FAILED and what happened."""
    call, loop = user_function(name)
    try:
        judged = call(gold, completion)
        if inspect.isawaitable(judged):
            judged = loop.run_until_complete(judged)
        correct = _as_verdict(judged, name)
    except MemoryError:
        raise  # handled by the worker
    except Exception as error:  # a user's function may raise anything
        return None, f"{FAILED}: {type(error).__name__}: {error}"[:200]
    return correct, {True: "equal", False: "different", None: "not scorable"}[correct]


@cache
def user_function(name: str) -> tuple[Callable[[str, str], Any], asyncio.AbstractEventLoop]:
    """Imports MODULE:FUNCTION and creates the event loop it may need, before judging begins.

    Returns:
        A callable that passes a gold answer and a completion to the function and returns its result; the event loop.

    Raises:
        InputError: the function cannot be imported, is not a function, or has parameters that a verifier does not get.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing a user's module may raise anything
        raise InputError(f"{type(error).__name__}: {error}") from None
    if not callable(function) or inspect.isclass(function):
        raise InputError(f"it is a {type(function).__name__}; expected a function of the answer and the completion")
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters]
    if "completions" in names:
        return _for_batches(function, list(parameters)), asyncio.new_event_loop()
    given = [p for p in parameters if p.kind in _PASSED]
    required = [p.name for p in given if p.default is inspect.Parameter.empty]
    any_number = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    keyword_only = [p.name for p in given if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name in required]
    if len(required) > 2 or keyword_only or (len(given) < 2 and not any_number):
        raise InputError(
            f"it takes ({', '.join(map(str, parameters))}); expected (answer, completion) or, as TRL calls it, "
            f"(completions, answer, **kwargs)"
        )
    if len(given) > 1 and given[0].name in _COMPLETION and given[1].name in _GOLD:
        return lambda gold, completion: function(completion, gold), asyncio.new_event_loop()
    return function, asyncio.new_event_loop()


def _for_batches(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[[str, str], Any]:
    """Adapts a TRL reward function, which takes a batch of conversational completions, to one completion."""
    known = {"completions", "prompts", "completion_ids", *_GOLD}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters if p.kind in _PASSED}
    required = {p.name for p in parameters if p.kind in _PASSED and p.default is inspect.Parameter.empty}
    if unknown := sorted(required - known):
        raise InputError(
            f"it takes {', '.join(unknown)}, which a verifier is not given; available are completions and "
            f"{', '.join(_GOLD)}, each of which is the problem's answer"
        )

    async def awaited(judged: Any) -> Any:
        return _only(await judged)

    def call(gold: str, completion: str) -> Any:
        columns: dict[str, list[Any]] = {column: [gold] for column in _GOLD if takes_any or column in named}
        columns["completions"] = [[{"role": "assistant", "content": completion}]]
        if "prompts" in required:
            columns["prompts"] = [None]  # not available: a function that uses it fails, which preflight detects
        if "completion_ids" in required:
            columns["completion_ids"] = [None]
        judged = function(**columns)
        return awaited(judged) if inspect.isawaitable(judged) else _only(judged)

    return call


def _only(judged: Any) -> Any:
    try:
        (one,) = judged
    except (TypeError, ValueError):
        raise TypeError(f"for one completion it returned {judged!r}; expected a list of one verdict"[:150]) from None
    return one


def _as_verdict(judged: Any, name: str) -> bool | None:
    if judged is None or isinstance(judged, bool):
        return judged
    value = judged
    if not isinstance(judged, numbers.Number | str | bytes) and hasattr(judged, "item"):
        if getattr(judged, "ndim", 1) != 0:
            raise TypeError(f"{name} returned an array of shape {getattr(judged, 'shape', '?')}, not one verdict")
        value = judged.item()  # a NumPy or torch scalar
    if isinstance(value, numbers.Real) and value in (0, 1):
        return bool(value)
    raise TypeError(f"{name} returned {judged!r} ({type(judged).__name__}), not True, False, 1, 0 or None"[:180])
