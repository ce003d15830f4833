"""Comparing runs with different seeds."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from components.shared.stage import write_json
from pipeline import main


@pytest.fixture
def make_run(tmp_path: Path) -> Any:
    def make(name: str, seed: int, correct: dict[str, list[int]], problems: int = 4) -> str:
        evaluations = [{"benchmark": b, "n": 4, "pass_at_k": {"1": 0, "4": 0}} for b in ("dev", "test")]
        write_json(
            tmp_path / name / "summary.json",
            {
                "chosen_by": {"benchmark": "dev"},
                "policies": [{"name": "base", "evaluations": evaluations}],
                "settings": {"seed": seed},
            },
        )
        counts = {
            policy: {b: {"samples": [4] * problems, "correct": numbers[:problems]} for b in ("dev", "test")}
            for policy, numbers in correct.items()
        }
        write_json(tmp_path / name / "problems.json", counts)
        return str(tmp_path / name)

    return make


def test_means_spread_and_differences(make_run: Any) -> None:
    one = make_run("one", 1, {"base": [0, 0, 2, 2], "rloop-1": [2, 2, 4, 4], "vanilla-1": [4, 4, 0, 0]})
    two = make_run(
        "two", 2, {"base": [0, 0, 0, 4], "rloop-1": [4, 4, 4, 4], "vanilla-1": [4, 4, 0, 0], "rloop-2": [0] * 4}
    )
    result = CliRunner().invoke(main, ["compare", one, two])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "2 runs, seeds 1, 2" in text
    assert "0.875" in text and "±0.177" in text, "the mean of .75 and 1, and their standard deviation"
    assert "rloop-2" not in text, "one of the runs has no second iteration"
    assert "rloop-1 over base avg@n +0.625 [" in text and "better in 2 of 2 runs" in text
    assert "rloop-1 over vanilla-1 avg@n +0.375 [" in text and "mean of test; 95 %" in text


def test_what_both_methods_yield_if_stopped_in_time(make_run: Any) -> None:
    rising = {"base": [0, 0, 0, 0], "rloop-1": [1, 1, 1, 1], "vanilla-1": [2, 2, 2, 2]}
    one = make_run("one", 1, rising | {"rloop-2": [2, 2, 2, 2], "vanilla-2": [0, 0, 0, 0]})
    two = make_run("two", 2, rising | {"rloop-2": [0, 0, 0, 0], "vanilla-2": [3, 3, 3, 3]})
    text = " ".join(CliRunner().invoke(main, ["compare", one, two]).output.split())
    assert "rloop-2 over vanilla-2 avg@n -0.125 [" in text
    best = "best on dev: rloop-2, rloop-1 over vanilla-1, vanilla-2"
    assert f"{best} avg@n -0.250 [" in text, "0 of 4 and -2 of 4"


def test_of_long_runs_a_few_iterations_are_listed(make_run: Any) -> None:
    policies = {"base": [0] * 4} | {f"rloop-{number}": [1] * 4 for number in range(1, 13)}
    output = CliRunner().invoke(main, ["compare", make_run("one", 1, policies), make_run("two", 2, policies)]).output
    listed = [line.split()[0] for line in output.splitlines() if line.startswith("rloop-") and "over" not in line]
    assert listed == ["rloop-1", "rloop-5", "rloop-8", "rloop-12"]


def test_runs_that_cannot_be_compared(make_run: Any, tmp_path: Path) -> None:
    one = make_run("one", 1, {"base": [0] * 4, "rloop-1": [1] * 4})
    other = make_run("other", 2, {"base": [0] * 3, "rloop-1": [1] * 3}, problems=3)
    result = CliRunner().invoke(main, ["compare", one, other])
    assert result.exit_code == 2 and "have different benchmarks" in result.output
    result = CliRunner().invoke(main, ["compare", one, str(tmp_path / "none")])
    assert (
        result.exit_code == 2 and "has no summary.json: expected the output folder of a finished run" in result.output
    )
