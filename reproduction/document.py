"""Writes docs/reproduction.md: the plan, what was run, tables with intervals, figures, and remarks.

Remarks and the README's section quote the tables' differences as `${STUDY_BASE_STEPS_ONE_OTHER_FIGURE}`: see `_quote`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from string import Template
from typing import Any

from components.shared.stage import whole_file
from reproduction.comparison import Comparison, by_test, compare, estimate
from reproduction.figures import draw_budgets
from reproduction.grid import ROOT, VARIANTS, Run, Study
from reproduction.methods import (
    ABLATED,
    AS_PUBLISHED,
    METHODS,
    VANILLA,
    WITH_ALL_EXPERTS,
    WITH_TWO_EPOCHS,
    Method,
    Policy,
    averages_by_rate,
    choose,
    development_average,
    planned_runs,
)
from reproduction.results import Results, read_results

_PAIRS = (
    (AS_PUBLISHED, VANILLA),
    (WITH_ALL_EXPERTS, VANILLA),
    (WITH_TWO_EPOCHS, VANILLA),
    (WITH_ALL_EXPERTS, AS_PUBLISHED),
    (WITH_TWO_EPOCHS, AS_PUBLISHED),
)


def write_document(path: Path, folder: Path, studies: Sequence[Study], remarks: bool = False) -> dict[str, str]:
    """Writes the document and, in a folder beside it, its figures; returns the differences that other texts may quote.

    Args:
        path: Markdown file to write.
        folder: folder of the result files.
        studies: the studies to report; those without a result are left out.
        remarks: whether to add the remarks, which are about the committed results and quote them.
    """
    parts = [_read("introduction.md") if remarks else "# RLoop beside vanilla RL", _read("plan.md")]
    quoted: dict[str, str] = {}
    for study in studies:
        if results := read_results(folder, study):
            parts.append(_study(results, study, path, quoted))
    if remarks:
        parts.append(Template(_read("remarks.md")).substitute(quoted))
    with whole_file(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    return quoted


def write_readme_section(path: Path, quoted: dict[str, str]) -> None:
    """Replaces the README's section on results; everything else stays.

    Args:
        path: the README.
        quoted: the differences that `write_document` has returned.
    """
    heading, _, body = _read("readme.md").partition("\n")
    before, _, after = path.read_text().partition(f"{heading}\n")
    following = after[after.index("\n## ") :]
    section = f"{heading}\n{Template(body).substitute(quoted)}\n"
    with whole_file(path) as temporary:
        temporary.write_text(before + section + following)


def _read(name: str) -> str:
    return (ROOT / "reproduction" / name).read_text().strip()


def _study(results: Results, study: Study, path: Path, quoted: dict[str, str]) -> str:
    """Returns a study's section; adds the figures that the remarks may quote."""
    bases = [base for base in study.bases if any(run.base == base for run in results)]
    several = len(bases) > 1
    parts = [_read(f"{study.name.removesuffix('-short')}.md"), _runs(results, study)]
    if len(study.learning_rates) > 1:
        parts += ["### Choosing the learning rate", _tuning(results, study)]
    parts.append("### Results")
    for base in bases:
        parts += [f"Base policy {base}:"] if several else []
        parts.append(_policies(results, study, base))
    chosen = _differences(results, study, bases, quoted, _chosen)
    parts += ["Differences, chosen on the development set:", chosen or "No pair of runs has finished yet."]
    for title, pairs in (
        (
            "RLoop over vanilla RL at learning rates that the development set does not choose",
            _over_vanilla_at_other_rates,
        ),
        ("The last policies, at equal learning rates", _last),
    ):
        if table := _differences(results, study, bases, quoted, pairs):
            parts.append(f"<details><summary>{title}</summary>\n\n{table}\n\n</details>")
    for base in bases:
        name = f"{study.name}-{base}.svg"
        draw_budgets(path.parent / path.stem / name, results, study, base)
        parts.append(
            f"![Average and pass@{study.k} over RL steps]({path.stem}/{name})\n\n"
            f"Mean of the test sets over RL steps{f', base policy {base}' if several else ''}, with 95 % bands."
        )
    parts += ["### Training reward and held-out average", _rewards(results, study)]
    if study.ablation_iterations and (ablations := _ablations(results, study, quoted)):
        parts += ["### What drives it", ablations]
    parts += ["### Cost", _cost(results, study)]
    return "\n\n".join(parts)


def _table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (headers, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(headers), *lines[1:]])


def _runs(results: Results, study: Study) -> str:
    """Returns what was run, and what is planned: runs of each kind, how far each seed got, and hours."""
    planned = planned_runs(results, study)
    rows: dict[tuple[str, float, str], list[str]] = {}
    hours: dict[tuple[str, float, str], float] = {}
    for run in sorted({*planned, *results}, key=lambda run: run.seed):
        key = (run.base, run.learning_rate, run.variant)
        done = results[run]["iterations"] if run in results else 0
        rows.setdefault(key, []).append(f"{run.seed}: {done} of {planned.get(run, done)}")
        hours[key] = hours.get(key, 0.0) + (results[run]["hours"] if run in results else 0.0)
    lines = [
        (
            base,
            _changed(variant),
            f"{rate:g}",
            ", ".join(rows[base, rate, variant]),
            f"{hours[base, rate, variant]:.1f}",
        )
        for base, rate, variant in sorted(rows)
    ]
    total = f"{sum(hours.values()):.1f}"
    headers = [
        "base policy",
        "run",
        "RL learning rate",
        "seed: iterations run of those planned",
        f"hours on one core ({total})",
    ]
    return _table(headers, lines)


