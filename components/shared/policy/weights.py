"""A policy's weight files as the headers of its safetensors files describe them, without loading weights.

Headers are read wherever the files are stored: in a folder, in a bucket or on the hub.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from components.shared.errors import InputError

INDEX = "model.safetensors.index.json"
_MAX_HEADER = 100 << 20  # bytes; the format's limit


class Tensor(NamedTuple):
    """A tensor's entry in a header."""

    dtype: str  # as safetensors writes it: F32, BF16, ...
    shape: tuple[int, ...]
    start: int = 0  # offset in bytes from the end of the header
    end: int = 0


class WeightFiles(NamedTuple):
    """A policy's weight files as their headers describe them."""

    headers: dict[str, dict[str, Tensor]]  # file -> tensor name -> tensor
    names: set[str]  # all files beside config.json
    shards: dict[str, str] | None = None  # tensor name -> file, from the index


def read_header(name: str, file: str, size: int, read: Callable[[int, int], bytes]) -> dict[str, Tensor]:
    """Reads the header of a safetensors file.

    Args:
        name: Name of the policy, for messages.
        file: Name of the file.
        size: Size of the file in bytes.
        read: Called with an offset and a number of bytes; returns those bytes.

    Raises:
        InputError: It is not a safetensors file, or it is incomplete.
    """
    start = read(0, min(size, 8))
    length = int.from_bytes(start, "little")
    pointer = " (it is a git-lfs pointer: fetch the file itself)" if start == b"version " else ""
    if len(start) < 8 or pointer or not 2 <= length <= min(size - 8, _MAX_HEADER):
        raise InputError(f"base policy {name!r}: {file} is not safetensors{pointer}, or was cut off; fetch it again")
    try:
        header = json.loads(read(8, length))
        tensors = {
            tensor: Tensor(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for tensor, entry in header.items()
            if tensor != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"base policy {name!r}: {file} is not safetensors: its header is broken: {error}") from None
    expected = 8 + length + max((tensor.end for tensor in tensors.values()), default=0)
    if size != expected:
        raise InputError(
            f"base policy {name!r}: {file} has {size:,} bytes, but its header describes {expected:,}: it was cut off "
            f"or overwritten; fetch it again"
        )
    return tensors


def local_weights(folder: str | Path, name: str) -> WeightFiles:
    """Reads the headers of the weight files in a folder.

    Raises:
        InputError: A file is not a safetensors file, is incomplete, or may not be read.
    """
    folder, headers = Path(folder), {}
    for path in sorted(folder.glob("*.safetensors")):

        def read(offset: int, length: int, path: Path = path) -> bytes:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length)

        try:
            headers[path.name] = read_header(name, path.name, path.stat().st_size, read)
        except PermissionError:
            raise InputError(f"base policy {name!r}: {path.name} may not be read by this user") from None
    index = (folder / INDEX).read_bytes() if (folder / INDEX).is_file() else None
    return WeightFiles(headers, {path.name for path in folder.iterdir()}, parse_index(index, name))


def parse_index(data: bytes | None, name: str) -> dict[str, str] | None:
    """Parses the index of weights in several files; returns tensor name to file, or None if there is no index.

    Raises:
        InputError: It is not what transformers writes.
    """
    if data is None:
        return None
    try:
        return {str(tensor): str(file) for tensor, file in json.loads(data)["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"base policy {name!r}: {INDEX} is broken; expected JSON with a weight_map of tensors to files"
        ) from None
