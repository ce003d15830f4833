"""Analyses across policies: paired comparisons, and what was forgotten."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from components.shared.reporting.pass_at_k import paired_comparison, pass_at_k

ProblemCounts = dict[str, dict[str, list[int]]]  # benchmark -> samples and correct ones of each problem
TOGETHER = "test sets together"  # in place of a benchmark's name, as summary.json has it


def benchmark_label(name: str) -> str:
    """A benchmark's name for display."""
    return "all test sets" if name == TOGETHER else name


def by_problem(policy: dict[str, Any]) -> ProblemCounts:
    """A policy's number of samples and of correct ones for each problem, from its evaluation."""
    return {e["benchmark"]: e["by_problem"] for e in policy["evaluations"]}


def compare_policies(
    policies: list[dict[str, Any]], problems: dict[str, ProblemCounts], validation: str, seed: int
) -> list[dict[str, Any]]:
    """Compares the last RLoop policy with the other policies, problem by problem.

    The others are the base policy, the explored policy of the same iteration, vanilla RL after as many steps, and the
    best vanilla policy by avg@n on the validation benchmark, which is what stopping in time would have given.

    Args:
        policies: policies with their evaluations, in order.
        problems: counts by problem, by policy.
        validation: name of the benchmark on which policies are chosen.
        seed: of the bootstrap.

    Returns:
        For each pair, benchmark and figure (avg, pass@K): the difference, its interval, and the probability that RLoop
        is better.
    """
    last = [policy for policy in policies if policy["kind"] == "rloop"][-1]
    vanilla = [policy for policy in policies if policy["kind"] == "vanilla"]
    others = [policies[0]["name"], f"explored-{last['iteration']}"]
    others += [policy["name"] for policy in vanilla[-1:]]
    if vanilla:
        best = max(vanilla, key=lambda policy: _average(policy, validation))
        others += [best["name"]] if best is not vanilla[-1] else []
    names = list(problems[last["name"]])
    groups = {name: [name] for name in names}
    if len(names) > 2:
        groups[TOGETHER] = [name for name in names if name != validation]
    most = {e["benchmark"]: int(list(e["pass_at_k"])[-1]) for e in last["evaluations"]}
    comparisons = []
    for other in others:
        for label, benchmarks in groups.items():
            k = min(most[name] for name in benchmarks)
            for figure, tries in (("avg", 1), (f"pass@{k}", k)):
                first, second = _paired(problems[last["name"]], problems[other], benchmarks, tries)
                if not len(first):
                    continue
                found = paired_comparison(first, second, seed)
                comparisons.append(
                    {
                        "first": last["name"],
                        "second": other,
                        "benchmark": label,
                        "figure": figure,
                        "difference": found.difference,
                        "relative": found.difference / second.mean() if second.mean() else None,
                        "interval": list(found.interval),
                        "probability": found.probability,
                        "problems": found.problems,
                    }
                )
    return comparisons


def _average(policy: dict[str, Any], benchmark: str) -> float:
    return next(float(e["avg"]) for e in policy["evaluations"] if e["benchmark"] == benchmark)


def _paired(
    first: ProblemCounts, second: ProblemCounts, benchmarks: Iterable[str], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """pass@k of both policies on every problem for which both have at least k samples; avg@n is pass@1."""
    values: list[tuple[float, float]] = []
    for name in benchmarks:
        a, b = first[name], second[name]
        values += [
            (pass_at_k(n, c, k), pass_at_k(m, d, k))
            for n, c, m, d in zip(a["samples"], a["correct"], b["samples"], b["correct"], strict=True)
            if min(n, m) >= k
        ]
    table = np.array(values).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def lost(solved: list[list[bool]]) -> list[list[float]]:
    """What each policy solves and each other one does not, as shares of all problems.

    Args:
        solved: whether a policy solves a problem, policies x problems.

    Returns:
        Square matrix: row i, column j is the share of problems that policy i solves and policy j does not.
    """
    table = np.array(solved, dtype=bool)
    return [[float((earlier & ~later).mean()) for later in table] for earlier in table]


def forgetting(problems: dict[str, ProblemCounts]) -> dict[str, Any]:
    """The matrix of problems that one of the run's policies solves and another does not, over all benchmarks.

    A problem counts as solved if at least one of its samples is correct.
    """
    solved = [[c > 0 for counts in policy.values() for c in counts["correct"]] for policy in problems.values()]
    return {"policies": list(problems), "problems": len(solved[0]), "lost": lost(solved)}


def forgetting_over_steps(iterations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same for the intermediate checkpoints, one matrix per RL run; vanilla RL's is of no iteration."""
    runs: list[tuple[str, int | None, list[dict[str, Any]]]] = []
    for iteration in iterations:
        runs.append((f"RL of iteration {iteration['iteration']}", iteration["iteration"], iteration["curve"]))
    if any(iteration["vanilla"] for iteration in iterations):
        runs.append(("vanilla RL", None, vanilla_curve(iterations)))
    return [
        {
            "run": name,
            "iteration": number,
            "steps": [point["step"] for point in points],
            "benchmarks": [e["benchmark"] for e in points[0]["evaluations"]],
            "problems": sum(len(e["by_problem"]["correct"]) for e in points[0]["evaluations"]),
            "lost": lost([[c > 0 for e in p["evaluations"] for c in e["by_problem"]["correct"]] for p in points]),
        }
        for name, number, points in runs
        if points
    ]


def vanilla_curve(iterations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curve of the one long RL run: iteration 1's exploration and the segments that continue it."""
    points: list[dict[str, Any]] = list(iterations[0]["curve"])
    for iteration in iterations:
        points += iteration["vanilla"]["curve"] if iteration["vanilla"] else []
    return points


def vanilla_steps(iterations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of each step of the one long RL run."""
    steps: list[dict[str, Any]] = list(iterations[0]["exploration"])
    for iteration in iterations:
        steps += iteration["vanilla"]["exploration"] if iteration["vanilla"] else []
    return steps
