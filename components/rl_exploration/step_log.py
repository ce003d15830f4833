"""Figures of each RL step: taken from what TRL logs, and drawn."""

from pathlib import Path
from typing import Any

from components.rl_exploration.recorder import CORRECT
from components.shared.reporting import page

# What a step's log holds, under which name TRL logs it, and what the figure says of it.
STEP_FIGURES = {
    "reward": (CORRECT, "mean reward (share correct)"),
    "entropy": ("entropy", "entropy of the policy, nats a token"),
    "zero_spread": ("frac_reward_zero_std", "share of groups without spread"),
    "truncated": ("completions/clipped_ratio", "share of completions cut"),
    "grad_norm": ("grad_norm", "gradient norm before clipping"),
    "mean_tokens": ("completions/mean_length", "tokens a completion"),
}
LOGPROB_DIFFERENCE = "sampling/sampling_logp_difference/mean"  # of a token, between vLLM and the trainer
_REFILLS = ("useful_groups", "sampled_groups")  # of dynamic sampling: share of the batch, and how many
_SOMETIMES = {"logprob_difference": LOGPROB_DIFFERENCE, **{name: name for name in _REFILLS}}


def steps_of(history: list[dict[str, Any]], updates_per_step: int) -> list[dict[str, Any]]:
    """One row of figures an RL step: means over its updates, None where TRL logged nothing.

    TRL logs what concerns the samples at the step's first update alone, the rest at each.
    """
    values: dict[int, dict[str, list[float]]] = {}
    for entry in history:
        step = values.setdefault((entry["step"] - 1) // updates_per_step, {})
        logged_as = {name: logged for name, (logged, _) in STEP_FIGURES.items()} | _SOMETIMES
        for name, logged in logged_as.items():
            if logged in entry:
                step.setdefault(name, []).append(float(entry[logged]))
    return [
        {
            "step": step,
            **{name: _mean(figures.get(name)) for name in STEP_FIGURES},
            **{name: _mean(figures[name]) for name in _SOMETIMES if name in figures},
        }
        for step, figures in sorted(values.items())
        if "reward" in figures
    ]


def _mean(values: list[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def _refills_in_words(steps: list[dict[str, Any]]) -> list[str]:
    if _REFILLS[0] not in steps[0]:
        return []
    useful, sampled = (sum(row[name] for row in steps) / len(steps) for name in _REFILLS)
    return [
        page.note(
            f"Dynamic sampling: {sampled:.1f} groups were sampled a step, and {100 * useful:.0f} % of those that the "
            "policy was trained on had spread."
        )
    ]


def write_page(path: str | Path, iteration: int, steps: list[dict[str, Any]], failed: float) -> None:
    """Writes the steps' figures as plots; `failed` is the share of completions on which the verifier failed."""
    drawing, axes = page.new_figure(11, 5.4, rows=2, columns=3)
    for axis, (name, (_, label)) in zip(axes, STEP_FIGURES.items(), strict=True):
        axis.plot([row["step"] for row in steps], [row[name] for row in steps])
        axis.set_title(label, fontsize=9)
        if label.startswith("share"):
            axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("RL step", fontsize=8)
    page.page(
        path,
        f"RL exploration, iteration {iteration}",
        f"{len(steps)} steps; reward {steps[0]['reward']:.3f} at the first and {steps[-1]['reward']:.3f} at the last.",
        page.figure(drawing, "Figures of each step, over all of its completions."),
        *_refills_in_words(steps),
        *(
            [page.note(f"The verifier failed on {failed:.2%} of the completions, which got no reward.")]
            if failed
            else []
        ),
    )
