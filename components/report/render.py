"""Renders the run's results as one self-contained page."""

from pathlib import Path
from typing import Any

import yaml

from components.shared import page

_COLOURS = {"base": "#6b7280", "rloop": "#15803d", "explored": "#c2410c", "vanilla": "#1d4ed8"}
_WINDOW = 8  # RL steps of the moving average
_KINDS = {
    "base": "the base policy",
    "explored": "a policy at the end of RL",
    "rloop": "a policy after RFT, where the next iteration starts",
    "vanilla": "one long RL run",
}


def write_page(path: str | Path, summary: dict[str, Any]) -> None:
    """Writes the report page.

    Args:
        path: of the HTML file.
        summary: as `summary.json` holds it.
    """
    policies = summary["policies"]
    benchmarks = [e["benchmark"] for e in policies[0]["evaluations"]]
    parts = [page.heading("Policies"), _policy_table(summary, benchmarks), _kinds_note(policies)]
    parts += [page.heading("pass@k"), _pass_figure(policies, benchmarks), _detail_table(summary, benchmarks)]
    parts += [page.heading("RL exploration"), _training_figure(summary)]
    parts += [page.heading("From rollouts to experts"), _funnel_table(summary["iterations"])]
    parts += [page.heading("Data"), _data_table(summary["data"])]
    parts += [
        page.heading("Settings"),
        page.preformatted(yaml.safe_dump(_without_nulls(summary["settings"]), sort_keys=False)),
    ]
    page.page(path, "RLoop report", _lead(summary), *parts)


def _evaluation(policy: dict[str, Any], benchmark: str) -> dict[str, Any]:
    found: dict[str, Any] = next(e for e in policy["evaluations"] if e["benchmark"] == benchmark)
    return found


def _lead(summary: dict[str, Any]) -> str:
    """What happened, in two sentences."""
    benchmark = summary["chosen_by"]["benchmark"]
    base = _evaluation(summary["policies"][0], benchmark)
    chosen = next(p for p in summary["policies"] if p["name"] == summary["chosen_policy"])
    best = _evaluation(chosen, benchmark)
    most = list(best["pass_at_k"])[-1]
    return (
        f"After {len(summary['iterations'])} iterations the best policy on {benchmark} is {chosen['name']}: "
        f"avg@{best['n']} {best['avg']:.3f} (base {base['avg']:.3f}), "
        f"pass@{most} {best['pass_at_k'][most]:.3f} (base {base['pass_at_k'][most]:.3f})."
    )


def _policy_table(summary: dict[str, Any], benchmarks: list[str]) -> str:
    headers, rows = ["policy"], [[policy["name"]] for policy in summary["policies"]]
    for benchmark in benchmarks:
        e = _evaluation(summary["policies"][0], benchmark)
        most = list(e["pass_at_k"])[-1]
        headers += [f"{benchmark} avg@{e['n']}", f"pass@{most}"]
        for row, policy in zip(rows, summary["policies"], strict=True):
            e = _evaluation(policy, benchmark)
            row += [e["avg"], e["pass_at_k"][most]]
    chosen = [p["name"] for p in summary["policies"]].index(summary["chosen_policy"])
    by = summary["chosen_by"]
    return page.table(headers, rows, chosen=chosen) + page.note(
        f"Set off: the run's policy, the best on {by['benchmark']} by {by['figure'].replace('_', ' ')}."
    )


def _detail_table(summary: dict[str, Any], benchmarks: list[str]) -> str:
    first = _evaluation(summary["policies"][0], benchmarks[0])
    ks = list(first["pass_at_k"])
    rows = []
    for benchmark in benchmarks:
        for policy in summary["policies"]:
            e = _evaluation(policy, benchmark)
            rows.append(
                [
                    policy["name"],
                    benchmark,
                    e["problems"],
                    _interval(e["avg"], e["avg_interval"]),
                    _interval(e["pass_at_k"][ks[-1]], e["pass_at_k_interval"][ks[-1]]),
                    e["distinct_correct"],
                    e["mean_tokens"],
                    e["truncation_rate"],
                ]
            )
    headers = [
        "policy",
        "benchmark",
        "problems",
        f"avg@{first['n']}",
        f"pass@{ks[-1]}",
        "different solutions",
        "tokens",
        "cut",
    ]
    return page.table(headers, rows) + page.note(
        "With 95 % intervals, bootstrapped over problems. Different solutions: distinct correct completions a problem, "
        "white space aside."
    )


