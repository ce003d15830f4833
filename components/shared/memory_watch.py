"""Warns when a stage's pod comes close to its memory limit, at which the kernel kills it.

An OOM-killed pod leaves only `exit status 137` in its log; these warnings explain it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SHARES = (0.80, 0.95)  # of the limit; one warning each
_EVERY_SECONDS = 1.0
_UNLIMITED = 1 << 60  # cgroup v1 reports a number near 2^63 if there is no limit
_POOLS = {  # by the name that a stage passes to `stage`; all other stages run on the pool `cpu`
    "RL exploration": "training",
    "RFT": "training",
    "evaluation": "inference",
}


@dataclass(frozen=True)
class MemoryCgroup:
    """The memory files of a cgroup: its limit, its usage, and the statistics of its usage."""

    limit: Path
    usage: Path
    statistics: Path
    inactive_file: str  # statistic of the file pages that the kernel reclaims before it kills: they do not count

    def read_limit(self) -> int | None:
        """Returns the limit in bytes; None if there is no limit."""
        text = self.limit.read_text().strip()
        return None if text == "max" or int(text) >= _UNLIMITED else int(text)

    def read_usage(self) -> int:
        """Returns the usage that counts against the limit, in bytes."""
        usage = int(self.usage.read_text())
        for line in self.statistics.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == self.inactive_file:
                usage -= int(value)
        return max(usage, 0)


def pool_of(stage: str) -> str:
    """Returns the node pool of a stage, given the name that it passes to `stage`."""
    return _POOLS.get(stage, "cpu")


def memory_cgroup(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> MemoryCgroup | None:
    """Returns the cgroup that limits this process's memory; None if there is none.

    Args:
        mounted: where cgroups are mounted; a container sees its own cgroup there.
        own: file that names this process's cgroups, used outside a container.
    """
    groups = {}
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        groups[controllers] = path.lstrip("/")
    memory_path = next((path for name, path in groups.items() if "memory" in name.split(",")), "")
    for folder in (mounted / groups.get("", ""), mounted):
        if (limit := folder / "memory.max").exists():
            return MemoryCgroup(limit, folder / "memory.current", folder / "memory.stat", "inactive_file")
    for folder in (mounted / "memory" / memory_path, mounted / "memory"):
        if (limit := folder / "memory.limit_in_bytes").exists():
            usage = folder / "memory.usage_in_bytes"
            return MemoryCgroup(limit, usage, folder / "memory.stat", "total_inactive_file")
    return None


@contextlib.contextmanager
def watched_memory(
    key: str, warn: Callable[[str], None], cgroup: MemoryCgroup | None = None, every: float = _EVERY_SECONDS
) -> Iterator[None]:
    """Watches the memory of this process's cgroup while the block runs; does nothing if it has no limit.

    Args:
        key: the recipe key that sets the limit.
        warn: called with each warning, from another thread.
        cgroup: the cgroup to watch; this process's if None.
        every: seconds between checks.
    """
    cgroup = cgroup or memory_cgroup()
    limit = cgroup.read_limit() if cgroup else None
    if cgroup is None or limit is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        left = list(SHARES)
        while left and not done.wait(every):
            usage = cgroup.read_usage()
            passed = [share for share in left if usage >= share * limit]
            if passed:
                left = [share for share in left if share not in passed]
                warn(
                    f"memory: {usage / 2**30:.2f} of {limit / 2**30:.2f} GiB, {usage / limit:.0%} of the limit. "
                    f"At the limit the stage is killed (exit status 137): raise {key}"
                )

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
