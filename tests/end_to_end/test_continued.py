"""Vanilla RL beside RLoop; and a run that goes on from where another ended comes to what one run comes to."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.shared.policy import Policy
from tests.end_to_end.test_laptop import run, stages_that_ran

pytestmark = pytest.mark.slow
CHANGES = ("experts_from=all", "rl.snapshot_every=3", "eval.curve_samples=4")
OPTIONS = ("--with-vanilla-rl", *(part for change in CHANGES for part in ("--set", change)), "--iterations")
_TIMES = ("seconds", "answers_per_second")


def figures(value: Any) -> Any:
    """Results without how long things took."""
    if isinstance(value, dict):
        return {key: figures(each) for key, each in value.items() if key not in _TIMES}
    return [figures(each) for each in value] if isinstance(value, list) else value


def test_two_runs_of_one_iteration_are_one_run_of_two(tmp_path: Path) -> None:
    whole, second = tmp_path / "whole", tmp_path / "second"
    run(whole, *OPTIONS, "1")
    go_on = (*OPTIONS, "1", "--continue", str(whole))
    text = run(second, *go_on)
    assert "from 1 to 2 iterations" in text and "[12/12] iteration 2: report" in text
    assert not any("base" in stage for stage in stages_that_ran(text)), "its evaluation is among the results"
    assert not (second / "stages" / "importer").exists()
    assert stages_that_ran(run(second, *go_on)) == [], "the same command again has all of it"
    again = run(whole, *OPTIONS, "2")
    assert all(stage.startswith("iteration 2: ") for stage in stages_that_ran(again)), "the first one is there"
    for name in ("problems.json", "summary.json"):
        one, two = (json.loads((each / name).read_text()) for each in (whole, second))
        assert figures(two) == figures(one)
    assert Policy(second / "policy").id == Policy(whole / "policy").id
    assert "explored-2" in (second / "report.html").read_text()
    check_vanilla_rl(one)
    assert stages_that_ran(run(whole, *OPTIONS, "2")) == []


def check_vanilla_rl(summary: dict[str, Any]) -> None:
    """It begins with the first iteration's exploration, has as many steps as RLoop, and is compared with it."""
    names = [policy["name"] for policy in summary["policies"]]
    assert names == ["base", "explored-1", "rloop-1", "vanilla-1", "explored-2", "rloop-2", "vanilla-2"]
    by_name = {policy["name"]: policy for policy in summary["policies"]}
    assert by_name["vanilla-1"]["policy_id"] == by_name["explored-1"]["policy_id"]
    steps = [row["step"] for row in summary["iterations"][1]["vanilla"]["exploration"]]
    assert steps == [6, 7, 8, 9, 10, 11], "as many steps as both iterations together"
    assert [run["steps"] for run in summary["forgetting"]["on_the_way"]] == [[0, 3, 6], [0, 3, 6], [0, 3, 6, 9, 12]]
    assert {c["second"] for c in summary["comparisons"]} >= {"base", "explored-2", "vanilla-2"}
