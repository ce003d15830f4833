"""One of the nodes that train a stage together: the program that runs in each pod of a TrainJob.

`python -m components.shared.training.node FOLDER`

FOLDER is the one that `node_folder` describes. Kubeflow Trainer's torch runtime tells a pod its place by PET_NNODES,
PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT (kubeflow/trainer,
pkg/runtime/framework/plugins/torch/torch.go).
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.memory_watch import watched_memory
from components.shared.stage import note, write_json
from components.shared.training.collectives import COMMON_FOLDER
from components.shared.training.launching import MESSAGE, launch
from components.shared.training.node_folder import ALIVE, RESULT, node_failed, node_log, read_call

ABANDONED_SECONDS = 300.0
_RENDEZVOUS_SECONDS = 3600  # a node may have to be added to the cluster first, and the image pulled


def run(folder: Path) -> None:
    """Runs the processes of this node; the first node leaves what the call returned at rank 0.

    Raises:
        SystemExit: With status 1, after what went wrong was left in the folder.
    """
    node = int(os.environ["PET_NODE_RANK"])
    try:
        if (started := folder / f"started-{node}").exists():
            # Kubernetes restarts a pod's container; the other nodes and the stage do not wait for it.
            if (folder / MESSAGE).exists() or (folder / node_failed(node)).exists():
                sys.exit(1)
            raise RuntimeError("its container was killed, most often for memory; see pools.training.memory")
        started.touch()
        result = _launch(folder, node)
        if node == 0:
            write_json(folder / RESULT, result[0])
        return
    except InputError as error:
        (folder / MESSAGE).write_text(str(error))
    except Exception as error:
        traceback.print_exc()
        (folder / node_failed(node)).write_text(_reason(error))
    sys.exit(1)


def _reason(error: Exception) -> str:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not isinstance(error, ChildFailedError):
        return str(error) or type(error).__name__
    process, failure = error.get_first_failure()
    how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    return f"process {process} ended with {how}"


def _launch(folder: Path, node: int) -> dict[int, Any]:
    call = read_call(folder)
    for name, expected in (("PET_NNODES", call.settings.nodes), ("PET_NPROC_PER_NODE", call.settings.processes)):
        if (found := os.environ[name]) != str(expected):
            raise InputError(
                f"the TrainJob's runtime sets {name} to {found}; {call.section}.parallel asks for {expected}"
            )
    work = folder / "work"
    work.mkdir(exist_ok=True)
    os.environ[COMMON_FOLDER] = str(work)
    # Static: the node keeps the rank that the TrainJob gave it, and global rank 0 is on the first node.
    rendezvous = {
        "rdzv_backend": "static",
        "rdzv_endpoint": f"{os.environ['PET_MASTER_ADDR']}:{os.environ['PET_MASTER_PORT']}",
        "rdzv_configs": {"rank": node, "timeout": _RENDEZVOUS_SECONDS},
    }
    return launch(call.settings, call.section, folder, call.function, (), call.arguments, rendezvous)


def copy_output_to(path: Path) -> Callable[[], None]:
    """Copies the output of this process and its children to a file too; call the returned function at the end."""
    pipe, into = os.pipe()
    out = os.dup(1)
    os.dup2(into, 1)
    os.dup2(into, 2)
    os.close(into)

    def copy() -> None:
        with path.open("ab", buffering=0) as file:
            while chunk := os.read(pipe, 1 << 16):
                os.write(out, chunk)
                file.write(chunk)

    copying = threading.Thread(target=copy, name="log", daemon=True)
    copying.start()

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(out, 1)
        os.dup2(out, 2)
        copying.join(10)  # a leftover process may hold the pipe open

    return end


def wait_until_abandoned(alive: Path, seconds: float, every: float) -> None:
    """Returns once nobody has touched a file for `seconds`; looks at it every `every` seconds."""
    touched, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(every)
        with contextlib.suppress(OSError):
            if (now := alive.stat().st_mtime_ns) != touched:
                touched, since = now, time.monotonic()


def _stop_when_abandoned(folder: Path) -> None:
    wait_until_abandoned(folder / ALIVE, ABANDONED_SECONDS, 10.0)
    print("the stage's pod is no longer waiting: this node stops", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)  # the launcher ends its processes


def main() -> None:
    """Runs this node in the folder that the command line names."""
    folder = Path(sys.argv[1])
    end = copy_output_to(folder / node_log(int(os.environ["PET_NODE_RANK"])))
    threading.Thread(target=_stop_when_abandoned, args=(folder,), name="alive", daemon=True).start()
    try:
        with watched_memory("pools.training.memory", note):
            run(folder)
    finally:
        end()


if __name__ == "__main__":
    main()
