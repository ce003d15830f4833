"""The output folder of a local run: its lock, its temporary files, and the results at its top."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.stage import whole_folder, write_json


@contextlib.contextmanager
def exclusive(output_dir: Path) -> Iterator[None]:
    """Creates the run's folder and keeps other runs out of it.

    Raises:
        InputError: the folder cannot be written, or another run is using it.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = (output_dir / ".lock").open("w")
        write_json(output_dir / ".writable", {})
        (output_dir / ".writable").unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to the output folder {output_dir}: {error.strerror}; choose another with --output-dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run is using {output_dir}; wait for it, or choose another folder with --output-dir"
            ) from None
        yield


@contextlib.contextmanager
def temporary_folder(output_dir: Path) -> Iterator[None]:
    """Makes stages keep temporary files on the output's disk, and removes them at the end.

    Args:
        output_dir: folder of the run, which no other run uses: what a killed run left there is removed.
    """
    for left in output_dir.glob(".tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".tmp-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = str(Path(folder).resolve())
        tempfile.tempdir = None  # makes tempfile read TMPDIR again
        try:
            yield
        finally:
            tempfile.tempdir = None
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


def publish(last_report: dict[str, Any], output_dir: Path) -> None:
    """Copies page, numbers and policy of the last report to the top of the run's folder.

    Args:
        last_report: outputs of the last iteration's report stage.
        output_dir: folder of the run.
    """
    for source, name in (
        (Path(last_report["page"].path), "report.html"),
        (Path(last_report["results"].path) / "summary.json", "summary.json"),
        (Path(last_report["results"].path) / "problems.json", "problems.json"),
    ):
        temporary = output_dir / f".{name}.tmp"
        shutil.copyfile(source, temporary)
        os.replace(temporary, output_dir / name)
    with whole_folder(output_dir / "policy") as folder:
        shutil.copytree(last_report["best_policy"].path, folder, dirs_exist_ok=True)
