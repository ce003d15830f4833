"""Data preparation: training problems and benchmarks from wherever they are, to clean tables of one shape.

Also brings the base policy into the run and checks it, since prompts are measured with its tokenizer and
a model without chat template should fail here, before a GPU waits for it. From a notebook:

    prepare_data("recipes/tiny/countdown", DataSettings(train=["problems.jsonl"], benchmarks=["test.jsonl"]), ...)
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.data_preparation.clean import (
    BATCH,
    EXAMPLES,
    REASONS,
    Cleaner,
    Seen,
    SourceReport,
    check_something_left,
)
from components.data_preparation.overlap import OverlapIndex
from components.data_preparation.settings import DataSettings
from components.shared.data.batches import batches
from components.shared.data.schema import BENCHMARK_ORDER, PROBLEMS, read_rows, table_writer, write_table
from components.shared.data.sources import Source, is_file_source, source_name
from components.shared.data.table_files import local_files
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingSettings, check_verifier
from components.shared.object_store.inputs import fetch_folder, is_stored
from components.shared.policy import Policy
from components.shared.policy.checks import check_policy
from components.shared.policy.saving import copy_policy
from components.shared.policy.weight_checks import check_numbers
from components.shared.policy.weights import local_weights
from components.shared.reporting import page
from components.shared.stage import read_json, result, write_json

POLICY_FILES = (".safetensors", ".json", ".model", ".txt", ".jinja")  # what is taken of a model repository


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
        if is_file_source(source.uri):
            local_files(source.uri, key)
    _bring_policy(base_policy, policy_out)
    policy = Policy(policy_out)
    context = policy.context_length
    longest_prompt = context - completion_tokens
    if longest_prompt < 1:
        raise InputError(
            f"max_completion_tokens is {completion_tokens}, but the model's context is {context} tokens, prompt "
            f"included; lower rl.max_completion_tokens and eval.max_completion_tokens"
        )

    reports = []
    index = OverlapIndex(settings.overlap_ngram, settings.overlap_share)
    with Grader(grading) as grader:
        cleaner = Cleaner(policy, longest_prompt, settings, grader)
        for name, source in settings.benchmarks.items():
            report = SourceReport("benchmark", name, source.uri)
            seen, table = Seen(), Path(benchmarks_out) / f"{name}.parquet"
            with table_writer(table, PROBLEMS) as writer:
                for where, text, row in cleaner.clean(source, f"data.benchmarks.{name}", report, seen):
                    index.add(name, where, text)
                    writer.write(row)
                    report.kept += 1
            _drop_conflicting(table, seen)
            check_something_left(report, f"data.benchmarks.{name}")
            reports.append(report)
        seen, table = Seen(), Path(problems_out) / "problems.parquet"
        of_train = []
        with table_writer(table, PROBLEMS) as writer:
            for number, source in enumerate(settings.train):
                report = SourceReport("train", source.name or source_name(source.uri), source.uri)
                for batch in batches(cleaner.clean(source, f"data.train.{number}", report, seen), BATCH):
                    common = index.common_ngrams([text for _, text, _ in batch])
                    for where, text, row in batch:
                        if overlap := index.find(text, common):
                            report.add_overlap(where, overlap)
                        else:
                            writer.write(row)
                            report.kept += 1
                of_train.append(report)
        _drop_conflicting(table, seen)
        for number, report in enumerate(of_train):
            check_something_left(report, f"data.train.{number}")
        reports += of_train

    write_json(Path(benchmarks_out) / BENCHMARK_ORDER, list(settings.benchmarks))
    summary: dict[str, Any] = {
        "base_policy": base_policy,
        "settings": settings.model_dump(),
        "context_tokens": context,
        "longest_prompt_tokens": longest_prompt,
        "problems": sum(r.kept for r in reports if r.role == "train"),
        "benchmarks": {r.name: r.kept for r in reports if r.role == "benchmark"},
        "reasons": REASONS,
        "first_prompts": cleaner.first_prompts,
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


def _drop_conflicting(table: Path, seen: Seen) -> None:
    """Takes the problems out of a table that came again with another answer: nobody knows which one is right."""
    if not seen.conflicting:
        return
    rows = list(read_rows(table))
    kept = [row for row in rows if row["problem_id"] not in seen.conflicting]
    write_table(table, PROBLEMS, kept)
    for identity in {row["problem_id"] for row in rows} & seen.conflicting.keys():
        first = seen.first[identity]
        first.report.kept -= 1
        first.report.drop("conflicting", first.row, seen.conflicting[identity])


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


def _stop_where_the_template_does(policy_path: str | Path) -> None:
    """Lets generation stop at the token with which the template ends an answer, as well as at the policy's own.

    Qwen's base models end a document with <|endoftext|> and a chat turn with <|im_end|>; a policy that has
    learnt the template would otherwise never stop.
    """
    policy = Policy(policy_path)
    token = policy.template_end_token_id
    if token is None or token in (known := policy.eos_token_ids):
        return
    file = policy.path / "generation_config.json"
    config = read_json(file) if file.is_file() else {}
    write_json(file, config | {"eos_token_id": [*sorted(known), token]})
    print(f"generation stops at token {token} too, with which the chat template ends an answer")


def _print_summary(reports: list[SourceReport]) -> None:
    for report in reports:
        reasons = ", ".join(f"{count} {REASONS[reason]}" for reason, count in report.dropped.most_common())
        dropped_text = f"; dropped {reasons}" if reasons else ""
        print(f"{report.role} {report.name}: kept {report.kept} of {report.rows}{dropped_text}")
        for overlap in report.overlaps[:EXAMPLES]:
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
    parts += [
        page.heading("What the policy is sent"),
        page.note("The first problem of each source, whole, as the chat template renders it."),
        page.table(["source", "prompt"], [[key, prompt] for key, prompt in summary["first_prompts"].items()]),
    ]
    dropped = [(s["name"], reason, rows) for s in sources for reason, rows in s["examples"].items()]
    if dropped:
        parts += [
            page.heading("Dropped rows"),
            page.note(f"The first {EXAMPLES} of each source and reason; rows count from 0, lines from 1."),
            page.table(["source", "reason", "rows"], [[n, REASONS[r], "; ".join(rows)] for n, r, rows in dropped]),
        ]
    page.page(
        path, "Data preparation", f"{summary['problems']:,} training problems for {summary['base_policy']}", *parts
    )
