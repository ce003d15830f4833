"""Several nodes: two of them on this machine, started as Kubeflow Trainer's torch runtime starts them."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from components.shared.errors import InputError
from components.shared.training.collectives import all_gather, init_processes
from components.shared.training.launching import MESSAGE
from components.shared.training.node import run, wait_until_abandoned
from components.shared.training.node_folder import RESULT, node_failed, node_log, write_call
from components.shared.training.parallel import ParallelSettings
from tests.shared.training.trainer_stand_in import ROOT, free_port, start_node

TWO_NODES = ParallelSettings(nodes=2, volume="shared")


@pytest.mark.slow
def test_two_nodes_are_one_training(tmp_path: Path) -> None:
    write_call(tmp_path, TWO_NODES, "rl", all_gather, {"value": {"settings of": "nobody"}})
    port, command = free_port(), ["python", "-m", "components.shared.training.node", str(tmp_path)]
    nodes = [start_node(command, 2, node, port) for node in range(2)]
    assert [node.wait(120) for node in nodes] == [0, 0]
    assert json.loads((tmp_path / RESULT).read_text()) == [{"settings of": "nobody"}] * 2
    assert (tmp_path / node_log(1)).exists()


@pytest.mark.parametrize(("nodes", "processes"), [("1", "1"), ("2", "8")])
def test_a_runtime_that_starts_other_numbers_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: str, processes: str
) -> None:
    write_call(tmp_path, TWO_NODES, "rl", init_processes, {})
    for name, value in (("PET_NODE_RANK", "0"), ("PET_NNODES", nodes), ("PET_NPROC_PER_NODE", processes)):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert "rl.parallel asks for" in (tmp_path / MESSAGE).read_text()


def test_a_process_that_finds_no_other_does_not_train_alone(tmp_path: Path) -> None:
    code = (
        "from components.shared.training.collectives import init_processes; "
        "from components.shared.training.launching import run_in_process; "
        f"run_in_process({str(tmp_path)!r}, 2, init_processes, (), {{}})"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode == 1
    assert (tmp_path / MESSAGE).read_text().startswith("1 processes found each other, but 2 were to train")


def test_a_node_that_was_killed_does_not_start_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NODE_RANK", "1")
    (tmp_path / "started-1").touch()
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert "killed, most often for memory" in (tmp_path / node_failed(1)).read_text()
    (tmp_path / node_failed(1)).write_text("why it failed")
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert (tmp_path / node_failed(1)).read_text() == "why it failed"


def test_only_our_own_functions_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_call(tmp_path, TWO_NODES, "rl", os.getcwd, {})
    for name, value in (("PET_NODE_RANK", "0"), ("PET_NNODES", "2"), ("PET_NPROC_PER_NODE", "1")):
        monkeypatch.setenv(name, value)
    for name in ("ADDR", "PORT"):
        monkeypatch.setenv(f"PET_MASTER_{name}", "1")
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert "is not of components" in (tmp_path / node_failed(0)).read_text()


def test_a_node_notices_that_the_stage_is_gone(tmp_path: Path) -> None:
    alive, began = tmp_path / "alive", time.monotonic()

    def stage() -> None:
        for _ in range(10):
            alive.touch()
            time.sleep(0.1)

    threading.Thread(target=stage).start()
    wait_until_abandoned(alive, seconds=0.5, every=0.05)
    assert time.monotonic() - began > 1.2


def test_nodes_need_a_volume_and_share_the_batches() -> None:
    with pytest.raises(InputError, match="needs a volume"):
        ParallelSettings.check({"nodes": 2}, "rl")
    settings = ParallelSettings.check({"nodes": 2, "processes": 4, "volume": "v", "sharding": "full"}, "rl")
    assert settings.world == 8
