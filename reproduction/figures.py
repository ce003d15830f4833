"""The figures of docs/reproduction.md: average and pass@k over RL steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.report.figures import COLOURS
from components.shared.reporting import page
from components.shared.stage import whole_file
from reproduction.comparison import estimate
from reproduction.grid import ALL_EXPERTS, TWO_EPOCHS, Study
from reproduction.methods import METHODS, Policy, choose
from reproduction.results import Results

_STYLES = {
    "vanilla": (COLOURS["vanilla"], "-"),
    "rloop": (COLOURS["rloop"], "-"),
    ALL_EXPERTS: ("#b45309", "--"),
    TWO_EPOCHS: ("#7c3aed", ":"),
}


def draw_budgets(path: Path, results: Results, study: Study, base: str) -> None:
    """Draws average and pass@k of each method over RL steps, with 95 % bands.

    The first column shows what each method yields within that many steps: learning rate and checkpoint chosen on the
    development set. The other columns show the last policies at each learning rate.
    """
    of_base = {run: found["iterations"] for run, found in results.items() if run.base == base}
    rates = [r for r in study.learning_rates if any(run.learning_rate == r for run in of_base)]
    drawing, axes = page.new_figure(3.2 * (1 + len(rates)), 6, rows=2, columns=1 + len(rates))
    for row, k in enumerate((1, study.k)):
        of_row = axes[row * (1 + len(rates)) :][: 1 + len(rates)]
        for axis in of_row[1:]:
            axis.sharey(of_row[0])
        for method in METHODS:
            chosen = {n: choose(results, study, method, n) for n in _points(study.budgets)}
            _draw(of_row[0], results, study, base, k, chosen)
            for axis, rate in zip(of_row[1:], rates, strict=True):
                last = {n: Policy(method, rate, n, last=True) for n in _points(study.budgets)}
                _draw(axis, results, study, base, k, last)
        of_row[0].set_ylabel("avg@n" if k == 1 else f"pass@{k}")
    for axis in axes:
        axis.set_xlim(0, max(of_base.values()) * study.steps)
    titles = ["chosen on the development set", *(f"last policy, learning rate {rate:g}" for rate in rates)]
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=9)
    for axis in axes[1 + len(rates) :]:
        axis.set_xlabel("RL steps")
    axes[0].legend(frameon=False, fontsize=8)
    _save(drawing, path)


def _draw(axis: Any, results: Results, study: Study, base: str, k: int, policies: Mapping[int, Policy | None]) -> None:
    """Draws one method's curve from its policies by number of iterations, as far as a run has got."""
    of_base = estimate(results, study, base, None, k)
    found = [(0, of_base[0])] if of_base else []
    for budget, policy in policies.items():
        if policy and (of_seeds := estimate(results, study, base, policy, k)):
            found.append((budget * study.steps, of_seeds[0]))
    if len(found) < 2:
        return
    method = next(policy.method for policy in policies.values() if policy)
    steps = [step for step, _ in found]
    colour, line = _STYLES[method.variant or method.kind]
    axis.plot(steps, [e.value for _, e in found], line, color=colour, label=method.label, linewidth=1.5)
    axis.fill_between(
        steps, [e.low for _, e in found], [e.high for _, e in found], color=colour, alpha=0.12, linewidth=0
    )


def _points(budgets: Sequence[int]) -> list[int]:
    """Returns the numbers of iterations to draw: every one up to 6, every other one up to 12, then every third."""
    return [n for n in range(1, max(budgets) + 1) if n <= 6 or (n <= 12 and n % 2 == 0) or n % 3 == 0]


def _save(drawing: Any, path: Path) -> None:
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "rloop"}), whole_file(path) as temporary:
        drawing.savefig(temporary, format="svg", bbox_inches="tight", metadata={"Date": None})
