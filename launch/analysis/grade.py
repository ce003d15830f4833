"""The command `grade`: tries the grader on a user's own answers, before GPU hours depend on it."""

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
# Columns of the output beside those of the input.
_WRITTEN = pa.schema(
    [("verdict", pa.bool_()), ("reason", pa.string()), ("explanation", pa.string()), ("seconds", pa.float64())]
)
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
@click.option("--explain", is_flag=True, help="Print of each row how gold answer and answer were read and compared.")
def grade(
    file: Path, output: Path | None, verifier: str, recipe: Path | None, overrides: tuple[str, ...], explain: bool
) -> None:
    """Judge the answers in FILE: .jsonl, .json or .parquet with columns `gold` and `prediction`.

    Where rows have `expected` too (true, false or null), the disagreements are shown; they do not change the exit
    status.
    """
    settings = _settings(recipe, overrides).model_copy(update={"max_failed_share": 1.0})  # to see all of them
    check_verifier(verifier)
    if output:
        _check_output(output, file)
    total = _check(file, bool(output))
    schema = _schema(file) if output and output.suffix == ".parquet" else None
    console = Console()
    tally = _Tally()
    began = time.monotonic()
    with Grader(settings) as grader, _writer(output, schema) as write, _bar(console, total) as advance:
        for batch in batches(file_rows(file, "FILE"), _BATCH):
            verdicts = grader.judge([_row(columns, verifier) for _, columns in batch])
            judged = [_Row(*row, verdict) for row, verdict in zip(batch, verdicts, strict=True)]
            tally.add(judged)
            write(map(_judged, judged))
            for row in judged if explain else ():
                _say(console, _explained(row))
            advance(len(judged))
    tally.print(console, time.monotonic() - began)
    if output:
        _say(console, f"wrote {output}")


def _settings(recipe: Path | None, overrides: Iterable[str]) -> GradingSettings:
    values: dict[str, Any] = load_recipe(recipe).grading.model_dump() if recipe else {}
    for override in overrides:
        set_key(values, override.removeprefix("grading."))
    return GradingSettings.check(values, "grading")


def _check_output(output: Path, file: Path) -> None:
    """Raises InputError where `output` could not be written; makes its folder."""
    if output.suffix not in _KINDS:
        raise InputError(f"--output {output}: expected a name that ends in {' or '.join(_KINDS)}")
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; give the name of a file")
    if output.exists() and file.exists() and output.samefile(file):
        raise InputError(f"--output {output} is the file that is read; choose another name")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise InputError(
            f"--output {output}: cannot write into {output.parent}: {error.strerror}; choose another folder"
        ) from None


def _check(file: Path, written: bool) -> int:
    """The number of rows, after a look at every one; `written`: they are written again, with more columns."""
    total = 0
    verifiers: set[str] = set()
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
        for name in ("expected", "truncated"):
            if columns.get(name) not in (True, False, None):
                raise InputError(f"{file}, {where}: `{name}` must be true, false or null, not {columns[name]!r}")
        _check_verifier(columns.get("verifier"), f"{file}, {where}", verifiers)
        for name in _WRITTEN.names:
            if written and name in columns:
                raise InputError(
                    f"{file}, {where} has a column {name!r} already; rename it, --output would overwrite it"
                )
    if not total:
        raise InputError(f"{file} holds no rows")
    return total


def _check_verifier(name: Any, where: str, known: set[str]) -> None:
    """Raises InputError for a row's `verifier` that there is not; none is fine."""
    if not name or name in known:
        return
    if not isinstance(name, str):
        raise InputError(f"{where}: `verifier` must be the name of one, not {name!r}")
    try:
        known.add(check_verifier(name))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _schema(file: Path) -> pa.Schema:
    """The columns of the output as Parquet, after a look at every row: a later row may have more than the first.

    Raises:
        InputError: a column holds values of different types.
    """
    if file.suffix == ".parquet":
        columns = pq.read_schema(file)
    else:
        with _fits_parquet():
            parts = [
                pa.schema(pa.array([row for _, row in batch]).type.fields)
                for batch in batches(file_rows(file, "FILE"), _BATCH)
            ]
            columns = pa.unify_schemas(parts, promote_options="permissive")
    return pa.schema([*columns, *_WRITTEN])


