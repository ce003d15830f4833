"""Writes docs/reproduction.md: settings, tables with intervals, figures, and whether the claim holds here."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from components.shared.stage import whole_file
from launch.analysis.seeds import Estimate, average, difference, over_seeds_and_problems, relative, values
from reproduction import cross_fitting as kinds
from reproduction.figures import draw_course, draw_plane
from reproduction.grid import (
    RECIPE,
    ROOT,
    SAME_RATE,
    VARIANTS,
    Grid,
    Results,
    find_run,
    last_on_dev,
    last_policy,
)

TESTS = ("test", "four", "large")
_K = 32
_KS = (1, _K)
# Ends of the labels of comparisons, by which the aims are found again.
_SAME = "vanilla RL, same learning rate and RL steps"
_TUNED = "both tuned with the same number of runs"
_ALL_KINDS = "both tuned on problems of all kinds (cross-fitted)"


@dataclass(frozen=True)
class Method:
    """One line of the tables: a policy of the runs at a learning rate."""

    label: str
    rate: float
    policy: Callable[[dict[str, Any]], str]  # name of the policy in a run's results
    variant: str = ""  # of the run


@dataclass(frozen=True)
class Pair:
    """Two methods, by name, and what their difference is called."""

    one: str
    other: str
    label: str


def last(kind: str) -> Callable[[dict[str, Any]], str]:
    """The last policy of a kind."""
    return lambda results: str(last_policy(results, kind)["name"])


def best_on_dev(kind: str) -> Callable[[dict[str, Any]], str]:
    """The policy of a kind that is the best on the development set: stopping in time."""

    def find(results: dict[str, Any]) -> str:
        policies = [p for p in results["summary"]["policies"] if p["kind"] == kind]
        return str(
            max(policies, key=lambda p: next(e["avg"] for e in p["evaluations"] if e["benchmark"] == "dev"))["name"]
        )

    return find


def write_document(path: Path, grid: Grid, chosen: dict[str, float], results: Results, planned: int) -> None:
    """Writes the document and, in a folder beside it, its figures.

    Args:
        path: of the Markdown file.
        grid: the size of the comparison.
        chosen: by method, the learning rate chosen on the development set.
        results: of the finished runs.
        planned: how many runs the grid has.
    """
    methods = {
        "base": Method("base policy", SAME_RATE, last("base")),
        "vanilla": Method(f"vanilla RL, {SAME_RATE:g}", SAME_RATE, last("vanilla")),
        "vanilla best": Method(f"vanilla RL, {SAME_RATE:g}, best checkpoint", SAME_RATE, best_on_dev("vanilla")),
        "rloop": Method(f"RLoop, {SAME_RATE:g}", SAME_RATE, last("rloop")),
        "vanilla tuned": Method(f"vanilla RL, tuned ({chosen['vanilla']:g})", chosen["vanilla"], last("vanilla")),
        "vanilla tuned best": Method(
            f"vanilla RL, tuned ({chosen['vanilla']:g}), best checkpoint", chosen["vanilla"], best_on_dev("vanilla")
        ),
        "rloop tuned": Method(f"RLoop, tuned ({chosen['rloop']:g})", chosen["rloop"], last("rloop")),
        "control": Method("RLoop without RL (learning rate 0)", 0.0, last("rloop")),
    }
    pairs = [
        Pair("rloop", "vanilla", f"RLoop over {_SAME}"),
        Pair("rloop tuned", "vanilla tuned", f"RLoop over vanilla RL, {_TUNED}"),
        Pair("rloop tuned", "vanilla tuned best", "RLoop over vanilla RL, the same, vanilla RL stopped in time"),
        Pair("rloop", "control", "RLoop over RLoop without RL: what exploration adds to filtered re-fitting"),
    ]
    for variant in _variants(results):
        label = f"RLoop, {variant}"
        methods[variant] = Method(f"{label}, {SAME_RATE:g}", SAME_RATE, last("rloop"), variant)
        pairs += [
            Pair(variant, "vanilla", f"{label}, over {_SAME}"),
            Pair(variant, "vanilla tuned", f"{label}, over vanilla RL, tuned"),
            Pair(variant, "rloop", f"{label}, over RLoop, same learning rate and RL steps"),
            Pair(variant, "rloop tuned", f"{label}, over RLoop, tuned"),
        ]
    figures = path.parent / path.stem
    figures.mkdir(parents=True, exist_ok=True)
    draw_plane(figures / "plane.svg", results, methods, TESTS, _K)
    draw_course(figures / "course.svg", results, SAME_RATE)
    comparisons: dict[tuple[str, str], Found] = {}  # by base policy and label
    for base in grid.seeds:
        for pair in pairs:
            both = [methods[pair.one], methods[pair.other]]
            if found := _compare([_arrays(results, base, both, k) for k in _KS]):
                comparisons[base, pair.label] = found
        if found := _compare([kinds.cross_fitted(results, grid, TESTS, base, k) for k in _KS]):
            comparisons[base, f"RLoop over vanilla RL, {_ALL_KINDS}"] = found
    parts = [
        "# Does RLoop beat vanilla RL? A reproduction on a tiny policy",
        _setting(grid, results, planned),
        "## Choosing the learning rate",
        _tuning_table(grid, results, chosen),
        _all_kinds(results, grid),
        "## Result",
        *(
            f"### Base policy {base}\n\n{_result_table(results, base, methods.values())}"
            for base in grid.seeds
            if any(run.base == base for run in results)
        ),
        "### Differences",
        _difference_table(comparisons),
        "## Was the aim reached?",
        _verdicts(comparisons),
        "## Figures",
        f"![Average against pass@{_K}]({path.stem}/plane.svg)\n\nEach small dot is a seed, each large one a mean: to "
        f"the right more right answers, up more problems solved in {_K} tries. Mean of the test sets, base policy A.",
        f"![Course of RL]({path.stem}/course.svg)\n\nThe course of RL on base policy A at learning rate {SAME_RATE:g}, "
        "mean over seeds: training reward, the held-out average and pass@16 on the development problems, how alike "
        "correct rollouts of a problem are, and the share of problems that the base policy solves and the policy at "
        "that step does not. Orange: exploration of each iteration, which starts anew after RFT; blue: vanilla RL.",
        "## Cost",
        _cost(results),
        (ROOT / "reproduction" / "remarks.md").read_text().strip(),
    ]
    with whole_file(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")


def _setting(grid: Grid, results: Results, planned: int) -> str:
    summary = next(iter(results.values()))["summary"]
    settings = summary["settings"]
    steps = settings["rl"]["steps"] * settings["iterations"]
    partly = "" if len(results) == planned else f" **{len(results)} of the planned {planned} runs are in it.**"
    problems = ", ".join(f"{name} {count}" for name, count in summary["data"]["benchmarks"].items())
    n = {e["benchmark"]: e["n"] for e in summary["policies"][0]["evaluations"]}
    variants = "".join(
        f"\n- **RLoop, {variant}**: the same but for {' and '.join(f'`{change}`' for change in VARIANTS[variant])}."
        for variant in _variants(results)
    )
    return f"""This file is written by `make reproduce` from pipeline runs of
