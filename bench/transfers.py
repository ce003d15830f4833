"""What the object store layer costs beside the plain clients: `make bench`.

A model folder of 2 GiB and 5,000 small shards, up and down, against `fput_object` and `fget_object` of the minio
client in a loop, and against boto3's transfer manager where it is installed (it is no dependency). One SeaweedFS on
this machine serves all, so on few cores the server is the limit.
"""

import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from components.shared.object_store import open_store
from components.shared.object_store.s3 import new_client
from launch.s3_server import S3Server

_BUCKET = "bench"


def boto3_transfer(server: S3Server) -> Any:
    """boto3's S3 client with its transfer manager; None where boto3 is not installed."""
    try:
        import boto3
    except ImportError:
        return None
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )


def make_folder(folder: Path, files: int, size: int) -> Path:
    """Fills a folder with random files of so many bytes."""
    folder.mkdir()
    for number in range(files):
        with (folder / f"{number:05d}.bin").open("wb") as file:
            for _ in range(max(1, size >> 20)):
                file.write(os.urandom(min(size, 1 << 20)))
    return folder


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


def compare(name: str, folder: Path, server: S3Server, work: Path) -> dict[str, Any]:
    """Seconds of each side, up and down, and how many times as fast ours is as the best of the others."""
    files = sorted(folder.iterdir())
    client, boto, store = new_client(server.endpoint), boto3_transfer(server), open_store(f"s3://{_BUCKET}/ours")
    for side in ("ours", "minio", "boto3"):
        (work / side).mkdir()

    def plain_up() -> None:
        for file in files:
            client.fput_object(_BUCKET, f"minio/{name}/{file.name}", str(file))

    def plain_down() -> None:
        for file in files:
            client.fget_object(_BUCKET, f"minio/{name}/{file.name}", str(work / "minio" / file.name))

    def boto_up() -> None:
        for file in files:
            boto.upload_file(str(file), _BUCKET, f"boto3/{name}/{file.name}")

    def boto_down() -> None:
        for file in files:
            boto.download_file(_BUCKET, f"boto3/{name}/{file.name}", str(work / "boto3" / file.name))

    up = {"ours": seconds(lambda: store.upload_folder(folder, name)), "minio": seconds(plain_up)}
    down = {"ours": seconds(lambda: store.download_folder(name, work / "ours")), "minio": seconds(plain_down)}
    if boto:
        up["boto3"], down["boto3"] = seconds(boto_up), seconds(boto_down)
    ratios = {}
    for way, times in (("up", up), ("down", down)):
        ratios[way] = min(value for side, value in times.items() if side != "ours") / times["ours"]
    return {
        "what": name,
        "up_seconds": {side: round(value, 1) for side, value in up.items()},
        "down_seconds": {side: round(value, 1) for side, value in down.items()},
        "ratio_to_the_best_other": {way: round(ratio, 2) for way, ratio in ratios.items()},
        "up_again_seconds": round(seconds(lambda: store.upload_folder(folder, name)), 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


@click.command()
@click.option("--gib", default=2.0, show_default=True, help="Size of the model folder.")
@click.option("--shards", default=5000, show_default=True, help="Small files, of 60 kB each.")
def main(gib: float, shards: int) -> None:
    """Times transfers beside the plain clients and prints the ratios."""
    for name, files, size in (("shards", shards, 60_000), ("model", 4, int(gib * 2**30 / 4))):
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            server = S3Server(work / "server", _BUCKET)
            server.start()
            os.environ.update(server.environment)
            try:
                click.echo(json.dumps(compare(name, make_folder(work / "in", files, size), server, work)))
            finally:
                server.stop()
                shutil.rmtree(work / "server")


if __name__ == "__main__":
    main()
