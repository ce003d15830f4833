"""A replica: a process that samples what the stage's process shares out, on the GPUs that its environment shows it.

`python -m components.shared.sampling.replica FD`, where FD is its end of a `multiprocessing.Pipe`.
"""

import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import psutil

from components.shared.errors import InputError
from components.shared.sampling.base import Batch, Sampler
from components.shared.sampling.engines import SamplerSettings
from components.shared.stage import disk_problem

# Messages to a replica are START, and the answers to TAKE: settings and a batch, or None. Messages from a replica:
START = "start"
TAKE = "take"  # and whether it must be of the same policy
DONE = "done"  # and a batch's name and start, and its completions
FAILED = "failed"  # and whether the message is for the user, and the message


def main(descriptor: int) -> None:
    """Samples until the stage's process closes the connection or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stage's process gets it too, and ends this one
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    threading.Thread(target=_end_with_the_stage, args=(descriptor,), daemon=True).start()
    try:
        replica = _Replica(connection)
        while connection.recv() == START:
            replica.work()
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        message = str(error) if isinstance(error, InputError) else disk_problem(error)
        if message is None:
            traceback.print_exc()
        connection.send((FAILED, message is not None, message or f"{type(error).__name__}: {error}"))


class _Replica:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sampler: Sampler | None = None
        self._settings: SamplerSettings | None = None

    def work(self) -> None:
        """Takes batches and samples them until there are none left."""
        while (item := self._take(same_policy=False)) is not None:
            settings, first = item
            for batch, completions in self._sampler_of(settings).sample(self._batches(first)):
                self._connection.send((DONE, batch.name, batch.start, completions))

    def _batches(self, first: Batch) -> Iterator[Batch]:
        yield first
        while (item := self._take(same_policy=True)) is not None:
            yield item[1]

    def _take(self, same_policy: bool) -> tuple[SamplerSettings, Batch] | None:
        self._connection.send((TAKE, same_policy))
        item: tuple[SamplerSettings, Batch] | None = self._connection.recv()
        return item

    def _sampler_of(self, settings: SamplerSettings) -> Sampler:
        if self._sampler is None or settings != self._settings:
            if self._sampler is not None:
                self._sampler.close()
                self._sampler = None
            self._sampler, self._settings = settings.open(), settings
        return self._sampler


def _end_with_the_stage(descriptor: int) -> Any:
    """Waits until the stage's end of the connection is closed; ends this process and those that vLLM started."""
    poll = select.poll()
    poll.register(descriptor, 0)  # nothing but the other end's closing
    while not poll.poll():
        pass
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
