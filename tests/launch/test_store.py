"""Places in a store that overlap are refused before a run starts, and a run's end removes its own progress alone."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from components.shared.errors import InputError
from components.shared.object_store import open_store
from components.shared.progress.checkpoints import Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from launch.local.run import _remove_progress, run_locally
from launch.recipe import load_recipe
from launch.store import overlap
from pipeline import main

LAPTOP = Path(__file__).resolve().parents[2] / "recipes" / "laptop.yaml"


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("s3://bucket/progress", "s3://bucket/published", True),
        ("s3://bucket/a", "s3://bucket/ab", True),
        ("s3://bucket", "s3://other", True),
        ("", "s3://bucket", True),
        ("runs/progress", "s3://runs/progress", True),
        ("s3://bucket/a", "s3://bucket/a/", False),
        ("s3://bucket/a", "minio://bucket/a/b", False),
        ("s3://bucket", "s3://bucket/a", False),
        ("runs/a", "./runs/../runs/a/b", False),
        ("/", "file:///tmp", False),
    ],
)
def test_places_are_apart_or_not(one: str, other: str, apart: bool) -> None:
    assert (overlap({"one": one, "other": other}) is None) == (overlap({"other": other, "one": one}) is None) == apart


def test_a_recipe_whose_places_overlap_is_refused() -> None:
    sets = ["store.checkpoint_uri=s3://b/rloop", "store.publish_uri=s3://b/rloop/published"]
    with pytest.raises(InputError, match=r"store.checkpoint_uri \(s3://b/rloop\) and store.publish_uri .* not overlap"):
        load_recipe(LAPTOP, sets)
    for key in ("checkpoint_uri", "publish_uri"):
        arguments = [
            "check",
            "--recipe",
            str(LAPTOP),
            "--set",
            f"store.{key}=s3://b/rloop/x",
            "--pipeline-root",
            "s3://b/",
        ]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2 and f"store.{key} (s3://b/rloop/x) and --pipeline-root (s3://b/)" in result.output


@pytest.mark.parametrize("key", ["checkpoint_uri", "publish_uri"])
def test_a_run_that_would_write_among_its_artifacts_is_refused(tmp_path: Path, key: str) -> None:
    recipe = load_recipe(LAPTOP, [f"store.{key}={tmp_path}/run/artifacts/own"])
    with pytest.raises(InputError, match=f"store.{key} .* and the run's artifacts .* must not overlap"):
        run_locally(recipe, LAPTOP, tmp_path / "run", None, lambda *_: None)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_removes_its_own_progress_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = str(tmp_path / "shared")
    (tmp_path / "log.json").write_text("{}")

    def finish(seed: int) -> str:
        with Checkpoints(CheckpointSettings(uri=shared), "rft", {"seed": seed}, []) as stage:
            pass
        capsys.readouterr()
        stage.finish(Outputs({"log": tmp_path / "log.json"}), {}, "done")
        return capsys.readouterr().out

    def there() -> int:
        return len({item.name.split("/")[1] for item in open_store(shared).list()})

    (tmp_path / "mine" / "logs").mkdir(parents=True)
    (tmp_path / "mine" / "logs" / "iteration-1.rft.log").write_text("    " + finish(1).replace("\n", "\n    "))
    finish(2)
    assert there() == 2
    _remove_progress(shared, tmp_path / "mine", shared=True)
    assert there() == 1, "the other run's stays"
    _remove_progress(shared, tmp_path / "mine", shared=False)
    assert there() == 0, "in a place of the run's own all of it is its own"
