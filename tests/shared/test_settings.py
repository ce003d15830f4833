import pytest
from pydantic import Field

from components.evaluation.settings import EvaluationSettings
from components.preflight.settings import RunSize
from components.rft.settings import RFTSettings
from components.rl_exploration.settings import ExplorationSettings
from components.shared.errors import InputError
from components.shared.settings import Settings


class Inner(Settings):
    learning_rate: float = Field(1e-6, gt=0)


class Outer(Settings):
    rl: Inner
    seed: int = 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rl": {"lerning_rate": 1}}, "unknown recipe key 'rl.lerning_rate'. Did you mean 'learning_rate'"),
        ({"rl": {}, "sed": 1}, "unknown recipe key 'sed'. Did you mean 'seed'"),
        ({"rl": {}, "zzz": 1}, "Known: rl, seed"),
        ({}, "recipe key 'rl' is missing"),
        ({"rl": {"learning_rate": "fast"}}, "recipe key 'rl.learning_rate': .*valid number.*got 'fast'"),
        ({"rl": {"learning_rate": -1}}, "recipe key 'rl.learning_rate': .*greater than 0"),
    ],
)
def test_errors_name_the_key(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Outer.check(values, "")


def test_whole_numbers_survive_kfp_which_makes_them_floats() -> None:
    assert Outer.check({"rl": {}, "seed": 3.0}, "").seed == 3


class Renamed(Settings):
    renamed = {"completions_per_forward": "micro_batch_size"}

    micro_batch_size: int = 1


def test_a_former_name_is_accepted_and_says_the_present_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert Renamed.check({"completions_per_forward": 8}, "rl").micro_batch_size == 8
    assert "'completions_per_forward' is now called 'micro_batch_size'" in capsys.readouterr().err
    with pytest.raises(InputError, match="is the former name of micro_batch_size, which is also set"):
        Renamed.check({"completions_per_forward": 8, "micro_batch_size": 4}, "rl")
    with pytest.raises(InputError, match="unknown recipe key 'rl.completion_per_forward'"):
        Renamed.check({"completion_per_forward": 8}, "rl")


class Moved(Settings):
    renamed = {"rate": "rl.learning_rate"}

    rl: Inner = Inner()


def test_a_key_may_have_moved_into_a_nested_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert Moved.check({"rate": 2.0}, "outer").rl.learning_rate == 2.0
    assert Moved.check({"rate": 2.0, "rl": {}}, "outer").rl.learning_rate == 2.0
    assert "'rate' is now called 'rl.learning_rate'" in capsys.readouterr().err
    with pytest.raises(InputError, match="rate is the former name of rl.learning_rate, which is also set"):
        Moved.check({"rate": 2.0, "rl": {"learning_rate": 1.0}}, "outer")
    with pytest.raises(InputError, match="'outer.rl': .*dictionary"):
        Moved.check({"rate": 2.0, "rl": 3}, "outer")


def test_no_former_name_is_in_use_and_every_present_one_is_a_key() -> None:
    for settings in (ExplorationSettings, RFTSettings, RunSize, EvaluationSettings):
        assert settings.renamed
        assert not settings.renamed.keys() & settings.model_fields.keys()
        for present in settings.renamed.values():
            section, _, key = present.rpartition(".")
            inside = settings.model_fields[section].annotation if section else settings
            assert isinstance(inside, type) and issubclass(inside, Settings) and key in inside.model_fields
    assert RunSize.renamed == ExplorationSettings.renamed
