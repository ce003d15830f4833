"""Progress of long stages: kept, found again, and not mixed up."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import InputError
from components.shared.object_store import Store, open_store
from components.shared.progress import checkpoints as module
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings, remove_finished
from components.shared.progress.finished import Outputs
from components.shared.progress.uploads import CHECKPOINTS_ON_DISK


def kept(uri: str, seed: int = 1, **changes: Any) -> Checkpoints:
    settings = CheckpointSettings.check({"uri": uri, "minutes": 0, **changes}, "store")
    return Checkpoints(settings, "rft", {"seed": seed}, [])


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


def outputs(folder: Path, **parameters: Any) -> Outputs:
    paths = {"policy": folder / "policy", "log": folder / "log.json", "deep": folder / "policy" / "deep"}
    return Outputs(paths, parameters)


def made(folder: Path, **parameters: Any) -> Outputs:
    """Outputs of a stage, one file of which was sent as a shard too."""
    (folder / "policy" / "deep").mkdir(parents=True)
    (folder / "policy" / "model.safetensors").write_text("weights")
    (folder / "policy" / "deep" / "a.parquet").write_text("rows")
    (folder / "log.json").write_text("{}")
    return outputs(folder, **parameters)


def files_of(folder: Path) -> dict[Path, str]:
    return {path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_stage_hands_its_outputs_over(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kept(uri) as first:
        assert first.hand_over(outputs(tmp_path / "none")) is None
        first.save(checkpoint(tmp_path / "c1", "step 1"), 1)
        one = made(tmp_path / "one")
        first.add(tmp_path / "one" / "policy" / "deep" / "a.parquet")
        _drain(first)
    first.finish(one, {"loss": 0.5}, "3 updates")
    names = [item.name for item in open_store(uri).list()]
    assert not any("checkpoint-" in name for name in names), "outputs stand in place of checkpoints"
    assert sum(name.endswith("a.parquet") for name in names) == 1, "what is there as a shard is not sent again"
    with kept(uri) as second:
        assert second.hand_over(outputs(tmp_path / "x", name="another")) is None
        capsys.readouterr()
        assert second.hand_over(outputs(tmp_path / "two")) == {"loss": 0.5}
        assert "[result] 3 updates" in capsys.readouterr().out
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    (gone,) = [name for name in names if name.endswith("policy/model.safetensors")]
    open_store(uri).delete(gone)
    with kept(uri) as third:
        assert third.hand_over(outputs(tmp_path / "three")) is None, "not whole any more: the stage runs"


def test_a_stage_that_is_to_run_again_does_not_find_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "progress")
    with kept(uri) as first:
        pass
    first.finish(made(tmp_path / "one"), {}, "done")
    executor_input = {"inputs": {"parameterValues": {"seed": 1, "repeat": "a1"}}, "outputs": {}}
    monkeypatch.setattr("sys.argv", ["executor_main", "--executor_input", json.dumps(executor_input), "--x"])
    with kept(uri) as repeated:
        assert repeated.hand_over(outputs(tmp_path / "two")) is None
    repeated.finish(made(tmp_path / "three"), {"again": 1}, "done")
    with kept(uri) as lost:
        assert lost.hand_over(outputs(tmp_path / "four")) == {"again": 1}, "its own second attempt does"
    monkeypatch.setattr("sys.argv", ["executor_main", "--executor_input", json.dumps({"inputs": {}})])
    with kept(uri) as before:
        assert before.hand_over(outputs(tmp_path / "five")) == {}


def test_a_store_that_is_away_at_the_end_fails_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with kept(str(tmp_path / "progress")) as stage:
        pass

    def away(*_: Any) -> None:
        raise InputError("no response for 600 s")

    monkeypatch.setattr(Store, "upload_files", away)
    stage.finish(made(tmp_path / "one"), {}, "3 updates")
    said = capsys.readouterr().out
    assert (
        "[note] could not save the outputs for a retry attempt: no response for 600 s" in said and "[result] 3" in said
    )


def test_finished_progress_goes_with_its_own_run_alone(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefixes = []
    for seed in (1, 2, 3):
        with kept(uri, seed=seed) as stage:
            stage.add(made(tmp_path / f"{seed}").paths["log"])
            _drain(stage)
        if seed < 3:
            capsys.readouterr()
            stage.finish(outputs(tmp_path / f"{seed}"), {}, "done")
            prefixes.append(next(line for line in capsys.readouterr().out.splitlines() if "[kept]" in line).split()[1])
    store = open_store(uri)

    def there() -> set[str]:
        return {"/".join(item.name.split("/")[:2]) for item in store.list()}

    before = there()
    assert len(before) == 3 and set(prefixes) < before
    (third,) = before - set(prefixes)
    remove_finished(uri, [prefixes[0], third])
    assert there() == {prefixes[1], third}, "another run's, and what has not finished, stay"
    remove_finished(uri)
    assert there() == {third}


def test_progress_expires_when_nothing_changes_in_it(uri: str, tmp_path: Path) -> None:
    with kept(uri) as first:
        first.save(checkpoint(tmp_path / "c1", "step 1"), 1)
        _drain(first)
    with kept(uri, seed=2) as finished:
        pass
    finished.finish(made(tmp_path / "one"), {}, "done")
    with kept(uri, seed=3) as still:
        assert still.restore(tmp_path / "none") is None
    assert len({item.name.split("/")[1] for item in open_store(uri).list()}) == 3
    time.sleep(1.1)
    with kept(uri, keep_days=1 / 86_400) as third:
        assert third.restore(tmp_path / "old") is None
    assert len({item.name.split("/")[1] for item in open_store(uri).list()}) == 1


def test_what_others_keep_at_the_same_place_stays(uri: str, tmp_path: Path) -> None:
    """Old files of every shape, whatever they are called: no stage removes them, nor does a run that has finished."""
    store = open_store(uri)
    theirs = [
        "run-1/policy/model.safetensors",
        "run-1/policy/.complete.json",
        "deep/er/and/deeper",
        "rft/0123456789abcdef01234567/checkpoint-000000001/model.safetensors",
        "rft/mine/finished-0123.json",
        "rft/mine/rloop-progress.json",  # another content
        "rft/file",
        "top",
    ]
    for name in theirs:
        store.write_bytes(name, b"theirs")
    time.sleep(1.1)
    with kept(uri, keep_days=1 / 86_400) as stage:
        stage.save(checkpoint(tmp_path / "c1", "step 1"), 1)
        _drain(stage)
    stage.finish(made(tmp_path / "one"), {}, "done")
    remove_finished(uri)
    assert {item.name: store.read_bytes(item.name) for item in store.list()} == dict.fromkeys(theirs, b"theirs")


def test_a_slow_store_does_not_fill_the_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kept(str(tmp_path / "progress")) as stage:
        assert stage._store
        began, go, send = threading.Event(), threading.Event(), stage._store.upload_folder

        def slow(*arguments: Any) -> None:
            began.set()
            go.wait(60)  # not for ever: what fails below has to end the test
            send(*arguments)

        stage._store.upload_folder = slow  # type: ignore[method-assign,assignment]
        most = 0
        for number in range(1, 13):
            shard = tmp_path / f"{number}.parquet"
            shard.write_text("rows")
            stage.add(shard)
            folder = checkpoint(tmp_path / "disk" / f"c{number}", f"step {number}")
            most = max(most, len(list((tmp_path / "disk").iterdir())))
            stage.save(folder, number)
            assert began.wait(30)
        assert most == CHECKPOINTS_ON_DISK
        assert {folder.name for folder in (tmp_path / "disk").iterdir()} == {"c1", "c12"}
        said = capsys.readouterr().out
        assert said.count("skipping checkpoint") == 10 and "skipping checkpoint 2 in favour of 3" in said
        go.set()
        _drain(stage)
        assert list((tmp_path / "disk").iterdir()) == []
    with kept(str(tmp_path / "progress")) as again:
        assert again.restore(tmp_path / "back") == 12
        assert len(again.restore_shards(tmp_path / "shards")) == 12


def test_what_another_has_taken_over_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with kept(str(tmp_path / "progress")) as stage:
        monkeypatch.setattr(type(stage._lease), "lost", True)
        stage.save(checkpoint(tmp_path / "c1", "step 1"), 1)
        _drain(stage)
    names = {item.name.split("/")[2] for item in open_store(str(tmp_path / "progress")).list()}
    assert not any(name.startswith("checkpoint") for name in names) and not (tmp_path / "c1").exists()


def test_another_run_of_the_very_same_keeps_apart(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kept(uri) as one:
        one.save(checkpoint(tmp_path / "c1", "step 1"), 1)
        _drain(one)
        with kept(uri) as other:
            assert "keeps its progress separately" in capsys.readouterr().out
            assert other.restore(tmp_path / "other") is None
            other.save(checkpoint(tmp_path / "c9", "step 9"), 9)
            _drain(other)
    with kept(uri) as again:
        assert again.restore(tmp_path / "back") == 1


def test_without_a_uri_nothing_is_kept(tmp_path: Path) -> None:
    with Checkpoints(NOWHERE, "rft", {}, []) as nothing:
        assert not nothing.due() and nothing.restore(tmp_path / "x") is None
        nothing.add(tmp_path / "missing")
        assert nothing.hand_over(outputs(tmp_path)) is None
    nothing.finish(outputs(tmp_path), {}, "done")
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