def _changed(variant: str) -> str:
    return f"RLoop with {' and '.join(f'`{key}`' for key in VARIANTS[variant])}" if variant else "RLoop and vanilla RL"


def _tuning(results: Results, study: Study) -> str:
    rows = []
    for budget in study.budgets:
        for method in METHODS:
            averages = averages_by_rate(results, study, method, budget)
            best = max(averages, key=lambda rate: averages[rate]) if averages else None
            cells = [f"{averages[r]:.3f}" if r in averages else "not run" for r in study.learning_rates]
            bold = [
                f"**{cell}**" if rate == best else cell for rate, cell in zip(study.learning_rates, cells, strict=True)
            ]
            if averages:
                rows.append([budget * study.steps, method.label, *bold])
    headers = ["RL steps", "method", *(f"{rate:g}" for rate in study.learning_rates)]
    note = "avg@n on the development set of the best checkpoint, first seed of the first base policy. Bold: chosen."
    return f"{_table(headers, rows)}\n\n{note}"


def _policies(results: Results, study: Study, base: str) -> str:
    """Returns the table of what each method yields at each budget."""
    policies: list[tuple[str, str, Policy | None]] = [("0", "base policy", None)]
    for budget in study.budgets:
        for method in METHODS:
            if policy := choose(results, study, method, budget):
                policies.append((str(budget * study.steps), f"{method.label}, {policy.rate:g}", policy))
    rows = []
    for steps, label, policy in policies:
        found = [estimate(results, study, base, policy, k) for k in (1, study.k)]
        if found[0] and found[1]:
            per_test = zip(*(by_test(results, study, base, policy, k) for k in (1, study.k)), strict=True)
            cells = [f"{avg:.3f} / {most:.3f}" for avg, most in per_test]
            rows.append([steps, label, found[0][0], found[1][0], *cells, found[0][1]])
    headers = ["RL steps", "method, learning rate", "avg@n", f"pass@{study.k}", *study.tests, "seeds"]
    return _table(headers, rows)


# Names pairs of policies to compare at a budget: by the end of the name to quote them by.
_PairsOf = Callable[[Results, Study, Method, Method, int], dict[str, tuple[Policy, Policy]]]


def _differences(results: Results, study: Study, bases: Sequence[str], quoted: dict[str, str], pairs: _PairsOf) -> str:
    """Returns the table of differences between methods at each budget; empty if no pair of runs has finished yet.

    Args:
        results: results of the study's runs.
        study: the study.
        bases: base policies with runs.
        quoted: gets the figures that the remarks may quote.
        pairs: which policies of two methods to compare.
    """
    rows = []
    for base in bases:
        for budget in study.budgets:
            for one, other in _PAIRS:
                for suffix, pair in pairs(results, study, one, other, budget).items():
                    found = compare(results, study, base, *pair)
                    if found is None:
                        continue
                    rates = dict.fromkeys(f"{policy.rate:g}" for policy in pair)
                    label = f"{one.label} over {other.label}"
                    rows.append([base, budget * study.steps, label, " / ".join(rates), *_cells(found, study.k)])
                    name = f"{study.name} {base} {budget * study.steps} {_short(one)} {_short(other)}{suffix}"
                    _quote(quoted, name, found)
    headers = ["base", "RL steps", "", "learning rate", "avg@n", "seeds won", f"pass@{study.k}", "seeds won"]
    return _table(headers, rows) if rows else ""


def _chosen(
    results: Results, study: Study, one: Method, other: Method, budget: int
) -> dict[str, tuple[Policy, Policy]]:
    """What each method yields: rate and checkpoint chosen on the development set."""
    first, second = (choose(results, study, method, budget) for method in (one, other))
    return {"": (first, second)} if first and second else {}


def _last(_: Results, study: Study, one: Method, other: Method, budget: int) -> dict[str, tuple[Policy, Policy]]:
    """The last policies at each learning rate."""
    return {
        f" {rate:g}": (Policy(one, rate, budget, last=True), Policy(other, rate, budget, last=True))
        for rate in study.learning_rates
    }


def _over_vanilla_at_other_rates(
    results: Results, study: Study, one: Method, other: Method, budget: int
) -> dict[str, tuple[Policy, Policy]]:
    """What a variant of RLoop yields, and vanilla RL's best checkpoints at the rates that are not chosen for it."""
    if other != VANILLA:
        return {}
    return {
        f" at {rate:g}": (first, Policy(VANILLA, rate, budget))
        for first, second in _chosen(results, study, one, other, budget).values()
        for rate in study.learning_rates
        if rate != second.rate
    }


