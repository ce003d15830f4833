"""Checks that a policy's weights fit its config, from the headers of its safetensors files.

Transformers initialises missing tensors at random and ignores unknown ones, with no more than a warning; a run would
start from noise.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from components.shared.errors import InputError
from components.shared.policy.expected_tensors import Expected, expected_tensors
from components.shared.policy.weights import INDEX, Tensor, WeightFiles

ADAPTER = "adapter_config.json"
_FLOATS = {"F64", "F32", "F16", "BF16"}
# Unexpected tensors that are no fault: buffers that older versions saved.
_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias|position_ids)$")
# What wrappers add to the names of a model's tensors: DDP, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_SHOWN = 4  # names in a message


def check_weights(config: dict[str, Any], files: WeightFiles, name: str) -> None:
    """Checks that weights belong to the model that a config describes: names, shapes and dtypes.

    Tied weights may be absent, and buffers that are not saved may or may not be there.

    Args:
        config: Content of config.json.
        files: The weights.
        name: What the user calls the policy, for the message.

    Raises:
        InputError: Says which tensors are missing, unexpected, misshapen or not plain floats, and what to do.
    """
    tensors = {tensor: entry for header in files.headers.values() for tensor, entry in header.items()}
    refuse_adapter({*files.names, *tensors}, name)
    if files.shards is not None:
        _check_index(files.shards, files.headers, name)
    if wrapped := [tensor for tensor in tensors if any(part in f".{tensor}" for part in map(".{}".format, _WRAPPERS))]:
        raise InputError(
            f"base policy {name!r}: the names of {len(wrapped)} tensors come from a wrapper, such as {wrapped[0]!r}; "
            f"they would be ignored and the model made of random numbers. Save the wrapped model (.module, ._orig_mod) "
            f"with save_pretrained"
        )
    if odd := [
        tensor for tensor, entry in tensors.items() if entry.dtype not in _FLOATS and not _BUFFERS.search(tensor)
    ]:
        raise InputError(
            f"base policy {name!r}: {_names(odd)} {'is' if len(odd) == 1 else 'are'} {tensors[odd[0]].dtype}, but "
            f"weights that are trained are {', '.join(sorted(_FLOATS))}; use the model that is not quantised"
        )
    expected = expected_tensors(config, name)
    faults = list(_layer_faults(config, tensors) if expected is None else _faults(expected, tensors))
    if faults:
        raise InputError(
            f"base policy {name!r}: the weights do not fit config.json, and what is missing would be random numbers: "
            + "; ".join(faults)
        )


def refuse_adapter(names: Set[str], name: str) -> None:
    """Raises InputError if the names of a policy's files and tensors show that it is, or contains, an adapter."""
    if ADAPTER in names or any(".lora_A." in one or ".lora_embedding_A" in one for one in names):
        raise InputError(
            f"base policy {name!r} is an adapter, or contains one ({ADAPTER}, LoRA tensors); merge it into its base: "
            f"AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload().save_pretrained(FOLDER)"
        )


def _check_index(index: dict[str, str], headers: Mapping[str, Mapping[str, Tensor]], name: str) -> None:
    if gone := sorted(set(index.values()) - headers.keys()):
        raise InputError(
            f"base policy {name!r}: {INDEX} names {_names(gone)}, which {'is' if len(gone) == 1 else 'are'} missing; "
            f"fetch all of its files"
        )
    if lost := [tensor for tensor, file in index.items() if tensor not in headers[file]]:
        raise InputError(
            f"base policy {name!r}: {INDEX} says that {_names(lost)} {'is' if len(lost) == 1 else 'are'} in "
            f"{index[lost[0]]}, which is wrong; index and files are not from the same model"
        )
    if strange := sorted(headers.keys() - set(index.values())):
        raise InputError(
            f"base policy {name!r}: {_names(strange)} is beside the weights, but {INDEX} does not name it; remove "
            f"what does not belong to the model"
        )


