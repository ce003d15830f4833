"""The terminal's table of policies and what they reach on each benchmark."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_UNLIMITED = 10_000  # columns


def print_policy_table(
    console: Console,
    headers: dict[str, tuple[str, str]],
    cells: dict[str, dict[str, tuple[str, str]]],
    chosen: str | None = None,
) -> None:
    """Prints the table, in several parts if the terminal is too narrow for all benchmarks side by side.

    Args:
        console: where to print.
        headers: by benchmark, the headers of its two figures.
        cells: by policy and benchmark, the two figures.
        chosen: the policy to mark.
    """
    left = list(headers)
    while left:
        count = len(left)
        while count > 1 and _width(console, _table(left[:count], headers, cells, chosen)) > console.width:
            count -= 1
        console.print()
        console.print(_table(left[:count], headers, cells, chosen))
        left = left[count:]


def _table(
    benchmarks: list[str],
    headers: dict[str, tuple[str, str]],
    cells: dict[str, dict[str, tuple[str, str]]],
    chosen: str | None,
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("\npolicy", no_wrap=True)
    for benchmark in benchmarks:
        average, pass_at_k = headers[benchmark]
        table.add_column(f"{benchmark}\n{average}", justify="right", no_wrap=True)
        table.add_column(f"\n{pass_at_k}", justify="right", no_wrap=True)
    for policy, of_policy in cells.items():
        figures = [figure for benchmark in benchmarks for figure in of_policy[benchmark]]
        marked = policy == chosen
        table.add_row(policy + (" *" if marked else ""), *figures, style="bold" if marked else "")
    return table


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update_width(_UNLIMITED), table).maximum
