"""Saves a finished stage's outputs to the object store, so that a retry attempt can return them at once.

A pod may be lost after its stage succeeded but before Kubeflow has noticed; Kubeflow then starts the stage again. Files
that are already stored as shards are not uploaded again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.object_store import Store
from components.shared.object_store.digests import digest_of
from components.shared.stage import files_digest

SHARDS = "shards"
FINISHED = "finished-"


@dataclass(frozen=True)
class Outputs:
    """The outputs of a stage.

    Attributes:
        paths: files and folders, by name.
        parameters: parameters that the outputs depend on, besides those that the stage's progress depends on.
        inputs: files and folders that the outputs depend on, likewise.
    """

    paths: Mapping[str, str | Path]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str | Path] = ()

    @property
    def key(self) -> str:
        """Distinguishes different outputs of the same progress."""
        return inputs_digest(self.parameters, self.inputs)[:12]


def inputs_digest(parameters: Mapping[str, Any], inputs: Sequence[str | Path]) -> str:
    """Digests parameters and the contents of files and folders."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for path in map(Path, inputs):
        digest.update(files_digest(_files(path).values()).encode())
    return digest.hexdigest()


def save_outputs(store: Store, prefix: str, outputs: Outputs, figures: dict[str, float], summary: str) -> None:
    """Saves a finished stage's outputs.

    Args:
        store: the object store.
        prefix: prefix of the stage's progress.
        outputs: the stage's outputs.
        figures: the return value of the stage's function.
        summary: the stage's result line.
    """
    files: list[dict[str, Any]] = []
    where: dict[str, Path] = {}
    names: Counter[str] = Counter()
    seen: set[Path] = set()
    for output, path in outputs.paths.items():
        for name, file in _files(Path(path)).items():
            if file in seen:  # one output may be inside another's folder
                continue
            seen.add(file)
            made = {"output": output, "file": name, "size": file.stat().st_size, "digest": digest_of(file)}
            shard = f"{prefix}/{SHARDS}/{file.name}"
            files.append({**made, "object": shard})
            where[f"{output}/{name}"] = file
            names[shard] += 1
    not_shards = store.missing({entry["object"]: entry for entry in files})
    for entry in files:
        if entry["object"] in not_shards or names[entry["object"]] > 1:
            entry["object"] = f"{prefix}/outputs-{outputs.key}/{entry['output']}/{entry['file'] or 'file'}"
    missing = store.missing({entry["object"]: entry for entry in files})
    send = [entry for entry in files if entry["object"] in missing]
    store.upload_files((where[f"{entry['output']}/{entry['file']}"], entry["object"]) for entry in send)
    content = {"files": files, "figures": figures, "said": summary}
    store.write_bytes(f"{prefix}/{FINISHED}{outputs.key}.json", json.dumps(content).encode())


def fetch_outputs(store: Store, prefix: str, outputs: Outputs) -> tuple[dict[str, float], str] | None:
    """Downloads the outputs that a finished attempt saved.

    Args:
        store: the object store.
        prefix: prefix of the stage's progress.
        outputs: the stage's outputs, to be restored.

    Returns:
        The figures and the result line; None if no outputs are saved, or they are incomplete.
    """
    data = store.read_bytes(f"{prefix}/{FINISHED}{outputs.key}.json")
    if data is None:
        return None
    content = json.loads(data)
    files: list[dict[str, Any]] = content["files"]
    if store.missing({entry["object"]: entry for entry in files}):
        return None
    store.fetch_files((entry["object"], Path(outputs.paths[entry["output"]], entry["file"]), entry) for entry in files)
    return content["figures"], content["said"]


def _files(path: Path) -> dict[str, Path]:
    """Returns the files of a folder by their relative names; a single file under the empty name."""
    if path.is_file():
        return {"": path}
    return {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
