"""Tries a user's verifier on a few problems before the run depends on it, with right and with wrong answers."""

from collections.abc import Sequence

from components.shared.data.sources import RawProblem
from components.shared.errors import InputError
from components.shared.grading import FAILED, TIMED_OUT, Grader, GradingRow, GradingSettings

TRIED = 5  # problems of a source
# Ways in which policies write an answer that is right, from which a verifier may know one alone; and what is wrong.
_RIGHT = (
    "{gold}",
    "The answer is \\boxed{{{gold}}}.",
    "#### {gold}",
    "<think>2 + 2</think><answer>{gold}</answer>",
    "The answer is {gold}",
)
_WRONG = ("", "I do not know.", "The answer is \\boxed{\\text{none of these}}.")


def try_verifier(key: str, problems: Sequence[RawProblem], grading: GradingSettings) -> str:
    """Calls a source's verifier, a function of the user's, as the stages will.

    Args:
        key: the recipe key that names the source.
        problems: some of it, with answers.
        grading: the limits of a verdict.

    Returns:
        In a few words, what the verifier said.

    Raises:
        InputError: it cannot be called, fails, returns no verdict, takes too long, can score none of the problems, or
            takes wrong answers for right.
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
                    f"{key}: verifier {name!r} gives no verdict on {problem.row}: {verdict.reason}. It was called with "
                    f"the answer {gold[:80]!r} and the completion {completion[:120]!r}; expected True, False, 1, 0 or "
                    f"None within grading.seconds ({grading.seconds:g})"
                )
            scored += verdict.correct is not None
            right += is_right and verdict.correct is True
            wrong += not is_right
            fooled += not is_right and verdict.correct is True
    if not scored:
        raise InputError(
            f"{key}: verifier {name!r} returned None for each of {len(problems)} problems: none can be scored; return "
            f"True or False, or give the answers that it needs"
        )
    if fooled == wrong:
        raise InputError(
            f"{key}: verifier {name!r} calls every completion right that is wrong, the empty one too, on each of "
            f"{len(problems)} problems; a policy would learn to write nothing"
        )
    known = f"{right} of {len(problems) * len(_RIGHT)}" if right else "none"
    return f"called {known} of the ways to write the right answer right, and {fooled} of {wrong} wrong ones"
