"""Keeps a local run's artifacts and progress in an S3 server of its own: `run --store s3`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from components.shared.object_store import Store, open_store
from components.shared.object_store.store import MARKER
from launch.local.s3_server import S3Server

_BUCKET = "rloop"
_CACHE = ".kfp_cache"  # kfp.local's, among the artifacts


class Mirror:
    """Sends each stage's artifacts as it finishes, and brings back what is not here any more.

    Attributes:
        uri: below which all of it lies.
        progress_uri: where the stages keep their progress.
    """

    def __init__(self, store: Store, artifacts: Path) -> None:
        self._store, self._artifacts, self.uri = store, artifacts, store.uri
        self.progress_uri = f"{store.uri}/progress"

    def bring_back(self) -> int:
        """Fetches stages whose artifacts are in the store and not here; returns how many."""
        markers = [item.name for item in self._store.list("artifacts/") if item.name.endswith(f"/{MARKER}")]
        brought = 0
        for prefix in (name.removesuffix(f"/{MARKER}") for name in markers):
            folder = self._artifacts / prefix.removeprefix("artifacts/")
            if not folder.is_dir():
                self._store.download_folder(prefix, folder)
                brought += folder.name != _CACHE
        return brought

    def stage_done(self, folder: Path) -> None:
        """Sends a stage's artifacts, and then the cache that names them."""
        for path in (folder, self._artifacts / _CACHE):
            self._store.upload_folder(path, f"artifacts/{path.relative_to(self._artifacts).as_posix()}")


@contextlib.contextmanager
def s3_mirror(output_dir: Path, artifacts: Path, console: Console) -> Iterator[Mirror]:
    """Starts the S3 server whose data lie in the run's folder, and tells the stages' processes of it.

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
        if brought := mirror.bring_back():
            console.print(f"brought back the artifacts of {brought} stages", highlight=False)
        yield mirror
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
