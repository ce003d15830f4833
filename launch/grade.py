"""The command `grade`: tries the grader on a user's own answers, before GPU hours depend on it."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from components.shared.batches import batches
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow, GradingSettings, Verdict, check_verifier
from components.shared.sources import file_rows
from components.shared.stage import whole_file
from launch.recipe import load_recipe, set_key

_BATCH = 1024
_SHOWN = 20
_WRITTEN = ("verdict", "reason", "seconds")  # columns of the output
_KINDS = (".jsonl", ".parquet")


class _Row(NamedTuple):
    where: str
    columns: dict[str, Any]
    verdict: Verdict


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write each row again with its verdict: .jsonl, .parquet."
)
@click.option("--verifier", default="math", show_default=True, help="What judges rows without a column `verifier`.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Take the grading section of this recipe.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a grading key, such as percent=value."
)
def grade(file: Path, output: Path | None, verifier: str, recipe: Path | None, overrides: tuple[str, ...]) -> None:
    """Judge the answers in FILE: .jsonl, .json or .parquet with columns `gold` and `prediction`.

    Where rows have `expected` too (true, false or null), the disagreements are shown.
    """
    settings = _settings(recipe, overrides)
    check_verifier(verifier)
    if output and output.suffix not in _KINDS:
        raise InputError(f"--output {output}: expected a name that ends in {' or '.join(_KINDS)}")
    if output and output.resolve() == file.resolve():
        raise InputError(f"--output {output} is the file that is read; choose another name")
    total = _check(file)
    console = Console()
    tally = _Tally()
    began = time.monotonic()
    with Grader(settings) as grader, _writer(output) as write, _bar(console, total) as advance:
        for batch in batches(file_rows(file, "FILE"), _BATCH):
            rows = [_row(where, columns, verifier) for where, columns in batch]
            judged = [
                _Row(where, columns, verdict)
                for (where, columns), verdict in zip(batch, grader.judge(rows), strict=True)
            ]
            tally.add(judged)
            write(judged)
            advance(len(judged))
    tally.print(console, time.monotonic() - began)
    if output:
        console.print(f"wrote {output}", highlight=False)


def _settings(recipe: Path | None, overrides: Iterable[str]) -> GradingSettings:
    values: dict[str, Any] = load_recipe(recipe).grading.model_dump() if recipe else {}
    for override in overrides:
        set_key(values, override.removeprefix("grading."))
    return GradingSettings.check(values, "grading")


def _check(file: Path) -> int:
    """The number of rows, after a look at every one."""
    total = 0
    for where, columns in file_rows(file, "FILE"):
        total += 1
        for name in ("gold", "prediction"):
            if name not in columns:
                raise InputError(
                    f"{file}, {where} has no column {name!r}, only {', '.join(columns)}; each row needs `gold`, the "
                    f"right answer, and `prediction`, the text to judge"
                )
        if not isinstance(columns["prediction"], str):
            raise InputError(f"{file}, {where}: `prediction` must be text, not {columns['prediction']!r}")
        if columns.get("expected", None) not in (True, False, None):
            raise InputError(f"{file}, {where}: `expected` must be true, false or null, not {columns['expected']!r}")
        if columns.get("verifier"):
            check_verifier(columns["verifier"])
        for name in _WRITTEN:
            if name in columns:
                raise InputError(f"{file}, {where} has a column {name!r} already; rename it, it would be overwritten")
    if not total:
        raise InputError(f"{file} holds no rows")
    return total


def _row(where: str, columns: dict[str, Any], verifier: str) -> GradingRow:
    gold = columns["gold"]
    text = "" if gold is None else gold if isinstance(gold, str) else json.dumps(gold, ensure_ascii=False)
    return GradingRow(
        columns.get("verifier") or verifier, text, columns["prediction"], columns.get("finish_reason") == "length"
    )


@contextmanager
def _writer(output: Path | None) -> Iterator[Any]:
    """Gives a function that writes judged rows, whole or not at all."""
    if output is None:
        yield lambda rows: None
        return
    with whole_file(output) as temporary:
        if output.suffix == ".jsonl":
            with temporary.open("w", encoding="utf-8") as lines:
                yield lambda rows: lines.writelines(json.dumps(_judged(r), ensure_ascii=False) + "\n" for r in rows)
            return
        with _ParquetRows(temporary) as parquet:
            yield parquet.write


class _ParquetRows(AbstractContextManager["_ParquetRows"]):
    """Writes rows to Parquet with the columns and types of the first batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: list[_Row]) -> None:
        try:
            table = pa.Table.from_pylist([_judged(row) for row in rows], self._writer.schema if self._writer else None)
        except pa.ArrowException as error:
            raise InputError(
                f"the rows do not have one type a column, as Parquet needs; write .jsonl ({error})"
            ) from None
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()


def _judged(row: _Row) -> dict[str, Any]:
    verdict = row.verdict
    return {**row.columns, "verdict": verdict.correct, "reason": verdict.reason, "seconds": round(verdict.seconds, 6)}


@contextmanager
def _bar(console: Console, total: int) -> Iterator[Any]:
    columns = (TextColumn("grading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("grading", total=total)
        yield lambda count: progress.advance(task, count)


class _Tally:
    """What the rows came to."""

    def __init__(self) -> None:
        self.verdicts: Counter[bool | None] = Counter()
        self.reasons: Counter[str] = Counter()
        self.expected = self.agreed = 0
        self.disagreements: list[_Row] = []
        self.slowest: _Row | None = None

    def add(self, rows: list[_Row]) -> None:
        for row in rows:
            self.verdicts[row.verdict.correct] += 1
            self.reasons[row.verdict.reason] += 1
            if self.slowest is None or row.verdict.seconds > self.slowest.verdict.seconds:
                self.slowest = row
            if "expected" in row.columns:
                self.expected += 1
                if row.columns["expected"] == row.verdict.correct:
                    self.agreed += 1
                elif len(self.disagreements) < _SHOWN:
                    self.disagreements.append(row)

    def print(self, console: Console, seconds: float) -> None:
        total = sum(self.verdicts.values())
        words = {True: "right", False: "wrong", None: "not scorable"}
        shares = ", ".join(f"{self.verdicts[v]} {word} ({self.verdicts[v] / total:.1%})" for v, word in words.items())
        lines = [
            f"{total} answers in {seconds:.1f} s ({total / seconds:,.0f} a second): {shares}",
            "why: " + ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common()),
        ]
        if self.slowest and self.slowest.verdict.seconds:
            lines.append(f"slowest: {_name(self.slowest)}, {self.slowest.verdict.seconds:.2f} s")
        if self.expected:
            lines.append(f"{self.agreed} of {self.expected} agree with `expected`")
            lines += map(_disagreement, self.disagreements)
            if (more := self.expected - self.agreed - len(self.disagreements)) > 0:
                lines.append(f"  and {more} more")
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _disagreement(row: _Row) -> str:
    gold, prediction = _short(row.columns["gold"]), _short(row.columns["prediction"])
    expected, judged = json.dumps(row.columns["expected"]), json.dumps(row.verdict.correct)
    return (
        f"  {_name(row)}: gold {gold}, prediction {prediction}: expected {expected}, judged {judged} "
        f"({row.verdict.reason})"
    )


def _name(row: _Row) -> str:
    return f"{row.where} ({row.columns['id']})" if "id" in row.columns else row.where


def _short(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
    return repr(text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}")
