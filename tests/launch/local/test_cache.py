"""The cache of local runs, through kfp.local itself: what is reused, and what runs again."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl, local
from kfp.local.orchestrator import task_executor

from launch.local import cache as local_cache


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def make(counter: str, folder: dsl.Output[dsl.Dataset], progress: str):
    from pathlib import Path

    Path(folder.path).mkdir(parents=True)
    for name in ("a", "b"):
        (Path(folder.path) / name).write_text("content")
    with (Path(counter) / "make").open("a") as file:
        file.write("x")


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def read(counter: str, folder: dsl.Input[dsl.Dataset], text: dsl.Output[dsl.Artifact]):
    from pathlib import Path

    Path(text.path).parent.mkdir(parents=True, exist_ok=True)
    Path(text.path).write_text("".join((Path(folder.path) / name).read_text() for name in ("a", "b")))
    with (Path(counter) / "read").open("a") as file:
        file.write("x")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], tuple[int, int]]:
    """Runs both stages in a folder; returns how often each has run by now."""

    @dsl.pipeline(name="two")
    def two(counter: str, progress: str):
        made = make(counter=counter, progress=progress)
        read(counter=counter, folder=made.outputs["folder"])

    kfp_execute = task_executor.execute_single_task

    def execute(**arguments: Any) -> Any:
        outputs, status = kfp_execute(**arguments)
        for artifact in outputs.values():
            local_cache.record_outputs(Path(artifact.path).parent)
        return outputs, status

    monkeypatch.setattr(task_executor, "execute_single_task", execute)

    def once(folder: Path) -> tuple[int, int]:
        root = folder.resolve() / "artifacts"
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), enable_caching=True)
        local_cache.use(root)
        two(counter=str(tmp_path), progress=str(root / ".progress"))
        return len((tmp_path / "make").read_text()), len((tmp_path / "read").read_text())

    return once


def test_a_stage_runs_again_when_and_only_when_its_files_are_not_whole(
    run: Callable[[Path], tuple[int, int]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert run(folder) == (1, 1)
    assert run(folder) == (1, 1)
    moved = folder.rename(tmp_path / "moved")
    assert run(moved) == (1, 1), "a run that was moved takes its stages with it"
    (lost,) = moved.rglob("folder/a")
    lost.unlink()
    assert run(moved) == (2, 2), "a stage that lost a file is made again, and what follows from it"
    assert run(moved) == (2, 2)
    copy = Path(shutil.copytree(moved, tmp_path / "copy"))
    shutil.rmtree(moved)
    assert run(copy) == (2, 2)
    text = max(copy.rglob("text"), key=lambda path: path.stat().st_mtime)
    text.write_text("cut")
    assert run(copy) == (2, 3)


def test_an_entry_of_a_run_that_was_killed_before_it_was_written_down_does_not_count(tmp_path: Path) -> None:
    assert not local_cache.is_complete(tmp_path)
    (tmp_path / "a").write_text("x")
    local_cache.record_outputs(tmp_path)
    assert local_cache.is_complete(tmp_path)
    (tmp_path / "b").write_text("more is no fault")
    assert local_cache.is_complete(tmp_path)
