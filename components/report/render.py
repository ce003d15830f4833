"""Renders a run's results as one self-contained page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from components.report import figures
from components.report.advice import advice
from components.report.analysis import benchmark_label
from components.report.figures import evaluation_of
from components.shared.reporting import page
from components.shared.reporting.shown import shown_iterations

_KINDS = {
    "base": "the base policy",
    "explored": "the policy at the end of an iteration's RL",
    "rloop": "the policy after an iteration's RFT, from which the next iteration starts",
    "vanilla": "one long RL run without RFT",
}
_FIGURES = {"avg": "avg@n", "pass_at_k": "pass@k"}


def write_page(path: str | Path, summary: dict[str, Any]) -> None:
    """Writes the report page.

    Args:
        path: HTML file to write.
        summary: the content of `summary.json`.
    """
    policies, iterations = summary["policies"], summary["iterations"]
    benchmarks = [e["benchmark"] for e in policies[0]["evaluations"]]
    shown = shown_iterations(summary)
    shown_policies = [policy for policy in policies if policy["iteration"] in (0, *shown)]
    of_shown = [iteration for iteration in iterations if iteration["iteration"] in shown]
    parts = [page.heading("Summary"), page.bullets(advice(summary))]
    parts.append(page.heading("Policies"))
    if len(iterations) > 2:
        parts.append(figures.iterations_figure(summary, benchmarks))
    parts += [_policy_table(summary, benchmarks, shown_policies), _kinds_note(policies)]
    parts += [page.heading("Was RLoop worth it?"), figures.comparison_figure(summary["comparisons"])]
    parts += [_comparison_table(summary["comparisons"]), _cost_table(iterations, of_shown)]
    parts += [page.heading("pass@k"), figures.pass_figure(shown_policies, benchmarks)]
    parts.append(_detail_table(summary, benchmarks))
    parts += [page.heading("RL training"), figures.training_figure(iterations)]
    parts.append(_tracked(iterations))
    if iterations[0]["curve"]:
        parts.append(figures.curve_figure(summary))
    parts += [page.heading("Forgetting"), figures.forgetting_figure(summary, shown)]
    parts += [page.heading("Diversity"), figures.diversity_figure(summary, benchmarks)]
    parts += [page.heading("From rollouts to experts"), figures.experts_figure(of_shown)]
    parts.append(_few_and_all(_funnel_table, of_shown, iterations, "iterations"))
    parts += [page.heading("Data"), _data_table(summary["data"]), *_first_prompts(summary["data"])]
    parts += [
        page.heading("Settings"),
        page.preformatted(yaml.safe_dump(_without_nulls(summary["settings"]), sort_keys=False)),
    ]
    page.page(path, "RLoop report", _lead(summary), *parts)


def _tracked(iterations: list[dict[str, Any]]) -> str:
    """Links to the experiment trackers of each iteration's training; empty if there were none."""
    return page.links(
        (f"iteration {it['iteration']}, {stage}: {tracker}", url)
        for it in iterations
        for stage, found in it.get("tracked_at", {}).items()
        for tracker, url in (found or {}).items()
    )


def _lead(summary: dict[str, Any]) -> str:
    """The result in one sentence."""
    benchmark, iterations = summary["chosen_by"]["benchmark"], len(summary["iterations"])
    base = evaluation_of(summary["policies"][0], benchmark)
    chosen = next(p for p in summary["policies"] if p["name"] == summary["chosen_policy"])
    best = evaluation_of(chosen, benchmark)
    most = list(best["pass_at_k"])[-1]
    return (
        f"After {iterations} iteration{'s' if iterations > 1 else ''}, the best policy on {benchmark} is "
        f"{chosen['name']}: avg@{best['n']} {best['avg']:.3f} (base {base['avg']:.3f}), "
        f"pass@{most} {best['pass_at_k'][most]:.3f} (base {base['pass_at_k'][most]:.3f})."
    )


def _policy_table(summary: dict[str, Any], benchmarks: list[str], shown: list[dict[str, Any]]) -> str:
    def of(policies: list[dict[str, Any]]) -> str:
        return _table_of_policies(policies, benchmarks, summary["chosen_policy"])

    by = summary["chosen_by"]
    note = page.note(f"Highlighted: the chosen policy, the best on {by['benchmark']} by {_FIGURES[by['figure']]}.")
    return _few_and_all(of, shown, summary["policies"], "policies") + note


def _few_and_all(
    table: Callable[[list[dict[str, Any]]], str], few: list[dict[str, Any]], every: list[dict[str, Any]], what: str
) -> str:
    """A table of a few rows or columns and, folded, one of all of them if there are more."""
    return table(few) + (page.folded(f"All {what}", table(every)) if len(few) < len(every) else "")


def _table_of_policies(policies: list[dict[str, Any]], benchmarks: list[str], chosen: str) -> str:
    headers, rows = ["policy"], [[policy["name"]] for policy in policies]
    for benchmark in benchmarks:
        e = evaluation_of(policies[0], benchmark)
        most = list(e["pass_at_k"])[-1]
        headers += [f"{benchmark} avg@{e['n']}", f"pass@{most}"]
        for row, policy in zip(rows, policies, strict=True):
            e = evaluation_of(policy, benchmark)
            row += [e["avg"], e["pass_at_k"][most]]
    return page.table(headers, rows, chosen=[policy["name"] for policy in policies].index(chosen))


