"""The verifiers by name: each judges one completion against a problem's `answer`.

`math`: math-verify against the gold answer. `countdown`: the project's own task. `reasoning-gym/TASK`:
that task's own scorer. A verdict is True, False, or None where the problem cannot be scored.
This module runs in the grading worker; nothing else calls `verdict` on a model's text.
"""

import json
from functools import cache
from typing import Any

from components.shared.errors import InputError, nearest

REASONING_GYM = "reasoning-gym/"
_NAMES = ("math", "countdown")


def check_verifier(name: str) -> str:
    """Returns the name of a known verifier.

    Raises:
        InputError: no verifier is called so.
    """
    if name in _NAMES or (name.startswith(REASONING_GYM) and len(name) > len(REASONING_GYM)):
        return name
    raise InputError(f"unknown verifier {name!r}.{nearest(name, [*_NAMES, REASONING_GYM + 'TASK'])}")


def verdict(verifier: str, answer: str, completion: str) -> bool | None:
    """Whether the completion answers the problem.

    Args:
        verifier: a name that `check_verifier` takes.
        answer: the problem's `answer`: a gold answer for `math`, JSON for the scorers of tasks.
        completion: the policy's text, without special tokens.

    Returns:
        True or False; None where the gold answer itself cannot be read.
    """
    if verifier == "math":
        return _math_verdict(answer, completion)
    if verifier == "countdown":
        from components.shared import countdown

        return countdown.score(answer, completion)
    return _reasoning_gym_verdict(verifier.removeprefix(REASONING_GYM), answer, completion)


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


@cache
def _parse_gold(gold: str) -> list[Any]:
    from math_verify import parse

    values: list[Any] = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    return values


def _reasoning_gym_verdict(task: str, answer: str, completion: str) -> bool | None:
    entry = json.loads(answer)
    boxed = boxed_answers(completion)
    text = boxed[-1] if boxed else completion.strip()
    return bool(_reasoning_gym_task(task).score_answer(answer=text, entry=entry) >= 1.0)


@cache
def _reasoning_gym_task(task: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, size=1, seed=0)
