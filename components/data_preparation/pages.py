"""The page of data preparation."""

from pathlib import Path
from typing import Any

from components.data_preparation.clean import EXAMPLES, REASONS
from components.shared.reporting import page


def write_page(path: str | Path, summary: dict[str, Any]) -> None:
    """Writes the page: what was kept and dropped, overlaps with benchmarks, and the prompts.

    Args:
        path: HTML file to write.
        summary: the stage's report.
    """
    sources = summary["sources"]
    parts = [
        page.heading("Sources"),
        _source_table(sources),
        *_overlaps(sources),
        page.heading("Prompts"),
        page.note("The first problem of each source, complete, as the chat template renders it for the policy."),
        page.table(["source", "prompt"], [[key, prompt] for key, prompt in summary["first_prompts"].items()]),
        *_dropped_rows(sources),
    ]
    lead = f"{summary['problems']:,} training problems for {summary['base_policy']}."
    page.page(path, "Data preparation", lead, *parts)


def _source_table(sources: list[dict[str, Any]]) -> str:
    reasons = [reason for reason in REASONS if any(reason in s["dropped"] for s in sources)]
    return page.table(
        ["source", "role", "rows", "kept", *(REASONS[reason] for reason in reasons)],
        [
            [s["name"], s["role"], s["rows"], s["kept"], *(s["dropped"].get(reason, 0) for reason in reasons)]
            for s in sources
        ],
    )


def _overlaps(sources: list[dict[str, Any]]) -> list[str]:
    overlaps = [(s["name"], overlap) for s in sources for overlap in s["overlaps"]]
    if not overlaps:
        return []
    return [
        page.heading("Training problems found in a benchmark"),
        page.table(
            ["source", "row", "benchmark", "benchmark row", "match", "share of n-grams"],
            [[name, o["row"], o["benchmark"], o["benchmark_row"], o["kind"], o["share"]] for name, o in overlaps],
        ),
    ]


def _dropped_rows(sources: list[dict[str, Any]]) -> list[str]:
    dropped = [(s["name"], reason, rows) for s in sources for reason, rows in s["examples"].items()]
    if not dropped:
        return []
    return [
        page.heading("Dropped rows"),
        page.note(f"The first {EXAMPLES} per source and reason. Rows count from 0, lines from 1."),
        page.table(
            ["source", "reason", "rows"], [[name, REASONS[reason], "; ".join(rows)] for name, reason, rows in dropped]
        ),
    ]
