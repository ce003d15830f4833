"""The methods that are compared, and what each one yields within a budget: settings and checkpoint, chosen on `dev`."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from launch.analysis.seeds import values
from reproduction.grid import ALL_EXPERTS, EASY_TOO, FROM_EXPLORED, NO_RL, RLOOP, TWO_EPOCHS, Run, Study, tuning_runs
from reproduction.results import Results, counts


@dataclass(frozen=True)
class Method:
    """A way to train: one kind of policy of the runs of one variant."""

    label: str
    kind: str  # of the policies: vanilla or rloop
    variant: str


VANILLA = Method("vanilla RL", "vanilla", RLOOP)
AS_PUBLISHED = Method("RLoop", "rloop", RLOOP)
WITH_ALL_EXPERTS = Method("RLoop, all experts", "rloop", ALL_EXPERTS)
WITH_TWO_EPOCHS = Method("RLoop, 2 epochs of RFT", "rloop", TWO_EPOCHS)
METHODS = (VANILLA, AS_PUBLISHED, WITH_ALL_EXPERTS, WITH_TWO_EPOCHS)
ABLATED = (
    Method("without RL: learning rate 0", "rloop", NO_RL),
    Method("RFT from the explored policy", "rloop", FROM_EXPLORED),
    Method("easy problems too", "rloop", EASY_TOO),
)


@dataclass(frozen=True)
class Policy:
    """What a method yields: a policy of every run with this learning rate."""

    method: Method
    rate: float
    budget: int  # iterations
    last: bool = False  # the last policy within the budget, not the one that is best on the development set

    def of(self, found: dict[str, Any], study: Study) -> str:
        """Returns the policy's name in a run's results."""
        names = [f"{self.method.kind}-{number}" for number in range(1, self.budget + 1)]
        if self.last:
            return names[-1]
        return max(names, key=lambda name: development_average(found, name, study))  # the first of equals


def development_average(found: dict[str, Any], policy: str, study: Study) -> float:
    """Returns a policy's avg@n on the development set."""
    return float(np.nanmean(values(counts(found, policy), study.development, 1)))


def averages_by_rate(results: Results, study: Study, method: Method, budget: int) -> dict[float, float]:
    """Returns, by learning rate, the average on the development set of the run that settings are chosen with."""
    base = next(iter(study.bases))
    averages = {}
    for rate in study.learning_rates:
        found = results.get(Run(study.name, base, study.seeds[0], rate, method.variant))
        if found and found["iterations"] >= budget:
            policy = Policy(method, rate, budget).of(found, study)
            averages[rate] = development_average(found, policy, study)
    return averages


def choose(results: Results, study: Study, method: Method, budget: int) -> Policy | None:
    """Returns what a method yields with the learning rate that is best on the development set; None without runs."""
    averages = averages_by_rate(results, study, method, budget)
    return Policy(method, max(averages, key=lambda rate: averages[rate]), budget) if averages else None


def chosen_rates(results: Results, study: Study, variant: str) -> set[float]:
    """Returns the learning rates that a method of the variant has chosen at a budget of the other seeds' runs."""
    methods = [method for method in METHODS if method.variant == variant]
    budgets = [budget for budget in study.budgets if budget <= study.further_iterations]
    found = (choose(results, study, method, budget) for method in methods for budget in budgets)
    return {policy.rate for policy in found if policy}


def planned_runs(results: Results, study: Study) -> dict[Run, int]:
    """Returns all runs of a study and their iterations, with the learning rates that the results so far choose."""
    planned = tuning_runs(study)
    for variant in study.variants:
        for base, seed, rate in product(study.bases, study.seeds, sorted(chosen_rates(results, study, variant))):
            planned.setdefault(Run(study.name, base, seed, rate, variant), study.further_iterations)
    if study.ablation_iterations:
        base = next(iter(study.bases))
        for method, seed in product((AS_PUBLISHED, *ABLATED), study.seeds):
            run = Run(study.name, base, seed, study.ablation_rate, method.variant)
            planned[run] = max(study.ablation_iterations, planned.get(run, 0))
    return planned


def figures_by_seed(
    results: Results, study: Study, base: str, policies: Sequence[Policy | None], k: int
) -> list[list[np.ndarray]]:
    """Returns pass@k of policies, for each seed with runs of all of them.

    Args:
        results: results of the study's runs.
        study: the study.
        base: base policy of the runs.
        policies: the policies; None for the base policy itself.
        k: of pass@k; 1 gives avg@n.

    Returns:
        For each seed, for each test set, an array of shape (policies, problems).
    """
    by_seed = []
    for seed in study.seeds:
        of_seed = []
        for policy in policies:
            if policy is None:
                found = next((r for run, r in results.items() if (run.base, run.seed) == (base, seed)), None)
                of_seed.append(counts(found, "base") if found else None)
                continue
            found = results.get(Run(study.name, base, seed, policy.rate, policy.method.variant))
            finished = found is not None and found["iterations"] >= policy.budget
            of_seed.append(counts(found, policy.of(found, study)) if found and finished else None)
        if all(of_seed):
            by_seed.append([np.stack([values(c, test, k) for c in of_seed if c]) for test in study.tests])
    return by_seed