[{RECIPE.name}](../recipes/{RECIPE.name}).{partly} The policy is a Qwen2 model of 0.4M parameters that was pre-trained
on demonstrations that are often wrong; the task is Countdown, where a problem has several solutions, so that there is
diversity to lose. What a tiny model shows is a lead, not a proof for large ones.

- **RL**: {steps} steps of {settings["rl"]["prompts_per_step"]} prompts x {settings["rl"]["group_size"]} samples, DAPO
  loss. Vanilla RL makes them in one run, RLoop in {settings["iterations"]} iterations of {settings["rl"]["steps"]}
  with RFT after each. Iteration 1's exploration is the beginning of the vanilla run, so both share it.
- **RFT**: from the iteration's initial policy, learning rate {settings["rft"]["learning_rate"]:g},
  {settings["rft"]["epochs"]:g} epochs, on correct and different rollouts of problems with a success rate of at most
  {settings["filter"]["max_success_rate"]:g}, at most {settings["filter"]["max_per_problem"]} a problem.{variants}
- **Problems**: {summary["data"]["problems"]} for training; {problems} for measuring, in splits that share
  no problem. `test` is of the training problems' kind,
  `four` and `large` are of other kinds. Settings are chosen on `dev`; the others are reported.
- **Samples** a problem: {", ".join(f"{name} {count}" for name, count in n.items())}. avg@n is the share of correct
  samples, pass@{_K} the unbiased estimate.
