"""Keeps a local run's artifacts and progress on its own S3 server: `run --store s3`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from components.shared.object_store import Store, open_store
from components.shared.object_store.store import MARKER
from launch.local.s3_server import S3Server

_BUCKET = "rloop"
_CACHE = ".kfp_cache"  # kfp.local's cache folder, among the artifacts


class Mirror:
    """Uploads each stage's artifacts as it finishes, and restores those that are missing locally.

    Args:
        store: where to keep everything.
        artifacts: folder of the run's artifacts.

    Attributes:
        uri: root of everything the mirror keeps.
        progress_uri: where the stages keep their progress.
    """

    def __init__(self, store: Store, artifacts: Path) -> None:
        self._store, self._artifacts, self.uri = store, artifacts, store.uri
        self.progress_uri = f"{store.uri}/progress"

    def restore(self) -> int:
        """Downloads artifacts of stages that are in the store but not here; returns the number of stages."""
        markers = [item.name for item in self._store.list("artifacts/") if item.name.endswith(f"/{MARKER}")]
        restored = 0
        for prefix in (name.removesuffix(f"/{MARKER}") for name in markers):
            folder = self._artifacts / prefix.removeprefix("artifacts/")
            if not folder.is_dir():
                self._store.download_folder(prefix, folder)
                restored += folder.name != _CACHE
        return restored

    def upload_stage(self, folder: Path) -> None:
        """Uploads a stage's artifacts, and then the cache that refers to them."""
        for path in (folder, self._artifacts / _CACHE):
            self._store.upload_folder(path, f"artifacts/{path.relative_to(self._artifacts).as_posix()}")


@contextlib.contextmanager
def s3_mirror(output_dir: Path, artifacts: Path, console: Console) -> Iterator[Mirror]:
    """Starts the S3 server, with its data in the run's folder, and points the stages' processes to it.

    Raises:
        InputError: the server does not start.
    """
    server = S3Server(output_dir / "s3", _BUCKET)
    server.start()
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        store = open_store(f"s3://{_BUCKET}/{output_dir.resolve().name}")
        mirror = Mirror(store, artifacts)
        console.print(f"store  {store.uri} at {server.endpoint}; data in {output_dir / 's3'}", highlight=False)
        if restored := mirror.restore():
            console.print(f"restored the artifacts of {restored} stages", highlight=False)
        yield mirror
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
