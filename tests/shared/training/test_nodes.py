"""Several nodes: two of them on this machine, started as Kubeflow Trainer's torch runtime starts them."""

import contextlib
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.shared.errors import InputError
from components.shared.stage import read_json
from components.shared.training import node
from components.shared.training.collectives import all_gather, init_processes
from components.shared.training.launching import MESSAGE
from components.shared.training.node import run, wait_until_abandoned
from components.shared.training.node_folder import (
    POD_UID,
    StagePod,
    node_failed,
    node_log,
    node_started,
    read_call,
    stage_pod,
    write_call,
)
from components.shared.training.parallel import ParallelSettings
from tests.shared.training.trainer_stand_in import ROOT, TrainerStandIn, free_port, start_node

TWO_NODES = ParallelSettings(nodes=2, volume="shared")


def test_a_call_is_read_as_it_was_written(tmp_path: Path) -> None:
    """That two nodes are one training: `test_two_nodes_fine_tune_as_two_processes_do`."""
    arguments = {"value": {"settings of": "nobody"}, "path_out": tmp_path / "out"}
    write_call(tmp_path, TWO_NODES, "rl", all_gather, arguments, StagePod("stage", "uid-0"))
    assert read_call(tmp_path) == (TWO_NODES, "rl", all_gather, arguments)
    assert stage_pod(tmp_path) == ("stage", "uid-0")


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


def test_a_node_that_was_killed_or_replaced_does_not_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PET_NODE_RANK", "1")
    (tmp_path / node_started(1)).write_text("uid-1")

    def started_again(pod: str) -> None:
        monkeypatch.setenv(POD_UID, pod)
        with pytest.raises(SystemExit) as ended:
            run(tmp_path)
        assert ended.value.code == 0, "after any other status, Kubernetes restarts the container"

    started_again("uid-1")
    assert "killed, most often for memory" in (tmp_path / node_failed(1)).read_text()
    (tmp_path / node_failed(1)).write_text("why it failed")
    started_again("uid-1")
    started_again("uid-2")
    assert (tmp_path / node_failed(1)).read_text() == "why it failed" and not (tmp_path / MESSAGE).exists()
    (tmp_path / node_failed(1)).unlink()
    started_again("uid-2")
    assert "node 1 was deleted, drained or preempted" in (tmp_path / MESSAGE).read_text()
    assert not (tmp_path / node_failed(1)).exists()


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
    assert "heard of" in wait_until_abandoned(alive, lambda: "", seconds=0.5, every=0.05)
    assert time.monotonic() - began > 1.2
    answers = iter(["", "", "pod stage is gone"])
    assert wait_until_abandoned(alive, lambda: next(answers), seconds=60, every=0.01) == "pod stage is gone"


def test_a_node_whose_folder_is_gone_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_FOLDER_SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", ["node", str(tmp_path / "gone")])
    monkeypatch.setenv("PET_NODE_RANK", "0")
    with pytest.raises(SystemExit) as ended:
        node.main()
    assert ended.value.code == 0 and not list(tmp_path.iterdir())


def until(happens: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def is_read(fifo: Path, keep: dict[Path, int]) -> bool:
    """Whether a process reads a pipe; from then on it waits for what is never written, until `keep` is closed."""
    if fifo not in keep:
        with contextlib.suppress(OSError):
            keep[fifo] = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    return fifo in keep


@pytest.mark.slow
def test_nodes_stop_at_once_when_their_pod_or_the_stages_ends(tmp_path: Path) -> None:
    stage = {"metadata": {"name": "stage", "uid": "uid-0"}, "status": {"phase": "Running"}}
    cluster, command = TrainerStandIn(stage), ["python", "-m", "components.shared.training.node"]
    nodes, ports, written = {}, {}, dict[Path, int]()
    for name, number in (("rendezvous", 2), ("deleted", 1), ("left", 1)):
        folder = tmp_path / name
        folder.mkdir()
        os.mkfifo(folder / "fifo")  # whose reader waits for ever: a training process
        settings = ParallelSettings(nodes=number, processes=1, volume="shared")
        write_call(folder, settings, "rl", read_json, {"path": folder / "fifo"}, StagePod("stage", "uid-0"))
        ports[name] = free_port()
        nodes[name] = start_node([*command, str(folder)], number, 0, ports[name], url=cluster.url)
    try:
        until(lambda: listens(ports["rendezvous"]))  # in PyTorch's C++, which runs no Python handlers of signals
        for name in ("deleted", "left"):
            until(functools.partial(is_read, tmp_path / name / "fifo", written))
        for name in ("rendezvous", "deleted"):
            nodes[name].terminate()
        for name in ("rendezvous", "deleted"):
            assert nodes[name].wait(10) == 143
            assert "node 0 was deleted, drained or preempted" in (tmp_path / name / MESSAGE).read_text()
            assert "Traceback" not in (tmp_path / name / node_log(0)).read_text()
        assert nodes["left"].poll() is None
        cluster.pod["status"] = {"phase": "Failed"}
        assert nodes["left"].wait(10) == 0, "after any other status, Kubernetes restarts the container"
        assert (tmp_path / "left" / node_failed(0)).read_text().endswith("pod stage has ended: Failed")
        assert "Traceback" not in (tmp_path / "left" / node_log(0)).read_text()
        for name in nodes:
            assert not is_read(tmp_path / name / "fifo", {}), "a training process is left"
    finally:
        for pipe in written.values():
            os.close(pipe)
        for process in nodes.values():
            process.kill()
        cluster.close()


def test_nodes_need_a_volume_and_share_the_batches() -> None:
    with pytest.raises(InputError, match="needs a volume"):
        ParallelSettings.check({"nodes": 2}, "rl")
    settings = ParallelSettings.check({"nodes": 2, "processes": 4, "volume": "v", "sharding": "full"}, "rl")
    assert settings.world == 8
