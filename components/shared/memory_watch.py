"""Says when a stage's pod comes close to its memory limit, at which the kernel kills it without a word.

A pod that is killed for memory leaves nothing but `exit status 137` in its log; what is said here before explains it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SHARES = (0.80, 0.95)  # of the limit; each is said once
_EVERY_SECONDS = 1.0
_UNLIMITED = 1 << 60  # cgroups of version 1 give a number near 2^63 where there is no limit
_POOLS = {  # of stages by the names that they are run under; the others run on the pool `cpu`
    "RL exploration": "training",
    "RFT": "training",
    "evaluation": "inference",
    "evaluation of policies on the way": "inference",
}


@dataclass(frozen=True)
class MemoryGroup:
    """The files of a control group's memory: its limit, its use, and the figures of which the use is made."""

    limit: Path
    usage: Path
    statistics: Path
    inactive_file: str  # the key of file pages that the kernel drops before it kills: they do not count

    def read_limit(self) -> int | None:
        """The limit in bytes, None where there is none."""
        text = self.limit.read_text().strip()
        return None if text == "max" or int(text) >= _UNLIMITED else int(text)

    def read_usage(self) -> int:
        """What counts against the limit, in bytes."""
        usage = int(self.usage.read_text())
        for line in self.statistics.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == self.inactive_file:
                usage -= int(value)
        return max(usage, 0)


def pool_of(stage: str) -> str:
    """The node pool of a stage, by the name that it runs under."""
    return _POOLS.get(stage, "cpu")


def memory_group(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> MemoryGroup | None:
    """The control group that limits this process's memory; None where there is none.

    A container sees its own group where the groups are mounted; outside of one, `own` says which it is.
    """
    groups = {}
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        groups[controllers] = path.lstrip("/")
    of_memory = next((path for name, path in groups.items() if "memory" in name.split(",")), "")
    for folder in (mounted / groups.get("", ""), mounted):
        if (limit := folder / "memory.max").exists():
            return MemoryGroup(limit, folder / "memory.current", folder / "memory.stat", "inactive_file")
    for folder in (mounted / "memory" / of_memory, mounted / "memory"):
        if (limit := folder / "memory.limit_in_bytes").exists():
            usage = folder / "memory.usage_in_bytes"
            return MemoryGroup(limit, usage, folder / "memory.stat", "total_inactive_file")
    return None


@contextlib.contextmanager
def watched_memory(
    key: str, say: Callable[[str], None], group: MemoryGroup | None = None, every: float = _EVERY_SECONDS
) -> Iterator[None]:
    """Watches the memory of this process's control group while the block runs; does nothing where it has no limit.

    Args:
        key: of the recipe, that sets the limit.
        say: is called with what there is to say, from another thread.
        group: this process's if None.
        every: seconds between looks.
    """
    group = group or memory_group()
    limit = group.read_limit() if group else None
    if group is None or limit is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        left = list(SHARES)
        while left and not over.wait(every):
            usage = group.read_usage()
            passed = [share for share in left if usage >= share * limit]
            if passed:
                left = [share for share in left if share not in passed]
                say(
                    f"memory: {usage / 2**30:.2f} of {limit / 2**30:.2f} GiB, {usage / limit:.0%} of the limit. "
                    f"At the limit this is killed (exit status 137): raise {key}"
                )

    watching = threading.Thread(target=watch, name="memory", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
