"""Reads problems from a source's URI: files, the Hugging Face Hub, reasoning-gym, Countdown."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator

from components.shared.data import countdown
from components.shared.data.chat import NotText, as_prompt, conversation
from components.shared.data.columns import find_columns, read_answer, read_difficulty, read_prompt, with_nested_columns
from components.shared.data.gold import Damaged, is_no_answer
from components.shared.data.table_files import (
    Row,
    expected_kinds,
    file_rows,
    local_files,
    local_path,
    select_tables,
    table_kind,
)
from components.shared.errors import InputError, nearest
from components.shared.grading import check_verifier
from components.shared.object_store.inputs import fetched_file, matching_uris, stored_objects
from components.shared.object_store.store import split_uri
from components.shared.settings import Settings

# Verifiers for which an answer such as `N/A` means that there is none; for the others any text is an answer.
_READS_GOLD = ("math", "choice")


class Source(Settings):
    """Where problems come from, and how their completions are graded."""

    uri: str = Field(
        description="A path or s3://BUCKET/NAME: a file (.jsonl, .json, .parquet, .csv, .tsv, .arrow; also .gz, "
        ".zst, .bz2, .xz), a folder of them, or a pattern with *; hf://ORG/NAME?config=C&split=S&revision=R; "
        "reasoning-gym://TASK?size=N&seed=S&KEY=VALUE; or "
        "countdown://SPLIT?numbers=3&low=1&high=9&count=N&seed=S."
    )
    name: str | None = Field(None, description="Name in reports; derived from the URI if not set.")
    verifier: str | None = Field(
        None,
        description="Verifier that grades completions: math, exact, choice, countdown, reasoning-gym/TASK, or your own "
        "function as MODULE:FUNCTION. Defaults to that of the source.",
    )
    prompt_columns: list[str] = Field(
        [], description="Columns that hold the problem, joined by a space; common column names are tried if empty."
    )
    answer_column: str | None = Field(
        None, description="Column that holds the answer, a.b if nested; common column names are tried if not set."
    )
    answer_list: Literal["auto", "all", "any"] = Field(
        "auto",
        description="How to read a list in the answer column: all, one answer whose parts are all required; any, "
        "alternative answers. auto decides by the column's name and OlympiadBench's is_multiple_answer, and otherwise "
        "uses all.",
    )
    limit: int | None = Field(None, ge=1, description="Use only this many rows, from the start.")

    @field_validator("uri")
    @classmethod
    def _path(cls, value: str) -> str:
        # Expanded where the recipe is read: in a stage's container, ~ is another folder.
        return str(local_path(value)) if value.startswith("~") or value.lower().startswith("file://") else value


_GENERATED = ("hf", "reasoning-gym", "countdown")  # sources whose URIs have options


def source_name(uri: str) -> str:
    """Returns a short name for a source: a file's stem, or the name of a data set or task."""
    if split_uri(uri)[0] in _GENERATED:
        return uri.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    kind = table_kind(name)
    if kind:
        return name[: name.lower().rindex(kind)]
    return name.rsplit(".", 1)[0] if "." in name and "://" not in uri else name


def keyed_sources(train: list[dict[str, Any]], benchmarks: list[dict[str, Any]]) -> dict[str, Source]:
    """Parses the sources in pipeline parameters; returns them by the recipe key that names them.

    Raises:
        InputError: an unknown or missing key.
    """
    keyed = {f"data.train.{number}": values for number, values in enumerate(train)}
    keyed |= {f"data.benchmarks.{values.get('name')}": values for values in benchmarks}
    sources, faults = {}, []
    for key, values in keyed.items():
        try:
            sources[key] = Source.check(values, key)
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return sources


@dataclass(frozen=True)
class RawProblem:
    """A problem as read from its source."""

    row: str  # its position in the source, such as `row 12`
    text: str | None  # the problem: the last user message of a conversation
    answer: str | None
    difficulty: float | None
    verifier: str
    chat: str | None = None  # the complete conversation, if there is more of it, in the format of chat.py
    fault: str | None = None  # why the row cannot be used, if its text or answer is present but unusable
    detail: str = ""  # explains the fault


def prompt_of(problem: RawProblem, template: str) -> str:
    """Formats a problem's `prompt`: the problem in the template, preceded by the earlier messages of a conversation."""
    text = template.replace("{problem}", problem.text or "")
    if problem.chat is None:
        return text
    return as_prompt([*conversation(problem.chat)[:-1], {"role": "user", "content": text}])