@contextmanager
def _fits_parquet() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise InputError(
            f"the columns do not fit into Parquet, where each has one type; write .jsonl ({error})"
        ) from None


def _row(columns: dict[str, Any], verifier: str) -> GradingRow:
    truncated = bool(columns.get("truncated")) or columns.get("finish_reason") == "length"
    return GradingRow(
        columns.get("verifier") or verifier, _gold_text(columns["gold"]), columns["prediction"], truncated
    )


def _gold_text(gold: Any) -> str:
    """A gold answer as the grader takes it: text, or JSON for a list or an object."""
    if gold is None or gold != gold:  # NaN is how tables say that there is no value
        return ""
    if isinstance(gold, dict):  # Parquet fills in null for the keys that only other rows have
        gold = {key: value for key, value in gold.items() if value is not None}
    return json.dumps(gold, ensure_ascii=False, default=str) if isinstance(gold, list | dict) else str(gold)


_Write = Callable[[Iterable[dict[str, Any]]], Any]


@contextmanager
def _writer(output: Path | None, schema: pa.Schema | None) -> Iterator[_Write]:
    """Gives a function that writes rows: Parquet where there is a schema, else JSON lines; whole or not at all."""
    if output is None:
        yield lambda rows: None
        return
    with whole_file(output) as temporary:
        if schema is None:
            # Half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes JSON's own escape for it again.
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as lines:
                # Parquet's dates, decimals and bytes, for which JSON has no type, become text.
                yield lambda rows: lines.writelines(
                    json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows
                )
            return
        with _fits_parquet():
            parquet = pq.ParquetWriter(temporary, schema, compression="zstd")
        with parquet:

            def write(rows: Iterable[dict[str, Any]]) -> None:
                with _fits_parquet():
                    parquet.write_table(pa.Table.from_pylist(list(rows), schema))

            yield write


def _judged(row: _Row) -> dict[str, Any]:
    verdict = row.verdict
    said = {"verdict": verdict.correct, "reason": verdict.reason, "explanation": verdict.explanation}
    return {**row.columns, **said, "seconds": round(verdict.seconds, 6)}


@contextmanager
def _bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
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
        words = {True: "right", False: "wrong", None: "not scorable"}
        shares = ", ".join(f"{self.verdicts[v]} {word} ({self.verdicts[v] / total:.1%})" for v, word in words.items())
        answers = "1 answer" if total == 1 else f"{total} answers"
        lines = [
            f"{answers} in {seconds:.1f} s ({total / seconds:,.0f} a second): {shares}",
            "why: " + ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common()),
        ]
        if self.slowest and self.slowest.verdict.seconds:  # else none took a worker, so none can have timed out
            slowest = f"{_name(self.slowest)}, {self.slowest.verdict.seconds:.2f} s"
            lines.append(f"slowest: {slowest}; {self.reasons[TIMED_OUT]} timed out")
        if self.expected:
            lines.append(f"{self.agreed} of {self.expected} agree with `expected`")
            lines += map(_disagreement, self.disagreements)
            if (more := self.expected - self.agreed - len(self.disagreements)) > 0:
                lines.append(f"  ... and {more} more")
        for line in lines:
            _say(console, line)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _explained(row: _Row) -> str:
    gold, prediction = _short(row.columns["gold"]), _short(row.columns["prediction"])
    return f"{_name(row)}: {gold} and {prediction}: {json.dumps(row.verdict.correct)}, {_printable(row.verdict.why)}"


def _disagreement(row: _Row) -> str:
    gold, prediction = _short(row.columns["gold"]), _short(row.columns["prediction"])
    expected, judged = json.dumps(row.columns["expected"]), json.dumps(row.verdict.correct)
    return (
        f"  {_name(row)}: gold {gold}, prediction {prediction}: expected {expected}, judged {judged} "
        f"({_printable(row.verdict.why)})"
    )


def _name(row: _Row) -> str:
    return f"{row.where} ({_short(row.columns['id'])[1:-1]})" if "id" in row.columns else row.where


def _printable(text: str) -> str:
    """A text without what a terminal would act on."""
    return "".join(character if character.isprintable() else " " for character in text)


def _short(value: Any) -> str:
    """A value on one line, in quotes; what a terminal would act on is escaped."""
    text = " ".join((value if isinstance(value, str) else json.dumps(value, default=str)).split())
    return repr(text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}")
