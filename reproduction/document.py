"""Writes docs/reproduction.md: settings, tables with intervals, figures, and whether the paper's claim holds here."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from components.shared.stage import whole_file
from launch.analysis.seeds import average, over_seeds_and_problems
from reproduction.comparison import Comparison, Comparisons, compare_pairs, pass_at_k_by_seed
from reproduction.cross_fitting import choose_by_half
from reproduction.figures import draw_course, draw_plane
from reproduction.grid import RECIPE, ROOT, SAME_RATE, VARIANTS, Grid, Results, find_run, last_on_dev
from reproduction.methods import (
    ALL_KINDS_LABEL,
    KS,
    SAME_RATE_LABEL,
    TESTS,
    TUNED_LABEL,
    K,
    Method,
    methods_by_name,
    pairs_to_compare,
    variants_with_runs,
)


def write_document(path: Path, grid: Grid, chosen: dict[str, float], results: Results, planned: int) -> None:
    """Writes the document and, in a folder beside it, its figures.

    Args:
        path: path of the Markdown file.
        grid: size of the comparison.
        chosen: by method, the learning rate chosen on the development set.
        results: results of the finished runs.
        planned: number of runs in the grid.
    """
    methods = methods_by_name(chosen, results)
    figures = path.parent / path.stem
    figures.mkdir(parents=True, exist_ok=True)
    draw_plane(figures / "plane.svg", results, methods)
    draw_course(figures / "course.svg", results, SAME_RATE)
    comparisons = compare_pairs(results, grid, methods, pairs_to_compare(results))
    parts = [
        "# Does RLoop beat vanilla RL? A reproduction on a tiny policy",
        _setup(grid, results, planned),
        "## Choosing the learning rate",
        _tuning_table(grid, results, chosen),
        _cross_fitting(results, grid),
        "## Result",
        *(
            f"### Base policy {base}\n\n{_result_table(results, base, methods.values())}"
            for base in grid.seeds
            if any(run.base == base for run in results)
        ),
        "### Differences",
        _difference_table(comparisons),
        "## Were the targets reached?",
        _verdicts(comparisons),
        "## Figures",
        *_figures(path.stem),
        "## Cost",
        _cost(results),
        (ROOT / "reproduction" / "remarks.md").read_text().strip(),
    ]
    with whole_file(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")


def _setup(grid: Grid, results: Results, planned: int) -> str:
    summary = next(iter(results.values()))["summary"]
    settings = summary["settings"]
    steps = settings["rl"]["steps"] * settings["iterations"]
    partly = "" if len(results) == planned else f" **It covers {len(results)} of the planned {planned} runs.**"
    problems = ", ".join(f"{name} {count}" for name, count in summary["data"]["benchmarks"].items())
    n = {e["benchmark"]: e["n"] for e in summary["policies"][0]["evaluations"]}
    variants = "".join(
        f"\n- **RLoop, {variant}**: the same except for {' and '.join(f'`{change}`' for change in VARIANTS[variant])}."
        for variant in variants_with_runs(results)
    )
    return f"""`make reproduce` writes this file from pipeline runs of
[{RECIPE.name}](../recipes/{RECIPE.name}).{partly} The policy is a Qwen2 model with 0.4M parameters, pre-trained on
demonstrations that are often wrong; the task is Countdown, where a problem has several solutions, so there is diversity
to lose. What a tiny model shows is a hint about large ones, not a proof.

- **RL**: {steps} steps of {settings["rl"]["prompts_per_step"]} prompts x {settings["rl"]["group_size"]} samples, with
  DAPO's loss. Vanilla RL takes them in one run, RLoop in {settings["iterations"]} iterations of
  {settings["rl"]["steps"]} with RFT after each. Iteration 1's exploration is the beginning of the vanilla run, so the
  two share it.
- **RFT**: starts from the iteration's initial policy; learning rate {settings["rft"]["learning_rate"]:g},
  {settings["rft"]["epochs"]:g} epochs, on distinct correct rollouts of problems with a success rate of at most
  {settings["filter"]["max_success_rate"]:g}, at most {settings["filter"]["max_per_problem"]} per problem.{variants}
- **Problems**: {summary["data"]["problems"]} for training; {problems} for evaluation, in splits that share no
  problem. `test` has problems of the same kind as the training set, `four` and `large` have other kinds. Settings are
  chosen on `dev`; results are reported on the others.
- **Samples** per problem: {", ".join(f"{name} {count}" for name, count in n.items())}. avg@n is the share of correct
  samples, pass@{K} the unbiased estimate.
