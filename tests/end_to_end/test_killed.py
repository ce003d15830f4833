"""Long stages killed at random moments, again and again: what comes out is what an undisturbed run makes."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.shared.data import countdown
from components.shared.data.schema import BENCHMARK_ORDER, PROBLEMS, TRAJECTORIES, write_table
from components.shared.object_store import open_store
from components.shared.stage import write_json
from tests.countdown_solver import solve

RUNNER = Path(__file__).with_name("stage_runner.py")
ROOT = RUNNER.parents[2]
FILTERED = {"verdict": None, "success_rate": 0.5, "dropped_because": None}
pytestmark = pytest.mark.slow


def start(stage: str, work: Path, out: Path, uri: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, RUNNER, stage, work, out, uri]
    return subprocess.Popen(
        list(map(str, arguments)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **_store_environment()},
    )  # fmt: skip


def _store_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def undisturbed(stage: str, work: Path) -> Path:
    process = start(stage, work, work / "undisturbed", "")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return work / "undisturbed"


def killed(stage: str, work: Path, uri: str, kills: int, seed: int) -> tuple[Path, int, list[str]]:
    """Kills the stage until it is done: the outputs of the attempt that finished, the kills, what attempts said."""
    draw, said, count = random.Random(seed), [], 0
    while True:
        out = work / f"attempt-{count}"
        process = start(stage, work, out, uri)
        assert process.stdout
        begun, lines = 0.0, []
        # A moment of its own after the first progress, so that attempts get somewhere, but each another way.
        patience = draw.uniform(0.0, 1.2) if count < kills else float("inf")
        for line in process.stdout:
            lines.append(line)
            if line.startswith("[progress]") and not begun:
                begun = time.monotonic()
            if begun and time.monotonic() - begun > patience:
                break
        if process.poll() is None and patience < float("inf"):
            process.kill()
        process.stdout.close()
        status = process.wait()
        said += lines
        if status == 0:
            return out, count, said
        assert status == -9, "".join(lines)
        shutil.rmtree(out, ignore_errors=True)  # as a pod's disk
        count += 1


def handed_over(stage: str, work: Path, uri: str, made: Path) -> None:
    """Checks that another attempt at a stage that has finished hands over what it made, and does nothing again."""
    process = start(stage, work, work / "again", uri)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "an earlier attempt already finished" in output and "[progress]" not in output
    files = [
        {file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()}
        for out in (made, work / "again")
    ]
    assert files[0] == files[1]


def rows(path: Path, *without: str) -> list[dict[str, Any]]:
    table = pq.read_table(path)
    found = table.drop_columns(list(without)).to_pylist()
    return sorted(found, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def weights(out: Path) -> bytes:
    return (out / "policy" / "model.safetensors").read_bytes()


def log(out: Path) -> Any:
    """What a stage says of its steps, but for the time they took."""
    return {key: value for key, value in document(out / "log.json").items() if key != "seconds"}


def document(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "progress")


def problems(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "problem_id": f"{split}{i}",
            "prompt": problem.text,
            "answer": problem.answer,
            "source": split,
            "verifier": "countdown",
            "difficulty": None,
        }
        for i, problem in enumerate(countdown.generate(split, 3, 1, 9, count, seed=1))
    ]


def test_exploration_killed_six_times_is_the_same_bit_for_bit(tmp_path: Path, s3: Any) -> None:
    uri, kills = f"s3://{s3.bucket}/killed", 6
    write_table(tmp_path / "problems" / "problems.parquet", PROBLEMS, problems("train", 64))
    expected = undisturbed("rl_exploration", tmp_path)
    got, count, said = killed("rl_exploration", tmp_path, uri, kills, seed=1)
    assert count >= kills * 0.75, "the run was over too soon to be killed as often as it should be"
    assert sum("resuming after step" in line for line in said) >= count / 2
    assert rows(got / "rollouts", "sampled_at") == rows(expected / "rollouts", "sampled_at")
    assert weights(got) == weights(expected)
    kept = [{file.name: file.read_bytes() for file in (out / "snapshots").iterdir()} for out in (got, expected)]
    assert kept[0] == kept[1] and len(kept[0]) == 5, "intermediate checkpoints are there whatever was killed"
    assert log(got) == log(expected)
    assert not any("checkpoint-" in item.name for item in open_store(uri).list())
    handed_over("rl_exploration", tmp_path, uri, got)


@pytest.mark.parametrize("stage", ["rl_exploration-lora", "rl_exploration-two"])
def test_exploration_otherwise_killed_is_the_same_bit_for_bit(stage: str, tmp_path: Path, uri: str) -> None:
    write_table(tmp_path / "problems" / "problems.parquet", PROBLEMS, problems("train", 64))
    expected = undisturbed(stage, tmp_path)
    got, count, said = killed(stage, tmp_path, uri, 2, seed=5)
    assert count == 2 and any("resuming after step" in line for line in said)
    assert rows(got / "rollouts", "sampled_at") == rows(expected / "rollouts", "sampled_at")
    assert weights(got) == weights(expected)
    kept = [{file.name: file.read_bytes() for file in (out / "snapshots").iterdir()} for out in (got, expected)]
    assert kept[0] == kept[1] and len(kept[0]) == 5
    assert log(got) == log(expected)
    if stage == "rl_exploration-two":
        handed_over(stage, tmp_path, uri, got)


@pytest.mark.parametrize("stage", ["rft", "rft-lora"])
def test_rft_killed_is_the_same_bit_for_bit(
    stage: str, tmp_path: Path, uri: str, rollout: Callable[..., dict[str, Any]]
) -> None:
    written = (
        {**rollout(f"p{i}", completion=solve(problem.answer), prompt=problem.text), **FILTERED}
        for i, problem in enumerate(countdown.generate("train", 3, 1, 9, 60, seed=1))
    )
    write_table(tmp_path / "experts" / "experts.parquet", TRAJECTORIES, written)
    expected = undisturbed(stage, tmp_path)
    got, count, said = killed(stage, tmp_path, uri, 2, seed=2)
    assert count == 2 and any("resuming after update" in line for line in said)
    assert weights(got) == weights(expected)
    assert log(got) == log(expected)
    if stage == "rft":
        handed_over(stage, tmp_path, uri, got)


def test_evaluation_killed_is_the_same(tmp_path: Path, uri: str) -> None:
    write_table(tmp_path / "benchmarks" / "dev.parquet", PROBLEMS, problems("dev", 120))
    write_table(tmp_path / "benchmarks" / "test.parquet", PROBLEMS, problems("test", 60))
    write_json(tmp_path / "benchmarks" / BENCHMARK_ORDER, ["dev", "test"])
    expected = undisturbed("evaluation", tmp_path)
    got, count, said = killed("evaluation", tmp_path, uri, 3, seed=3)
    assert count >= 2 and any("batches of an earlier attempt" in line for line in said)
    assert rows(got / "samples") == rows(expected / "samples")
    assert document(got / "evaluation.json") == document(expected / "evaluation.json")
    handed_over("evaluation", tmp_path, uri, got)


def test_filtering_killed_is_the_same(tmp_path: Path, uri: str, rollout: Callable[..., dict[str, Any]]) -> None:
    sums = [{**p, "verifier": "math", "answer": str(i)} for i, p in enumerate(problems("train", 512))]
    write_table(tmp_path / "problems" / "problems.parquet", PROBLEMS, sums)
    one = {**rollout("train0", completion=""), **FILTERED}
    trajectories = (
        {
            **one,
            "problem_id": f"train{i % 512}",
            "sample_index": i,
            "completion": f"so \\boxed{{\\frac{{{2 * (i // 7)}}}{{2}}}}",
        }
        for i in range(40_000)
    )
    write_table(tmp_path / "trajectories" / "t.parquet", TRAJECTORIES, trajectories)
    expected = undisturbed("verification_filtering", tmp_path)
    got, count, said = killed("verification_filtering", tmp_path, uri, 3, seed=4)
    assert count >= 2 and any("batches of an earlier attempt" in line for line in said)
    assert rows(got / "experts") == rows(expected / "experts") and rows(got / "dropped") == rows(expected / "dropped")
