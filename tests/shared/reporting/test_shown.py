"""A long run shows a few of its iterations."""

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from components.shared.reporting.shown import shown_iterations, spread
from launch.local.display import print_summary


@given(st.lists(st.integers(), min_size=1, unique=True), st.integers(2, 6))
def test_what_is_spread_starts_first_ends_last_and_keeps_the_order(items: list[int], most: int) -> None:
    found = spread(items, most)
    assert (found[0], found[-1], len(found)) == (items[0], items[-1], min(most, len(items)))
    places = [items.index(item) for item in found]
    steps = [after - before for before, after in pairwise(places)]
    assert not steps or (min(steps) > 0 and max(steps) - min(steps) <= 1), "evenly"


def summary_of(iterations: int, chosen: str) -> dict[str, Any]:
    evaluation = {"benchmark": "dev", "n": 8, "avg": 0.25, "pass_at_k": {"1": 0.25, "8": 0.75}}
    return {
        "iterations": [{"iteration": number} for number in range(1, iterations + 1)],
        "policies": [
            {"name": f"rloop-{number}" if number else "base", "iteration": number, "evaluations": [evaluation]}
            for number in range(iterations + 1)
        ],
        "chosen_policy": chosen,
        "chosen_by": {"benchmark": "dev", "figure": "avg"},
    }


@pytest.mark.parametrize(
    ("iterations", "chosen", "shown"),
    [
        (1, "base", [1]),
        (4, "rloop-2", [1, 2, 3, 4]),
        (10, "rloop-10", [1, 4, 7, 10]),
        (24, "rloop-5", [1, 5, 9, 16, 24]),
    ],
)
def test_a_few_iterations_are_shown_and_that_of_the_chosen_policy(
    iterations: int, chosen: str, shown: list[int]
) -> None:
    assert shown_iterations(summary_of(iterations, chosen)) == shown


def test_the_terminal_shows_them_and_says_that_there_are_more(tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    (tmp_path / "summary.json").write_text(json.dumps(summary_of(24, "rloop-5")))
    print_summary(console, tmp_path)
    text = console.export_text()
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("base", "rloop"))] == [
        "base", "rloop-1", "rloop-5", "rloop-9", "rloop-16", "rloop-24",
    ]  # fmt: skip
    assert "rloop-5 *" in text and "5 of 24 iterations; the report has all" in text
