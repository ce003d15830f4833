"""Reads problems from where a source's URI points: files, the Hugging Face hub, reasoning-gym, Countdown."""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from components.shared import countdown
from components.shared.errors import InputError, nearest
from components.shared.grading import boxed_answers, check_verifier
from components.shared.object_store.inputs import fetched_file
from components.shared.settings import Settings

# The usual spellings, in order of preference; lower and upper case alike. Several columns are joined.
PROMPT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("body", "question"),
    ("problem",),
    ("question",),
    ("prompt",),
    ("input",),
    ("query",),
    ("instruction",),
)
ANSWER_COLUMNS: tuple[str, ...] = (
    "answer",
    "final_answer",
    "target",
    "gold",
    "ground_truth",
    "expected_answer",
    "reward_model.ground_truth",
    "label",
    "output",
    "solution",
)
# Of these, the ones that hold a worked solution; its answer is in the last box or behind `####`.
WORKED_ANSWER_COLUMNS = ("output", "solution")


class Source(Settings):
    """Where problems come from, and how they are judged."""

    uri: str = Field(
        description="A path or s3://BUCKET/NAME (.jsonl, .json, .parquet), hf://ORG/NAME?config=C&split=S&revision=R, "
        "reasoning-gym://TASK?size=N&seed=S&KEY=VALUE, or "
        "countdown://SPLIT?numbers=3&low=1&high=9&count=N&seed=S."
    )
    name: str | None = Field(None, description="What reports call it; from the URI if left out.")
    verifier: str | None = Field(
        None,
        description="What judges a completion: math, exact, choice, countdown, reasoning-gym/TASK, or a function of "
        "yours as MODULE:FUNCTION. The source's own if left out.",
    )
    prompt_columns: list[str] = Field(
        [], description="Columns that hold the problem, joined by a space; the usual spellings are tried if empty."
    )
    answer_column: str | None = Field(
        None, description="Column that holds the answer, a.b for a nested one; the usual spellings are tried if empty."
    )
    limit: int | None = Field(None, ge=1, description="Take this many rows at most, the first ones.")


def source_name(uri: str) -> str:
    """A short name for a source: a file's stem, a data set's or a task's name."""
    path = uri.split("?")[0].rstrip("/")
    name = path.rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0] if "." in name and "://" not in uri else name


_NOT_JSON = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
_FILE_KINDS = (".jsonl", ".json", ".parquet")


def keyed_sources(train: list[dict[str, Any]], benchmarks: list[dict[str, Any]]) -> dict[str, Source]:
    """The sources that pipeline parameters hold, by the recipe key that names them.

    Raises:
        InputError: an unknown key, or one that is missing.
    """
    keyed = {f"data.train.{number}": values for number, values in enumerate(train)}
    keyed |= {f"data.benchmarks.{values.get('name')}": values for values in benchmarks}
    return {key: Source.check(values, key) for key, values in keyed.items()}


@dataclass(frozen=True)
class RawProblem:
    """A problem as its source has it."""

    row: str  # where it stands in the source, such as `row 12`
    text: str | None
    answer: str | None
    difficulty: float | None
    verifier: str


def read_source(source: Source, key: str) -> Iterator[RawProblem]:
    """Reads a source's problems, one at a time.

    Args:
        source: the source.
        key: the recipe key that names it, for messages.

    Raises:
        InputError: the source or one of its columns is not there, or a row cannot be read.
    """
    try:
        scheme = urlsplit(source.uri).scheme
    except ValueError as error:
        raise InputError(f"{key}: {source.uri!r} is no URI: {error}") from None
    if scheme == "countdown":
        problems = _countdown_problems(source, key)
    elif scheme == "reasoning-gym":
        problems = _reasoning_gym_problems(source, key)
    elif scheme == "hf":
        problems = _mapped(_hub_rows(source.uri, key), source, key)
    elif scheme in ("s3", "minio"):
        problems = _mapped(_stored_rows(source.uri, key), source, key)
    elif scheme == "":
        problems = _mapped(file_rows(Path(source.uri), key), source, key)
    else:
        raise InputError(
            f"{key}: {source.uri!r}: unknown kind of source {scheme}://; expected a path, s3://, hf://, "
            f"reasoning-gym:// or countdown://"
        )
    for count, problem in enumerate(problems):
        if count == source.limit:
            break
        yield problem


