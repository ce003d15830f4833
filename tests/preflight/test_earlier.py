"""Whether a run can go on from the results of another."""

from pathlib import Path
from typing import Any

import pytest

from components.data_preparation.settings import DataSettings
from components.evaluation.settings import EvaluationSettings
from components.preflight.earlier import check_earlier
from components.preflight.resolve import OWN_PARAMETERS, resolve
from components.rft.settings import RFTSettings
from components.rl_exploration.settings import ExplorationSettings
from components.shared.errors import InputError
from components.shared.stage import write_json
from components.verification_filtering.settings import FilterSettings

BENCHMARKS = [{"name": "dev", "uri": "dev.jsonl"}, {"name": "test", "uri": "test.jsonl", "limit": 50}]
OWN = {"data": {"train": [{"uri": "a.jsonl"}], "benchmarks": BENCHMARKS}, "rl": {"steps": 5}, "eval": {"samples": 8}}
DEFAULTS = {  # of keys that are parameters of their own
    "rl": {"learning_rate": ExplorationSettings.model_fields["learning_rate"].default},
    "filter": {"max_success_rate": FilterSettings().max_success_rate},
    "rft": {name: RFTSettings.model_fields[name].default for name in ("learning_rate", "epochs")},
}
ADVANCED = {"rl": {"max_completion_tokens": 64}, "eval": {"max_completion_tokens": 64}}


def resolved(**own: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run's stages, with other values of the sections given."""
    advanced = {name: dict(values) for name, values in ADVANCED.items()}
    parameters: dict[str, Any] = {"seed": 1, "pools": {}, "advanced": advanced}
    for section, names in OWN_PARAMETERS.items():
        values = {**DEFAULTS.get(section, {}), **OWN.get(section, {}), **own.get(section, {})}
        parameters |= {f"{section}_{name}": values.pop(name) for name in names}
        advanced[section] = {**advanced.get(section, {}), **values}
    return resolve(parameters)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What a run's report leaves, as far as it is looked at."""
    data = DataSettings.check({"train": ["a.jsonl"], "benchmarks": {b["name"]: b for b in BENCHMARKS}}, "data")
    rl = ExplorationSettings.check({**OWN["rl"], **ADVANCED["rl"]}, "rl")
    evaluation = EvaluationSettings.check({**OWN["eval"], **ADVANCED["eval"], "pass_at": [1, 8]}, "eval")
    summary = {
        "iterations": [{}] * 10,
        "chosen_by": {"benchmark": "dev", "figure": "avg"},
        "data": {"base_policy": "hf://me/policy", "settings": data.model_dump()},
        "settings": {"rl": rl.model_dump(), "filter": {}, "rft": {}, "eval": {**evaluation.model_dump(), "seed": 1}},
    }
    write_json(tmp_path / "results" / "summary.json", summary)
    return tmp_path / "results"


def test_the_same_benchmarks_measured_the_same_way_can_be_gone_on_from(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_earlier(results, 10, "hf://me/policy", resolved())
    assert capsys.readouterr().out == ""
    check_earlier(results, 10, "hf://me/policy", resolved(rl={"steps": 20}, data={"train": [{"uri": "b.jsonl"}]}))
    assert "continuing with changed settings: rl.steps 20 (was 5)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"benchmarks": BENCHMARKS[:1]}}, "data.benchmarks are dev, but were dev, test"),
        ({"data": {"benchmarks": BENCHMARKS[::-1]}}, "data.benchmarks are test, dev, but were dev, test"),
        (
            {"data": {"benchmarks": [{"name": "dev", "uri": "other.jsonl"}, BENCHMARKS[1]]}},
            "data.benchmarks.dev is other.jsonl, but was dev.jsonl",
        ),
        (
            {"data": {"benchmarks": [BENCHMARKS[0], {**BENCHMARKS[1], "limit": 20}]}},
            "data.benchmarks.test is test.jsonl, but was test.jsonl, or is read differently",
        ),
        ({"eval": {"samples": 4}}, "eval.samples is 4, but was 8"),
        ({"eval": {"pass_at": [1]}}, r"eval.pass_at is \[1\], but was \[1, 8\]"),
        ({"report": {"validation": "test"}}, "report.validation is test, but was dev"),
        ({"report": {"choose_by": "pass_at_k"}}, "report.choose_by is pass_at_k, but was avg"),
    ],
)
def test_other_benchmarks_and_other_ways_to_measure_are_refused(
    results: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_earlier(results, 10, "hf://me/policy", resolved(**changes))


def test_all_that_does_not_fit_is_named_at_once(results: Path) -> None:
    with pytest.raises(InputError) as caught:
        check_earlier(results, 9, "hf://me/other", resolved(eval={"samples": 4}))
    said = str(caught.value)
    assert "the results are from iteration 10, but this run continues after iteration 9" in said
    assert "base_policy is hf://me/other, but was hf://me/policy" in said and "eval.samples is 4, but was 8" in said


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"continue_results does not point to results: .* has no summary\.json"):
        check_earlier(tmp_path, 1, "p", resolved())
