"""The table of policies fits any terminal."""

import io
import re

import pytest
from rich.console import Console

from launch.analysis.policy_table import print_policy_table


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_every_figure_is_shown_whatever_the_width(width: int) -> None:
    benchmarks = ["dev", "math500", "aime24", "olympiadbench", "minerva"]
    headers = dict.fromkeys(benchmarks, ("avg@32", "pass@32"))
    values = {
        policy: {b: (f"0.{row}{column}1", f"0.{row}{column}2") for column, b in enumerate(benchmarks)}
        for row, policy in enumerate(("base", "explored-1", "rloop-1"))
    }
    console = Console(width=width, record=True, file=io.StringIO())
    print_policy_table(console, headers, values, "rloop-1")
    text = console.export_text()
    assert sorted(re.findall(r"0\.\d{3}", text)) == sorted(
        figure for of_policy in values.values() for pair in of_policy.values() for figure in pair
    )
    assert max(map(len, text.splitlines())) <= width
    parts = text.count("rloop-1 *")
    assert [text.count(name) for name in ("base", *benchmarks)] == [parts, *([1] * len(benchmarks))]
    assert parts == 1 if width >= 120 else parts > 1
