"""The `grade` command: tries the grader on a user's own answers before GPU hours depend on it."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from components.shared.data.batches import batches
from components.shared.data.table_files import file_rows
from components.shared.errors import InputError
from components.shared.grading import (
    TIMED_OUT,
    Grader,
    GradingRow,
    GradingSettings,
    Verdict,
    check_verifier,
    reason_kind,
)
from components.shared.stage import whole_file
from launch.recipe import load_recipe, set_key

_BATCH = 2048
_SHOWN = 20
# Columns that the output has in addition to those of the input.
_WRITTEN = pa.schema(
    [("verdict", pa.bool_()), ("reason", pa.string()), ("explanation", pa.string()), ("seconds", pa.float64())]
)
_KINDS = (".jsonl", ".parquet")


class _JudgedRow(NamedTuple):
    where: str
    columns: dict[str, Any]
    verdict: Verdict


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="File to write each row to, with its verdict: .jsonl or .parquet."
)
@click.option("--verifier", default="math", show_default=True, help="Verifier for rows without a `verifier` column.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe whose grading section to use.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a grading key, such as percent=value."
)
@click.option(
    "--explain", is_flag=True, help="Print how each row's gold answer and prediction were parsed and compared."
)
def grade(
    file: Path, output: Path | None, verifier: str, recipe: Path | None, overrides: tuple[str, ...], explain: bool
) -> None:
    """Judge the answers in FILE: .jsonl, .json or .parquet with columns `gold` and `prediction`.

    For rows that also have `expected` (true, false or null), disagreements with it are shown. They do not affect the
    exit status.
    """
    # Report every failure instead of stopping after too many.
    settings = _settings(recipe, overrides).model_copy(update={"max_failed_share": 1.0})
    check_verifier(verifier)
    if output:
        _check_output(output, file)
    total = _check_rows(file, bool(output))
    schema = _schema(file) if output and output.suffix == ".parquet" else None
    console = Console()
    tally = _Tally()
    began = time.monotonic()
    with Grader(settings) as grader, _writer(output, schema) as write, _progress_bar(console, total) as advance:
        for batch in batches(file_rows(file, "FILE"), _BATCH):
            verdicts = grader.judge([_grading_row(columns, verifier) for _, columns in batch])
            judged = [_JudgedRow(*row, verdict) for row, verdict in zip(batch, verdicts, strict=True)]
            tally.add(judged)
            write(map(_output_row, judged))
            for row in judged if explain else ():
                _print_line(console, _explanation(row))
            advance(len(judged))
    tally.print(console, time.monotonic() - began)
    if output:
        _print_line(console, f"wrote {output}")


def _settings(recipe: Path | None, overrides: Iterable[str]) -> GradingSettings:
    values: dict[str, Any] = load_recipe(recipe).grading.model_dump() if recipe else {}
    for override in overrides:
        set_key(values, override.removeprefix("grading."))
    return GradingSettings.check(values, "grading")


def _check_output(output: Path, file: Path) -> None:
    """Raises InputError if `output` could not be written; creates its folder."""
    if output.suffix not in _KINDS:
        raise InputError(f"--output {output}: expected a file name ending in {' or '.join(_KINDS)}")
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; expected the name of a file")
    if output.exists() and file.exists() and output.samefile(file):
        raise InputError(f"--output {output} is also the input; choose another name")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise InputError(
            f"--output {output}: cannot write into {output.parent}: {error.strerror}; choose another folder"
        ) from None


def _check_rows(file: Path, written: bool) -> int:
    """Checks every row and returns their number; `written`: whether they are written again, with more columns."""
    total = 0
    verifiers: set[str] = set()
    for where, columns in file_rows(file, "FILE"):
        total += 1
        for name in ("gold", "prediction"):
            if name not in columns:
                raise InputError(
                    f"{file}, {where} has no column {name!r}, only {', '.join(columns)}; each row needs `gold`, the "
                    f"correct answer, and `prediction`, the text to judge"
                )
        if not isinstance(columns["prediction"], str):
            raise InputError(f"{file}, {where}: `prediction` must be text, not {columns['prediction']!r}")
        for name in ("expected", "truncated"):
            if columns.get(name) not in (True, False, None):
                raise InputError(f"{file}, {where}: `{name}` must be true, false or null, not {columns[name]!r}")
        _check_verifier(columns.get("verifier"), f"{file}, {where}", verifiers)
        for name in _WRITTEN.names:
            if written and name in columns:
                raise InputError(
                    f"{file}, {where} already has a column {name!r}, which --output would overwrite; rename it"
                )
    if not total:
        raise InputError(f"{file} has no rows")
    return total


def _check_verifier(name: Any, where: str, known: set[str]) -> None:
    """Raises InputError if a row's `verifier` does not exist; a row without one is fine."""
    if not name or name in known:
        return
    if not isinstance(name, str):
        raise InputError(f"{where}: `verifier` must be the name of a verifier, not {name!r}")
    try:
        known.add(check_verifier(name))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _schema(file: Path) -> pa.Schema:
    """Returns the columns of Parquet output, after reading every row: later rows may have more than the first.

    Raises:
        InputError: a column has values of different types.
    """
    if file.suffix == ".parquet":
        columns = pq.read_schema(file)
    else:
        with _parquet_errors():
            parts = [
                pa.schema(pa.array([row for _, row in batch]).type.fields)
                for batch in batches(file_rows(file, "FILE"), _BATCH)
            ]
            columns = pa.unify_schemas(parts, promote_options="permissive")
    return pa.schema([*columns, *_WRITTEN])


