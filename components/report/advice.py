"""The conclusions of a run: what happened, whether it was worth it, which policy to take, what to try next."""

from statistics import fmean
from typing import Any

from components.report.analysis import benchmark_label

_MEMORISED = 0.1  # growth of the lead of training reward over the held-out average; noise is 0.03 for 160 prompts


def advice(summary: dict[str, Any]) -> list[str]:
    """A few sentences that follow from the figures.

    Args:
        summary: the content of `summary.json`.
    """
    benchmark = summary["chosen_by"]["benchmark"]
    return [
        *_overfitting(summary),
        *_worth(summary),
        *_memorised(summary),
        f"Take {summary['chosen_policy']}, the best policy on {benchmark}. Since {benchmark} selected it, quote its "
        "results on the other benchmarks.",
        *_next(summary),
    ]


def _scores(summary: dict[str, Any], name: str, benchmark: str) -> tuple[float, float, str]:
    policy = next(policy for policy in summary["policies"] if policy["name"] == name)
    e = next(e for e in policy["evaluations"] if e["benchmark"] == benchmark)
    k, value = list(e["pass_at_k"].items())[-1]
    return e["avg"], value, k


def _overfitting(summary: dict[str, Any]) -> list[str]:
    """Whether held-out metrics fell during RL."""
    benchmark, last = summary["chosen_by"]["benchmark"], len(summary["iterations"])
    explored = f"explored-{last}"
    avg, most, k = _scores(summary, explored, benchmark)
    base_avg, base_most, _ = _scores(summary, "base", benchmark)
    if most < base_most - 0.01 and avg > base_avg:
        return [
            f"RL narrows the policy: {explored} is correct more often than the base policy ({avg:.3f} vs. "
            f"{base_avg:.3f} on {benchmark}), but solves fewer problems in {k} attempts ({most:.3f} vs. "
            f"{base_most:.3f})."
        ]
    if avg <= base_avg:
        return [
            f"RL does not raise the held-out average: {explored} scores {avg:.3f} on {benchmark}, the base policy "
            f"{base_avg:.3f}."
        ]
    return [
        f"RL raises the average on {benchmark} from {base_avg:.3f} to {avg:.3f} without losing pass@{k} "
        f"({most:.3f} vs. {base_most:.3f})."
    ]


def _worth(summary: dict[str, Any]) -> list[str]:
    """How the last RLoop policy compares with the base policy and with vanilla RL."""
    said = []
    for kind in ("base", "vanilla", "explored"):
        rows = [c for c in summary["comparisons"] if c["second"].split("-")[0] == kind]
        if not rows or (kind == "explored" and any(c["second"].startswith("vanilla") for c in summary["comparisons"])):
            continue
        other = rows[0]["second"]
        label = rows[-1]["benchmark"]  # all test sets together if there are several
        said.append(
            f"{rows[0]['first']} vs. {other} on {benchmark_label(label)}: "
            + "; ".join(_difference(c) for c in rows if c["second"] == other and c["benchmark"] == label)
            + "."
        )
    return said


def _memorised(summary: dict[str, Any]) -> list[str]:
    """Whether training problems are learned by heart: the policy does ever better on them than on held-out ones."""
    first, last = summary["iterations"][0], summary["iterations"][-1]
    if last is first:
        return []
    (reward, avg), (first_reward, first_avg) = (_at_the_beginning(summary, it) for it in (last, first))
    if (reward - avg) - (first_reward - first_avg) <= _MEMORISED:
        return []
    return [
        f"Training problems are being learned by heart: at the beginning of iteration {last['iteration']}, "
        f"{reward:.2f} of the samples on them were correct, {avg:.2f} on {summary['chosen_by']['benchmark']}; in "
        f"iteration {first['iteration']}, {first_reward:.2f} and {first_avg:.2f}. Use more training problems, fewer "
        "rft.epochs, or fewer iterations."
    ]


def _at_the_beginning(summary: dict[str, Any], iteration: dict[str, Any]) -> tuple[float, float]:
    """Mean reward of the first quarter of an iteration's RL steps, and the held-out average of its initial policy."""
    rewards = [row["reward"] for row in iteration["exploration"]]
    number = iteration["iteration"] - 1
    initial = f"rloop-{number}" if number else "base"
    return fmean(rewards[: max(1, len(rewards) // 4)]), _scores(summary, initial, summary["chosen_by"]["benchmark"])[0]


def _difference(c: dict[str, Any]) -> str:
    low, high = c["interval"]
    figure = c["figure"].replace("avg", "avg@n")
    if low <= 0 <= high:
        return f"{figure} {c['difference']:+.3f} [{low:+.3f}, {high:+.3f}], not distinguishable from 0"
    return f"{figure} {'better' if low > 0 else 'worse'} by {abs(c['difference']):.3f} [{low:+.3f}, {high:+.3f}]"


def _next(summary: dict[str, Any]) -> list[str]:
    tips = []
    last = summary["iterations"][-1]
    steps = [row for row in last["exploration"] if row.get("zero_spread") is not None]
    if steps and sum(row["zero_spread"] for row in steps) / len(steps) > 0.6:
        tips.append(
            "Most groups had zero reward variance, so most samples gave RL no gradient: use problems that the policy "
            "solves about half of the time, or raise rl.group_size."
        )
    cut = [row["truncated"] for row in last["exploration"] if row.get("truncated") is not None]
    if cut and sum(cut) / len(cut) > 0.2:
        tips.append("Many completions were truncated: raise rl.max_completion_tokens.")
    if last["filtering"]["problems"] * 4 < last["harvesting"]["problems"]:
        tips.append(
            "The experts cover less than a quarter of the problems: raise filter.max_success_rate, or run more RL "
            "steps."
        )
    averages = [
        _scores(summary, f"rloop-{it['iteration']}", summary["chosen_by"]["benchmark"])[0]
        for it in summary["iterations"]
    ]
    if len(averages) > 1:
        tips.append(
            "The last iteration still helped: try one more with --iterations; finished stages are reused."
            if averages[-1] > averages[-2] + 0.005
            else "The last iteration helped little, so more of the same are unlikely to help: try other problems or a "
            "lower rl.learning_rate."
        )
    if not any(policy["kind"] == "vanilla" for policy in summary["policies"]):
        tips.append("To see whether plain RL would have done as well, run again with --with-vanilla-rl.")
    return tips
