"""Benchmarks the object store layer against the plain clients: `make bench`.

Uploads and downloads a model folder of 2 GiB and 5,000 small shards, compared with a loop over the minio client's
`fput_object` and `fget_object`, and with boto3's transfer manager if it is installed (it is no dependency). One
SeaweedFS on this machine serves all sides, so on few cores the server is the limit; then the same, with fewer shards,
over a simulated network.
"""

import contextlib
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from slow_network import distant

from components.shared.object_store import open_store
from components.shared.object_store.s3 import new_client
from launch.local.s3_server import S3Server

_BUCKET = "bench"


def boto3_transfer(server: S3Server, endpoint: str) -> Any:
    """Returns boto3's S3 client with its transfer manager; None if boto3 is not installed."""
    try:
        import boto3
    except ImportError:
        return None
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )


def make_folder(folder: Path, files: int, size: int) -> Path:
    """Creates a folder with random files.

    Args:
        folder: folder to create.
        files: number of files.
        size: bytes per file.
    """
    folder.mkdir()
    for number in range(files):
        with (folder / f"{number:05d}.bin").open("wb") as file:
            for _ in range(max(1, size >> 20)):
                file.write(os.urandom(min(size, 1 << 20)))
    return folder


def settle(folder: Path, size: int) -> None:
    """Writes and removes a file of `size` bytes, so that every side finds disk and memory in the same state."""
    with (folder / "settle").open("wb") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    (folder / "settle").unlink()
    os.sync()


def seconds(call: Callable[[], Any]) -> float:
    """Returns how long a call takes."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


def compare(name: str, folder: Path, server: S3Server, endpoint: str, work: Path, rounds: int) -> dict[str, Any]:
    """Returns each side's median seconds for upload and download, and our speedup over the best of the others.

    The sides take turns going first.
    """
    files = sorted(folder.iterdir())
    total = sum(file.stat().st_size for file in files)
    client, boto, store = new_client(endpoint), boto3_transfer(server, endpoint), open_store(f"s3://{_BUCKET}")
    there, here = "folder", work / "down"
    own = in_a_loop(client.fput_object, client.fget_object, files, there, here)
    sides = {
        "ours": (lambda: store.upload_folder(folder, there), lambda: store.download_folder(there, here)),
        "minio": own,
    }
    if boto:
        send = lambda bucket, key, file: boto.upload_file(file, bucket, key)  # noqa: E731
        sides["boto3"] = in_a_loop(send, boto.download_file, files, there, here)
    up, down = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for number in range(rounds):
        order = list(sides)[number % len(sides) :] + list(sides)[: number % len(sides)]
        for side in order:
            store.delete(there)
            settle(work, total)
            up[side].append(seconds(sides[side][0]))
        store.upload_folder(folder, there)
        for side in order:
            shutil.rmtree(here, ignore_errors=True)
            here.mkdir()
            settle(work, total)
            down[side].append(seconds(sides[side][1]))
    result: dict[str, Any] = {"what": name, "rounds": rounds}
    for way, times in (("up", up), ("down", down)):
        middle = {side: statistics.median(values) for side, values in times.items()}
        result[f"{way}_seconds"] = {side: round(value, 1) for side, value in middle.items()}
        best = min(value for side, value in middle.items() if side != "ours")
        result[f"{way}_ratio_to_the_best_other"] = round(best / middle["ours"], 2)
    result["up_again_seconds"] = round(seconds(lambda: store.upload_folder(folder, there)), 1)
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def in_a_loop(
    send: Callable[[str, str, str], Any],
    fetch: Callable[[str, str, str], Any],
    files: list[Path],
    prefix: str,
    folder: Path,
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Returns upload and download with a plain client, one file after the other."""

    def up() -> None:
        for file in files:
            send(_BUCKET, f"{prefix}/{file.name}", str(file))

    def down() -> None:
        for file in files:
            fetch(_BUCKET, f"{prefix}/{file.name}", str(folder / file.name))

    return up, down


@click.command()
@click.option("--gib", default=2.0, show_default=True, help="Size of the model folder.")
@click.option("--shards", default=5000, show_default=True, help="Number of small files, of 60 kB each.")
@click.option("--rounds", default=3, show_default=True, help="Number of rounds.")
@click.option("--latency", default=10.0, show_default=True, help="Milliseconds per request to the distant server.")
def main(gib: float, shards: int, rounds: int, latency: float) -> None:
    """Time transfers with our layer and the plain clients, and print the ratios."""
    model, distant_shards = int(gib * 2**30 / 4), shards // 5
    cases = (
        ("shards", shards, 60_000, 0.0, rounds),
        ("model", 4, model, 0.0, rounds),
        (f"shards over {latency:g} ms", distant_shards, 60_000, latency / 1000, 1),
        (f"model over {latency:g} ms", 4, model, latency / 1000, 1),
    )
    for name, files, size, delay, times in cases:
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            server = S3Server(work / "server", _BUCKET)
            server.start()
            try:
                with distant(server.endpoint, delay) if delay else contextlib.nullcontext(server.endpoint) as endpoint:
                    os.environ.update({**server.environment, "AWS_ENDPOINT_URL_S3": endpoint})
                    click.echo(
                        json.dumps(compare(name, make_folder(work / "in", files, size), server, endpoint, work, times))
                    )
            finally:
                server.stop()
                shutil.rmtree(work / "server")


if __name__ == "__main__":
    main()
