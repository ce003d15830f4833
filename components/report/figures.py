"""The report's figures, each with a caption that explains what it shows."""

from typing import Any

from components.report.analysis import TOGETHER, benchmark_label, vanilla_curve, vanilla_steps
from components.shared.reporting import page
from components.shared.reporting.shown import spread

COLOURS = {"base": "#6b7280", "rloop": "#15803d", "explored": "#c2410c", "vanilla": "#1d4ed8"}
_WINDOW = 8  # RL steps of the moving average
_LABELS = 4  # of iterations, side by side
_MATRIX = 16  # rows of a matrix whose cells have room for a number


def evaluation_of(policy: dict[str, Any], benchmark: str) -> dict[str, Any]:
    """A policy's figures on a benchmark."""
    found: dict[str, Any] = next(e for e in policy["evaluations"] if e["benchmark"] == benchmark)
    return found


def iterations_figure(summary: dict[str, Any], benchmarks: list[str]) -> str:
    """avg@n and pass@k of each kind of policy after each iteration."""
    policies, validation = summary["policies"], summary["chosen_by"]["benchmark"]
    tests = [benchmark for benchmark in benchmarks if benchmark != validation]
    lines = {validation: ("--", [validation])}
    if tests:
        lines[benchmark_label(TOGETHER) if len(tests) > 1 else tests[0]] = ("-", tests)
    most = list(evaluation_of(policies[0], validation)["pass_at_k"])[-1]
    drawing, axes = page.new_figure(11, 3.2, columns=2)
    for axis, figure in zip(axes, ("avg@n", "pass@k"), strict=True):
        for kind in dict.fromkeys(policy["kind"] for policy in policies[1:]):
            of_kind = [policy for policy in policies if policy["kind"] in ("base", kind)]
            for label, (style, together) in lines.items():
                values = [
                    sum(_figure_of(policy, benchmark, figure) for benchmark in together) / len(together)
                    for policy in of_kind
                ]
                at = [policy["iteration"] for policy in of_kind]
                axis.plot(at, values, style, color=COLOURS[kind], marker="o", markersize=3, label=f"{kind}: {label}")
        axis.set_xlabel("iteration")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylabel("avg@n" if figure == "avg@n" else f"pass@{most}")
    drawing.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=6, loc="outside upper center")
    return page.figure(
        drawing,
        "Average and pass@k of the policies after each iteration; 0 is the base policy. RL overfits where the first "
        "rises and the second falls.",
    )


def _figure_of(policy: dict[str, Any], benchmark: str, figure: str) -> float:
    evaluation = evaluation_of(policy, benchmark)
    return float(evaluation["avg"] if figure == "avg@n" else list(evaluation["pass_at_k"].values())[-1])


