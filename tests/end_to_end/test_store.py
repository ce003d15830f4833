"""The loop with its artifacts and progress in an S3 server, and inputs that come from there."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.shared.data import countdown
from components.shared.object_store import open_store
from launch.local.s3_server import S3Server
from tests.end_to_end.test_laptop import ROOT, command, run, stages_that_ran

pytestmark = pytest.mark.slow


def test_what_is_lost_here_comes_back_from_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "run"
    options = ("--store", "s3", "--iterations", "1", "--set", "store.publish_uri=s3://rloop/published")
    first = run(output, *options)
    assert len(stages_that_ran(first)) == 11 and "store  s3://rloop/run at http://127.0.0.1:" in first
    shutil.rmtree(output / "artifacts")
    again = run(output, *options)
    assert "restored the artifacts of 11 stages" in again
    assert stages_that_ran(again) == [], "what is unchanged has been published already"

    server = S3Server(output / "s3", "rloop")
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    published = {item.name.split("/")[0] for item in open_store("s3://rloop/published").list()}
    assert len(published) == 1
    assert list(open_store("s3://rloop/run/progress").list()) == [], "finished stages clean up"
    server.stop()
    texts = [path.read_text() for path in (output / "logs").iterdir()] + [(output / "rloop.yaml").read_text(), first]
    assert not any(server.secret_key in text for text in texts)


def test_policy_data_and_benchmarks_come_from_s3(tmp_path: Path, s3: Any) -> None:
    store = open_store(f"s3://{s3.bucket}/inputs")
    for path in (ROOT / "recipes" / "tiny" / "countdown").iterdir():
        store.upload_file(path, f"model/{path.name}")
    for split in ("train", "dev"):
        rows = [{"problem": p.text, "answer": p.answer} for p in countdown.generate(split, 3, 1, 9, 40, seed=1)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        store.upload_file(tmp_path / f"{split}.jsonl", f"{split}.jsonl")
    root = f"s3://{s3.bucket}/inputs"
    sets = [
        f"base_policy={root}/model",
        f"data.train=[{{uri: '{root}/train.jsonl', verifier: countdown}}]",
        f"data.benchmarks={{dev: {{uri: '{root}/dev.jsonl', verifier: countdown}}}}",
    ]
    options = [part for change in sets for part in ("--set", change)]
    text = run(tmp_path / "run", "--until", "data_preparation", *options)
    assert "40 training problems; dev 40" in text
    again = run(tmp_path / "run", "--until", "data_preparation", *options)
    assert stages_that_ran(again) == []
    (tmp_path / "train.jsonl").write_text((tmp_path / "dev.jsonl").read_text().replace("Use", "Take"))
    store.upload_file(tmp_path / "train.jsonl", "train.jsonl")
    changed = run(tmp_path / "run", "--until", "data_preparation", *options)
    assert stages_that_ran(changed) == ["preflight", "data preparation"]
    done = subprocess.run(
        command(tmp_path / "other", "--set", f"base_policy={root}/nothing"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "no such object or folder" in done.stderr
