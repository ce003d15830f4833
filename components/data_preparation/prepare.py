"""Data preparation: training problems and benchmarks, from wherever they are, become clean tables of one schema.

Also brings the base policy into the run and checks it: prompts are measured with its tokenizer, and a model without a
chat template should fail here, before a GPU waits for it. From a notebook:

    prepare_data("recipes/tiny/countdown", DataSettings(train=["problems.jsonl"], benchmarks=["test.jsonl"]), ...)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.data_preparation.base_policy import bring_policy
from components.data_preparation.clean import BATCH, EXAMPLES, REASONS, Cleaner, Seen, SourceReport, check_not_empty
from components.data_preparation.overlap import OverlapIndex
from components.data_preparation.pages import write_page
from components.data_preparation.settings import DataSettings
from components.shared.data.batches import batches
from components.shared.data.schema import BENCHMARK_ORDER, PROBLEMS, read_rows, table_writer, write_table
from components.shared.data.sources import Source, is_file_source, source_name
from components.shared.data.table_files import local_files
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingSettings, check_verifier
from components.shared.policy import Policy
from components.shared.stage import result, write_json


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
        completion_tokens: maximum tokens of a completion, for which a prompt must leave room in the context.
        policy_out: folder to make: the base policy.
        problems_out: folder to make, with `problems.parquet`.
        benchmarks_out: folder to make, with one Parquet file per benchmark.
        report_out: JSON file to write: what was dropped and why.
        page_out: HTML file to write: the same as a page.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: a policy, source, column or row cannot be used, or no rows are left.
    """
    _check_sources(settings)
    bring_policy(base_policy, policy_out)
    policy = Policy(policy_out)
    context = policy.context_length
    longest_prompt = context - completion_tokens
    if longest_prompt < 1:
        raise InputError(
            f"max_completion_tokens is {completion_tokens}, but the model's context is {context} tokens, prompt "
            f"included; lower rl.max_completion_tokens and eval.max_completion_tokens"
        )

    index = OverlapIndex(settings.overlap_ngram, settings.overlap_share)
    with Grader(grading) as grader:
        cleaner = Cleaner(policy, longest_prompt, settings, grader)
        reports = _prepare_benchmarks(settings.benchmarks, cleaner, index, Path(benchmarks_out))
        reports += _prepare_training(settings.train, cleaner, index, Path(problems_out) / "problems.parquet")

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
    write_page(page_out, summary)
    _print_summary(reports)
    return {
        "training_problems": summary["problems"],
        **{f"{name}_problems": count for name, count in summary["benchmarks"].items()},
        "rows_dropped": sum(report.dropped.total() for report in reports),
    }


def _check_sources(settings: DataSettings) -> None:
    """Fails before any work if a verifier or a file does not exist."""
    for key, source in _keyed_sources(settings):
        if source.verifier:
            check_verifier(source.verifier)
        if is_file_source(source.uri):
            local_files(source.uri, key)


def _keyed_sources(settings: DataSettings) -> Iterator[tuple[str, Source]]:
    yield from ((f"data.train.{number}", source) for number, source in enumerate(settings.train))
    yield from ((f"data.benchmarks.{name}", source) for name, source in settings.benchmarks.items())


def _prepare_benchmarks(
    sources: dict[str, Source], cleaner: Cleaner, index: OverlapIndex, folder: Path
) -> list[SourceReport]:
    """Writes one table per benchmark, and adds the problems to the index."""
    reports = []
    for name, source in sources.items():
        key, report = f"data.benchmarks.{name}", SourceReport("benchmark", name, source.uri)
        seen, table = Seen(), folder / f"{name}.parquet"
        with table_writer(table, PROBLEMS) as writer:
            for problem in cleaner.clean(source, key, report, seen):
                index.add(name, problem.where, problem.text)
                writer.write(problem.row)
                report.kept += 1
        _drop_conflicting(table, seen)
        check_not_empty(report, key)
        reports.append(report)
    return reports


def _prepare_training(sources: list[Source], cleaner: Cleaner, index: OverlapIndex, table: Path) -> list[SourceReport]:
    """Writes the training problems of all sources to one table, without those that are in a benchmark."""
    reports, seen = [], Seen()
    with table_writer(table, PROBLEMS) as writer:
        for number, source in enumerate(sources):
            report = SourceReport("train", source.name or source_name(source.uri), source.uri)
            for batch in batches(cleaner.clean(source, f"data.train.{number}", report, seen), BATCH):
                common = index.in_common([problem.text for problem in batch])
                for problem in batch:
                    if overlap := index.find(problem.text, common):
                        report.add_overlap(problem.where, overlap)
                    else:
                        writer.write(problem.row)
                        report.kept += 1
            reports.append(report)
    _drop_conflicting(table, seen)
    for number, report in enumerate(reports):
        check_not_empty(report, f"data.train.{number}")
    return reports


def _drop_conflicting(table: Path, seen: Seen) -> None:
    """Removes problems that were seen again with another answer: nobody knows which one is right."""
    if not seen.conflicting:
        return
    rows = list(read_rows(table))
    kept = [row for row in rows if row["problem_id"] not in seen.conflicting]
    write_table(table, PROBLEMS, kept)
    for identity in {row["problem_id"] for row in rows} & seen.conflicting.keys():
        first = seen.first[identity]
        first.report.kept -= 1
        first.report.drop("conflicting", first.row, seen.conflicting[identity])


def _print_summary(reports: list[SourceReport]) -> None:
    for report in reports:
        dropped = f"; dropped: {report.counts()}" if report.dropped else ""
        print(f"{report.role} {report.name}: kept {report.kept} of {report.rows}{dropped}")
        for overlap in report.overlaps[:EXAMPLES]:
            print(
                f"  {overlap['row']} is in {overlap['benchmark']} {overlap['benchmark_row']} "
                f"({overlap['kind']}, {overlap['share']:.0%})"
            )
    kept = sum(r.kept for r in reports if r.role == "train")
    benchmarks = ", ".join(f"{r.name} {r.kept}" for r in reports if r.role == "benchmark")
    result(f"{kept} training problems; {benchmarks}; {sum(r.dropped.total() for r in reports)} rows dropped")
