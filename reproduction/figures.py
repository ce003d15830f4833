"""The figures of docs/reproduction.md."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from components.report.analysis import lost, vanilla_curve, vanilla_steps
from components.report.figures import COLOURS, moving_average
from components.shared.reporting import page
from components.shared.stage import whole_file
from launch.analysis.seeds import values
from reproduction.grid import Results
from reproduction.methods import KS, TESTS, K, Method


def _save(drawing: Any, path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "rloop"}), whole_file(path) as temporary:
        drawing.savefig(temporary, format="svg", bbox_inches="tight", metadata={"Date": None})


def draw_plane(path: Path, results: Results, methods: dict[str, Method]) -> None:
    """Draws average against pass@k for every method, seed by seed."""
    drawing, (axis,) = page.new_figure(6.4, 4.2)
    styles = {"base": ("base", "s"), "vanilla": ("vanilla", "o"), "vanilla tuned": ("vanilla", "^")}
    styles |= {"vanilla tuned best": ("vanilla", "v"), "rloop": ("rloop", "o"), "rloop tuned": ("rloop", "^")}
    styles |= {"all experts": ("rloop", "*"), "control": ("explored", "D")}
    for name, (kind, marker) in styles.items():
        if (method := methods.get(name)) is None:
            continue
        points = []
        for run, found in results.items():
            if (run.base, run.learning_rate, run.variant) == ("A", method.rate, method.variant):
                counts = found["problems"][method.policy(found)]
                points.append(tuple(fmean(float(np.nanmean(values(counts, t, k))) for t in TESTS) for k in KS))
        if points:
            xs, ys = zip(*points, strict=True)
            axis.plot(xs, ys, marker, color=COLOURS[kind], alpha=0.3, markersize=4, linestyle="")
            axis.plot(fmean(xs), fmean(ys), marker, color=COLOURS[kind], markersize=9, linestyle="", label=method.label)
    axis.set_xlabel("avg@n, mean of the test sets")
    axis.set_ylabel(f"pass@{K}, mean of the test sets")
    axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(drawing, path)


def draw_course(path: Path, results: Results, rate: float) -> None:
    """Draws training reward, held-out figures, similarity and forgetting over RL steps, mean over seeds."""
    drawing, axes = page.new_figure(15, 3, columns=5)
    series: dict[tuple[str, int, int], defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, found in results.items():
        if (run.base, run.learning_rate, run.variant) == ("A", rate, ""):
            iterations = found["summary"]["iterations"]
            length = len(iterations[0]["exploration"])
            base = iterations[0]["curve"][0]
            for number, it in enumerate(iterations):
                _add(
                    series, "explored", number, number * length, it["exploration"], it["curve"], base, it["harvesting"]
                )
            for it in [None, *(i["vanilla"] for i in iterations if i["vanilla"])]:
                harvesting = it["harvesting"] if it else iterations[0]["harvesting"]
                for row in harvesting["similarity_by_step"]:
                    if row["within_step"] is not None:
                        series["vanilla", 0, 3][row["step"]].append(row["within_step"])
            _add(series, "vanilla", 0, 0, vanilla_steps(iterations), vanilla_curve(iterations), base, None)
    for (kind, _, panel), by_step in series.items():
        steps = sorted(by_step)
        means = [fmean(by_step[step]) for step in steps]
        if panel in (0, 3):  # noisy: shows a moving average over eight steps
            means = moving_average(means)
        axes[panel].plot(steps, means, color=COLOURS[kind], marker="" if panel in (0, 3) else "o", markersize=3)
    titles = (
        "training reward",
        "held-out avg@16",
        "held-out pass@16",
        "similarity within a step",
        "forgotten of the base",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("RL step")
    _save(drawing, path)


def _add(
    series: Any,
    kind: str,
    number: int,
    start: int,
    steps: list[dict[str, Any]],
    curve: list[dict[str, Any]],
    base: dict[str, Any],
    harvesting: dict[str, Any] | None,
) -> None:
    for row in steps:
        series[kind, number, 0][start + row["step"]].append(row["reward"])
    for point in curve:
        e = point["evaluations"][0]
        solved = [[c > 0 for c in p["evaluations"][0]["by_problem"]["correct"]] for p in (base, point)]
        series[kind, number, 1][start + point["step"]].append(e["avg"])
        series[kind, number, 2][start + point["step"]].append(list(e["pass_at_k"].values())[-1])
        series[kind, number, 4][start + point["step"]].append(lost(solved)[0][1])
    for row in harvesting["similarity_by_step"] if harvesting else []:
        if row["within_step"] is not None:
            series[kind, number, 3][start + row["step"]].append(row["within_step"])
