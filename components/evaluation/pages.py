"""The HTML page of an evaluation."""

from pathlib import Path
from typing import Any

from components.shared.reporting import page


def write_page(path: str | Path, evaluation: dict[str, Any], curve: dict[str, Any] | None) -> None:
    """Writes the page of a policy's evaluation.

    Args:
        path: HTML file to write.
        evaluation: The content of evaluation.json.
        curve: The content of curve.json, with the figures of the intermediate checkpoints; None if there are none.
    """
    evaluations = evaluation["evaluations"]
    ks = sorted({k for e in evaluations for k in e["pass_at_k"]}, key=int)
    drawn, (axis,) = page.new_figure(7, 3.2)
    for e in evaluations:
        own = [int(k) for k in e["pass_at_k"]]
        low, high = zip(*e["pass_at_k_interval"].values(), strict=True)
        (line,) = axis.plot(own, list(e["pass_at_k"].values()), marker="o", label=e["benchmark"])
        axis.fill_between(own, low, high, color=line.get_color(), alpha=0.15)
    axis.set_xscale("log", base=2)
    axis.set_xticks([int(k) for k in ks], ks)
    axis.set_xlabel("k")
    axis.set_ylabel("pass@k")
    axis.legend(frameon=False)
    page.page(
        path,
        f"Evaluation of {evaluation['name']}",
        f"Policy {evaluation['policy_id']}.",
        page.table(
            [
                "benchmark",
                "problems",
                "samples per problem",
                "avg@n",
                "95 % interval",
                *(f"pass@{k}" for k in ks),
                "truncated",
                "tokens",
                "distinct solutions",
            ],
            [
                [
                    e["benchmark"],
                    e["problems"],
                    e["n"],
                    e["avg"],
                    "{:.3f} to {:.3f}".format(*e["avg_interval"]),
                    *(e["pass_at_k"].get(k) for k in ks),
                    e["truncation_rate"],
                    e["mean_tokens"],
                    e["distinct_correct"],
                ]
                for e in evaluations
            ],
        ),
        page.figure(drawn, "pass@k with 95 % bootstrap intervals over problems."),
        page.table(["reason of verdict", "samples"], [list(pair) for pair in evaluation["reasons"].items()]),
        *_curve(curve),
    )


def _curve(curve: dict[str, Any] | None) -> list[str]:
    """Returns the figures of the intermediate checkpoints over RL steps."""
    points = curve["points"] if curve else []
    if not points:
        return []
    drawing, axes = page.new_figure(9, 3, columns=2)
    for index, e in enumerate(points[0]["evaluations"]):
        most = list(e["pass_at_k"])[-1]
        series = [point["evaluations"][index] for point in points]
        steps = [point["step"] for point in points]
        axes[0].plot(steps, [e["avg"] for e in series], marker="o", label=f"{e['benchmark']}, n {e['n']}")
        axes[1].plot(steps, [e["pass_at_k"][most] for e in series], marker="o", label=f"{e['benchmark']}, k {most}")
    for axis in axes:
        axis.set_xlabel("RL steps")
        axis.legend(frameon=False)
    axes[0].set_ylabel("avg@n")
    axes[1].set_ylabel("pass@k")
    n, problems = points[0]["evaluations"][0]["n"], points[0]["evaluations"][0]["problems"]
    text = f"{len(points)} checkpoints of its RL, each with {n} samples of the first {problems} problems."
    return [page.heading("Intermediate checkpoints"), page.figure(drawing, text)]
