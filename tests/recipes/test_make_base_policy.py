"""The demonstrations that the tiny base policies learn from."""

import json
import random
from pathlib import Path
from types import ModuleType

import pytest

from components.shared.data.sources import Source
from components.shared.grading import GradingSettings
from components.shared.grading.verifiers import verdict
from tests.scripts import import_script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def making() -> ModuleType:
    return import_script(ROOT / "recipes/tiny/make_base_policy.py")


def test_a_random_shortest_path_is_right_by_the_tasks_own_scorer(making: ModuleType) -> None:
    import reasoning_gym

    rng, paths, infeasible = random.Random(1), set(), 0
    for size, blocked in making.GRID_KINDS:
        options = {"min_rows": size, "max_rows": size, "min_cols": size, "max_cols": size, "p_blocked": blocked}
        for entry in reasoning_gym.create_dataset("shortest_path", size=60, seed=3, **options):
            for _ in range(5):
                path = " ".join(making.random_shortest_path(entry["metadata"]["matrix"], "*O#", rng))
                paths.add((entry["question"], path))
                infeasible += path == "infeasible"
                gold = json.dumps(entry, default=str)
                assert verdict("reasoning-gym/shortest_path", gold, path, GradingSettings())[0] is True
    assert len(paths) > 200, "some grids have several shortest paths"
    assert infeasible > 50


def test_half_of_the_shortest_path_demonstrations_are_wrong(making: ModuleType) -> None:
    demonstrations = list(making.shortest_path_demonstrations(400, seed=1))
    right = 0
    for prompt, path in demonstrations:
        grid = [line.split() for line in prompt.strip().rsplit("\n\n", 1)[-1].splitlines()]
        grid = [row for row in grid if row and set("".join(row)) <= set("*#OX")]
        shortest = making.random_shortest_path(grid, "*O#", random.Random(0))
        right += len(path.split()) == len(shortest) and _walks(grid, path.split(), making.MOVES)
    assert 0.3 < right / len(demonstrations) < 0.6


def _walks(grid: list[list[str]], moves: list[str], directions: dict[str, tuple[int, int]]) -> bool:
    if moves == ["infeasible"]:
        return True
    cells = {(r, c): cell for r, row in enumerate(grid) for c, cell in enumerate(row)}
    at = next(at for at, cell in cells.items() if cell == "*")
    for move in moves:
        at = (at[0] + directions[move][0], at[1] + directions[move][1])
        if cells.get(at, "X") == "X":
            return False
    return cells[at] == "#"


def test_instructions_become_one_token(making: ModuleType) -> None:
    demonstrations = list(making.shortest_path_demonstrations(200, seed=1))
    tokenizer = making.make_tokenizer(demonstrations)
    prompt = demonstrations[0][0]
    assert len(tokenizer.encode(prompt)) < 50
    assert tokenizer.decode(tokenizer.encode(prompt)) == prompt
    assert len(making.make_tokenizer(list(making.countdown_demonstrations(200, 1))).get_added_vocab()) == 2
    assert making.common_beginning(["abc", "abd", "ab"]) == "ab" and making.common_beginning(["a"]) == "a"


def test_no_problem_of_the_recipe_is_among_the_demonstrations(making: ModuleType) -> None:
    import yaml

    recipe = yaml.safe_load((ROOT / "recipes" / "shortest-path.yaml").read_text())
    uris = [*recipe["data"]["train"], *recipe["data"]["benchmarks"].values()]
    assert all(Source(uri=uri).uri.startswith("reasoning-gym://shortest_path?") for uri in uris)
    seeds = [int(uri.rsplit("seed=", 1)[1]) + 1000 for uri in uris]
    assert max(seeds) < making.GRID_SEED, "problem i of seed s is problem 0 of seed s + i"