def file_rows(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads a file's rows, one at a time: where each stands, and its columns.

    Args:
        path: of a .jsonl, .json or .parquet file.
        key: what names the file, for messages.

    Raises:
        InputError: the file is not there, or it or one of its rows cannot be read.
    """
    if not path.is_file():
        where = f" (from {Path.cwd()})" if not path.is_absolute() else ""
        raise InputError(f"{key}: no such file: {path}{where}")
    if path.suffix not in _FILE_KINDS:
        raise InputError(f"{key}: {path}: expected a file that ends in {', '.join(_FILE_KINDS)}")
    if path.suffix == ".parquet":
        index = 0
        try:
            # Without a buffer ahead, which would stay in memory to the end.
            for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield f"row {index}", row
                    index += 1
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{key}: {path} is not a Parquet file, or broken: {error}") from None
    elif path.suffix == ".json":
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except _NOT_JSON as error:
            raise InputError(f"{key}: {path} is not JSON: {error}") from None
        if not isinstance(rows, list):
            raise InputError(f"{key}: {path}: expected a JSON list of objects, found {type(rows).__name__}")
        for index, row in enumerate(rows):
            yield _object(row, path, f"row {index}", key)
    else:
        with path.open("rb") as lines:  # bytes: a line that is not UTF-8 is named like any other
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except _NOT_JSON as error:
                    raise InputError(f"{key}: {path}, line {number} is not JSON: {error}") from None
                yield _object(row, path, f"line {number}", key)


def _stored_rows(uri: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not uri.endswith(_FILE_KINDS):
        raise InputError(f"{key}: {uri}: expected a file that ends in {', '.join(_FILE_KINDS)}")
    with fetched_file(uri) as path:
        yield from file_rows(path, key)


def _object(row: Any, path: Path, where: str, key: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(row, dict):
        raise InputError(f"{key}: {path}, {where}: expected an object with columns, found {type(row).__name__}")
    return where, row


def _hub_rows(uri: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    if unknown := options.keys() - {"config", "split", "revision"}:
        raise InputError(f"{key}: {uri!r}: unknown option {sorted(unknown)[0]!r}; known: config, split, revision")
    repository = parts.netloc + parts.path
    try:
        rows = datasets.load_dataset(
            repository,
            options.get("config"),
            split=options.get("split", "train"),
            revision=options.get("revision"),
            streaming=True,
        )
        for index, row in enumerate(rows):
            yield f"row {index}", row
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{key}: cannot load {repository!r} from the Hugging Face hub: {error}") from None


def _options(source: Source, key: str, known: dict[str, type]) -> tuple[str, dict[str, Any]]:
    """The name and the typed options of a generated source's URI."""
    parts = urlsplit(source.uri)
    options: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise InputError(f"{key}: {source.uri!r}: unknown option {name!r}.{nearest(name, known)}")
        try:
            options[name] = (text.lower() == "true") if known[name] is bool else known[name](text)
        except ValueError:
            raise InputError(f"{key}: {source.uri!r}: {name} must be {known[name].__name__}, not {text!r}") from None
    return parts.netloc, options


def _countdown_problems(source: Source, key: str) -> Iterator[RawProblem]:
    defaults = {"numbers": 3, "low": 1, "high": 9, "count": 100, "seed": 0}
    split, options = _options(source, key, dict.fromkeys(defaults, int))
    try:
        for index, problem in enumerate(countdown.generate(split, **{**defaults, **options})):
            yield RawProblem(f"problem {index}", problem.text, problem.answer, None, source.verifier or "countdown")
    except ValueError as error:
        raise InputError(f"{key}: {source.uri!r}: {error}") from None


def _reasoning_gym_problems(source: Source, key: str) -> Iterator[RawProblem]:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    task = urlsplit(source.uri).netloc
    if task not in DATASETS:
        raise InputError(f"{key}: {source.uri!r}: reasoning-gym has no task {task!r}.{nearest(task, DATASETS)}")
    kinds = {"int": int, "float": float, "bool": bool, "str": str, "Optional[int]": int}
    config = DATASETS[task][1]
    known = {
        field.name: kinds[name]
        for field in dataclasses.fields(config)
        if (name := getattr(field.type, "__name__", str(field.type)).removeprefix("typing.")) in kinds
    }
    _, options = _options(source, key, {**known, "seed": int, "size": int})
    try:
        tasks = reasoning_gym.create_dataset(task, **{"seed": 0, "size": 500, **options})
    except AssertionError as error:
        raise InputError(f"{key}: {source.uri!r}: {error}") from None
    own = f"reasoning-gym/{task}"
    for index, entry in enumerate(tasks):
        verifier = source.verifier or check_verifier(own)
        # The task's own scorer needs the whole entry; any other verifier needs the gold answer alone.
        answer = json.dumps(entry, default=str) if verifier == own else str(entry["answer"])
        yield RawProblem(f"problem {index}", entry["question"], answer, None, verifier)


def _mapped(rows: Iterator[tuple[str, dict[str, Any]]], source: Source, key: str) -> Iterator[RawProblem]:
    """Rows with columns of any spelling as problems."""
    columns = None
    for where, row in rows:
        flat = _flatten(row)
        if columns is None:
            columns = _find_columns(flat, source, key)
        prompt_columns, answer_column = columns
        yield RawProblem(
            where,
            _join_text(flat.get(column) for column in prompt_columns),
            _plain_answer(flat.get(answer_column), worked=answer_column.lower() in WORKED_ANSWER_COLUMNS),
            _difficulty(flat),
            source.verifier or "math",
        )
    if columns is None:
        raise InputError(f"{key}: {source.uri} holds no rows")


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    """A row with nested columns as a.b beside the plain ones."""
    flat = dict(row)
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": v for inner, v in value.items()})
    return flat


def _find_columns(row: dict[str, Any], source: Source, key: str) -> tuple[list[str], str]:
    """The columns that hold the problem and the answer, as the recipe names them or by the usual spellings."""
    for column in [*source.prompt_columns, *([source.answer_column] if source.answer_column else [])]:
        if column not in row:
            raise InputError(f"{key}: {source.uri} has no column {column!r}.{nearest(column, row)}")
    by_lower = {name.lower(): name for name in reversed(row)}
    prompts = source.prompt_columns or next(
        ([by_lower[c] for c in group] for group in PROMPT_COLUMNS if all(c in by_lower for c in group)), []
    )
    answer = source.answer_column or next((by_lower[c] for c in ANSWER_COLUMNS if c in by_lower), None)
    for what, found, setting in (("problem", prompts, "prompt_columns"), ("answer", answer, "answer_column")):
        if not found:
            raise InputError(
                f"{key}: {source.uri}: none of the columns {', '.join(row)} is known to hold the {what}; "
                f"name it: {{uri: {source.uri}, {setting}: ...}}"
            )
    assert answer
    return prompts, answer


def _join_text(values: Iterator[Any]) -> str | None:
    texts = []
    for value in values:
        if isinstance(value, list) and value and isinstance(value[-1], dict):  # a chat: the last message
            value = value[-1].get("content")
        if isinstance(value, str) and value.strip():
            texts.append(value.strip())
    return " ".join(texts) or None


_NUMBER_WITH_UNIT = re.compile(r"(-?[\d.,/:]+)\s*\([^()]*\)")  # `9 (apples)`
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")


def _plain_answer(value: Any, worked: bool = False) -> str | None:
    """The gold answer as text: out of a list, a solution's last box, behind `####`, without a unit in brackets.

    Args:
        value: as the column holds it.
        worked: it is a worked solution: without a box or `####` there is no telling the answer in its prose.
    """
    if isinstance(value, list):
        parts = [part for item in value if (part := _plain_answer(item, worked))]
        return ", ".join(parts) or None
    if value is None or isinstance(value, bool | dict):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value) if value == value else None
    text = str(value).strip()
    if "####" in text:
        text = text.rsplit("####", 1)[1].strip()
    elif boxes := boxed_answers(text):
        text = boxes[-1]
    elif worked:
        return None
    if match := _NUMBER_WITH_UNIT.fullmatch(text):
        text = match[1]
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if len(text) > 1 and text.startswith("$") and text.endswith("$") and text.count("$") == 2:
        text = text[1:-1].strip()
    return text or None


def _difficulty(row: dict[str, Any]) -> float | None:
    for name in ("difficulty", "level"):
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and (digits := re.fullmatch(r"(?:Level )?(\d+(?:\.\d+)?)", value)):
            return float(digits[1])
    return None
