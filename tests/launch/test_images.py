import shutil
from pathlib import Path

import pytest

from launch import images


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(images.ROOT / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(images.ROOT / "constraints.txt", tmp_path)
    monkeypatch.setattr(images, "ROOT", tmp_path)
    return tmp_path


def tags() -> dict[str, str]:
    return {stage: images.image(stage) for stage in images.STAGES}


def changed(before: dict[str, str]) -> set[str]:
    return {stage for stage, name in tags().items() if name != before[stage]}


def test_a_stages_code_changes_its_own_image_alone(tree: Path) -> None:
    before = tags()
    assert tags() == before
    with (tree / "components" / "evaluation" / "evaluate.py").open("a") as file:
        file.write("# more\n")
    assert changed(before) == {"evaluation"}


@pytest.mark.parametrize("path", ["components/shared/schema.py", "constraints.txt"])
def test_shared_code_and_pins_change_every_image(tree: Path, path: str) -> None:
    before = tags()
    with (tree / path).open("a") as file:
        file.write("# more\n")
    assert changed(before) == set(images.STAGES)


def test_names_and_registry() -> None:
    assert images.image("rl_exploration", "ghcr.io/me/").startswith("ghcr.io/me/rloop-rl-exploration:")
    assert len(images.image("rft").split(":")[1]) == 12