def _faults(expected: Expected, tensors: dict[str, Tensor]) -> Iterator[str]:
    known = expected.required | expected.optional
    if expected.bare and not any(tensor.startswith(expected.prefix) for tensor in tensors):
        tensors = {tensor if tensor in known else expected.prefix + tensor: t for tensor, t in tensors.items()}
    missing = [tensor for tensor in expected.required if tensor not in tensors]
    unexpected = [tensor for tensor in tensors if tensor not in known and not _BUFFERS.search(tensor)]
    misshapen = [t for t, shape in known.items() if t in tensors and tensors[t].shape != shape]
    if missing and all(expected.prefix + tensor in known for tensor in unexpected) and unexpected:
        yield (
            f"the names lack {expected.prefix!r}, such as {unexpected[0]!r} for {expected.prefix + unexpected[0]!r}: "
            f"load it with AutoModelForCausalLM and save it again with save_pretrained"
        )
        return
    if missing:
        yield f"missing are {len(missing)} of {len(expected.required)} tensors: {_names(missing)}"
    if unexpected:
        yield f"unexpected are {len(unexpected)}: {_names(unexpected)}"
    if misshapen:
        shapes = (f"{t} {list(tensors[t].shape)} for {list(known[t])}" for t in misshapen[:_SHOWN])
        yield f"of another shape are {len(misshapen)}: {', '.join(shapes)}{', ...' if len(misshapen) > _SHOWN else ''}"


def _layer_faults(config: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[str]:
    """Checks a model class that is not known here: whether it has as many layers as the config says."""
    found = {int(match[1]) for tensor in tensors if (match := _LAYER.search(tensor))}
    inner = config.get("text_config", config)
    layers = inner.get("num_hidden_layers", inner.get("n_layer"))
    if found and isinstance(layers, int) and found != set(range(layers)):
        there = f"{min(found)} to {max(found)}" if len(found) == max(found) - min(found) + 1 else _names(sorted(found))
        yield f"there are layers {there}, but config.json says {layers}"


def check_numbers(folder: str | Path, files: WeightFiles, name: str) -> None:
    """Checks every number of a policy's weights, for a stage that reads them anyway.

    Raises:
        InputError: A tensor contains NaN or infinity; or the output layer is stored beside the embeddings that the
            config ties it to and differs from them, which trainers and vLLM read differently.
    """
    folder, places = Path(folder), {}
    for file, header in files.headers.items():
        for tensor, entry in header.items():
            places[tensor] = folder / file, entry
            if entry.dtype in _EXPONENTS and not _finite(_bits(folder / file, entry), _EXPONENTS[entry.dtype][1]):
                raise InputError(
                    f"base policy {name!r}: {tensor} in {file} contains NaN or infinity; the policy is broken. Use "
                    f"a checkpoint from before its training diverged"
                )
    config = json.loads((folder / "config.json").read_text())
    output, embeddings = places.get("lm_head.weight"), places.get("model.embed_tokens.weight")
    if config.get("tie_word_embeddings") and output and embeddings and not _equal(_bits(*output), _bits(*embeddings)):
        raise InputError(
            f"base policy {name!r}: config.json has tie_word_embeddings, but lm_head.weight differs from "
            f"model.embed_tokens.weight: some programs would use one, some the other. Set tie_word_embeddings to "
            f"false, or save the model again without lm_head.weight"
        )


# By dtype: the unsigned integer of its width, and the exponent bits, which are all set only in NaN and infinity.
_EXPONENTS = {
    "F64": ("<u8", 0x7FF0 << 48),
    "F32": ("<u4", 0x7F80 << 16),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
_CHUNK = 1 << 22  # numbers


def _bits(path: Path, entry: Tensor) -> "np.ndarray[Any, Any]":
    """Returns a tensor's numbers as unsigned integers; they are read when accessed."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    kind = np.dtype(_EXPONENTS[entry.dtype][0])
    count = (entry.end - entry.start) // kind.itemsize
    if not count:
        return np.zeros(0, kind)
    return np.memmap(path, dtype=kind, mode="r", offset=8 + header + entry.start, shape=(count,))


def _finite(bits: "np.ndarray[Any, Any]", exponent: int) -> bool:
    mask = bits.dtype.type(exponent)
    return not any(((bits[i : i + _CHUNK] & mask) == mask).any() for i in range(0, len(bits), _CHUNK))


def _equal(a: "np.ndarray[Any, Any]", b: "np.ndarray[Any, Any]") -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


def _names(names: Sequence[Any]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more
