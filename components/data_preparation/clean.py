"""Cleaning: turns a source's rows into rows of the Problems table, and counts what it drops and why."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError

from components.data_preparation.overlap import Overlap
from components.data_preparation.settings import DataSettings
from components.data_preparation.text import normalise, problem_id
from components.shared.data.batches import batches
from components.shared.data.chat import conversation
from components.shared.data.sources import RawProblem, Source, read_source
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow
from components.shared.grading.verifiers import READS_ANSWERS, REASONING_GYM, accepted_answers
from components.shared.policy import Policy

BATCH = 512
EXAMPLES = 20
# Why a row is dropped: the key is stored, the text is for display.
REASONS = {
    "no_text": "no problem text",
    "no_answer": "no answer",
    "damaged": "damaged text or answer",
    "answer_is_none": "a placeholder instead of an answer",
    "conflicting": "same problem with conflicting answers",
    "answer_not_gradable": "the verifier cannot grade the answer, even against itself",
    "duplicate": "duplicate problem",
    "token_beyond": "the prompt has a token without a row in the model's embeddings",
    "prompt_too_long": "the prompt leaves no room for a completion in the model's context",
    "in_benchmark": "verbatim in a benchmark",
    "in_benchmark_ngram": "almost verbatim in a benchmark",
}


@dataclass
class SourceReport:
    """What happened to a source's rows."""

    role: str  # train | benchmark
    name: str
    uri: str
    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)  # reason -> the first rows, with a detail
    overlaps: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, reason: str, row: str, detail: str = "") -> None:
        """Counts a dropped row."""
        self.dropped[reason] += 1
        rows = self.examples.setdefault(reason, [])
        if len(rows) < EXAMPLES:
            rows.append(f"{row}: {detail}" if detail else row)

    def add_overlap(self, row: str, overlap: Overlap) -> None:
        """Counts a training problem that is also in a benchmark."""
        reason = "in_benchmark" if overlap.kind == "exact" else "in_benchmark_ngram"
        self.drop(reason, row, f"{overlap.benchmark} {overlap.row}")
        self.overlaps.append(
            {
                "row": row,
                "benchmark": overlap.benchmark,
                "benchmark_row": overlap.row,
                "kind": overlap.kind,
                "share": overlap.share,
            }
        )

    def counts(self) -> str:
        """The dropped rows by reason, most frequent first; empty if there are none."""
        return ", ".join(f"{REASONS[reason]} ({count})" for reason, count in self.dropped.most_common())

    def as_dict(self) -> dict[str, Any]:
        """The report as it is stored in JSON."""
        return {**self.__dict__, "dropped": dict(self.dropped)}


class CleanProblem(NamedTuple):
    """A problem that can be used."""

    where: str  # its row in the source
    text: str  # without the prompt template
    row: dict[str, Any]  # of the Problems table


@dataclass(frozen=True)
class _First:
    """The first occurrence of a problem."""

    report: SourceReport
    row: str
    answer: str


@dataclass
class Seen:
    """The problems of a table so far, by id."""

    first: dict[str, _First] = field(default_factory=dict)
    conflicting: dict[str, str] = field(default_factory=dict)  # seen again with another answer -> description


