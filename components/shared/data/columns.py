"""Finds a problem's text, answer and difficulty in the columns of a table, whatever they are called."""

import re
from collections.abc import Iterator
from typing import Any

from components.shared.data.chat import as_prompt, parse_messages, up_to_last_question
from components.shared.data.gold import decode, gold_answer, repaired
from components.shared.errors import InputError, nearest

# Common column names, in order of preference, case-insensitive. Several columns are joined.
_PROMPT_COLUMNS: tuple[tuple[str, ...], ...] = (
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
_ANSWER_COLUMNS: tuple[str, ...] = (
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
# Those with a worked solution, whose answer is in the last box or after `####`.
_WORKED_ANSWER_COLUMNS = ("output", "solution")
# Columns whose lists hold alternative answers; and OlympiadBench's column that tells it for each row.
_ANY_OF_COLUMNS = ("accepted_answers", "acceptable_answers", "aliases", "answer.aliases", "answers.text")
_ALL_OF_FLAG = "is_multiple_answer"


def with_nested_columns(row: dict[str, Any]) -> dict[str, Any]:
    """Adds nested columns as a.b to a row."""
    flat = dict(row)
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": v for inner, v in value.items()})
    return flat


def find_columns(
    row: dict[str, Any], prompt_columns: list[str], answer_column: str | None, uri: str, key: str
) -> tuple[list[str], str]:
    """Finds the columns of the problem and the answer, by the recipe or by common names.

    Args:
        row: a row of the table.
        prompt_columns: the recipe's, empty if not set.
        answer_column: the recipe's, None if not set.
        uri: URI of the source, for messages.
        key: the recipe key that names the source, for messages.

    Raises:
        InputError: a column of the recipe does not exist, or no common name is found.
    """
    for column in [*prompt_columns, *([answer_column] if answer_column else [])]:
        if column not in row:
            raise InputError(f"{key}: {uri} has no column {column!r}.{nearest(column, row)}")
    by_lower = {name.lower(): name for name in reversed(row)}
    prompts = prompt_columns or next(
        ([by_lower[c] for c in group] for group in _PROMPT_COLUMNS if all(c in by_lower for c in group)), []
    )
    answer = answer_column or next((by_lower[c] for c in _ANSWER_COLUMNS if c in by_lower), None)
    for what, found, setting in (("problem", prompts, "prompt_columns"), ("answer", answer, "answer_column")):
        if not found:
            raise InputError(
                f"{key}: {uri}: none of the columns {', '.join(row)} is known to hold the {what}; "
                f"set {setting}: {{uri: {uri}, {setting}: ...}}"
            )
    assert answer
    return prompts, answer


def read_prompt(values: Iterator[Any]) -> tuple[str | None, str | None]:
    """Returns the problem's text, and the conversation that ends with it, if there is one.

    Raises:
        Damaged, NotText: there is a problem, but it cannot be read.
    """
    texts, before = [], []
    for value in map(decode, values):
        if messages := parse_messages(value):
            *earlier, last = up_to_last_question(messages) or [{"role": "user", "content": ""}]
            before += [{**message, "content": repaired(message["content"], prose=True)} for message in earlier]
            value = last["content"]
        if isinstance(value, str) and value.strip():
            texts.append(repaired(value, prose=True).strip())
    text = " ".join(filter(None, texts)) or None
    return text, as_prompt([*before, {"role": "user", "content": text}]) if before and text else None


def read_answer(row: dict[str, Any], column: str, answer_list: str) -> str | None:
    """Returns the gold answer in a row's column; None if there is none.

    Args:
        row: the row.
        column: the answer column.
        answer_list: the recipe's `answer_list`: auto, all or any.

    Raises:
        Damaged: there is an answer, but it cannot be read.
    """
    worked = column.lower() in _WORKED_ANSWER_COLUMNS
    return gold_answer(row.get(column), worked, _has_alternatives(row, column, answer_list))


def _has_alternatives(row: dict[str, Any], column: str, answer_list: str) -> bool:
    """Whether a list of answers holds alternatives."""
    if answer_list != "auto":
        return answer_list == "any"
    if isinstance(flag := row.get(_ALL_OF_FLAG), bool):
        return not flag
    return column.lower() in _ANY_OF_COLUMNS


def read_difficulty(row: dict[str, Any]) -> float | None:
    """Returns the number in a row's `difficulty` or `level` column, such as 5 for `Level 5`; None if there is none."""
    for name in ("difficulty", "level"):
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and (digits := re.fullmatch(r"(?:Level )?(\d+(?:\.\d+)?)", value)):
            return float(digits[1])
    return None
