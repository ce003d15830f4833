"""Data preparation: training problems and benchmarks from wherever they are, to clean tables of one shape.

Also brings the base policy into the run and checks it, since prompts are measured with its tokenizer and
a model without chat template should fail here, before a GPU waits for it. From a notebook:

    prepare_data("recipes/tiny/countdown", DataSettings(train=["problems.jsonl"], benchmarks=["test.jsonl"]), ...)
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.data_preparation.overlap import Overlap, OverlapIndex
from components.data_preparation.settings import DataSettings
from components.data_preparation.text import normalise, problem_id
from components.shared import page
from components.shared.batches import batches
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow, GradingSettings, check_verifier
from components.shared.grading.verifiers import REASONING_GYM
from components.shared.object_store.inputs import fetch_folder, is_stored
from components.shared.policy import (
    check_policy,
    context_length,
    copy_policy,
    eos_token_ids,
    load_tokenizer,
    prompt_token_ids,
    template_end_token_id,
)
from components.shared.schema import BENCHMARK_ORDER, PROBLEMS, table_writer
from components.shared.sources import RawProblem, Source, read_source, source_name
from components.shared.stage import read_json, result, write_json
from components.shared.weights import check_numbers, local_weights

_BATCH = 512
_EXAMPLES = 20
POLICY_FILES = (".safetensors", ".json", ".model", ".txt", ".jinja")  # what is taken of a model repository
REASONS = {
    "no_text": "no problem text",
    "no_answer": "no answer",
    "answer_not_gradable": "the verifier cannot judge the answer even against itself",
    "duplicate": "the same problem again",
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
        if len(rows) < _EXAMPLES:
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


def prepare_data(
    base_policy: str,
    settings: DataSettings,
    grading: GradingSettings,
    *,
    completion_tokens: int,
    policy_out: str | Path,
    problems_out: str | Path,
    benchmarks_out: str | Path,
    report_out: str | Path,
    page_out: str | Path,
) -> dict[str, float]:
    """Prepares the base policy, the training problems and the benchmarks.

    Args:
        base_policy: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        settings: the recipe's `data` section.
        grading: the recipe's `grading` section.
        completion_tokens: tokens that a completion may take: a prompt must leave them free in the context.
        policy_out: folder to make: the base policy.
        problems_out: folder to make, with `problems.parquet`.
        benchmarks_out: folder to make, with one Parquet file a benchmark.
        report_out: JSON file to write: what was dropped and why.
        page_out: the same as an HTML page.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: a policy, source, column or row cannot be used, or nothing is left.
    """
    for key, source in _keyed_sources(settings):
        if source.verifier:
            check_verifier(source.verifier)
        if "://" not in source.uri and not Path(source.uri).is_file():
            raise InputError(f"{key}: no such file: {source.uri} (looked from {Path.cwd()})")
    _bring_policy(base_policy, policy_out)
    context = context_length(policy_out)
    longest_prompt = context - completion_tokens
    if longest_prompt < 1:
        raise InputError(
            f"max_completion_tokens is {completion_tokens}, but the model's context is {context} tokens, prompt "
            f"included; lower rl.max_completion_tokens and eval.max_completion_tokens"
        )

    reports = []
    index = OverlapIndex(settings.overlap_ngram, settings.overlap_share)
    with Grader(grading) as grader:
        cleaner = _Cleaner(load_tokenizer(policy_out), longest_prompt, settings, grader)
        for name, source in settings.benchmarks.items():
            report = SourceReport("benchmark", name, source.uri)
            seen: set[str] = set()
            with table_writer(Path(benchmarks_out) / f"{name}.parquet", PROBLEMS) as writer:
                for where, text, row in cleaner.clean(source, f"data.benchmarks.{name}", report, seen):
                    index.add(name, where, text)
                    writer.write(row)
                    report.kept += 1
                _check_something_left(report, f"data.benchmarks.{name}")
            reports.append(report)
        seen = set()
        with table_writer(Path(problems_out) / "problems.parquet", PROBLEMS) as writer:
            for number, source in enumerate(settings.train):
                report = SourceReport("train", source.name or source_name(source.uri), source.uri)
                for where, text, row in cleaner.clean(source, f"data.train.{number}", report, seen):
                    if overlap := index.find(text):
                        report.add_overlap(where, overlap)
                    else:
                        writer.write(row)
                        report.kept += 1
                _check_something_left(report, f"data.train.{number}")
                reports.append(report)

    write_json(Path(benchmarks_out) / BENCHMARK_ORDER, list(settings.benchmarks))
    summary: dict[str, Any] = {
        "base_policy": base_policy,
        "settings": settings.model_dump(),
        "context_tokens": context,
        "longest_prompt_tokens": longest_prompt,
        "problems": sum(r.kept for r in reports if r.role == "train"),
        "benchmarks": {r.name: r.kept for r in reports if r.role == "benchmark"},
        "reasons": REASONS,
        "sources": [r.as_dict() for r in reports],
    }
    write_json(report_out, summary)
    _write_page(page_out, summary)
    _print_summary(reports)
    return {
        "training_problems": summary["problems"],
        **{f"{name}_problems": count for name, count in summary["benchmarks"].items()},
        "rows_dropped": sum(report.dropped.total() for report in reports),
    }


def _keyed_sources(settings: DataSettings) -> Iterator[tuple[str, Source]]:
    yield from ((f"data.train.{number}", source) for number, source in enumerate(settings.train))
    yield from ((f"data.benchmarks.{name}", source) for name, source in settings.benchmarks.items())


def _bring_policy(base_policy: str, policy_out: str | Path) -> None:
    if not base_policy.startswith("hf://") and not is_stored(base_policy):
        check_policy(base_policy, base_policy)
        check_numbers(base_policy, local_weights(base_policy, base_policy), base_policy)
        copy_policy(base_policy, policy_out)
        _stop_where_the_template_does(policy_out)
        return
    Path(policy_out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(policy_out).parent) as folder:
        if is_stored(base_policy):
            fetch_folder(base_policy, folder, POLICY_FILES)
        else:
            _fetch_from_hub(base_policy, folder)
        check_policy(folder, base_policy)
        check_numbers(folder, local_weights(folder, base_policy), base_policy)
        copy_policy(folder, policy_out)
        _stop_where_the_template_does(policy_out)


def _fetch_from_hub(base_policy: str, folder: str) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, _, revision = base_policy.removeprefix("hf://").partition("@")
    try:
        snapshot_download(
            repository,
            revision=revision or None,
            local_dir=folder,
            allow_patterns=[f"*{suffix}" for suffix in POLICY_FILES],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(f"base policy {base_policy!r} cannot be had from the Hugging Face hub: {error}") from None


def _stop_where_the_template_does(policy: str | Path) -> None:
    """Lets generation stop at the token with which the template ends an answer, as well as at the policy's own.

    Qwen's base models end a document with <|endoftext|> and a chat turn with <|im_end|>; a policy that has
    learnt the template would otherwise never stop.
    """
    token = template_end_token_id(policy)
    if token is None or token in (known := eos_token_ids(policy)):
        return
    file = Path(policy) / "generation_config.json"
    config = read_json(file) if file.is_file() else {}
    write_json(file, config | {"eos_token_id": [*sorted(known), token]})
    print(f"generation stops at token {token} too, with which the chat template ends an answer")


class _Cleaner:
    """Turns a source's rows into rows of the Problems table; counts what it drops."""

    def __init__(self, tokenizer: Any, longest_prompt: int, settings: DataSettings, grader: Grader) -> None:
        self._tokenizer, self._longest_prompt = tokenizer, longest_prompt
        self._settings, self._grader = settings, grader

    def clean(
        self, source: Source, key: str, report: SourceReport, seen: set[str]
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yields where a row stood, the problem's text and its row of the Problems table."""
        for batch in batches(read_source(source, key), _BATCH):
            report.rows += len(batch)
            named = []
            for problem in batch:
                if not problem.text or not normalise(problem.text):
                    report.drop("no_text", problem.row)
                elif not problem.answer:
                    report.drop("no_answer", problem.row)
                else:
                    named.append((problem_id(problem.text), problem))
            checks = [_self_check(problem) for _, problem in named]
            gradable = [
                verdict is right
                for verdict, (_, right) in zip(self._grader.grade([row for row, _ in checks]), checks, strict=True)
            ]
            prompts = [self._settings.prompt_template.replace("{problem}", problem.text or "") for _, problem in named]
            lengths = [len(ids) for ids in prompt_token_ids(self._tokenizer, prompts)] if prompts else []
            for (identity, problem), right, prompt, length in zip(named, gradable, prompts, lengths, strict=True):
                if not right:
                    report.drop("answer_not_gradable", problem.row, str(problem.answer)[:80])
                elif identity in seen:
                    report.drop("duplicate", problem.row)
                elif length > self._longest_prompt:
                    if self._settings.on_long_prompt == "error":
                        raise InputError(
                            f"{key}: {source.uri}, {problem.row}: the prompt takes {length} tokens, but only "
                            f"{self._longest_prompt} leave room for a completion; shorten it, lower "
                            f"max_completion_tokens, or set data.on_long_prompt to drop"
                        )
                    report.drop("prompt_too_long", problem.row, f"{length} tokens")
                else:
                    seen.add(identity)
                    assert problem.text
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


def _self_check(problem: RawProblem) -> tuple[GradingRow, bool]:
    """A completion whose verdict is known, and that verdict: a verifier that errs here cannot judge the problem.

    The gold answer is right. Where there is none, since any solution will do, an empty completion is wrong.
    """
    assert problem.answer
    if problem.verifier == "math":
        return GradingRow("math", problem.answer, f"\\boxed{{{problem.answer}}}"), True
    if problem.verifier.startswith(REASONING_GYM):
        try:
            gold = json.loads(problem.answer).get("answer")
        except (ValueError, AttributeError):  # the verifier will refuse it
            gold = None
        if gold is not None:
            return GradingRow(problem.verifier, problem.answer, str(gold)), True
    return GradingRow(problem.verifier, problem.answer, ""), False


def _check_something_left(report: SourceReport, key: str) -> None:
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
    elif report.dropped["prompt_too_long"] == report.rows:
        remedy = "choose a model with a longer context, or lower max_completion_tokens"
    raise InputError(f"{key}: {report.uri}: none of its {report.rows} rows can be used ({counts}): {remedy}")


def _print_summary(reports: list[SourceReport]) -> None:
    for report in reports:
        reasons = ", ".join(f"{count} {REASONS[reason]}" for reason, count in report.dropped.most_common())
        dropped_text = f"; dropped {reasons}" if reasons else ""
        print(f"{report.role} {report.name}: kept {report.kept} of {report.rows}{dropped_text}")
        for overlap in report.overlaps[:_EXAMPLES]:
            print(
                f"  {overlap['row']} stands in {overlap['benchmark']} {overlap['benchmark_row']} "
                f"({overlap['kind']}, {overlap['share']:.0%})"
            )
    train = [r for r in reports if r.role == "train"]
    kept, dropped = sum(r.kept for r in train), sum(r.dropped.total() for r in reports)
    benchmarks = ", ".join(f"{r.name} {r.kept}" for r in reports if r.role == "benchmark")
    result(f"{kept} training problems; {benchmarks}; {dropped} rows dropped")


def _write_page(path: str | Path, summary: dict[str, Any]) -> None:
    sources = summary["sources"]
    reasons = [reason for reason in REASONS if any(reason in s["dropped"] for s in sources)]
    parts = [
        page.heading("Sources"),
        page.table(
            ["source", "role", "rows", "kept", *(REASONS[reason] for reason in reasons)],
            [
                [s["name"], s["role"], s["rows"], s["kept"], *(s["dropped"].get(reason, 0) for reason in reasons)]
                for s in sources
            ],
        ),
    ]
    overlaps = [(s["name"], o) for s in sources for o in s["overlaps"]]
    if overlaps:
        parts += [
            page.heading("Training problems that stand in a benchmark"),
            page.table(
                ["source", "row", "benchmark", "its row", "how", "share of n-grams"],
                [[n, o["row"], o["benchmark"], o["benchmark_row"], o["kind"], o["share"]] for n, o in overlaps],
            ),
        ]
    dropped = [(s["name"], reason, rows) for s in sources for reason, rows in s["examples"].items()]
    if dropped:
        parts += [
            page.heading("Dropped rows"),
            page.note(f"The first {_EXAMPLES} of each source and reason; rows count from 0, lines from 1."),
            page.table(["source", "reason", "rows"], [[n, REASONS[r], "; ".join(rows)] for n, r, rows in dropped]),
        ]
    page.page(
        path, "Data preparation", f"{summary['problems']:,} training problems for {summary['base_policy']}", *parts
    )
