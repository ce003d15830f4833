"""A run that goes on from where another ended comes to what one run would have come to."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.shared.policy import policy_id
from tests.end_to_end.test_laptop import run, stages_that_ran

pytestmark = pytest.mark.slow
OPTIONS = ("--with-vanilla-rl", "--set", "experts_from=all", "--set", "rl.steps=3", "--iterations")
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
    for name in ("summary.json", "problems.json"):
        one, two = (json.loads((each / name).read_text()) for each in (whole, second))
        assert figures(two) == figures(one)
    assert policy_id(second / "policy") == policy_id(whole / "policy")
    assert "explored-2" in (second / "report.html").read_text()
