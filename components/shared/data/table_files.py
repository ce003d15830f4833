"""Reads the rows of tables in files: JSON, JSON Lines, CSV, TSV, Parquet and Arrow, optionally compressed."""

import bz2
import csv
import glob
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.errors import InputError

Row = tuple[str, dict[str, Any]]  # its position in the file, and its columns
KINDS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".arrow")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_SPLITS = re.compile(r"(?:^|[-_.])(train|training|test|dev|validation|valid|val|eval)(?=[-_.]|$)", re.IGNORECASE)
_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # of the `datasets` library
_NOT_JSON = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
_CUT_OFF = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowException)
_DUPLICATE = "has the column {!r} twice; rename one of them"


def table_kind(name: str) -> str | None:
    """The kind of table according to a file's name, such as `.csv` for `A.CSV.gz`; None if it is not a table."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else None


def expected_kinds() -> str:
    """The supported file name endings, for error messages."""
    return f"expected a file name ending in {', '.join(KINDS)}, optionally followed by {', '.join(COMPRESSED)}"


def local_path(uri: str) -> Path:
    """Resolves a path with `~` or a file:// URI; raises ValueError if the URI has a host name."""
    if uri.lower().startswith("file://"):
        rest = uri[len("file://") :]
        rest = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
        if not rest.startswith("/"):
            raise ValueError("the file:// URI has a host name; a local file is file:///PATH")
        return Path(rest if Path(rest).exists() else unquote(rest))
    return Path(uri).expanduser()


def local_files(uri: str, key: str) -> list[Path]:
    """Lists the files that a path refers to: one file, those of a folder, or those that match a pattern with *.

    Raises:
        InputError: there are none, or a folder contains several splits.
    """
    path = local_path(uri)
    if path.is_file():
        return [path]
    where = f" (from {Path.cwd()})" if not path.is_absolute() else ""
    if path.is_dir():
        found = select_tables([file.name for file in path.iterdir() if file.is_file()], f"{key}: {path}")
        return [path / name for name in found]
    if set(str(path)) & set("*?["):
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
        files = sorted(match for match in matches if match.is_file())
        if not files:
            raise InputError(f"{key}: no file matches {path}{where}")
        return files
    raise InputError(f"{key}: no such file: {path}{where}")


def select_tables(names: Sequence[str], what: str) -> list[str]:
    """Selects the tables among a folder's files, sorted by name.

    Raises:
        InputError: there are none, or they belong to several splits, of which the user must choose one.
    """
    tables = sorted(n for n in names if table_kind(n) and not n.startswith((".", "_")) and n not in _METADATA)
    if not tables:
        raise InputError(f"{what} is a folder without tables; {expected_kinds()}")
    splits = {match[1].lower() if (match := _SPLITS.search(name)) else "" for name in tables}
    if len(splits) > 1:
        raise InputError(
            f"{what} is a folder with files of several splits, {', '.join(tables[:4])}; choose one with a pattern, "
            f"such as {what.rpartition(': ')[2]}/train*"
        )
    return tables


def file_rows(path: Path, key: str) -> Iterator[Row]:
    """Reads a file's rows one at a time, each with its position and its columns.

    Args:
        path: path of the file.
        key: the recipe key that names the file, for messages.

    Raises:
        InputError: the file does not exist, or it or one of its rows cannot be read.
    """
    if not path.is_file():
        where = f" (from {Path.cwd()})" if not path.is_absolute() else ""
        raise InputError(f"{key}: no such file: {path}{where}")
    kind = table_kind(path.name)
    if kind is None:
        raise InputError(f"{key}: {path}: {expected_kinds()}")
    read = {".parquet": _parquet_rows, ".arrow": _arrow_rows, ".json": _json_rows}.get(kind)
    if read is None:
        read = _csv_rows if kind in (".csv", ".tsv") else _json_lines
    try:
        with path.open("rb") as raw:
            yield from read(_decompressed(raw), path, key)
    except _CUT_OFF as error:
        raise InputError(f"{key}: {path} is corrupt or truncated: {error}; download it again") from None
    except OSError as error:
        raise InputError(f"{key}: cannot read {path}, which may be truncated: {error.strerror or error}") from None


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    """Decompresses a file by its content, not its name: object stores may keep and serve compressed objects."""
    start = raw.read(6)
    raw.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(raw)  # type: ignore[return-value]
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw), "zstd"))
    if start.startswith(b"BZh"):
        return bz2.open(raw)  # type: ignore[return-value]
    if start.startswith(b"\xfd7zXZ"):
        return lzma.open(raw)  # type: ignore[return-value]
    return raw


