"""Checks a source of problems by its first rows, and tells whether it has changed."""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

from components.preflight.base_policy import hub_commit
from components.preflight.verifiers import TRIED, try_verifier
from components.shared.data.sources import RawProblem, Source, is_file_source, read_source, stored_files
from components.shared.data.table_files import local_files
from components.shared.errors import InputError
from components.shared.grading import GradingSettings, check_verifier, is_user_function
from components.shared.object_store.inputs import is_stored, stored_version
from components.shared.stage import files_digest


class CheckedSource(NamedTuple):
    """The result of checking a source."""

    rows: int  # that were read
    usable: list[RawProblem]  # those of them with text and answer; never empty
    graded: str  # what grades its completions, in a phrase
    version: str  # changes when the source does


def check_source(key: str, source: Source, wanted: int, grading: GradingSettings) -> CheckedSource:
    """Reads the first rows of a source.

    Args:
        key: the recipe key that names the source.
        source: the source.
        wanted: rows to read at most.
        grading: the recipe's `grading` section.

    Raises:
        InputError: the source cannot be read, has no usable rows, or its verifier does not work.
    """
    if source.verifier:
        check_verifier(source.verifier)
    rows = list(islice(read_source(source, key), wanted))
    if not rows:
        raise InputError(f"{key}: {source.uri} has no rows")
    usable = [problem for problem in rows if problem.text and problem.answer and not problem.fault]
    if not usable:
        raise InputError(f"{key}: {source.uri}: {_none_usable(rows)}")
    graded = f"graded by {rows[0].verifier}"
    if is_user_function(rows[0].verifier):
        graded += f", which {try_verifier(key, usable[:TRIED], grading)}"
    return CheckedSource(len(rows), usable, graded, _source_version(source.uri, key))


def _none_usable(rows: list[RawProblem]) -> str:
    row = rows[0]
    why = "no text" if not row.text else row.detail or "no answer"
    return (
        f"none of the first {len(rows)} rows can be used; {row.row}: {why}. Set prompt_columns and answer_column to "
        f"the columns that hold problem and answer"
    )


def _source_version(uri: str, key: str) -> str:
    """A digest of a source's files, the commit of a Hub data set, or else the URI itself."""
    if uri.startswith("hf://"):
        repository, _, query = uri.removeprefix("hf://").partition("?")
        if Path(repository).exists():  # a local folder in place of a repository
            return files_digest(sorted(p for p in Path(repository).rglob("*") if p.is_file()))
        revision = dict(part.partition("=")[::2] for part in query.split("&")).get("revision")
        return f"{uri} {hub_commit('dataset', repository, revision, key)}"
    if is_stored(uri):
        return "\0".join(f"{one} {stored_version(one)}" for one in stored_files(uri, key))
    return f"{uri} {files_digest(local_files(uri, key))}" if is_file_source(uri) else uri
