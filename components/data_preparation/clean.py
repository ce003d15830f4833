"""From a source's rows to rows of the Problems table: what is kept, and what is dropped for which reason."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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
REASONS = {
    "no_text": "no problem text",
    "no_answer": "no answer",
    "damaged": "text or answer is damaged",
    "answer_is_none": "the answer says that there is none",
    "conflicting": "the same problem has different answers",
    "answer_not_gradable": "the verifier cannot judge the answer even against itself",
    "duplicate": "the same problem again",
    "token_beyond": "the prompt holds a token that has no row in the model's embeddings",
    "prompt_too_long": "the prompt leaves no room in the model's context",
    "in_benchmark": "stands in a benchmark, word for word",
    "in_benchmark_ngram": "stands in a benchmark, nearly word for word",
}


@dataclass
class SourceReport:
    """What became of a source's rows."""

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
        """Counts a training problem that stands in a benchmark."""
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

    def as_dict(self) -> dict[str, Any]:
        """For the report's JSON."""
        return {**self.__dict__, "dropped": dict(self.dropped)}


@dataclass(frozen=True)
class _First:
    """Where a problem was met first."""

    report: SourceReport
    row: str
    answer: str


@dataclass
class Seen:
    """The problems of a table so far, by id."""

    first: dict[str, _First] = field(default_factory=dict)
    conflicting: dict[str, str] = field(default_factory=dict)  # those that came again with another answer: in words


