"""Reads problems from where a source's URI points: files, the Hugging Face hub, reasoning-gym, Countdown."""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator

from components.shared.data import countdown
from components.shared.data.chat import NotText, as_prompt, asked, conversation, messages_of
from components.shared.data.gold import Damaged, decoded, gold_answer, is_none, mended
from components.shared.data.table_files import (
    Row,
    chosen_files,
    expected_kinds,
    file_rows,
    local_files,
    local_path,
    table_kind,
)
from components.shared.errors import InputError, nearest
from components.shared.grading import check_verifier
from components.shared.object_store.inputs import fetched_file, matching_uris, stored_objects
from components.shared.object_store.store import split_uri
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
    ("messages",),
    ("conversations",),
)
ANSWER_COLUMNS: tuple[str, ...] = (
    "answer",
    "final_answer",
    "target",
    "gold",
    "ground_truth",
    "expected_answer",
    "reward_model.ground_truth",
    "accepted_answers",
    "label",
    "output",
    "solution",
)
# Of these, the ones that hold a worked solution; its answer is in the last box or behind `####`.
WORKED_ANSWER_COLUMNS = ("output", "solution")
# Columns whose lists hold answers of which any one will do; and OlympiadBench's, which tells it row by row.
_ANY_OF_COLUMNS = ("accepted_answers", "acceptable_answers", "aliases", "answer.aliases", "answers.text")
_ALL_OF_FLAG = "is_multiple_answer"
# Verifiers whose answers are the ones of data sets; the others' may be any text.
_READS_GOLD = ("math", "choice")


