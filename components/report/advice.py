"""What a person should take from a run: what happened, whether it was worth it, what to take and to try next."""

from typing import Any


def advice(summary: dict[str, Any]) -> list[str]:
    """A few sentences that follow from the figures.

    Args:
        summary: as `summary.json` holds it.
    """
    return [
        *_overfitting(summary),
        *_worth(summary),
        f"Take {summary['chosen_policy']}: the best on {summary['chosen_by']['benchmark']}, which chooses and should "
        "not be quoted; quote the other benchmarks.",
        *_next(summary),
    ]


def _figures(summary: dict[str, Any], name: str, benchmark: str) -> tuple[float, float, str]:
    policy = next(policy for policy in summary["policies"] if policy["name"] == name)
    e = next(e for e in policy["evaluations"] if e["benchmark"] == benchmark)
    k, value = list(e["pass_at_k"].items())[-1]
    return e["avg"], value, k


def _overfitting(summary: dict[str, Any]) -> list[str]:
    """Whether RL's reward rose while held-out figures fell."""
    benchmark, last = summary["chosen_by"]["benchmark"], len(summary["iterations"])
    explored = f"explored-{last}"
    avg, most, k = _figures(summary, explored, benchmark)
    base_avg, base_most, _ = _figures(summary, "base", benchmark)
    if most < base_most - 0.01 and avg > base_avg:
        return [
            f"RL narrows the policy: {explored} answers more often than the base policy ({avg:.3f} against "
            f"{base_avg:.3f} on {benchmark}), but solves fewer problems in {k} tries ({most:.3f} against "
            f"{base_most:.3f})."
        ]
    if avg <= base_avg:
        return [
            f"RL does not raise the held-out average: {explored} has {avg:.3f} on {benchmark}, the base policy "
            f"{base_avg:.3f}."
        ]
    return [
        f"RL raises the average on {benchmark} from {base_avg:.3f} to {avg:.3f} and keeps pass@{k} "
        f"({most:.3f} against {base_most:.3f})."
    ]


def _worth(summary: dict[str, Any]) -> list[str]:
    """How the last RLoop policy stands against the base policy and against vanilla RL."""
    said = []
    for kind in ("base", "vanilla", "explored"):
        rows = [c for c in summary["comparisons"] if c["second"].split("-")[0] == kind]
        if not rows or (kind == "explored" and any(c["second"].startswith("vanilla") for c in summary["comparisons"])):
            continue
        other = rows[0]["second"]
        label = rows[-1]["benchmark"]  # all test sets together where there are several
        said.append(
            f"{rows[0]['first']} against {other} on {label}: "
            + "; ".join(_difference(c) for c in rows if c["second"] == other and c["benchmark"] == label)
            + "."
        )
    return said


def _difference(c: dict[str, Any]) -> str:
    low, high = c["interval"]
    figure = c["figure"].replace("avg", "avg@n")
    if low <= 0 <= high:
        return f"{figure} {c['difference']:+.3f}, which these problems cannot tell from 0 [{low:+.3f}, {high:+.3f}]"
    return f"{figure} {'better' if low > 0 else 'worse'} by {abs(c['difference']):.3f} [{low:+.3f}, {high:+.3f}]"


def _next(summary: dict[str, Any]) -> list[str]:
    tips = []
    last = summary["iterations"][-1]
    steps = [row for row in last["exploration"] if row.get("zero_spread") is not None]
    if steps and sum(row["zero_spread"] for row in steps) / len(steps) > 0.6:
        tips.append(
            "Most groups had no spread, so that most samples taught RL nothing: give problems that the policy half "
            "solves, or raise rl.group_size."
        )
    cut = [row["truncated"] for row in last["exploration"] if row.get("truncated") is not None]
    if cut and sum(cut) / len(cut) > 0.2:
        tips.append("Many completions were cut: raise rl.max_completion_tokens.")
    if last["filtering"]["problems"] * 4 < last["harvesting"]["problems"]:
        tips.append(
            "The experts come from less than a quarter of the problems: raise filter.max_success_rate, or give RL more "
            "steps."
        )
    averages = [
        _figures(summary, f"rloop-{it['iteration']}", summary["chosen_by"]["benchmark"])[0]
        for it in summary["iterations"]
    ]
    if len(averages) > 1:
        tips.append(
            "The last iteration still helped: try one more (--iterations; finished stages are kept)."
            if averages[-1] > averages[-2] + 0.005
            else "The last iteration helped little: more iterations of the same will hardly; try other problems, or a "
            "lower rl.learning_rate."
        )
    if not any(policy["kind"] == "vanilla" for policy in summary["policies"]):
        tips.append("Whether plain RL would have done as well: run again with --with-vanilla-rl.")
    return tips