class Cleaner:
    """Turns a source's rows into rows of the Problems table; counts what it drops.

    Attributes:
        first_prompts: of each source, by its recipe key: what the policy is sent of the first problem, whole.

    Args:
        policy: the base policy.
        longest_prompt: tokens that a prompt may have.
        settings: the recipe's `data` section.
        grader: judges whether answers can be judged.
    """

    def __init__(self, policy: Policy, longest_prompt: int, settings: DataSettings, grader: Grader) -> None:
        self._policy = policy
        self._longest_prompt, self._settings, self._grader = longest_prompt, settings, grader
        self.first_prompts: dict[str, str] = {}

    def clean(
        self, source: Source, key: str, report: SourceReport, seen: Seen
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yields where a row stood, the problem's text and its row of the Problems table."""
        for batch in batches(read_source(source, key), BATCH):
            report.rows += len(batch)
            named = []
            for problem in batch:
                if not problem.text or not normalise(problem.text):
                    report.drop("no_text", problem.row)
                elif problem.fault:
                    report.drop(problem.fault, problem.row, problem.detail[:80])
                elif not problem.answer:
                    report.drop("no_answer", problem.row)
                else:
                    named.append((problem_id(problem.text), problem))
            checks = [_self_check(problem) for _, problem in named]
            gradable = [
                verdict is right
                for verdict, (_, right) in zip(self._grader.grade([row for row, _ in checks]), checks, strict=True)
            ]
            prompts = [self._settings.prompt_of(problem) for _, problem in named]
            tokens = self._token_ids(prompts, [problem for _, problem in named], f"{key}: {source.uri}")
            if prompts:
                self.first_prompts.setdefault(key, self._policy.rendered_prompt(prompts[0]))
            for (identity, problem), right, prompt, ids in zip(named, gradable, prompts, tokens, strict=True):
                if not right:
                    report.drop("answer_not_gradable", problem.row, str(problem.answer)[:80])
                elif identity in seen.first:
                    self._drop_repeated(identity, problem, report, seen)
                elif max(ids, default=0) >= self._policy.vocabulary_size:
                    token = self._policy.tokenizer.convert_ids_to_tokens(max(ids))
                    report.drop("token_beyond", problem.row, f"{token}, id {max(ids)}")
                elif len(ids) > self._longest_prompt:
                    if self._settings.on_long_prompt == "error":
                        raise InputError(
                            f"{key}: {source.uri}, {problem.row}: the prompt takes {len(ids)} tokens, but only "
                            f"{self._longest_prompt} leave room for a completion; shorten it, lower "
                            f"max_completion_tokens, or set data.on_long_prompt to drop"
                        )
                    report.drop("prompt_too_long", problem.row, f"{len(ids)} tokens")
                else:
                    assert problem.text and problem.answer
                    seen.first[identity] = _First(report, problem.row, problem.answer)
                    yield (
                        problem.row,
                        problem.text,
                        {
                            "problem_id": identity,
                            "prompt": prompt,
                            "answer": problem.answer,
                            "source": report.name,
                            "verifier": problem.verifier,
                            "difficulty": problem.difficulty,
                        },
                    )

    def _token_ids(self, prompts: list[str], problems: list[RawProblem], what: str) -> list[list[int]]:
        """The prompts' token ids.

        Raises:
            InputError: the policy's chat template refuses a conversation or leaves out a part of it.
        """
        if not prompts:
            return []
        for prompt, problem in zip(prompts, problems, strict=True):
            if problem.chat is None:
                continue
            try:
                text = self._policy.rendered_prompt(prompt)
            except (TemplateError, ValueError, TypeError) as error:
                raise InputError(
                    f"{what}, {problem.row}: the policy's chat template refuses this conversation: {error}; give it a "
                    f"template that takes {', '.join(sorted({m['role'] for m in conversation(prompt)}))} messages, or "
                    f"the problem alone"
                ) from None
            for message in conversation(prompt):
                if message["content"] not in text and "<think>" not in message["content"]:
                    raise InputError(
                        f"{what}, {problem.row}: the policy's chat template leaves out the {message['role']} message "
                        f"{message['content'][:80]!r}; give it a template that renders it, or the problem alone"
                    )
        return self._policy.prompt_token_ids(prompts)

    def _drop_repeated(self, identity: str, problem: RawProblem, report: SourceReport, seen: Seen) -> None:
        """Counts a problem that was there before: once more the same, or with an answer that contradicts."""
        first, answer = seen.first[identity], problem.answer or ""
        same = answer == first.answer or problem.verifier not in READS_ANSWERS
        if not same:
            (same,) = self._grader.grade([GradingRow(problem.verifier, first.answer, f"\\boxed{{{answer}}}")])  # type: ignore[assignment]
        if same:
            report.drop("duplicate", problem.row)
        else:
            seen.conflicting[identity] = f"{first.answer[:30]} here, {answer[:30]} in {report.name} {problem.row}"
            report.drop("conflicting", problem.row, f"{answer[:30]} here, {first.answer[:30]} in {first.row}")


def _self_check(problem: RawProblem) -> tuple[GradingRow, bool]:
    """A completion whose verdict is known, and that verdict: a verifier that errs here cannot judge the problem.

    The gold answer is right. Where there is none, since any solution will do, an empty completion is wrong.
    """
    assert problem.answer
    if problem.verifier == "math":
        right = (accepted_answers(problem.answer) or [problem.answer])[0]
        return GradingRow("math", problem.answer, f"\\boxed{{{right}}}"), True
    if problem.verifier.startswith(REASONING_GYM):
        try:
            gold = json.loads(problem.answer).get("answer")
        except (ValueError, AttributeError):  # the verifier will refuse it
            gold = None
        if gold is not None:
            return GradingRow(problem.verifier, problem.answer, str(gold)), True
    return GradingRow(problem.verifier, problem.answer, ""), False


def check_something_left(report: SourceReport, key: str) -> None:
    """Raises InputError where no row of a source can be used; it says why, and what to do."""
    if report.kept:
        return
    counts = ", ".join(f"{count} {REASONS[reason]}" for reason, count in report.dropped.most_common())
    examples = [f"{row} ({REASONS[reason]})" for reason, rows in report.examples.items() for row in rows[:2]]
    remedy = f"for example {'; '.join(examples)}"
    if report.dropped["in_benchmark"] + report.dropped["in_benchmark_ngram"] == report.rows:
        names = sorted({overlap["benchmark"] for overlap in report.overlaps})
        remedy = f"the training set and benchmark {', '.join(names)} are the same problems; give other training data"
    elif report.dropped["no_answer"] == report.rows:
        remedy = "its answers are empty or null; name the column that holds them with answer_column"
    elif report.dropped["token_beyond"] == report.rows:
        remedy = "call model.resize_token_embeddings(len(tokenizer)) and save the model again"
    elif report.dropped["prompt_too_long"] == report.rows:
        remedy = "choose a model with a longer context, or lower max_completion_tokens"
    raise InputError(f"{key}: {report.uri}: none of its {report.rows} rows can be used ({counts}): {remedy}")