def read_source(source: Source, key: str) -> Iterator[RawProblem]:
    """Reads a source's problems one at a time.

    Args:
        source: the source.
        key: the recipe key that names it, for messages.

    Raises:
        InputError: the source or one of its columns does not exist, or a row cannot be read.
    """
    scheme = split_uri(source.uri)[0]
    if scheme in _GENERATED:
        try:
            urlsplit(source.uri)
        except ValueError as error:
            raise InputError(f"{key}: {source.uri!r} is not a URI: {error}") from None
    if scheme == "countdown":
        problems = _countdown_problems(source, key)
    elif scheme == "reasoning-gym":
        problems = _reasoning_gym_problems(source, key)
    elif scheme == "hf":
        problems = _problems_of(_hub_rows(source.uri, key), source, key)
    elif scheme in ("s3", "minio"):
        problems = _problems_of(_stored_rows(source.uri, key), source, key)
    elif scheme in ("", "file"):
        problems = _problems_of(_local_rows(source.uri, key), source, key)
    else:
        raise InputError(
            f"{key}: {source.uri!r}: unknown scheme {scheme}://; expected a path, s3://, hf://, "
            f"reasoning-gym:// or countdown://"
        )
    for count, problem in enumerate(problems):
        if count == source.limit:
            break
        yield problem


def is_file_source(uri: str) -> bool:
    """Whether a source is a local file or folder."""
    return split_uri(uri)[0] in ("", "file")


def _local_rows(uri: str, key: str) -> Iterator[Row]:
    files = local_files(uri, key)
    for file in files:
        rows = file_rows(file, key)
        yield from rows if len(files) == 1 else ((f"{file.name} {where}", row) for where, row in rows)


def _stored_rows(uri: str, key: str) -> Iterator[Row]:
    uris = stored_files(uri, key)
    for one in uris:
        with fetched_file(one) as path:
            rows = file_rows(path, key)
            yield from rows if len(uris) == 1 else ((f"{path.name} {where}", row) for where, row in rows)


def stored_files(uri: str, key: str) -> list[str]:
    """Lists the objects that a source's URI refers to: one file, those of a folder, or those that match a pattern.

    Raises:
        InputError: there are none, or the store cannot be reached.
    """
    try:
        found = stored_objects(uri)
    except InputError:
        if set(uri) & set("*?[") and (matching := matching_uris(uri)):
            return matching
        raise
    name = uri.rstrip("/").rpartition("/")[2]
    if list(found) == [name]:
        if table_kind(name) is None:
            raise InputError(f"{key}: {uri}: {expected_kinds()}")
        return [uri]
    names = select_tables([name for name in found if "/" not in name], f"{key}: {uri.rstrip('/')}")
    return [f"{uri.rstrip('/')}/{name}" for name in names]


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
        raise InputError(f"{key}: cannot load {repository!r} from the Hugging Face Hub: {error}") from None


def _options(source: Source, key: str, known: dict[str, type]) -> tuple[str, dict[str, Any]]:
    """Parses the name and the typed options of a generated source's URI."""
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
        # The task's own scorer needs the whole entry; any other verifier needs only the gold answer.
        answer = json.dumps(entry, default=str) if verifier == own else str(entry["answer"])
        yield RawProblem(f"problem {index}", entry["question"], answer, None, verifier)


def _problems_of(rows: Iterator[tuple[str, dict[str, Any]]], source: Source, key: str) -> Iterator[RawProblem]:
    """Converts rows with any column names to problems."""
    columns = None
    for where, row in rows:
        flat = with_nested_columns(row)
        if columns is None:
            columns = find_columns(flat, source.prompt_columns, source.answer_column, source.uri, key)
        yield _problem(where, flat, *columns, source)
    if columns is None:
        raise InputError(f"{key}: {source.uri} has no rows")


def _problem(
    where: str, row: dict[str, Any], prompt_columns: list[str], answer_column: str, source: Source
) -> RawProblem:
    verifier = source.verifier or "math"
    problem = RawProblem(where, None, None, read_difficulty(row), verifier)
    try:
        text, chat = read_prompt(row.get(column) for column in prompt_columns)
    except (Damaged, NotText) as error:
        return dataclasses.replace(problem, text="-", fault="damaged", detail=f"the problem {error}")
    try:
        answer = read_answer(row, answer_column, source.answer_list)
    except Damaged as error:
        return dataclasses.replace(problem, text=text, fault="damaged", detail=f"the answer {error}")
    problem = dataclasses.replace(problem, text=text, answer=answer, chat=chat)
    if answer and verifier in _READS_GOLD and is_no_answer(answer):
        return dataclasses.replace(problem, fault="answer_is_none", detail=answer)
    return problem
