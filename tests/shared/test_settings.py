import pytest
from pydantic import Field

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
