"""Figures of each RL step, from TRL's logs, and their plots."""

from pathlib import Path
from typing import Any

from components.rl_exploration.recorder import CORRECT
from components.shared.reporting import page

# Each figure of a step: the name under which TRL logs it, and the title of its plot.
STEP_FIGURES = {
    "reward": (CORRECT, "mean reward (share correct)"),
    "entropy": ("entropy", "entropy of the policy, nats per token"),
    "zero_spread": ("frac_reward_zero_std", "share of groups with equal rewards"),
    "truncated": ("completions/clipped_ratio", "share of truncated completions"),
    "grad_norm": ("grad_norm", "gradient norm before clipping"),
    "mean_tokens": ("completions/mean_length", "tokens per completion"),
}
LOGPROB_DIFFERENCE = "sampling/sampling_logp_difference/mean"  # per token, between vLLM and the trainer
_RESAMPLING = ("useful_groups", "sampled_groups")  # of dynamic sampling: share of the batch, and number
_OPTIONAL = {"logprob_difference": LOGPROB_DIFFERENCE, **{name: name for name in _RESAMPLING}}


def steps_of(history: list[dict[str, Any]], updates_per_step: int) -> list[dict[str, Any]]:
    """Returns one row of figures per RL step: means over its updates, None if TRL logged nothing.

    TRL logs figures of the samples only at the step's first update, the others at each.

    Args:
        history: The trainer's log history.
        updates_per_step: Optimiser updates per RL step.
    """
    values: dict[int, dict[str, list[float]]] = {}
    for entry in history:
        step = values.setdefault((entry["step"] - 1) // updates_per_step, {})
        logged_as = {name: logged for name, (logged, _) in STEP_FIGURES.items()} | _OPTIONAL
        for name, logged in logged_as.items():
            if logged in entry:
                step.setdefault(name, []).append(float(entry[logged]))
    return [
        {
            "step": step,
            **{name: _mean(figures.get(name)) for name in STEP_FIGURES},
            **{name: _mean(figures[name]) for name in _OPTIONAL if name in figures},
        }
        for step, figures in sorted(values.items())
        if "reward" in figures
    ]


def _mean(values: list[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def _resampling_note(steps: list[dict[str, Any]]) -> list[str]:
    if _RESAMPLING[0] not in steps[0]:
        return []
    useful, sampled = (sum(row[name] for row in steps) / len(steps) for name in _RESAMPLING)
    return [
        page.note(
            f"Dynamic sampling: {sampled:.1f} groups were sampled per step; in {100 * useful:.0f} % of those that the "
            "policy was trained on, the rewards differed."
        )
    ]


def write_page(path: str | Path, iteration: int, steps: list[dict[str, Any]], failed: float) -> None:
    """Writes the steps' figures as plots.

    Args:
        path: HTML file to write.
        iteration: Iteration of RLoop, from 1.
        steps: As returned by steps_of.
        failed: Share of the completions on which the verifier failed.
    """
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
        f"{len(steps)} steps; reward {steps[0]['reward']:.3f} in the first and {steps[-1]['reward']:.3f} in the last.",
        page.figure(drawing, "Figures of each step, over all its completions."),
        *_resampling_note(steps),
        *(
            [page.note(f"The verifier failed on {failed:.2%} of the completions, which got no reward.")]
            if failed
            else []
        ),
    )