def pass_figure(policies: list[dict[str, Any]], benchmarks: list[str]) -> str:
    """pass@k over k, one panel per benchmark."""
    columns = min(len(benchmarks), 3)
    rows = -(-len(benchmarks) // columns)
    drawing, axes = page.new_figure(4 * columns + 1, 3.2 * rows, rows=rows, columns=columns)
    last = max(policy["iteration"] for policy in policies)
    for axis, benchmark in zip(axes, benchmarks, strict=False):
        for policy in policies:
            e = evaluation_of(policy, benchmark)
            ks = [int(k) for k in e["pass_at_k"]]
            axis.plot(
                ks,
                list(e["pass_at_k"].values()),
                marker="o",
                markersize=3,
                label=policy["name"],
                color=COLOURS[policy["kind"]],
                alpha=0.3 + 0.7 * policy["iteration"] / last if policy["iteration"] else 1.0,
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.set_title(benchmark, fontsize=10)
        axis.set_xlabel("k")
    for axis in axes[len(benchmarks) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("pass@k")
    drawing.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper")
    return page.figure(
        drawing,
        "Probability of solving a problem in k attempts. Where RL overfits, its policies start higher at k = 1 and end "
        "below the base policy at the largest k. Earlier iterations are paler.",
    )


def comparison_figure(comparisons: list[dict[str, Any]]) -> str:
    """Differences between the last RLoop policy and the others, with intervals."""
    benchmarks = list(dict.fromkeys(c["benchmark"] for c in comparisons))
    labels = [benchmark_label(benchmark) for benchmark in benchmarks]
    others = list(dict.fromkeys(c["second"] for c in comparisons))
    first_of_kind = {other.split("-")[0]: other for other in reversed(others)}
    kinds = ("avg", "pass")
    drawing, axes = page.new_figure(9, 0.6 + 0.42 * len(benchmarks) * max(1, len(others) / 2), columns=2)
    for axis, kind in zip(axes, kinds, strict=True):
        figure = next(c["figure"] for c in comparisons if c["figure"].startswith(kind))
        for offset, other in enumerate(others):
            rows = [c for c in comparisons if c["second"] == other and c["figure"].startswith(kind)]
            y = [benchmarks.index(c["benchmark"]) + 0.8 * (offset + 0.5) / len(others) - 0.4 for c in rows]
            low = [c["difference"] - c["interval"][0] for c in rows]
            high = [c["interval"][1] - c["difference"] for c in rows]
            kind_of_other = other.split("-")[0]
            axis.errorbar(
                [c["difference"] for c in rows],
                y,
                xerr=[low, high],
                fmt="o",
                markersize=4,
                color=COLOURS[kind_of_other],
                alpha=1.0
                if other == first_of_kind[kind_of_other]
                else 0.45,  # of two vanilla policies, the best is paler
                label=f"vs. {other}",
            )
        axis.axvline(0, color="#1c2330", linewidth=0.8)
        axis.set_yticks(range(len(benchmarks)), labels if kind == "avg" else [""] * len(benchmarks))
        axis.invert_yaxis()
        axis.set_xlabel(f"difference in {'avg@n' if kind == 'avg' else figure}")
    drawing.legend(*axes[1].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=4, loc="outside upper center")
    return page.figure(
        drawing,
        f"Advantage of {comparisons[0]['first']} over the other policies on the same problems, with 95% intervals of a "
        "paired bootstrap. Where an interval excludes 0, these problems are enough to show a difference.",
    )


def moving_average(values: list[float]) -> list[float]:
    """The mean over the last steps, at most eight."""
    return [sum(values[max(0, i + 1 - _WINDOW) : i + 1]) / min(i + 1, _WINDOW) for i in range(len(values))]


def training_figure(iterations: list[dict[str, Any]]) -> str:
    """Training reward, entropy and gradient norm at each RL step."""
    figures = {
        "reward": "training reward (share correct)",
        "entropy": "entropy (nats per token)",
        "grad_norm": "gradient norm before clipping",
    }
    drawing, axes = page.new_figure(12, 3.2, columns=3)
    start, between_labels = 0, -(-len(iterations) // _LABELS)
    for index, iteration in enumerate(iterations):
        steps = iteration["exploration"]
        for axis, name in zip(axes, figures, strict=True):
            _plot_steps(axis, [start + row["step"] for row in steps], steps, name, "explored")
            axis.axvline(start, color="#9ca3af", linewidth=0.8, linestyle=":")
        if index % between_labels == 0:
            name = f" iteration {iteration['iteration']}"
            axes[0].text(start, 1.0, name, transform=axes[0].get_xaxis_transform(), fontsize=8)
        start += len(steps)
    compared = any(iteration["vanilla"] for iteration in iterations)
    if compared:
        steps = vanilla_steps(iterations)
        for axis, name in zip(axes, figures, strict=True):
            _plot_steps(axis, [row["step"] for row in steps], steps, name, "vanilla")
    for axis, label in zip(axes, figures.values(), strict=True):
        axis.set_ylabel(label)
        axis.set_xlabel("RL step over all iterations")
    return page.figure(
        drawing,
        f"Each iteration restarts from a policy after RFT{'; blue: one long RL run' if compared else ''}. Bold: mean "
        f"over the last {_WINDOW} steps. Falling entropy indicates that the policy narrows, a growing gradient norm "
        "that training is unstable.",
    )


def _plot_steps(axis: Any, at: list[int], steps: list[dict[str, Any]], name: str, kind: str) -> None:
    known = [(x, row[name]) for x, row in zip(at, steps, strict=True) if row.get(name) is not None]
    if known:
        xs, values = zip(*known, strict=True)
        axis.plot(xs, values, color=COLOURS[kind], alpha=0.2, linewidth=1)
        axis.plot(xs, moving_average(list(values)), color=COLOURS[kind])


def curve_figure(summary: dict[str, Any]) -> str:
    """Training reward and held-out metrics over RL steps."""
    iterations = summary["iterations"]
    length = len(iterations[0]["exploration"])
    (first, *_) = iterations[0]["curve"]
    drawing, axes = page.new_figure(12, 3.2, columns=3)
    runs = [("explored", i * length, it["curve"], it["exploration"]) for i, it in enumerate(iterations)]
    if any(it["vanilla"] for it in iterations):
        runs.append(("vanilla", 0, vanilla_curve(iterations), vanilla_steps(iterations)))
    for kind, start, points, steps in runs:
        at = [start + point["step"] for point in points]
        xs, rewards = [row["step"] for row in steps], moving_average([row["reward"] for row in steps])
        axes[0].plot([start + x for x in xs], rewards, color=COLOURS[kind])
        for index in range(len(first["evaluations"])):
            style = {"color": COLOURS[kind], "marker": "o", "markersize": 3, "linestyle": ("-", "--", ":")[index % 3]}
            series = [point["evaluations"][index] for point in points]
            axes[1].plot(at, [s["avg"] for s in series], **style)
            axes[2].plot(at, [list(s["pass_at_k"].values())[-1] for s in series], **style)
    for index, e in enumerate(first["evaluations"]):
        axes[1].plot([], [], color="#1c2330", linestyle=("-", "--", ":")[index % 3], label=e["benchmark"])
    axes[1].legend(frameon=False, fontsize=8)
    e = first["evaluations"][0]
    axes[0].set_ylabel("training reward")
    axes[1].set_ylabel(f"held-out avg@{e['n']}")
    axes[2].set_ylabel(f"held-out pass@{list(e['pass_at_k'])[-1]}")
    for axis in axes:
        axis.set_xlabel("RL step over all iterations")
    return page.figure(
        drawing,
        f"Intermediate checkpoints, each evaluated on {e['problems']} problems per benchmark. RL overfits where the "
        "training reward rises while a held-out metric stalls or falls. Orange: RL of each iteration, which restarts "
        "after RFT; blue: vanilla RL.",
    )


def forgetting_figure(summary: dict[str, Any], shown: list[int]) -> str:
    """Matrices of what one policy solves and another does not: the policies of shown iterations, and checkpoints."""
    found = summary["forgetting"]
    iterations = {policy["name"]: policy["iteration"] for policy in summary["policies"]}
    of_policies = [name for name in found["policies"]["policies"] if iterations[name] in (0, *shown)]
    title = "all policies" if len(of_policies) == len(iterations) else "policies"
    runs = [run for run in found["on_the_way"] if run["iteration"] in (None, *shown)]
    matrices = [_part_of_matrix(title, found["policies"]["policies"], found["policies"]["lost"], of_policies)]
    matrices += [_part_of_matrix(run["run"], run["steps"], run["lost"], spread(run["steps"], _MATRIX)) for run in runs]
    columns = min(3, len(matrices))
    rows = -(-len(matrices) // columns)
    drawing, axes = page.new_figure(4 * columns, 3.4 * rows, rows=rows, columns=columns)
    highest = max(value for _, _, lost in matrices for row in lost for value in row) or 1.0
    for axis, (title, names, lost) in zip(axes, matrices, strict=False):
        axis.grid(visible=False)
        axis.imshow(lost, cmap="Oranges", vmin=0, vmax=highest)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_title(title, fontsize=9)
        if len(names) <= _MATRIX:
            for i, row in enumerate(lost):
                for j, value in enumerate(row):
                    colour = "white" if value > 0.6 * highest else "#1c2330"
                    size = 6.5 if len(names) <= 9 else 5
                    axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=size, color=colour)
    for axis in axes[len(matrices) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("solved by")
    axes[0].set_xlabel("but not by")
    return page.figure(
        drawing,
        "Forgetting: percentage of problems that the row's policy solves in at least one sample and the column's in "
        "none. Above the diagonal: what was lost over time; below: what was gained. First panel: "
        f"{found['policies']['problems']} problems of all benchmarks; others: intermediate checkpoints by RL step.",
    )


def _part_of_matrix(
    title: str, names: list[Any], lost: list[list[float]], shown: list[Any]
) -> tuple[str, list[str], list[list[float]]]:
    """Returns a title, the shown names and their rows and columns of a matrix."""
    indices = [names.index(name) for name in shown]
    return title, [str(name) for name in shown], [[lost[row][column] for column in indices] for row in indices]


def diversity_figure(summary: dict[str, Any], benchmarks: list[str]) -> str:
    """Similarity of correct rollouts, and distinct solutions per problem."""
    iterations = summary["iterations"]
    drawing, (within, between, solutions) = page.new_figure(12, 3.2, columns=3)
    runs = [
        ("explored", i * len(iterations[0]["exploration"]), it["harvesting"]) for i, it in enumerate(iterations)
    ] + [("vanilla", 0, it["vanilla"]["harvesting"]) for it in iterations if it["vanilla"]]
    for kind, start, harvesting in runs:
        for axis, name in ((within, "within_step"), (between, "between_steps")):
            rows = [row for row in harvesting["similarity_by_step"] if row[name] is not None]
            at = [start + row["step"] for row in rows]
            axis.plot(at, [row[name] for row in rows], color=COLOURS[kind], alpha=0.2, linewidth=1)
            axis.plot(at, moving_average([row[name] for row in rows]), color=COLOURS[kind])
            axis.set_xlabel("RL step over all iterations")
    if not between.lines:
        between.text(0.5, 0.5, "no problem was sampled twice", transform=between.transAxes, ha="center", fontsize=9)
    within.set_ylabel("similarity within a step")
    between.set_ylabel("similarity to the previous step")
    policies = summary["policies"]
    means = [sum(evaluation_of(p, b)["distinct_correct"] for b in benchmarks) / len(benchmarks) for p in policies]
    for kind in dict.fromkeys(policy["kind"] for policy in policies[1:]):
        of_kind = [
            (p["iteration"], mean) for p, mean in zip(policies, means, strict=True) if p["kind"] in ("base", kind)
        ]
        solutions.plot(*zip(*of_kind, strict=True), color=COLOURS[kind], marker="o", markersize=3, label=kind)
    solutions.legend(frameon=False, fontsize=8)
    solutions.set_xlabel("iteration (0: the base policy)")
    solutions.xaxis.get_major_locator().set_params(integer=True)
    solutions.set_ylabel("distinct solutions per problem")
    return page.figure(
        drawing,
        "Diversity: similarity of correct rollouts of the same problem during training (Jaccard similarity of token "
        "trigrams; 1 means the same text), and distinct correct solutions per problem in the evaluation, averaged over "
        "benchmarks. Rising similarity means that the policy repeats itself.",
    )


def experts_figure(iterations: list[dict[str, Any]]) -> str:
    """Where the experts come from: RL steps and success rates, each for some of the iterations."""
    drawing, (steps, rates) = page.new_figure(10, 3, columns=2)
    for index, iteration in enumerate(iterations):
        label, alpha = f"iteration {iteration['iteration']}", 0.35 + 0.65 * (index + 1) / len(iterations)
        by_step = iteration["filtering"]["experts_by_step"]
        style = {"color": COLOURS["rloop"], "alpha": alpha, "label": label}
        steps.plot([s["step"] for s in by_step], [s["experts"] for s in by_step], **style)
        by_rate = iteration["filtering"]["experts_by_success_rate"]
        rates.plot([(i + 0.5) / 10 for i in range(10)], by_rate, marker="o", markersize=3, **style)
    steps.set_xlabel("RL step at which they were sampled")
    steps.set_ylabel("experts")
    rates.set_xlabel("success rate of their problem in the iteration")
    rates.legend(frameon=False, fontsize=8)
    return page.figure(
        drawing, "Where the trajectories for RFT come from: early or late RL steps, hard or easy problems."
    )
