"""Progress of long stages: kept, found again, and not mixed up."""

import time
from pathlib import Path
from typing import Any

import pytest

from components.shared import checkpoints as module
from components.shared.checkpoints import NOWHERE, Checkpoints, CheckpointSettings, remove_finished
from components.shared.object_store import open_store


def kept(uri: str, **changes: Any) -> Checkpoints:
    settings = CheckpointSettings.check({"uri": uri, "minutes": 0, **changes}, "store")
    return Checkpoints(settings, "rft", {"seed": 1}, [])


def checkpoint(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(text)
    return folder


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "progress")
    server = request.getfixturevalue("s3")
    return f"s3://{server.bucket}/{request.node.name.replace('[', '-').replace(']', '')}"


def test_the_newest_whole_checkpoint_is_found_again(uri: str, tmp_path: Path) -> None:
    with kept(uri) as first:
        assert first.restore(tmp_path / "none") is None and not (tmp_path / "none").exists()
        for number in (3, 12):
            assert first.due()
            first.save(checkpoint(tmp_path / f"c{number}", f"step {number}"), number)
        (tmp_path / "a.parquet").write_text("rows")
        first.add(tmp_path / "a.parquet")
        _drain(first)
    with kept(uri) as second:
        assert second.restore(tmp_path / "back") == 12
        assert (tmp_path / "back" / "model.safetensors").read_text() == "step 12"
        assert second.restore_shards(tmp_path / "shards") == ["a.parquet"]
        assert (tmp_path / "shards" / "a.parquet").read_text() == "rows"
        assert second.restore_shards(tmp_path / "x", names=["b.parquet"]) == []
    names = [item.name for item in open_store(uri).list()]
    assert not any("checkpoint-000000003" in name for name in names), "the older one is removed"


def test_a_checkpoint_without_its_marker_or_of_the_wrong_size_is_none(uri: str, tmp_path: Path) -> None:
    with kept(uri) as first:
        first.save(checkpoint(tmp_path / "c1", "step 1"), 1)
        _drain(first)
    store = open_store(uri)
    (marker,) = [item.name for item in store.list() if item.name.endswith(".complete.json")]
    folder = marker.removesuffix("/.complete.json")
    later = folder.replace("000000001", "000000002")
    store.write_bytes(f"{later}/model.safetensors", b"half")
    with kept(uri) as second:
        assert second.restore(tmp_path / "back") == 1
    store.write_bytes(f"{folder}/model.safetensors", b"st")
    with kept(uri) as third:
        assert third.restore(tmp_path / "again") is None


def test_finished_progress_goes_and_old_progress_expires(uri: str, tmp_path: Path) -> None:
    with kept(uri) as first:
        first.save(checkpoint(tmp_path / "c1", "step 1"), 1)
        _drain(first)
    first.finish()
    with kept(uri) as still:
        assert still.restore(tmp_path / "back") == 1, "a pod may die before its outputs are handed over"
    remove_finished(uri)
    assert list(open_store(uri).list()) == []
    with kept(uri) as second:
        second.save(checkpoint(tmp_path / "c2", "step 2"), 2)
        _drain(second)
    time.sleep(1.1)
    with kept(uri, keep_days=1 / 86_400) as third:
        assert third.restore(tmp_path / "old") is None


def test_another_run_of_the_very_same_keeps_apart(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kept(uri) as one:
        one.save(checkpoint(tmp_path / "c1", "step 1"), 1)
        _drain(one)
        with kept(uri) as other:
            assert "keeps its progress apart" in capsys.readouterr().out
            assert other.restore(tmp_path / "other") is None
            other.save(checkpoint(tmp_path / "c9", "step 9"), 9)
            _drain(other)
    with kept(uri) as again:
        assert again.restore(tmp_path / "back") == 1


def test_without_a_uri_nothing_is_kept(tmp_path: Path) -> None:
    with Checkpoints(NOWHERE, "rft", {}, []) as nothing:
        assert not nothing.due() and nothing.restore(tmp_path / "x") is None
        nothing.add(tmp_path / "missing")
        nothing.finish()
    assert list(tmp_path.iterdir()) == []


def test_parameters_inputs_and_code_make_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("1")
    first = module.fingerprint("rft", {"seed": 1}, [tmp_path / "in"])
    assert first == module.fingerprint("rft", {"seed": 1}, [tmp_path / "in"])
    assert first != module.fingerprint("rft", {"seed": 2}, [tmp_path / "in"])
    assert first != module.fingerprint("evaluation", {"seed": 1}, [tmp_path / "in"])
    (tmp_path / "in" / "a").write_text("2")
    assert first != module.fingerprint("rft", {"seed": 1}, [tmp_path / "in"])


def _drain(checkpoints: Checkpoints) -> None:
    deadline = time.monotonic() + 30
    while checkpoints.busy():
        assert time.monotonic() < deadline
        time.sleep(0.01)