- **Seeds**: {"; ".join(f"{', '.join(map(str, seeds))} of base policy {base}" for base, seeds in grid.seeds.items())}.
  The base policies differ in the seed of their pre-training. Intervals (95 %) come from a bootstrap that
  draws seeds and problems, the same draw for all methods. Test figures are means of the three test sets."""


def _variants(results: Results) -> list[str]:
    """Those of which there are runs."""
    return [variant for variant in VARIANTS if any(run.variant == variant for run in results)]


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
        f"avg@n / pass@{_K} on the development set, base policy A, mean over seeds "
        f"{', '.join(map(str, grid.tuning_seeds))}. Bold: chosen, by avg@n. Both methods had the same runs to "
        "choose from."
    )
    return _table(["learning rate of RL", "vanilla RL", "RLoop"], rows) + "\n\n" + note


def _all_kinds(results: Results, grid: Grid) -> str:
    first, second = (
        f"{vanilla:g} for vanilla RL and {rloop:g} for RLoop"
        for rloop, vanilla in kinds.choose_by_half(results, grid, TESTS)
    )
    return (
        "Those problems are of one kind only. So that both methods are tuned for the others as well, one line of the\n"
        "differences chooses by cross-fitting: each test set is cut in two halves, the rate is chosen on one (same\n"
        f"seeds) and measured on the other. Chosen on the first half: {first}.\n"
        f"On the second: {second}."
    )


def _arrays(results: Results, base: str, methods: Sequence[Method], k: int) -> list[list[np.ndarray]]:
    """For each seed of which all methods are there, for each test set, pass@k of shape (methods, problems)."""
    runs: list[list[np.ndarray]] = []
    for seed in sorted({run.seed for run in results if run.base == base}):
        of_seed = [find_run(results, base, seed, m.rate, m.variant) for m in methods]
        if all(of_seed):
            counts = [r["problems"][m.policy(r)] for m, r in zip(methods, of_seed, strict=True) if r]
            runs.append([np.stack([values(c, name, k) for c in counts]) for name in TESTS])
    return runs


def _result_table(results: Results, base: str, methods: Iterable[Method]) -> str:
    rows = []
    for method in methods:
        cells: list[str] = [method.label]
        arrays = [_arrays(results, base, [method], k) for k in (1, _K)]
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
    headers = ["policy", "avg@n", f"pass@{_K}", *(f"{name}: avg / pass" for name in TESTS), "seeds"]
    return _table(headers, rows) + "\n\nsd: between seeds."


@dataclass(frozen=True)
class Found:
    """How two methods differ, for avg@n and pass@k."""

    absolute: dict[int, Estimate]
    relative: dict[int, Estimate]
    won: dict[int, int]
    seeds: int


def _compare(figures: Sequence[list[list[np.ndarray]]]) -> Found | None:
    """How two methods differ, from their figures for each k (for each seed, for each test set); None without runs."""
    if not figures[0]:
        return None
    absolute, shares, won = {}, {}, {}
    for k, runs in zip(_KS, figures, strict=True):
        absolute[k] = over_seeds_and_problems(runs, difference)
        shares[k] = over_seeds_and_problems(runs, relative)
        won[k] = sum(difference([np.nanmean(a, axis=1) for a in run]) > 0 for run in runs)
    return Found(absolute, shares, won, len(figures[0]))


def _difference_table(comparisons: dict[tuple[str, str], Found]) -> str:
    rows = []
    for (base, label), found in comparisons.items():
        cells = [base, label]
        for k in _KS:
            cells += [found.absolute[k].signed, found.relative[k].percent, f"{found.won[k]} of {found.seeds}"]
        rows.append(cells)
    return _table(["base", "", "avg@n", "relative", "seeds won", f"pass@{_K}", "relative", "seeds won"], rows)


def _verdicts(comparisons: dict[tuple[str, str], Found]) -> str:
    """The aims, and for each base policy whether the figures reach them."""
    lines = []
    for (base, label), found in comparisons.items():
        avg, most = found.absolute[1], found.absolute[_K]
        if label.endswith(_SAME):
            for figure, k, aim in (("average", 1, 0.09), (f"pass@{_K}", _K, 0.15)):
                share, low = found.relative[k].value, found.absolute[k].low
                reached = share >= aim and low > 0
                lines.append(
                    f"- Base {base}, {label}: at least {100 * aim:+.0f} % relative in {figure}, the "
                    f"interval of the difference above zero: **{'reached' if reached else 'not reached'}** "
                    f"({found.relative[k].percent})."
                )
        if label.endswith((_TUNED, _ALL_KINDS, "over vanilla RL, tuned")):
            no_worse = "reached" if avg.value >= 0 else "open" if avg.high >= 0 else "not reached"
            lines.append(
                f"- Base {base}, {label}: no worse on the average: **{no_worse}** ({avg.signed}"
                f"{': these seeds and problems cannot tell' if avg.low < 0 <= avg.high else ''}); ahead in pass@{_K}: "
                f"**{'reached' if most.low > 0 else 'not reached'}** ({most.signed})."
            )
    return "\n".join(lines) if lines else "No pair is complete yet."


def _cost(results: Results) -> str:
    rl, rft = [], []
    for run, found in results.items():
        if run.learning_rate and not run.variant:
            for iteration in found["summary"]["iterations"]:
                rl.append(iteration["seconds"]["rl"])
                rft.append(iteration["seconds"]["rft"])
    # Medians: a machine that slept or did something else in between is not what RL costs.
    share = median(rft) / median(rl)
    return (
        f"RFT takes {100 * share:.0f} % of the time of RL exploration ({median(rft):.0f} against {median(rl):.0f} s "
        "an iteration, medians over runs): at equal RL steps RLoop costs that much more than vanilla RL. Grading, "
        "harvesting and filtering take a second or two an iteration. The cost is shown and not charged: vanilla RL was "
        "given no steps for it. Its best checkpoint stands in the tables, to see whether it could use more of them."
    )
