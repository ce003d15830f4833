"""The comparison's statistics, and the comparison itself in reduced size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.shared.stage import write_json
from launch.analysis.seeds import average, difference, over_seeds_and_problems, relative, values
from reproduction.cross_fitting import choose_by_half, cross_fitted
from reproduction.grid import Grid, Run, results_of
from reproduction.run import choose, reproduce


def test_figures_by_hand() -> None:
    counts = {"b": {"samples": [4, 4], "correct": [1, 4]}}
    assert values(counts, "b", 1).tolist() == [0.25, 1.0] and values(counts, "b", 4).tolist() == [1.0, 1.0]
    # two seeds, two benchmarks of unequal size, two policies
    small, large = np.array([[0.5], [0.25]]), np.array([[0.1, 0.3], [0.2, 0.2]])
    runs = [[small, large], [small + 0.1, large]]
    assert over_seeds_and_problems(runs, average).value == pytest.approx((0.55 + 0.2) / 2)
    assert over_seeds_and_problems(runs, difference).value == pytest.approx((0.25 + 0.0) / 2)
    assert over_seeds_and_problems(runs, relative).value == pytest.approx(0.125 / ((0.3 + 0.2) / 2))


def test_a_problem_with_too_few_judged_samples_is_left_out_of_all() -> None:
    counts = {"b": {"samples": [4, 2, 4], "correct": [1, 2, 4]}}
    most = values(counts, "b", 4)
    assert np.isnan(most[1]) and most[[0, 2]].tolist() == [1.0, 1.0]
    other = np.array([0.5, 0.9, 0.5])
    assert over_seeds_and_problems([[np.stack([most, other])], [np.stack([most, other])]], difference).value == 0.5


def test_what_is_measured_on_a_half_was_chosen_on_the_other() -> None:
    def results(rloop: list[int], vanilla: list[int]) -> dict[str, Any]:
        policies = [{"name": f"{kind}-1", "kind": kind} for kind in ("rloop", "vanilla")]
        problems = {
            f"{kind}-1": {"t": {"samples": [10] * 4, "correct": correct}}
            for kind, correct in (("rloop", rloop), ("vanilla", vanilla))
        }
        return {"summary": {"policies": policies}, "problems": problems}

    # RLoop is best at the low rate on problems 0 and 2, and at the high one on 1 and 3; vanilla RL always at the low.
    low, high = results([9, 1, 9, 1], [5, 5, 5, 5]), results([2, 8, 2, 8], [4, 4, 4, 4])
    found = {Run("A", seed, rate): r for seed in (1, 2) for rate, r in ((1e-4, low), (3e-4, high))}
    grid = Grid((1e-4, 3e-4), (1,), {"A": (1, 2)}, controls=False, variants=False)
    assert choose_by_half(found, grid, ["t"]) == [
        [1e-4, 1e-4],
        [3e-4, 1e-4],
    ]
    for run in cross_fitted(found, grid, ["t"], "A", 1):
        assert run[0] == pytest.approx(np.array([[0.2, 0.1, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5]]))


def test_intervals_take_seeds_and_problems_into_account() -> None:
    """Five seeds that differ as much as problems do: the difference's intervals have about the promised coverage."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(50):
        runs = []
        problems = [rng.uniform(0, 1, 60) for _ in range(2)]
        for _ in range(5):
            effect = 0.1 + rng.normal(0, 0.05)  # of the seed
            runs.append([np.stack([p + effect + rng.normal(0, 0.1, 60), p + rng.normal(0, 0.1, 60)]) for p in problems])
        found = over_seeds_and_problems(runs, difference, seed=trial)
        covered += found.low <= 0.1 <= found.high
    # With five seeds a percentile bootstrap is known to be too narrow; problems alone would cover about 40 %.
    assert 39 <= covered <= 48


def test_a_run_with_other_settings_is_made_again(tmp_path: Path) -> None:
    run = Run("A", 1, 3e-4)
    write_json(tmp_path / "results" / f"{run.name}.json", {"settings": run.settings(), "summary": {}})
    assert results_of(run, tmp_path)
    assert results_of(Run("A", 1, 3e-4, ("rl.steps=2",)), tmp_path) is None
    assert results_of(Run("A", 2, 3e-4), tmp_path) is None


def test_the_learning_rate_is_chosen_on_the_development_set_for_each_method(tmp_path: Path) -> None:
    def results(run: Run, vanilla: float, rloop: float) -> dict[str, Any]:
        policies = [
            {"name": f"{kind}-1", "kind": kind, "evaluations": [{"benchmark": "dev", "avg": avg}]}
            for kind, avg in (("vanilla", vanilla), ("rloop", rloop))
        ]
        return {"settings": run.settings(), "summary": {"policies": policies}}

    runs = [Run("A", seed, rate) for seed in (1, 2) for rate in (1e-4, 3e-4)]
    for run, figures in zip(runs, ((0.5, 0.3), (0.2, 0.4), (0.3, 0.4), (0.4, 0.5)), strict=True):
        write_json(tmp_path / "results" / f"{run.name}.json", results(run, *figures))
    assert choose(runs, tmp_path) == {"vanilla": 1e-4, "rloop": 3e-4}


@pytest.mark.slow
def test_the_comparison_in_a_reduced_size(tmp_path: Path) -> None:
    changes = (
        "iterations=1",
        "rl.steps=4",
        "rl.snapshot_every=2",
        "rl.prompts_per_step=8",
        "rl.group_size=8",
        "filter.max_success_rate=1.0",
        "rft.epochs=1",
        "eval.samples=32",
        "eval.curve_samples=4",
        "eval.curve_problems=5",
        "data.benchmarks={dev: 'countdown://dev?count=8', test: 'countdown://test?count=8&seed=3', "
        "four: 'countdown://test?numbers=4&count=8', large: 'countdown://test?low=10&high=20&count=8'}",
    )
    grid = Grid((3e-4,), (1,), {"A": (1,)}, controls=False, variants=True, changes=changes)
    document = tmp_path / "docs" / "reproduction.md"
    reproduce(grid, tmp_path / "runs", document, jobs=1)
    text = document.read_text()
    for words in (
        "RLoop, all experts, 0.0003",
        "`experts_from=all`",
        "RLoop, all experts, over vanilla RL, tuned",
        "vanilla RL, 0.0003",
        "RLoop, 0.0003",
        "same learning rate",
        "reached",
        "RFT takes",
    ):
        assert words in text, words
    assert "of the planned" not in text and "nan" not in text
    assert all(
        (tmp_path / "docs" / "reproduction" / name).stat().st_size > 5000 for name in ("plane.svg", "course.svg")
    )
    made = (tmp_path / "runs" / "results" / "A-seed1-lr0.0003.json").stat().st_mtime
    reproduce(grid, tmp_path / "runs", document, jobs=1)
    assert (tmp_path / "runs" / "results" / "A-seed1-lr0.0003.json").stat().st_mtime == made, "nothing is made twice"
    assert document.read_text() == text