- **Seeds**: {"; ".join(f"{', '.join(map(str, seeds))} of base policy {base}" for base, seeds in grid.seeds.items())}.
  The base policies differ in the seed of their pre-training. The intervals (95 %) are from a bootstrap that resamples
  seeds and problems, with the same draw for all methods. Test figures are means over the three test sets."""


def _line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return "\n".join([_line(headers), "|" + "---|" * len(headers), *map(_line, rows)])


def _tuning_table(grid: Grid, results: Results, chosen: dict[str, float]) -> str:
    rows = []
    for rate in grid.learning_rates:
        cells: list[str] = [f"{rate:g}"]
        for method in ("vanilla", "rloop"):
            runs = [find_run(results, "A", seed, rate) for seed in grid.tuning_seeds]
            found = [last_on_dev(r, method) for r in runs if r]
            if not found:
                cells.append("to do")
                continue
            averages, most = [e["avg"] for e in found], [list(e["pass_at_k"].values())[-1] for e in found]
            text = f"{fmean(averages):.3f} / {fmean(most):.3f}"
            cells.append(f"**{text}**" if chosen[method] == rate else text)
        rows.append(cells)
    note = (
        f"avg@n / pass@{K} on the development set, base policy A, mean over seeds "
        f"{', '.join(map(str, grid.tuning_seeds))}. Bold: chosen, by avg@n. Both methods had the same runs to "
        "choose from."
    )
    return _table(["learning rate of RL", "vanilla RL", "RLoop"], rows) + "\n\n" + note


def _cross_fitting(results: Results, grid: Grid) -> str:
    first, second = (
        f"{vanilla:g} for vanilla RL and {rloop:g} for RLoop" for rloop, vanilla in choose_by_half(results, grid, TESTS)
    )
    return (
        "The development problems are all of one kind. To tune both methods for the other kinds too, one row of the\n"
        "differences table chooses by cross-fitting: each test set is split into two halves; the rate is chosen on\n"
        "one half (with the same seeds) and measured on the other.\n"
        f"Chosen on the first half: {first}.\n"
        f"Chosen on the second half: {second}."
    )


def _result_table(results: Results, base: str, methods: Iterable[Method]) -> str:
    rows = []
    for method in methods:
        cells: list[str] = [method.label]
        arrays = [pass_at_k_by_seed(results, base, [method], k) for k in KS]
        if not arrays[0]:
            continue
        for runs in arrays:
            by_seed = [fmean(float(np.nanmean(a)) for a in run) for run in runs]
            spread = f", sd {stdev(by_seed):.3f}" if len(by_seed) > 1 else ""
            cells.append(f"{over_seeds_and_problems(runs, average)}{spread}")
        per_set = [
            " / ".join(f"{fmean(float(np.nanmean(run[test])) for run in runs):.3f}" for runs in arrays)
            for test in range(len(TESTS))
        ]
        rows.append([*cells, *per_set, len(arrays[0])])
    headers = ["policy", "avg@n", f"pass@{K}", *(f"{name}: avg / pass" for name in TESTS), "seeds"]
    return _table(headers, rows) + "\n\nsd: standard deviation between seeds."


def _difference_table(comparisons: Comparisons) -> str:
    rows = []
    for (base, label), found in comparisons.items():
        cells = [base, label]
        for k in KS:
            cells += [found.absolute[k].signed, found.relative[k].percent, f"{found.won[k]} of {found.seeds}"]
        rows.append(cells)
    return _table(["base", "", "avg@n", "relative", "seeds won", f"pass@{K}", "relative", "seeds won"], rows)


def _verdicts(comparisons: Comparisons) -> str:
    """Lists the targets and, for each base policy, whether the figures reach them."""
    lines = []
    for (base, label), found in comparisons.items():
        if label.endswith(SAME_RATE_LABEL):
            lines += [_margin(base, label, found, name, k, target) for name, k, target in _MARGINS]
        if label.endswith((TUNED_LABEL, ALL_KINDS_LABEL, "over vanilla RL, tuned")):
            lines.append(_no_worse_but_ahead(base, label, found))
    return "\n".join(lines) if lines else "No pair is complete yet."


_MARGINS = (("average", 1, 0.09), (f"pass@{K}", K, 0.15))  # the paper's, relative


def _margin(base: str, label: str, found: Comparison, name: str, k: int, target: float) -> str:
    """Reports whether one method is ahead by the target, with an interval above zero."""
    reached = found.relative[k].value >= target and found.absolute[k].low > 0
    return (
        f"- Base {base}, {label}: at least {100 * target:+.0f} % relative in {name}, with the interval of the "
        f"difference above zero: **{'reached' if reached else 'not reached'}** ({found.relative[k].percent})."
    )


def _no_worse_but_ahead(base: str, label: str, found: Comparison) -> str:
    """Reports whether one method is no worse in average and ahead in pass@k."""
    avg, most = found.absolute[1], found.absolute[K]
    no_worse = "reached" if avg.value >= 0 else "open" if avg.high >= 0 else "not reached"
    inconclusive = "; inconclusive with these seeds and problems" if avg.low < 0 <= avg.high else ""
    return (
        f"- Base {base}, {label}: no worse in average: **{no_worse}** ({avg.signed}{inconclusive}); ahead in "
        f"pass@{K}: **{'reached' if most.low > 0 else 'not reached'}** ({most.signed})."
    )


def _figures(folder: str) -> list[str]:
    return [
        f"![Average against pass@{K}]({folder}/plane.svg)\n\nEach small marker is a seed, each large one the mean over "
        f"seeds. Further right: more correct answers; further up: more problems solved within {K} tries. Mean over the "
        "test sets, base policy A.",
        f"![Course of RL]({folder}/course.svg)\n\nThe course of RL on base policy A at learning rate {SAME_RATE:g}, "
        "mean over seeds: training reward, held-out average and pass@16 on the development problems, how similar the "
        "correct rollouts of a problem are, and the share of problems that the base policy solves but the policy at "
        "that step does not. Orange: each iteration's exploration, which starts afresh after RFT; blue: vanilla RL.",
    ]


def _cost(results: Results) -> str:
    rl, rft = [], []
    for run, found in results.items():
        if run.learning_rate and not run.variant:
            for iteration in found["summary"]["iterations"]:
                rl.append(iteration["seconds"]["rl"])
                rft.append(iteration["seconds"]["rft"])
    # Medians, because a machine that slept or did something else in between does not tell what RL costs.
    share = median(rft) / median(rl)
    return (
        f"RFT takes {100 * share:.0f} % of the time of RL exploration ({median(rft):.0f} versus {median(rl):.0f} s per "
        "iteration, medians over runs): at equal RL steps, RLoop costs that much more than vanilla RL. Grading, "
        "harvesting and filtering take a second or two per iteration. This cost is reported but not compensated: "
        "vanilla RL was given no extra steps for it. Its best checkpoint is in the tables to show whether it could use "
        "more of them."
    )
