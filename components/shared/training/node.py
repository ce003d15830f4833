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

import psutil

from components.shared.errors import InputError
from components.shared.memory_watch import watched_memory
from components.shared.stage import note, write_json
from components.shared.training import trainjob_api
from components.shared.training.collectives import COMMON_FOLDER
from components.shared.training.launching import MESSAGE, launch
from components.shared.training.node_folder import (
    ALIVE,
    POD_UID,
    RESULT,
    node_failed,
    node_log,
    node_started,
    read_call,
    stage_pod,
)

ABANDONED_SECONDS = 300.0  # without a sign of life on the volume, if the Kubernetes API says nothing either
WATCH_SECONDS = 12.0
_FOLDER_SECONDS = 60.0  # how long a network file system may take to show the folder
_RENDEZVOUS_SECONDS = 3600  # a node may have to be added to the cluster first, and the image pulled
_stopping = threading.Event()  # `_stop` is about to end this process


def run(folder: Path) -> None:
    """Runs the processes of this node; the first node leaves what the call returned at rank 0.

    Raises:
        SystemExit: After what went wrong was left in the folder. With status 1; with 0 if this node had been started
            before, since Kubernetes starts a container that ends with any other status again and again (JobSet's
            restart policy, which Trainer lets nobody patch).
    """
    node = int(os.environ["PET_NODE_RANK"])
    started, pod = folder / node_started(node), os.environ.get(POD_UID, "")
    try:
        if started.exists():
            # Kubernetes restarts a container and replaces a pod; the other nodes and the stage do not wait for it.
            if started.read_text() != pod:
                _leave(folder, node, MESSAGE, _disruption(node))
            else:
                reason = "its container was killed, most often for memory; see pools.training.memory"
                _leave(folder, node, node_failed(node), reason)
            sys.exit(0)
        started.write_text(pod)
        result = _launch(folder, node)
        if node == 0:
            write_json(folder / RESULT, result[0])
        return
    except InputError as error:
        (folder / MESSAGE).write_text(str(error))
    except Exception as error:
        if _stopping.wait(1.0):  # it is a consequence: another thread ends this process
            threading.Event().wait()
        traceback.print_exc()
        _leave(folder, node, node_failed(node), _reason(error))
    sys.exit(1)


def _leave(folder: Path, node: int, name: str, text: str) -> None:
    """Leaves the stage a file that says what went wrong, unless there is one that says why."""
    with contextlib.suppress(OSError):  # the folder may be gone
        if not (folder / MESSAGE).exists() and not (folder / node_failed(node)).exists():
            (folder / name).write_text(text)


def _disruption(node: int) -> str:
    return (
        f"the pod of node {node} was deleted, drained or preempted while it trained; if pools.training.retries allows "
        f"it, the stage starts again"
    )


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


def wait_until_abandoned(alive: Path, ended: Callable[[], str], seconds: float, every: float) -> str:
    """Returns why this node need not train any more, once that is so; looks every `every` seconds.

    Args:
        alive: File that the stage touches; it is gone if nobody has for `seconds`.
        ended: Returns how the stage's pod has ended; empty if it has not, or if nobody knows.
        seconds: The last resort, for when the Kubernetes API does not answer.
        every: So seldom that the API does not notice.
    """
    touched, since = -1, time.monotonic()
    while True:
        time.sleep(every)
        if reason := ended():
            return reason
        with contextlib.suppress(OSError):
            if (now := alive.stat().st_mtime_ns) != touched:
                touched, since = now, time.monotonic()
        if time.monotonic() - since >= seconds:
            return f"the stage's pod has not been heard of for {seconds:.0f} s"


def _stop_when_abandoned(folder: Path, node: int, end_log: Callable[[], None]) -> None:
    reason = wait_until_abandoned(folder / ALIVE, _how_stage_ended(folder), ABANDONED_SECONDS, WATCH_SECONDS)
    _stopping.set()
    print(f"{reason}: this node stops", flush=True)
    _leave(folder, node, node_failed(node), f"it stopped by itself: {reason}")
    _stop(0, end_log)  # any other status would have it started again


def _how_stage_ended(folder: Path) -> Callable[[], str]:
    """Returns a function that says how the stage's pod has ended; empty while it runs."""
    if (pod := stage_pod(folder)) is None:
        return lambda: ""
    try:
        cluster = trainjob_api.connect("", pod.name)
    except Exception as error:  # a pod without a service account's token
        print(f"cannot watch the stage's pod: {error}", flush=True)
        return lambda: ""

    def ended() -> str:
        try:
            return cluster.ended(pod.uid)
        except Exception:  # whatever it is, it does not say that the stage has ended
            return ""

    return ended


def _stop_at_sigterm(folder: Path, node: int, end_log: Callable[[], None]) -> None:
    """Stops this node when Kubernetes ends its pod, whatever the main thread does at that time.

    The main thread may be waiting for other nodes in PyTorch's rendezvous, where it runs no signal handlers; later, the
    launcher has one of its own, which ends in a traceback. Python writes the signal's number to the pipe all the same.
    """
    wakes, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # the first process of a container ignores it otherwise

    def wait() -> None:
        while signal.SIGTERM not in os.read(wakes, 64):
            pass
        _stopping.set()
        print("this node's pod is being ended: it stops", flush=True)
        _leave(folder, node, MESSAGE, _disruption(node))
        _stop(128 + signal.SIGTERM, end_log)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


def _stop(status: int, end_log: Callable[[], None]) -> None:
    """Ends this process and its children at once, from any thread.

    Nobody needs what they are doing, and files are written whole, as everywhere.
    """
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    end_log()
    os._exit(status)


def _wait_for(folder: Path) -> None:
    """Raises SystemExit, with status 0, if there is no folder: the stage has ended, and has taken it along."""
    until = time.monotonic() + _FOLDER_SECONDS
    while folder not in folder.parent.iterdir():  # listed, since `exists` may be answered from a cache
        if time.monotonic() >= until:
            print(f"there is no {folder}: the stage has ended", flush=True)
            sys.exit(0)
        time.sleep(1.0)


def main() -> None:
    """Runs this node in the folder that the command line names."""
    folder, node = Path(sys.argv[1]), int(os.environ["PET_NODE_RANK"])
    _wait_for(folder)
    end = copy_output_to(folder / node_log(node))
    _stop_at_sigterm(folder, node, end)
    threading.Thread(target=_stop_when_abandoned, args=(folder, node, end), name="alive", daemon=True).start()
    try:
        with watched_memory("pools.training.memory", note):
            run(folder)
    finally:
        end()


if __name__ == "__main__":
    main()
