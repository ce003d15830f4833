"""The verifiers by name; each judges one completion against a problem's `answer`.

- `math`: mathematics/verdict.py, built around math-verify.
- `exact`: the committed answer equals the gold answer, except for whitespace between words.
- `choice`: the committed answer names the gold answer's letter.
- `countdown`: this project's own task.
- `reasoning-gym/TASK`: the task's own scorer.
- `MODULE:FUNCTION`: a user's function; user_function.py describes how it is called.

A verdict is True, False, or None if the problem cannot be scored. `verdict` runs only in the grading worker.
"""

import importlib.util
import json
import re
from functools import cache
from typing import Any

from components.shared.errors import InputError, nearest
from components.shared.grading.answer import boxed_answers
from components.shared.grading.settings import GradingSettings
from components.shared.grading.user_function import user_function, user_verdict

REASONING_GYM = "reasoning-gym/"
# Verifiers that judge the committed answer; the others take the entire completion.
READS_ANSWERS = ("math", "exact", "choice")
_NAMES = (*READS_ANSWERS, "countdown")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_INTEGER = re.compile(r"-?[0-9]{1,1000}")
# Tasks of reasoning-gym 0.1.25 whose scorers run answers as Python, with eval or sympy's parse_expr. An
# answer reaches the scorer only if it consists of characters that cannot form a call. None: real answers
# need more than these, so the task cannot be scored safely.
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
    """Returns the name if it is a known verifier.

    Raises:
        InputError: there is no such verifier, or it would run text written by a policy.
    """
    if name in _NAMES:
        return name
    if _FUNCTION.fullmatch(name):
        module = name.partition(":")[0]
        try:
            found = importlib.util.find_spec(module)
        except ImportError:  # a parent package is missing
            found = None
        if found is None:
            raise InputError(
                f"verifier {name!r}: there is no module {module!r}; make sure that it is on PYTHONPATH and in the image"
            )
        return name
    if not name.startswith(REASONING_GYM):
        raise InputError(
            f"unknown verifier {name!r}.{nearest(name, [*_NAMES, REASONING_GYM + 'TASK', 'MODULE:FUNCTION'])}"
        )
    from reasoning_gym.factory import DATASETS

    task = name.removeprefix(REASONING_GYM)
    if task not in DATASETS:
        raise InputError(f"verifier {name!r}: reasoning-gym has no task {task!r}.{nearest(task, DATASETS)}")
    if RUNS_ANSWERS.get(task, _LISTS) is None:
        raise InputError(
            f"verifier {name!r} is disabled: reasoning-gym scores this task by running the answer as code, and what a "
            f"policy writes must not run. Choose another task, or judge its answers with another verifier"
        )
    return name


def warm_up(verifier: str, settings: GradingSettings) -> None:
    """Imports what a verifier needs, so that its first answer takes no longer than later ones."""
    if verifier == "math":
        verdict("math", "\\frac{x}{2}", "0.5x", settings)
    elif _FUNCTION.fullmatch(verifier):
        user_function(verifier)
    elif verifier.startswith(REASONING_GYM):
        _reasoning_gym_task(verifier.removeprefix(REASONING_GYM))


def verdict(verifier: str, gold: str, answer: str, settings: GradingSettings) -> tuple[bool | None, str, str]:
    """Judges an answer.

    Args:
        verifier: a name that `check_verifier` accepts.
        gold: the problem's `answer`: a gold answer, or JSON for task scorers.
        answer: the committed answer, empty for none; the entire completion if the verifier is not in
            `READS_ANSWERS`.
        settings: the judgement calls.

    Returns:
        True or False, or None if the problem cannot be scored; the reason; how both answers were read and compared.
    """
    if verifier in READS_ANSWERS and (accepted := accepted_answers(gold)):
        found = [verdict(verifier, one, answer, settings) for one in accepted]
        scored = [one for one in found if one[0] is not None] or found
        return max(scored, key=lambda one: bool(one[0]))
    if verifier == "math":
        from components.shared.grading.mathematics.verdict import math_verdict

        return math_verdict(gold, answer, settings)
    if verifier == "exact":
        correct = _exact_verdict(gold, answer)
    elif verifier == "choice":
        correct = _choice_verdict(gold, answer)
    elif verifier == "countdown":
        correct = _countdown_verdict(gold, answer)
    elif _FUNCTION.fullmatch(verifier):
        return (*user_verdict(verifier, gold, answer), f"by the verifier {verifier}")
    else:
        correct = _reasoning_gym_verdict(check_verifier(verifier).removeprefix(REASONING_GYM), gold, answer)
    return correct, {True: "equal", False: "different", None: "not scorable"}[correct], f"by the verifier {verifier}"


def accepted_answers(gold: str) -> list[str]:
    """Returns the acceptable answers if the gold answer is JSON with `any_of`, else an empty list."""
    if not gold.startswith('{"any_of": ['):
        return []
    try:
        found = json.loads(gold)["any_of"]
    except ValueError:
        return []
    return [str(one) for one in found]


def fast_verdict(verifier: str, gold: str, answer: str) -> bool | None:
    """Same as `verdict` for plain integers, without parsing mathematics; None for anything else."""
    if verifier == "math" and _INTEGER.fullmatch(gold):
        if _INTEGER.fullmatch(answer):
            return int(gold) == int(answer)
        return None if answer else False
    return None


def _exact_verdict(gold: str, answer: str) -> bool | None:
    return " ".join(answer.split()) == " ".join(gold.split()) if gold.strip() else None


def _choice_verdict(gold: str, answer: str) -> bool | None:
    from components.shared.grading.mathematics.verdict import choice_of

    letter = choice_of(gold)
    return None if letter is None else choice_of(answer) == letter


def _countdown_verdict(answer: str, completion: str) -> bool | None:
    from components.shared.data import countdown

    try:
        return countdown.score(answer, completion)
    except ValueError:  # not a problem of this task
        return None


def _reasoning_gym_verdict(task: str, answer: str, completion: str) -> bool | None:
    try:
        entry = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(entry, dict) or "metadata" not in entry:
        return None  # not an entry of this task
    boxed = boxed_answers(completion)
    text = boxed[-1] if boxed else completion.strip()
    if (allowed := RUNS_ANSWERS.get(task)) and not all(allowed.fullmatch(t) for t in (text, str(entry.get("answer")))):
        return False
    return bool(_reasoning_gym_task(task).score_answer(answer=text, entry=entry) >= 1.0)


def is_user_function(name: str) -> bool:
    """Whether a verifier is a user's own function, given as MODULE:FUNCTION."""
    return bool(_FUNCTION.fullmatch(name))


@cache
def _reasoning_gym_task(task: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, size=1, seed=0)
