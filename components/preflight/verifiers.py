"""Tries a user's verifier on a few problems before the run depends on it, with correct and incorrect answers."""

from collections.abc import Sequence

from components.shared.data.sources import RawProblem
from components.shared.errors import InputError
from components.shared.grading import FAILED, TIMED_OUT, Grader, GradingRow, GradingSettings

TRIED = 5  # problems per source
# Ways in which policies write a correct answer, of which a verifier may accept only one; and incorrect completions.
_RIGHT = (
    "{gold}",
    "The answer is \\boxed{{{gold}}}.",
    "#### {gold}",
    "<think>2 + 2</think><answer>{gold}</answer>",
    "The answer is {gold}",
)
_WRONG = ("", "I do not know.", "The answer is \\boxed{\\text{none of these}}.")


def try_verifier(key: str, problems: Sequence[RawProblem], grading: GradingSettings) -> str:
    """Calls a source's verifier, a user's function, as the stages will.

    Args:
        key: the recipe key that names the source.
        problems: some of its problems, with answers.
        grading: limits for a verdict.

    Returns:
        The outcome, in a phrase.

    Raises:
        InputError: it cannot be called, fails, returns no verdict, takes too long, scores none of the problems, or
            accepts incorrect answers.
    """
    rows = [(problem, form, True) for problem in problems for form in _RIGHT]
    rows += [(problem, form, False) for problem in problems for form in _WRONG]
    name = problems[0].verifier
    right = scored = fooled = wrong = 0
    with Grader(grading.model_copy(update={"max_failed_share": 1.0}), workers=1) as grader:
        for problem, form, is_right in rows:
            gold = problem.answer or ""
            completion = form.format(gold=gold) if is_right else form
            verdict = grader.judge([GradingRow(name, gold, completion)])[0]
            if verdict.reason.startswith((FAILED, TIMED_OUT)):
                raise InputError(
                    f"{key}: verifier {name!r} returned no verdict on {problem.row}: {verdict.reason}. It was called "
                    f"with the answer {gold[:80]!r} and the completion {completion[:120]!r}; expected True, False, 1, "
                    f"0 or None within grading.seconds ({grading.seconds:g})"
                )
            scored += verdict.correct is not None
            right += is_right and verdict.correct is True
            wrong += not is_right
            fooled += not is_right and verdict.correct is True
    if not scored:
        raise InputError(
            f"{key}: verifier {name!r} returned None for all of {len(problems)} problems, so none can be scored; "
            f"return True or False, or supply the answers that it needs"
        )
    if fooled == wrong:
        raise InputError(
            f"{key}: verifier {name!r} accepted every incorrect completion, even the empty one, on all of "
            f"{len(problems)} problems; a policy would learn to write nothing"
        )
    known = f"{right} of {len(problems) * len(_RIGHT)}" if right else "none"
    return f"accepted {known} of the ways to write the correct answer, and {fooled} of {wrong} incorrect ones"
