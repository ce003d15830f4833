"""The verifiers by name: each judges one completion against a problem's `answer`.

`math`: math-verify against the gold answer. `countdown`: the project's own task. `reasoning-gym/TASK`:
that task's own scorer. A verdict is True, False, or None where the problem cannot be scored.
This module runs in the grading worker; nothing else calls `verdict` on a model's text.
"""

import json
import re
from functools import cache, lru_cache
from typing import Any

from components.shared.errors import InputError, nearest

REASONING_GYM = "reasoning-gym/"
_NAMES = ("math", "countdown")
# Tasks of reasoning-gym 0.1.25 whose scorers run answers as Python, with eval or sympy's parse_expr. An
# answer gets there only if it is made of characters with which nothing can be called; where real answers
# need more than that, there is no scoring the task safely (None).
_ARITHMETIC = re.compile(r"[\d\s+*/().=-]*")
_LISTS = re.compile(r"[\w\s,.'\"\[\]-]*")
RUNS_ANSWERS: dict[str, re.Pattern[str] | None] = {
    "binary_matrix": _LISTS,
    "countdown": _ARITHMETIC,
    "intermediate_integration": None,
    "n_queens": _LISTS,
    "number_sorting": _LISTS,
    "polynomial_multiplication": None,
    "puzzle24": _ARITHMETIC,
    "simple_integration": None,
    "spiral_matrix": _LISTS,
    "string_insertion": _LISTS,
}


def check_verifier(name: str) -> str:
    """Returns the name of a known verifier.

    Raises:
        InputError: no verifier is called so, or it would run a policy's text.
    """
    if name in _NAMES:
        return name
    if not name.startswith(REASONING_GYM):
        raise InputError(f"unknown verifier {name!r}.{nearest(name, [*_NAMES, REASONING_GYM + 'TASK'])}")
    from reasoning_gym.factory import DATASETS

    task = name.removeprefix(REASONING_GYM)
    if task not in DATASETS:
        raise InputError(f"verifier {name!r}: reasoning-gym has no task {task!r}.{nearest(task, DATASETS)}")
    if RUNS_ANSWERS.get(task, _LISTS) is None:
        raise InputError(
            f"verifier {name!r} is not used: reasoning-gym scores this task by running the answer as code, and what a "
            f"policy writes must not run. Choose another task, or judge its answers with another verifier"
        )
    return name


def warm_up(verifier: str) -> None:
    """Imports what a verifier needs, so that its first answer takes no longer than the others."""
    if verifier == "math":
        _math_verdict("1", "\\boxed{1}")
    elif verifier.startswith(REASONING_GYM):
        _reasoning_gym_task(verifier.removeprefix(REASONING_GYM))


def verdict(verifier: str, answer: str, completion: str) -> bool | None:
    """Whether the completion answers the problem.

    Args:
        verifier: a name that `check_verifier` takes.
        answer: the problem's `answer`: a gold answer for `math`, JSON for the scorers of tasks.
        completion: the policy's text, without special tokens.

    Returns:
        True or False; None where the answer itself cannot be read.
    """
    if verifier == "math":
        return _math_verdict(answer, completion)
    if verifier == "countdown":
        return _countdown_verdict(answer, completion)
    return _reasoning_gym_verdict(check_verifier(verifier).removeprefix(REASONING_GYM), answer, completion)


def boxed_answers(text: str) -> list[str]:
    """The contents of every closed `\\boxed{...}` of a text, in order; braces inside are matched."""
    found, position = [], 0
    while (start := text.find("\\boxed{", position)) >= 0:
        begin = position = start + len("\\boxed{")
        depth = 1
        while position < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            position += 1
        if depth == 0:
            found.append(text[begin : position - 1].strip())
    return found


def _math_verdict(gold: str, completion: str) -> bool | None:
    gold_values = _parse_gold(gold)
    if not gold_values:
        return None
    boxed = boxed_answers(completion)
    if len(set(boxed)) > 1:
        return False  # several different boxes hedge; none of them is the answer
    from math_verify import parse, verify

    # Time-outs are off: math-verify's are alarms, which neither work in threads nor stop a big power.
    # The parent's limit on this worker is what holds.
    answer = parse(f"\\boxed{{{boxed[-1]}}}" if boxed else completion, parsing_timeout=None)
    return bool(answer) and bool(verify(gold_values, answer, timeout_seconds=None))


@lru_cache(4096)
def _parse_gold(gold: str) -> list[Any]:
    from math_verify import parse

    values: list[Any] = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    return values


def _countdown_verdict(answer: str, completion: str) -> bool | None:
    from components.shared import countdown

    try:
        return countdown.score(answer, completion)
    except ValueError:  # no problem of the task
        return None


def _reasoning_gym_verdict(task: str, answer: str, completion: str) -> bool | None:
    try:
        entry = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(entry, dict) or "metadata" not in entry:
        return None  # no entry of the task
    boxed = boxed_answers(completion)
    text = boxed[-1] if boxed else completion.strip()
    if (allowed := RUNS_ANSWERS.get(task)) and not all(allowed.fullmatch(t) for t in (text, str(entry.get("answer")))):
        return False
    return bool(_reasoning_gym_task(task).score_answer(answer=text, entry=entry) >= 1.0)


@cache
def _reasoning_gym_task(task: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, size=1, seed=0)
