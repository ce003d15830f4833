"""Solves Countdown problems by trying, for tests that need a right completion."""

import json

from components.shared.data.countdown import apply


def solve(answer: str) -> str:
    """A completion that solves the problem, found by trying; empty where there is none.

    Args:
        answer: `Problem.answer` of the problem.
    """
    problem = json.loads(answer)

    def search(available: list[int], steps: list[str]) -> str:
        if len(available) == 1:
            return ",".join(steps) + "." if available[0] == problem["target"] else ""
        for i, left in enumerate(available):
            for j, right in enumerate(available):
                if i == j:
                    continue
                rest = [n for k, n in enumerate(available) if k not in (i, j)]
                for operator in "+-*":
                    value = apply(left, operator, right)
                    if 0 <= value <= 99 and (
                        found := search([*rest, value], [*steps, f"{left}{operator}{right}={value}"])
                    ):
                        return found
        return ""

    return search(list(problem["numbers"]), [])
