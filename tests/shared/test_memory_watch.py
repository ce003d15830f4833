"""Notes on memory before a pod is killed for it, with files as the kernel's and with a real control group."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

import components.shared.stage as stage_module
from components.shared.memory_watch import memory_cgroup, pool_of, watched_memory
from launch.tasks import POOL_OF

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30


def version_2(folder: Path, limit: str = str(4 * GIB)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{GIB}\n")
    (folder / "memory.stat").write_text(f"anon {GIB}\nactive_file 7\ninactive_file 0\n")
    return folder


def version_1(folder: Path, limit: int = 4 * GIB) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{GIB}\n")
    (folder / "memory.stat").write_text(f"cache 5\ninactive_file 99\ntotal_inactive_file {GIB // 4}\n")
    return folder


def own(folder: Path, text: str) -> Path:
    file = folder / "own"
    file.write_text(text)
    return file


def test_a_container_of_either_version_sees_its_own_group(tmp_path: Path) -> None:
    two = memory_cgroup(version_2(tmp_path / "two"), own(tmp_path, "0::/\n"))
    assert two and (two.read_limit(), two.read_usage()) == (4 * GIB, GIB)
    version_1(tmp_path / "one" / "memory")
    # Without a namespace of its own, a container is told the node's path, which it does not see.
    one = memory_cgroup(tmp_path / "one", own(tmp_path, "5:cpu:/kubepods/a\n4:memory:/kubepods/a\n0::/\n"))
    assert one and (one.read_limit(), one.read_usage()) == (4 * GIB, GIB - GIB // 4)


def test_outside_a_container_the_process_says_which_group(tmp_path: Path) -> None:
    version_2(tmp_path / "two" / "user.slice", str(2 * GIB))
    two = memory_cgroup(tmp_path / "two", own(tmp_path, "0::/user.slice\n"))
    assert two and two.read_limit() == 2 * GIB
    version_1(tmp_path / "one" / "memory")
    version_1(tmp_path / "one" / "memory" / "mine", GIB)
    one = memory_cgroup(tmp_path / "one", own(tmp_path, "4:memory:/mine\n"))
    assert one and one.read_limit() == GIB
    assert memory_cgroup(tmp_path / "none", tmp_path / "no file") is None


def test_without_a_limit_nothing_is_watched(tmp_path: Path) -> None:
    for limitless in (
        memory_cgroup(version_2(tmp_path / "two", "max"), own(tmp_path, "0::/\n")),
        memory_cgroup(version_1(tmp_path / "one" / "memory", 9223372036854771712).parent, own(tmp_path, "")),
    ):
        before = threading.active_count()
        with watched_memory("pools.cpu.memory", print, limitless):
            assert threading.active_count() == before


def test_80_and_95_per_cent_are_said_once_each(tmp_path: Path) -> None:
    folder = version_2(tmp_path)
    group = memory_cgroup(folder, own(tmp_path, "0::/\n"))
    said: list[str] = []
    heard = threading.Condition()

    def say(text: str) -> None:
        with heard:
            said.append(text)
            heard.notify()

    def use(share: float, inactive: int = 0) -> None:
        stat = ("memory.stat", f"inactive_file {inactive}\n")
        current = ("memory.current", f"{round(share * 4 * GIB) + inactive}\n")
        # In the order in which no reading between the two takes the memory for fuller than it is.
        for name, text in (stat, current) if inactive else (current, stat):
            (folder / "new").write_text(text)  # whole at any moment, as the kernel's are
            (folder / "new").rename(folder / name)

    def expect(count: int) -> None:
        with heard:
            assert heard.wait_for(lambda: len(said) >= count, timeout=10), said

    with watched_memory("pools.training.memory", say, group, every=0.01):
        use(0.79, inactive=GIB)  # file pages that can go are no danger
        threading.Event().wait(0.1)
        assert not said
        use(0.81)
        expect(1)
        use(0.70)
        threading.Event().wait(0.05)
        use(0.97)
        expect(2)
        threading.Event().wait(0.1)
    assert said[0].startswith("memory: 3.24 of 4.00 GiB, 81% of the limit") and "97% of the limit" in said[1]
    assert len(said) == 2 and all("exit status 137" in text and "raise pools.training.memory" in text for text in said)
    assert "memory" not in {thread.name for thread in threading.enumerate()}


def test_a_leap_over_both_is_one_note(tmp_path: Path) -> None:
    folder = version_2(tmp_path)
    (folder / "memory.current").write_text(f"{4 * GIB - 1}\n")
    said: list[str] = []
    with watched_memory("k", said.append, memory_cgroup(folder, own(tmp_path, "0::/\n")), every=0.01):
        threading.Event().wait(0.1)
    assert len(said) == 1 and "100% of the limit" in said[0]


def test_a_stage_names_the_key_of_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for folder, pool in POOL_OF.items():
        source = (ROOT / "components" / folder / "component.py").read_text()
        names = re.findall(r'with stage\("([^"]+)"\)', source)
        assert names and {pool_of(name) for name in names} == {pool}
        seen |= set(names)
    assert {"RL exploration", "RFT", "evaluation", "report"} <= seen
    watched: list[str] = []
    monkeypatch.setattr(stage_module, "watched_memory", lambda key, say: nullcontext(watched.append(key)))
    with stage_module.stage("RFT"):
        pass
    assert watched == ["pools.training.memory"]


@contextmanager
def real_group(limit: int) -> Iterator[Path]:
    """A control group of this machine with a limit; skips the test where none can be made."""
    base = Path("/sys/fs/cgroup")
    two = (base / "memory.max").exists() or (base / "cgroup.controllers").exists()
    folder = (base if two else base / "memory") / f"rloop-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.max" if two else "memory.limit_in_bytes")).write_text(str(limit))
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield folder
    finally:
        folder.rmdir()


FILL = """
import sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
import components.shared.stage as stage_module
from components.shared.memory_watch import watched_memory
from components.shared.stage import note
with watched_memory("pools.training.memory", note, every=0.02):
    kept = []
    while True:
        kept.append(bytearray(b"x" * (1 << 20)))
        time.sleep(0.03)
"""


def test_the_last_words_of_a_process_that_is_killed_for_memory_explain_it() -> None:
    limit = 96 << 20
    with real_group(limit) as folder:
        killed = subprocess.run(
            [sys.executable, "-c", FILL, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert killed.returncode == -9, killed.stderr
    first, second = killed.stdout.splitlines()
    assert re.match(r"\[note\] memory: 0\.0\d of 0\.09 GiB, [89]\d% of the limit\.", first)
    assert re.search(r"(9[5-9]|100)% of the limit\. .* raise pools\.training\.memory", second)