class Source(Settings):
    """Where problems come from, and how they are judged."""

    uri: str = Field(
        description="A path or s3://BUCKET/NAME of a file (.jsonl, .json, .parquet, .csv, .tsv, .arrow; also .gz, "
        ".zst, .bz2, .xz), of a folder of them, or with * for several; hf://ORG/NAME?config=C&split=S&revision=R; "
        "reasoning-gym://TASK?size=N&seed=S&KEY=VALUE; or "
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
    answer_list: Literal["auto", "all", "any"] = Field(
        "auto",
        description="What a list in the answer column is: all, an answer of several parts that must all be there; any, "
        "answers of which one will do. auto goes by the column's name and OlympiadBench's is_multiple_answer, and "
        "takes all where these say nothing.",
    )
    limit: int | None = Field(None, ge=1, description="Take this many rows at most, the first ones.")

    @field_validator("uri")
    @classmethod
    def _path(cls, value: str) -> str:
        # Where the recipe is read: in a stage's container, ~ is another folder.
        return str(local_path(value)) if value.startswith("~") or value.lower().startswith("file://") else value


_GENERATED = ("hf", "reasoning-gym", "countdown")  # sources whose URIs have options


def source_name(uri: str) -> str:
    """A short name for a source: a file's stem, a data set's or a task's name."""
    if split_uri(uri)[0] in _GENERATED:
        return uri.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    kind = table_kind(name)
    if kind:
        return name[: name.lower().rindex(kind)]
    return name.rsplit(".", 1)[0] if "." in name and "://" not in uri else name


def keyed_sources(train: list[dict[str, Any]], benchmarks: list[dict[str, Any]]) -> dict[str, Source]:
    """The sources that pipeline parameters hold, by the recipe key that names them.

    Raises:
        InputError: an unknown key, or one that is missing.
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
    """A problem as its source has it."""

    row: str  # where it stands in the source, such as `row 12`
    text: str | None  # the problem: of a conversation, the last thing that the user says
    answer: str | None
    difficulty: float | None
    verifier: str
    chat: str | None = None  # the whole conversation, where there is more of it, as chat.py writes it
    fault: str | None = None  # why the row cannot be used, where its text or answer is there and unusable
    detail: str = ""  # the same in words


def prompt_of(problem: RawProblem, template: str) -> str:
    """What the policy is asked, as a problem's `prompt`: the problem in a template, and what a chat has before it."""
    text = template.replace("{problem}", problem.text or "")
    if problem.chat is None:
        return text
    return as_prompt([*conversation(problem.chat)[:-1], {"role": "user", "content": text}])


def read_source(source: Source, key: str) -> Iterator[RawProblem]:
    """Reads a source's problems, one at a time.

    Args:
        source: the source.
        key: the recipe key that names it, for messages.

    Raises:
        InputError: the source or one of its columns is not there, or a row cannot be read.
    """
    scheme = split_uri(source.uri)[0]
    if scheme in _GENERATED:
        try:
            urlsplit(source.uri)
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
    elif scheme in ("", "file"):
        problems = _mapped(_local_rows(source.uri, key), source, key)
    else:
        raise InputError(
            f"{key}: {source.uri!r}: unknown kind of source {scheme}://; expected a path, s3://, hf://, "
            f"reasoning-gym:// or countdown://"
        )
    for count, problem in enumerate(problems):
        if count == source.limit:
            break
        yield problem


def is_file_source(uri: str) -> bool:
    """Whether a source is a file or folder of this machine."""
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
    """The objects that a source's URI stands for: itself, those of a folder, or those that a pattern matches.

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
    names = chosen_files([name for name in found if "/" not in name], f"{key}: {uri.rstrip('/')}")
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
        yield _problem(where, flat, *columns, source)
    if columns is None:
        raise InputError(f"{key}: {source.uri} holds no rows")


def _problem(
    where: str, row: dict[str, Any], prompt_columns: list[str], answer_column: str, source: Source
) -> RawProblem:
    verifier = source.verifier or "math"
    problem = RawProblem(where, None, None, _difficulty(row), verifier)
    try:
        text, chat = _prompt(row.get(column) for column in prompt_columns)
    except (Damaged, NotText) as error:
        return dataclasses.replace(problem, text="-", fault="damaged", detail=f"the problem {error}")
    worked = answer_column.lower() in WORKED_ANSWER_COLUMNS
    try:
        answer = gold_answer(row.get(answer_column), worked, _takes_any(row, answer_column, source))
    except Damaged as error:
        return dataclasses.replace(problem, text=text, fault="damaged", detail=f"the answer {error}")
    problem = dataclasses.replace(problem, text=text, answer=answer, chat=chat)
    if answer and verifier in _READS_GOLD and is_none(answer):
        return dataclasses.replace(problem, fault="answer_is_none", detail=answer)
    return problem


def _takes_any(row: dict[str, Any], answer_column: str, source: Source) -> bool:
    """Whether of a list of answers any one will do."""
    if source.answer_list != "auto":
        return source.answer_list == "any"
    if isinstance(flag := row.get(_ALL_OF_FLAG), bool):
        return not flag
    return answer_column.lower() in _ANY_OF_COLUMNS


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


def _prompt(values: Iterator[Any]) -> tuple[str | None, str | None]:
    """The problem's text, and the conversation that ends with it where there is more.

    Raises:
        Damaged, NotText: it is there and cannot be read.
    """
    texts, before = [], []
    for value in map(decoded, values):
        if messages := messages_of(value):
            *earlier, last = asked(messages) or [{"role": "user", "content": ""}]
            before += [{**message, "content": mended(message["content"], prose=True)} for message in earlier]
            value = last["content"]
        if isinstance(value, str) and value.strip():
            texts.append(mended(value, prose=True).strip())
    text = " ".join(filter(None, texts)) or None
    return text, as_prompt([*before, {"role": "user", "content": text}]) if before and text else None


def _difficulty(row: dict[str, Any]) -> float | None:
    for name in ("difficulty", "level"):
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and (digits := re.fullmatch(r"(?:Level )?(\d+(?:\.\d+)?)", value)):
            return float(digits[1])
    return None