def _interval(value: float, interval: list[float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _kinds_note(policies: list[dict[str, Any]]) -> str:
    kinds = dict.fromkeys(policy["kind"] for policy in policies)
    return page.note("; ".join(f"{kind}: {_KINDS[kind]}" for kind in kinds) + ".")


def _pass_figure(policies: list[dict[str, Any]], benchmarks: list[str]) -> str:
    columns = min(len(benchmarks), 3)
    rows = -(-len(benchmarks) // columns)
    drawing, axes = page.new_figure(4 * columns, 3.2 * rows, rows=rows, columns=columns)
    last = max(policy["iteration"] for policy in policies)
    for axis, benchmark in zip(axes, benchmarks, strict=False):
        for policy in policies:
            e = _evaluation(policy, benchmark)
            ks = [int(k) for k in e["pass_at_k"]]
            axis.plot(
                ks,
                list(e["pass_at_k"].values()),
                marker="o",
                markersize=3,
                label=policy["name"],
                color=_COLOURS[policy["kind"]],
                alpha=1.0 if policy["iteration"] in (0, last) else 0.45,
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.set_title(benchmark, fontsize=10)
        axis.set_xlabel("k")
    for axis in axes[len(benchmarks) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("pass@k")
    axes[0].legend(frameon=False, fontsize=8)
    return page.figure(
        drawing,
        "The chance to solve a problem in k tries. Where RL overfits, the explored policies start higher at k = 1 and "
        "end below the base policy at the largest k. Earlier iterations are paler.",
    )


def _training_figure(summary: dict[str, Any]) -> str:
    drawing, (reward, entropy) = page.new_figure(10, 3.2, columns=2)
    start = 0
    for iteration in summary["iterations"]:
        steps = iteration["exploration"]
        at = [start + row["step"] for row in steps]
        for axis, figure in ((reward, "reward"), (entropy, "entropy")):
            values = [row[figure] for row in steps]
            axis.plot(at, values, color=_COLOURS["explored"], alpha=0.3, linewidth=1)
            axis.plot(at, _moving_average(values), color=_COLOURS["explored"])
            axis.axvline(start, color="#9ca3af", linewidth=0.8, linestyle=":")
            axis.text(
                start, 1.0, f" iteration {iteration['iteration']}", transform=axis.get_xaxis_transform(), fontsize=8
            )
        start += len(steps)
    reward.set_ylabel("training reward (share correct)")
    entropy.set_ylabel("entropy, nats a token")
    for axis in (reward, entropy):
        axis.set_xlabel("RL step over all iterations")
    return page.figure(
        drawing,
        f"Each iteration starts again from a policy after RFT. Bold: the mean over the last {_WINDOW} steps.",
    )


def _moving_average(values: list[float]) -> list[float]:
    return [sum(values[max(0, i + 1 - _WINDOW) : i + 1]) / min(i + 1, _WINDOW) for i in range(len(values))]


def _funnel_table(iterations: list[dict[str, Any]]) -> str:
    gates = iterations[0]["filtering"]["funnel"]
    rows = [["all trajectories", *(it["filtering"]["trajectories"] for it in iterations)]]
    for index, gate in enumerate(gates):
        rows.append(
            [f"left out: {gate['because']}", *(-it["filtering"]["funnel"][index]["dropped"] for it in iterations)]
        )
    rows.append(["experts for RFT", *(it["filtering"]["experts"] for it in iterations)])
    rows.append(["problems they are of", *(it["filtering"]["problems"] for it in iterations)])
    return page.table(["", *(f"iteration {it['iteration']}" for it in iterations)], rows, chosen=len(gates) + 1)


def _data_table(data: dict[str, Any]) -> str:
    reasons = data["reasons"]
    return page.table(
        ["source", "role", "rows", "kept", "dropped because"],
        [
            [
                s["name"],
                s["role"],
                s["rows"],
                s["kept"],
                ", ".join(f"{count} {reasons[reason]}" for reason, count in s["dropped"].items()),
            ]
            for s in data["sources"]
        ],
    )


def _without_nulls(value: Any) -> Any:
    """Settings without those left at nothing, which only make the list longer."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner not in (None, [])}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
