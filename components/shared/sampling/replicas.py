"""Sampling in the stage's own process, or in several processes that share the work: replicas of the policy."""

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from components.shared.accelerator import accelerator, threads_each
from components.shared.errors import InputError
from components.shared.sampling.base import Batch, Completion
from components.shared.sampling.engines import SamplerSettings
from components.shared.sampling.placement import Placement
from components.shared.sampling.replica import DONE, FAILED, START, TAKE
from components.shared.sampling.sharing import WorkQueue

Work = Mapping[SamplerSettings, Sequence[Batch]]
_END_SECONDS = 10.0
_WAITING = 1024  # results that may wait to be judged, until the replicas get nothing more


class _Process(NamedTuple):
    process: "subprocess.Popen[bytes]"
    connection: Connection


class Replicas:
    """Samples batches on all replicas of a policy; a context manager, since it owns processes.

    One replica samples in the stage's own process. Several are processes of their own, which are started when they are
    first needed and then kept, whatever the policy, until this object is closed or the stage's process dies.
    """

    def __init__(self) -> None:
        self._started: list[_Process] = []
        self._placement = Placement()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the replicas' processes."""
        for each in self._started:
            _hang_up(each.connection)  # each replica then ends itself and vLLM's processes
        for each in self._started:
            try:
                each.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
            each.connection.close()
        self._started = []

    def sample(self, placement: Placement, work: Work) -> Iterator[tuple[Batch, list[Completion]]]:
        """Samples batches, and yields each when it is complete, in any order.

        What a batch contains does not depend on the number of replicas.

        Args:
            placement: Number of replicas, and GPUs of each.
            work: Batches by the settings of the policy's sampler. Names of batches are unique over all policies.

        Raises:
            InputError: One of the replicas raised one.
            RuntimeError: A replica failed otherwise, or ended; its traceback is in the log.
        """
        if placement.replicas == 1:
            for settings, batches in work.items():
                if batches:
                    with contextlib.closing(settings.open()) as sampler:
                        yield from sampler.sample(batches)
            return
        # vLLM's sequences have seeds of their own; with transformers, the seed is the batch's.
        shared = WorkQueue(work, whole=any(settings.engine == "transformers" for settings in work))
        sizes = {batch.name: len(batch.sequences) for batches in work.values() for batch in batches}
        named = {batch.name: batch for batches in work.values() for batch in batches}
        try:
            self._start(placement, min(placement.replicas, shared.items))
            parts: dict[str, dict[int, list[Completion]]] = {}
            for name, start, completions in self._results(shared):
                parts.setdefault(name, {})[start] = completions
                sizes[name] -= len(completions)
                if not sizes[name]:
                    found = parts.pop(name)
                    yield named[name], [completion for start in sorted(found) for completion in found[start]]
        except BaseException:
            self.close()
            raise

    def _start(self, placement: Placement, wanted: int) -> None:
        """Starts replicas until there are as many as wanted; starts all again if they need other GPUs."""
        if placement[:2] != self._placement[:2]:
            self.close()
        self._placement = placement
        while len(self._started) < wanted:
            ours, theirs = Pipe()
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-m", "components.shared.sampling.replica", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | _environment(placement, len(self._started)),
                )
            self._started.append(_Process(process, ours))

    def _results(self, shared: WorkQueue[SamplerSettings]) -> Iterator[tuple[str, int, list[Completion]]]:
        """Yields the completions of each item of the queue, while a thread answers the replicas."""
        results: queue.Queue[tuple[str, int, list[Completion]] | Exception] = queue.Queue(_WAITING)
        # Answers at once, also while the samples are being judged.
        thread = threading.Thread(target=self._serve, args=(shared, results), name="replicas", daemon=True)
        thread.start()
        for _ in range(shared.items):
            result = results.get()
            if isinstance(result, Exception):
                raise result
            yield result
        thread.join()

    def _serve(self, shared: WorkQueue[SamplerSettings], results: "queue.Queue[Any]") -> None:
        """Shares out the queue until every replica has been told that nothing is left."""
        numbers: dict[Connection, int] = {}
        number = 0
        try:
            for number, each in enumerate(self._started):
                numbers[each.connection] = number
                each.connection.send(START)
            working = set(numbers)
            while working:
                for ready in wait(list(working)):
                    connection = cast(Connection, ready)
                    number = numbers[connection]
                    kind, *rest = connection.recv()
                    if kind == TAKE:
                        (same_policy,) = rest
                        connection.send(item := shared.take(number, same_policy))
                        if item is None and not same_policy:
                            working.discard(connection)
                    elif kind == DONE:
                        results.put(tuple(rest))
                    elif kind == FAILED:
                        for_user, message = rest
                        raise (
                            InputError(message)
                            if for_user
                            else RuntimeError(
                                f"replica {number + 1} of {len(numbers)} failed: {message}; its traceback is above"
                            )
                        )
        except (EOFError, ConnectionError):
            results.put(RuntimeError(self._ended(number)))
        except Exception as error:
            results.put(error)

    def _ended(self, number: int) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._started[number].process.wait(_END_SECONDS)
        status = self._started[number].process.returncode
        why = "it was killed, as for lack of memory" if status == -9 else "what it printed above says why"
        return f"replica {number + 1} of {len(self._started)} ended with exit status {status}: {why}"


def _hang_up(connection: Connection) -> None:
    """Ends a connection for both sides at once, even while a thread waits on it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _environment(placement: Placement, number: int) -> dict[str, str]:
    """Returns the environment variables that show a replica its own GPUs alone, or its share of the cores."""
    if accelerator() == "cpu":
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads_each(placement.replicas)))}
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    size = placement.tensor_parallel_size
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[number * size : (number + 1) * size])}
