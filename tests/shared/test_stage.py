import errno
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from components.shared.errors import InputError
from components.shared.stage import Progress, stage, whole_file, whole_folder, write_json


def test_a_user_error_ends_the_stage_with_its_message_alone(capsys) -> None:
    with pytest.raises(SystemExit) as ended, stage("RFT"):
        raise InputError("no such file: x.jsonl")
    assert ended.value.code == 1
    assert capsys.readouterr().out == "[error] RFT: no such file: x.jsonl\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_disk_is_a_message_too(capsys, number: int) -> None:
    with pytest.raises(SystemExit), stage("RFT"):
        raise OSError(number, os.strerror(number), "/out/policy")
    out = capsys.readouterr().out
    assert out.startswith("[error] RFT: cannot write /out/policy")
    assert "hoose another output folder" in out


@pytest.mark.parametrize("text", ["[('a', 'b', '[Errno 28] No space left on device')]", "I/O error: x (os error 28)"])
def test_a_full_disk_is_known_from_its_number_in_the_text(capsys, text: str) -> None:
    with pytest.raises(SystemExit), stage("RFT"):
        raise shutil.Error(text)
    assert "the disk is full" in capsys.readouterr().out


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), stage("RFT"):
        1 / 0  # noqa: B018


def test_a_file_is_whole_or_not_there(tmp_path) -> None:
    path = tmp_path / "deep" / "a.json"
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_folder_is_whole_or_as_it_was(tmp_path) -> None:
    path = tmp_path / "policy"
    with whole_folder(path) as folder:
        (folder / "old").touch()
    with pytest.raises(RuntimeError), whole_folder(path) as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["old"]
    with whole_folder(path) as folder:
        (folder / "new").touch()
    assert [p.name for p in path.iterdir()] == ["new"]


def test_a_killed_writer_leaves_no_file_of_that_name(tmp_path) -> None:
    code = (
        "import sys, time\n"
        "from components.shared.stage import whole_file\n"
        "with whole_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); print('written', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.parquet")], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert list(tmp_path.glob("*.parquet")) == []
    assert len(list(tmp_path.glob(".*.tmp"))) == 1


def test_progress_is_throttled_but_the_end_is_shown(capsys, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(3, "steps")
    for seconds in (0.0, 0.5, 0.1):
        now[0] += seconds
        progress.advance(text="reward 0.5")
    assert capsys.readouterr().out.splitlines() == [
        "[progress] 1/3 steps, reward 0.5",
        "[progress] 3/3 steps, reward 0.5",
    ]