def _detail_table(summary: dict[str, Any], benchmarks: list[str]) -> str:
    rows = []
    for benchmark in benchmarks:
        for policy in summary["policies"]:
            e = evaluation_of(policy, benchmark)
            most = list(e["pass_at_k"])[-1]  # largest k of this benchmark, which may differ as n may
            rows.append(
                [
                    policy["name"],
                    benchmark,
                    e["problems"],
                    f"{_interval(e['avg'], e['avg_interval'])} @{e['n']}",
                    f"{_interval(e['pass_at_k'][most], e['pass_at_k_interval'][most])} @{most}",
                    e["distinct_correct"],
                    e["mean_tokens"],
                    e["truncation_rate"],
                ]
            )
    headers = [
        "policy",
        "benchmark",
        "problems",
        "avg@n",
        "pass@k",
        "distinct solutions",
        "mean tokens",
        "truncated",
    ]
    note = page.note(
        "With 95% intervals, bootstrapped over problems. Distinct solutions: mean number of distinct correct "
        "completions per problem, ignoring white space. Truncated: share of completions."
    )
    return page.folded("All metrics with intervals", page.table(headers, rows), note)


def _interval(value: float, interval: list[float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _kinds_note(policies: list[dict[str, Any]]) -> str:
    kinds = dict.fromkeys(policy["kind"] for policy in policies)
    return page.note("; ".join(f"{kind}: {_KINDS[kind]}" for kind in kinds) + ".")


def _comparison_table(comparisons: list[dict[str, Any]]) -> str:
    rows = [
        [
            c["second"],
            benchmark_label(c["benchmark"]),
            c["figure"].replace("avg", "avg@n"),
            _signed(c["difference"], c["interval"]),
            "" if c["relative"] is None else f"{100 * c['relative']:+.0f}%",
            c["probability"],
            c["problems"],
        ]
        for c in comparisons
    ]
    headers = ["compared with", "benchmark", "metric", "difference", "relative", "P(better)", "problems"]
    together = [row for row in rows if row[1] == rows[-1][1]]
    rest = [row for row in rows if row[1] != rows[-1][1]]
    every = page.folded("Each benchmark", page.table(headers, rest)) if rest else ""
    return (
        page.table(headers, together)
        + every
        + page.note(
            f"{comparisons[0]['first']} compared with the other policies on the same problems, with 95% intervals of a "
            "paired bootstrap over problems. One run is one seed: only more seeds show how much runs vary."
        )
    )


def _signed(value: float, interval: list[float]) -> str:
    return f"{value:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"


def _cost_table(iterations: list[dict[str, Any]], shown: list[dict[str, Any]]) -> str:
    note = page.note("What RFT costs on top of RL. The vanilla RL run has as many RL steps and no RFT.")
    return _few_and_all(_table_of_costs, shown, iterations, "iterations") + note


def _table_of_costs(iterations: list[dict[str, Any]]) -> str:
    rows = []
    for it in iterations:
        rl, rft = it["seconds"]["rl"], it["seconds"]["rft"]
        if rl and rft:
            share = f"{100 * rft / rl:.0f}%"
            rows.append([it["iteration"], len(it["exploration"]), round(rl), len(it["rft"]), round(rft), share])
    headers = ["iteration", "RL steps", "RL seconds", "RFT updates", "RFT seconds", "RFT / RL"]
    return page.table(headers, rows)


def _funnel_table(iterations: list[dict[str, Any]]) -> str:
    gates = iterations[0]["filtering"]["funnel"]
    rows = [["all trajectories", *(it["filtering"]["trajectories"] for it in iterations)]]
    for index, gate in enumerate(gates):
        rows.append(
            [f"dropped: {gate['because']}", *(-it["filtering"]["funnel"][index]["dropped"] for it in iterations)]
        )
    rows.append(["experts for RFT", *(it["filtering"]["experts"] for it in iterations)])
    rows.append(["problems they cover", *(it["filtering"]["problems"] for it in iterations)])
    return page.table(["", *(f"iteration {it['iteration']}" for it in iterations)], rows, chosen=len(gates) + 1)


def _data_table(data: dict[str, Any]) -> str:
    reasons = data["reasons"]
    return page.table(
        ["source", "role", "rows", "kept", "dropped"],
        [
            [
                s["name"],
                s["role"],
                s["rows"],
                s["kept"],
                ", ".join(f"{reasons[reason]} ({count})" for reason, count in s["dropped"].items()),
            ]
            for s in data["sources"]
        ],
    )


def _first_prompts(data: dict[str, Any]) -> list[str]:
    """The complete prompt of each source's first problem, as the policy receives it."""
    if not (prompts := data.get("first_prompts")):
        return []
    rows = [[key, prompt] for key, prompt in prompts.items()]
    return [page.table(["source", "first problem, as the policy receives it"], rows)]


def _without_nulls(value: Any) -> Any:
    """Settings without those that are null or empty lists, which only make the listing longer."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner not in (None, [])}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