def _parquet_rows(file: IO[bytes], path: Path, key: str) -> Iterator[Row]:
    try:
        # Without pre-buffering, which would keep every row group in memory to the end.
        plain = isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO)
        source = path if plain else pa.BufferReader(file.read())
        table = pq.ParquetFile(source, pre_buffer=False)
        _check_columns(table.schema_arrow.names, f"{key}: {path}")
        yield from _numbered(batch.to_pylist() for batch in table.iter_batches(batch_size=1024))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{key}: {path} is not a valid Parquet file: {error}") from None


def _arrow_rows(file: IO[bytes], path: Path, key: str) -> Iterator[Row]:
    data = pa.BufferReader(file.read())
    try:
        try:
            table = pa.ipc.open_file(data).read_all()
        except pa.ArrowInvalid:  # the streaming format, in which `datasets` writes
            data.seek(0)
            table = pa.ipc.open_stream(data).read_all()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{key}: {path} is not a valid Arrow file: {error}") from None
    _check_columns(table.column_names, f"{key}: {path}")
    yield from _numbered(batch.to_pylist() for batch in table.to_batches(max_chunksize=1024))


def _numbered(batches: Iterator[list[dict[str, Any]]]) -> Iterator[Row]:
    for index, row in enumerate(row for batch in batches for row in batch):
        yield f"row {index}", row


def _json_rows(file: IO[bytes], path: Path, key: str) -> Iterator[Row]:
    data = file.read()
    try:
        rows = _parsed(data.decode("utf-8-sig"))
    except InputError as error:
        raise InputError(f"{key}: {path} {error}") from None
    except _NOT_JSON as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":  # JSON Lines under another name
            yield from _json_lines(io.BytesIO(data), path, key)
            return
        raise InputError(f"{key}: {path} is not valid JSON: {error}") from None
    if not isinstance(rows, list):
        raise InputError(f"{key}: {path}: expected a JSON list of objects, found {type(rows).__name__}")
    for index, row in enumerate(rows):
        yield _object(row, path, f"row {index}", key)


def _json_lines(file: IO[bytes], path: Path, key: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):  # bytes: a line that is not UTF-8 gets the same error message
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except InputError as error:
            raise InputError(f"{key}: {path}, line {number} {error}") from None
        except _NOT_JSON as error:
            raise InputError(f"{key}: {path}, line {number} is not valid JSON: {error}") from None
        yield _object(row, path, f"line {number}", key)


def _parsed(text: str | bytes) -> Any:
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(_DUPLICATE.format(next(name for name in names if names.count(name) > 1)))
    return row


def _csv_rows(file: IO[bytes], path: Path, key: str) -> Iterator[Row]:
    """Reads all cells as text, so that 007 stays 007; an empty cell is None."""
    csv.field_size_limit(1 << 30)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")  # type: ignore[type-var]
    reader = csv.reader(text, delimiter="\t" if table_kind(path.name) == ".tsv" else ",", strict=True)
    names: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            where, start = f"line {start}", reader.line_num + 1
            if not cells:
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                _check_columns(names, f"{key}: {path}")
            elif len(cells) != len(names):
                raise InputError(
                    f"{key}: {path}, {where} has {len(cells)} cells, but the table has {len(names)} columns; "
                    f"put cells with separators or line breaks in double quotes"
                )
            else:
                yield where, {name: cell or None for name, cell in zip(names, cells, strict=True)}
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{key}: {path}, line {max(1, reader.line_num)} is not valid CSV in UTF-8: {error}") from None


def _check_columns(names: Sequence[str], what: str) -> None:
    if duplicate := next((name for name in names if list(names).count(name) > 1), None):
        raise InputError(f"{what} {_DUPLICATE.format(duplicate)}")


def _object(row: Any, path: Path, where: str, key: str) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"{key}: {path}, {where}: expected an object with columns, found {type(row).__name__}")
    return where, row