@contextmanager
def _parquet_errors() -> Iterator[None]:
    """Turns errors about values that Parquet cannot hold into InputError."""
    try:
        yield
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise InputError(
            f"the columns do not fit into Parquet, where each has one type; write .jsonl instead ({error})"
        ) from None


def _grading_row(columns: dict[str, Any], verifier: str) -> GradingRow:
    truncated = bool(columns.get("truncated")) or columns.get("finish_reason") == "length"
    return GradingRow(
        columns.get("verifier") or verifier, _gold_text(columns["gold"]), columns["prediction"], truncated
    )


def _gold_text(gold: Any) -> str:
    """Returns a gold answer as the grader expects it: text, or JSON for a list or an object."""
    if gold is None or gold != gold:  # NaN stands for a missing value in tables
        return ""
    if isinstance(gold, dict):  # Parquet fills in null for keys that only other rows have
        gold = {key: value for key, value in gold.items() if value is not None}
    return json.dumps(gold, ensure_ascii=False, default=str) if isinstance(gold, list | dict) else str(gold)


_Write = Callable[[Iterable[dict[str, Any]]], Any]


@contextmanager
def _writer(output: Path | None, schema: pa.Schema | None) -> Iterator[_Write]:
    """Yields a function that writes rows: Parquet given a schema, else JSON lines; the file is complete or absent."""
    if output is None:
        yield lambda rows: None
        return
    with whole_file(output) as temporary:
        if schema is None:
            # A lone surrogate, which JSON can hold and UTF-8 cannot, becomes JSON's escape sequence again.
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as lines:
                # Parquet's dates, decimals and bytes have no JSON type and become text.
                yield lambda rows: lines.writelines(
                    json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows
                )
            return
        with _parquet_errors():
            parquet = pq.ParquetWriter(temporary, schema, compression="zstd")
        with parquet:

            def write(rows: Iterable[dict[str, Any]]) -> None:
                with _parquet_errors():
                    parquet.write_table(pa.Table.from_pylist(list(rows), schema))

            yield write


def _output_row(row: _JudgedRow) -> dict[str, Any]:
    verdict = row.verdict
    added = {"verdict": verdict.correct, "reason": verdict.reason, "explanation": verdict.explanation}
    return {**row.columns, **added, "seconds": round(verdict.seconds, 6)}


@contextmanager
def _progress_bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("grading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("grading", total=total)
        yield lambda count: progress.advance(task, count)


class _Tally:
    """Counts verdicts and their reasons, and collects disagreements with `expected`."""

    def __init__(self) -> None:
        self.verdicts: Counter[bool | None] = Counter()
        self.reasons: Counter[str] = Counter()
        self.expected = self.agreed = 0
        self.disagreements: list[_JudgedRow] = []
        self.slowest: _JudgedRow | None = None

    def add(self, rows: list[_JudgedRow]) -> None:
        for row in rows:
            self.verdicts[row.verdict.correct] += 1
            self.reasons[reason_kind(row.verdict.reason)] += 1
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
        labels = {True: "right", False: "wrong", None: "not scorable"}
        shares = ", ".join(
            f"{self.verdicts[v]} {label} ({self.verdicts[v] / total:.1%})" for v, label in labels.items()
        )
        answers = "1 answer" if total == 1 else f"{total} answers"
        lines = [
            f"{answers} in {seconds:.1f} s ({total / seconds:,.0f} per second): {shares}",
            "why: " + ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common()),
        ]
        if self.slowest and self.slowest.verdict.seconds:  # if no row needed a worker, none can have timed out
            slowest = f"{_row_name(self.slowest)}, {self.slowest.verdict.seconds:.2f} s"
            lines.append(f"slowest: {slowest}; {self.reasons[TIMED_OUT]} timed out")
        if self.expected:
            lines.append(f"{self.agreed} of {self.expected} agree with `expected`")
            lines += map(_disagreement, self.disagreements)
            if (more := self.expected - self.agreed - len(self.disagreements)) > 0:
                lines.append(f"  ... and {more} more")
        for line in lines:
            _print_line(console, line)


def _print_line(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _explanation(row: _JudgedRow) -> str:
    gold, prediction = _short(row.columns["gold"]), _short(row.columns["prediction"])
    verdict = json.dumps(row.verdict.correct)
    return f"{_row_name(row)}: {gold} and {prediction}: {verdict}, {_printable(row.verdict.why)}"


def _disagreement(row: _JudgedRow) -> str:
    gold, prediction = _short(row.columns["gold"]), _short(row.columns["prediction"])
    expected, judged = json.dumps(row.columns["expected"]), json.dumps(row.verdict.correct)
    return (
        f"  {_row_name(row)}: gold {gold}, prediction {prediction}: expected {expected}, judged {judged} "
        f"({_printable(row.verdict.why)})"
    )


def _row_name(row: _JudgedRow) -> str:
    return f"{row.where} ({_short(row.columns['id'])[1:-1]})" if "id" in row.columns else row.where


def _printable(text: str) -> str:
    """Returns a text without characters that a terminal would interpret."""
    return "".join(character if character.isprintable() else " " for character in text)


def _short(value: Any) -> str:
    """Returns a value quoted, shortened and on one line; characters that a terminal would interpret are escaped."""
    text = " ".join((value if isinstance(value, str) else json.dumps(value, default=str)).split())
    return repr(text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}")