class Cleaner:
    """Turns a source's rows into rows of the Problems table, and counts what it drops.

    Attributes:
        first_prompts: by the source's recipe key, the complete prompt of its first problem as the policy receives it.

    Args:
        policy: the base policy.
        longest_prompt: maximum tokens of a prompt.
        settings: the recipe's `data` section.
        grader: checks whether answers can be graded.
    """

    def __init__(self, policy: Policy, longest_prompt: int, settings: DataSettings, grader: Grader) -> None:
        self._policy = policy
        self._longest_prompt, self._settings, self._grader = longest_prompt, settings, grader
        self.first_prompts: dict[str, str] = {}

    def clean(self, source: Source, key: str, report: SourceReport, seen: Seen) -> Iterator[CleanProblem]:
        """Yields a source's usable problems in order, and counts the other rows in its report.

        Args:
            source: where the rows come from.
            key: its key in the recipe, for messages.
            report: of the source.
            seen: the problems of the table so far.

        Raises:
            InputError: the source cannot be read, the chat template cannot render a conversation, or a prompt is too
                long and data.on_long_prompt is `error`.
        """
        name = f"{key}: {source.uri}"
        for batch in batches(read_source(source, key), BATCH):
            report.rows += len(batch)
            problems = _readable(batch, report)
            gradable = self._gradable(problems)
            prompts = [self._settings.prompt_of(problem) for problem in problems]
            token_ids = self._token_ids(prompts, problems, name)
            if prompts:
                self.first_prompts.setdefault(key, self._policy.rendered_prompt(prompts[0]))
            for problem, can_grade, prompt, ids in zip(problems, gradable, prompts, token_ids, strict=True):
                assert problem.text and problem.answer
                identity = problem_id(problem.text)
                if not can_grade:
                    report.drop("answer_not_gradable", problem.row, problem.answer[:80])
                elif identity in seen.first:
                    self._drop_repeated(identity, problem, report, seen)
                elif self._fits(problem, ids, report, name):
                    seen.first[identity] = _First(report, problem.row, problem.answer)
                    row = {
                        "problem_id": identity,
                        "prompt": prompt,
                        "answer": problem.answer,
                        "source": report.name,
                        "verifier": problem.verifier,
                        "difficulty": problem.difficulty,
                    }
                    yield CleanProblem(problem.row, problem.text, row)

    def _gradable(self, problems: list[RawProblem]) -> list[bool]:
        """Whether each problem's verifier gives the expected verdict on a completion whose verdict is known."""
        checks = [_self_check(problem) for problem in problems]
        verdicts = self._grader.grade([row for row, _ in checks])
        return [verdict is expected for verdict, (_, expected) in zip(verdicts, checks, strict=True)]

    def _token_ids(self, prompts: list[str], problems: list[RawProblem], name: str) -> list[list[int]]:
        """The prompts' token ids.

        Raises:
            InputError: the policy's chat template rejects a conversation or omits a part of it.
        """
        if not prompts:
            return []
        for prompt, problem in zip(prompts, problems, strict=True):
            if problem.chat is not None:
                self._check_rendering(prompt, f"{name}, {problem.row}")
        return self._policy.prompt_token_ids(prompts)

    def _check_rendering(self, prompt: str, where: str) -> None:
        try:
            text = self._policy.rendered_prompt(prompt)
        except (TemplateError, ValueError, TypeError) as error:
            roles = ", ".join(sorted({message["role"] for message in conversation(prompt)}))
            raise InputError(
                f"{where}: the policy's chat template rejects this conversation: {error}; use a template that accepts "
                f"{roles} messages, or give the problem alone"
            ) from None
        for message in conversation(prompt):
            if message["content"] not in text and "<think>" not in message["content"]:
                raise InputError(
                    f"{where}: the policy's chat template omits the {message['role']} message "
                    f"{message['content'][:80]!r}; use a template that renders it, or give the problem alone"
                )

    def _fits(self, problem: RawProblem, ids: list[int], report: SourceReport, name: str) -> bool:
        """Whether the model can take the prompt; counts it as dropped if not."""
        if max(ids, default=0) >= self._policy.vocabulary_size:
            token = self._policy.tokenizer.convert_ids_to_tokens(max(ids))
            report.drop("token_beyond", problem.row, f"{token}, id {max(ids)}")
            return False
        if len(ids) > self._longest_prompt:
            if self._settings.on_long_prompt == "error":
                raise InputError(
                    f"{name}, {problem.row}: the prompt takes {len(ids)} tokens, but only {self._longest_prompt} leave "
                    f"room for a completion; shorten it, lower max_completion_tokens, or set data.on_long_prompt to "
                    f"drop"
                )
            report.drop("prompt_too_long", problem.row, f"{len(ids)} tokens")
            return False
        return True

    def _drop_repeated(self, identity: str, problem: RawProblem, report: SourceReport, seen: Seen) -> None:
        """Counts a problem seen before: as a duplicate, or as conflicting if its answer contradicts the first one."""
        first, answer = seen.first[identity], problem.answer or ""
        same = answer == first.answer or problem.verifier not in READS_ANSWERS
        if not same:
            (same,) = self._grader.grade([GradingRow(problem.verifier, first.answer, f"\\boxed{{{answer}}}")])  # type: ignore[assignment]
        if same:
            report.drop("duplicate", problem.row)
        else:
            seen.conflicting[identity] = f"{first.answer[:30]} here, {answer[:30]} in {report.name} {problem.row}"
            report.drop("conflicting", problem.row, f"{answer[:30]} here, {first.answer[:30]} in {first.row}")


def _readable(batch: list[RawProblem], report: SourceReport) -> list[RawProblem]:
    """The problems that have a text and an answer; counts the others as dropped."""
    readable = []
    for problem in batch:
        if not problem.text or not normalise(problem.text):
            report.drop("no_text", problem.row)
        elif problem.fault:
            report.drop(problem.fault, problem.row, problem.detail[:80])
        elif not problem.answer:
            report.drop("no_answer", problem.row)
        else:
            readable.append(problem)
    return readable


def _self_check(problem: RawProblem) -> tuple[GradingRow, bool]:
    """A completion with a known verdict, and that verdict: a verifier that errs here cannot grade the problem.

    The gold answer is correct. If there is none, because any solution will do, an empty completion is wrong.
    """
    assert problem.answer
    if problem.verifier == "math":
        right = (accepted_answers(problem.answer) or [problem.answer])[0]
        return GradingRow("math", problem.answer, f"\\boxed{{{right}}}"), True
    if problem.verifier.startswith(REASONING_GYM):
        try:
            gold = json.loads(problem.answer).get("answer")
        except (ValueError, AttributeError):  # the verifier will reject it
            gold = None
        if gold is not None:
            return GradingRow(problem.verifier, problem.answer, str(gold)), True
    return GradingRow(problem.verifier, problem.answer, ""), False


def check_not_empty(report: SourceReport, key: str) -> None:
    """Raises InputError if no row of a source can be used, with the reasons and a remedy."""
    if report.kept:
        return
    examples = [f"{row} ({REASONS[reason]})" for reason, rows in report.examples.items() for row in rows[:2]]
    remedy = f"for example {'; '.join(examples)}"
    if report.dropped["in_benchmark"] + report.dropped["in_benchmark_ngram"] == report.rows:
        names = sorted({overlap["benchmark"] for overlap in report.overlaps})
        remedy = f"the training set and benchmark {', '.join(names)} have the same problems; use other training data"
    elif report.dropped["no_answer"] == report.rows:
        remedy = "its answers are empty or null; name the column that holds them with answer_column"
    elif report.dropped["token_beyond"] == report.rows:
        remedy = "call model.resize_token_embeddings(len(tokenizer)) and save the model again"
    elif report.dropped["prompt_too_long"] == report.rows:
        remedy = "choose a model with a longer context, or lower max_completion_tokens"
    raise InputError(f"{key}: {report.uri}: none of its {report.rows} rows can be used: {report.counts()}; {remedy}")
