"""Several nodes: two of them on this machine, as the torch runtime of Kubeflow Trainer starts them."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.shared.node import CALL, RESULT, arguments_of, node_failed, node_log, wait_until_left, write_call
from components.shared.processes import MESSAGE, ParallelSettings, join, of_all

ROOT = Path(__file__).resolve().parents[2]
TWO_NODES = ParallelSettings(nodes=2, volume="shared")


def trainer_environment(nodes: int, node: int, port: int, processes: int = 1) -> dict[str, str]:
    """What Kubeflow Trainer sets, besides this process's own environment."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_NODE_RANK": str(node),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_node(folder: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "components.shared.node", str(folder)], env=environment)


def run_nodes(folder: Path, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[int]:
    """Runs two nodes of one process each; returns their exit statuses."""
    write_call(folder, TWO_NODES, "rl", function, arguments_of(function, args, kwargs))
    port = free_port()
    nodes = [start_node(folder, trainer_environment(2, node, port)) for node in range(2)]
    return [node.wait(120) for node in nodes]


def test_two_nodes_are_one_training(tmp_path: Path) -> None:
    assert run_nodes(tmp_path, join) == [0, 0]
    assert json.loads((tmp_path / RESULT).read_text()) == [0, 2]
