"""The methods that are compared: which policy of which runs each one is, and which pairs are set against each other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reproduction.grid import SAME_RATE, VARIANTS, Results, last_policy

TESTS = ("test", "four", "large")  # benchmarks that results are reported on
K = 32  # of pass@k
KS = (1, K)  # avg@n and pass@k
# Ends of the labels of comparisons, by which the targets find them.
SAME_RATE_LABEL = "vanilla RL, same learning rate and RL steps"
TUNED_LABEL = "both tuned with the same number of runs"
ALL_KINDS_LABEL = "both tuned on problems of all kinds (cross-fitted)"


@dataclass(frozen=True)
class Method:
    """One row of the tables: a policy of the runs with one learning rate."""

    label: str
    rate: float
    policy: Callable[[dict[str, Any]], str]  # returns the policy's name in a run's results
    variant: str = ""  # of the run


@dataclass(frozen=True)
class Pair:
    """Two methods, by name, and the label of their difference."""

    one: str
    other: str
    label: str


def variants_with_runs(results: Results) -> list[str]:
    """Returns the variants that have finished runs."""
    return [variant for variant in VARIANTS if any(run.variant == variant for run in results)]


def methods_by_name(chosen: dict[str, float], results: Results) -> dict[str, Method]:
    """Returns all methods, by name.

    Args:
        chosen: by method, the learning rate chosen on the development set.
        results: results of the finished runs.
    """
    vanilla, rloop = chosen["vanilla"], chosen["rloop"]
    methods = {
        "base": Method("base policy", SAME_RATE, _last("base")),
        "vanilla": Method(f"vanilla RL, {SAME_RATE:g}", SAME_RATE, _last("vanilla")),
        "vanilla best": Method(f"vanilla RL, {SAME_RATE:g}, best checkpoint", SAME_RATE, _best_on_dev("vanilla")),
        "rloop": Method(f"RLoop, {SAME_RATE:g}", SAME_RATE, _last("rloop")),
        "vanilla tuned": Method(f"vanilla RL, tuned ({vanilla:g})", vanilla, _last("vanilla")),
        "vanilla tuned best": Method(
            f"vanilla RL, tuned ({vanilla:g}), best checkpoint", vanilla, _best_on_dev("vanilla")
        ),
        "rloop tuned": Method(f"RLoop, tuned ({rloop:g})", rloop, _last("rloop")),
        "control": Method("RLoop without RL (learning rate 0)", 0.0, _last("rloop")),
    }
    for variant in variants_with_runs(results):
        methods[variant] = Method(f"RLoop, {variant}, {SAME_RATE:g}", SAME_RATE, _last("rloop"), variant)
    return methods


def pairs_to_compare(results: Results) -> list[Pair]:
    """Returns the pairs of methods whose differences are reported."""
    pairs = [
        Pair("rloop", "vanilla", f"RLoop over {SAME_RATE_LABEL}"),
        Pair("rloop tuned", "vanilla tuned", f"RLoop over vanilla RL, {TUNED_LABEL}"),
        Pair("rloop tuned", "vanilla tuned best", "RLoop over vanilla RL, both tuned, vanilla RL stopped early"),
        Pair("rloop", "control", "RLoop over RLoop without RL: what exploration adds to filtered fine-tuning"),
    ]
    for variant in variants_with_runs(results):
        label = f"RLoop, {variant}"
        pairs += [
            Pair(variant, "vanilla", f"{label}, over {SAME_RATE_LABEL}"),
            Pair(variant, "vanilla tuned", f"{label}, over vanilla RL, tuned"),
            Pair(variant, "rloop", f"{label}, over RLoop, same learning rate and RL steps"),
            Pair(variant, "rloop tuned", f"{label}, over RLoop, tuned"),
        ]
    return pairs


def _last(kind: str) -> Callable[[dict[str, Any]], str]:
    """Selects the last policy of a kind."""
    return lambda results: str(last_policy(results, kind)["name"])


def _best_on_dev(kind: str) -> Callable[[dict[str, Any]], str]:
    """Selects the policy of a kind that is best on the development set: early stopping."""

    def find(results: dict[str, Any]) -> str:
        policies = [p for p in results["summary"]["policies"] if p["kind"] == kind]
        return str(
            max(policies, key=lambda p: next(e["avg"] for e in p["evaluations"] if e["benchmark"] == "dev"))["name"]
        )

    return find