def _cells(found: Comparison, k: int) -> list[str]:
    pairs = [(found.differences[tries].signed, f"{found.won[tries]} of {found.seeds}") for tries in (1, k)]
    return [cell for pair in pairs for cell in pair]


def _short(method: Method) -> str:
    return method.variant or method.kind


def _quote(quoted: dict[str, str], name: str, found: Comparison) -> None:
    """Keeps a comparison's differences and number of seeds, quoted as ${NAME_avg}, ${NAME_pass} and ${NAME_seeds}."""
    name = re.sub(r"\W", "_", name)
    for tries, figure in zip(found.differences, ("avg", "pass"), strict=True):
        quoted[f"{name}_{figure}"] = found.differences[tries].signed
    quoted[f"{name}_seeds"] = str(found.seeds)


def _rewards(results: Results, study: Study) -> str:
    """Returns the table of the mean training reward of RL beside the average on the development set."""
    base, rows = next(iter(study.bases)), []
    for rate in study.learning_rates:
        for method in METHODS:
            key = "vanilla" if method == VANILLA else "explored"
            found = results.get(Run(study.name, base, study.seeds[0], rate, method.variant))
            budgets = [budget for budget in study.budgets if found and found["iterations"] >= budget]
            if found and budgets:
                cells = [
                    f"{found['reward'][key][n - 1]:.2f} / {development_average(found, f'{method.kind}-{n}', study):.2f}"
                    if n in budgets
                    else ""
                    for n in study.budgets
                ]
                rows.append([f"{rate:g}", method.label, *cells])
    headers = ["learning rate", "method", *(f"{budget * study.steps} RL steps" for budget in study.budgets)]
    note = (
        f"Mean reward on the training problems over the last {study.steps} RL steps (RLoop: of that iteration's "
        "exploration) / avg@n of the policy after them on the development set, first seed of the first base policy. "
        "Where the first is well above the second, training problems are known by heart."
    )
    return f"{note}\n\n{_table(headers, rows)}"


def _ablations(results: Results, study: Study, quoted: dict[str, str]) -> str:
    """Returns the table of RLoop with one part changed, against RLoop as it is and against vanilla RL."""
    whole = Policy(AS_PUBLISHED, study.ablation_rate, study.ablation_iterations)
    vanilla = choose(results, study, VANILLA, study.ablation_iterations)
    base, rows = next(iter(study.bases)), []
    for method in (AS_PUBLISHED, *ABLATED):
        changed = replace(whole, method=method)
        estimates = [estimate(results, study, base, changed, k) for k in (1, study.k)]
        if not (vanilla and estimates[0] and estimates[1]):
            continue
        cells = [str(found[0]) for found in estimates if found]
        for name, other in (("rloop", whole), ("vanilla", vanilla)):
            found = compare(results, study, base, changed, other) if changed != other else None
            cells += [found.differences[k].signed if found else "" for k in (1, study.k)]
            if found:
                _quote(quoted, f"{study.name} {_short(method)} {name}", found)
        rows.append([method.label, *cells, estimates[0][1]])
    if len(rows) < 2 or vanilla is None:
        return ""
    most = f"pass@{study.k}"
    note = (
        f"After {study.ablation_iterations * study.steps} RL steps on base policy {base}, learning rate {whole.rate:g} "
        "(without RL: 0), the checkpoint that is best on the development set, over RLoop as the paper has it and over "
        f"vanilla RL at its chosen learning rate, {vanilla.rate:g}."
    )
    headers = ["", "avg@n", most, "over RLoop: avg@n", most, "over vanilla RL: avg@n", most, "seeds"]
    return f"{note}\n\n{_table(headers, rows)}"


def _cost(results: Results, study: Study) -> str:
    """Returns what RFT costs beside RL, and how the experts of all iterations grow."""
    rows = []
    for method in (AS_PUBLISHED, WITH_ALL_EXPERTS, WITH_TWO_EPOCHS):
        of_variant = [found for run, found in results.items() if run.variant == method.variant]
        for budget in study.budgets:
            reached = [found for found in of_variant if found["iterations"] >= budget]
            if reached:
                # Medians, because a machine that did something else in between does not tell what RL costs.
                rl, rft = (
                    median(sum(found["seconds"][stage][:budget]) for found in reached) for stage in ("rl", "rft")
                )
                experts = fmean(found["experts"][budget - 1] for found in reached)
                rows.append(
                    [method.label, budget * study.steps, f"{rl:.0f}", f"{rft:.0f}", f"{rft / rl:.2f}", f"{experts:.0f}"]
                )
    note = (
        "Seconds on one core, medians over runs. At equal RL steps, RLoop takes longer than vanilla RL by the time of "
        "RFT, and by a few seconds per iteration for grading, harvesting and filtering. Vanilla RL was given no extra "
        "steps for it."
    )
    headers = ["method", "RL steps", "RL", "RFT", "RFT / RL", "experts in the last RFT"]
    return f"{note}\n\n{_table(headers, rows)}"
