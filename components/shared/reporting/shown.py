"""Which of many iterations the report and the terminal show."""

from collections.abc import Sequence
from typing import Any, TypeVar

SHOWN = 4  # iterations

_T = TypeVar("_T")


def spread(items: Sequence[_T], most: int) -> list[_T]:
    """Returns at most so many items (two or more), evenly spread from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def shown_iterations(summary: dict[str, Any]) -> list[int]:
    """Returns the iterations to show in detail: a few, evenly spread, and the chosen policy's."""
    chosen = next(policy for policy in summary["policies"] if policy["name"] == summary["chosen_policy"])
    shown = spread([iteration["iteration"] for iteration in summary["iterations"]], SHOWN)
    return sorted({*shown, chosen["iteration"]} - {0})
