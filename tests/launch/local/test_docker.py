from pathlib import Path

import pytest

from components.shared.errors import InputError
from launch.local import docker as launch_docker
from launch.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[3]


def test_containers_see_what_the_recipe_names_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A model in the hub's cache: links to files that lie beside its folder.
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1234").write_text("{}")
    policy = tmp_path / "snapshots" / "main"
    policy.mkdir(parents=True)
    (policy / "config.json").symlink_to("../../blobs/1234")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    recipe = load_recipe(
        ROOT / "recipes" / "laptop.yaml",
        ["base_policy=../snapshots/main", f"data.train=[../data/train.jsonl, {tmp_path}/none.jsonl, 'hf://o/n']"],
    )
    assert launch_docker._named_files(recipe) == {
        policy: policy,
        tmp_path / "blobs" / "1234": tmp_path / "blobs" / "1234",
        tmp_path / "data" / "train.jsonl": tmp_path / "data" / "train.jsonl",
    }


def test_containers_see_what_a_pattern_and_the_home_folder_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("part-0.jsonl", "part-1.jsonl", "other.jsonl", "ca.pem"):
        (tmp_path / name).write_text("{}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    recipe = load_recipe(ROOT / "recipes" / "laptop.yaml", ["data.train=[~/part-*.jsonl]", "base_policy=hf://o/n"])
    seen = {tmp_path / name for name in ("part-0.jsonl", "part-1.jsonl", "ca.pem")}
    assert launch_docker._named_files(recipe) == {path: path for path in seen}
    assert recipe.data.train[0].uri == f"{tmp_path}/part-*.jsonl"


def test_no_engine_is_an_error_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    recipe = load_recipe(ROOT / "recipes" / "laptop.yaml")
    with (
        pytest.raises(InputError, match="cannot reach a Docker engine"),
        launch_docker.docker_runner(recipe, tmp_path / "rloop.yaml", tmp_path),
    ):
        pass
