"""What a finished stage leaves in the object store: enough for another attempt to hand its outputs over at once.

A stage may end well and its pod be lost before Kubeflow has seen it; then Kubeflow starts it again. Files that are in
the store as shards already are not sent again.
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
    """What a stage makes.

    Attributes:
        paths: files and folders, by name.
        parameters: what they depend on besides that which the stage's progress depends on.
        inputs: the same, of files and folders that the stage reads.
    """

    paths: Mapping[str, str | Path]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str | Path] = ()

    @property
    def key(self) -> str:
        """What tells outputs of the same progress apart."""
        return inputs_digest(self.parameters, self.inputs)[:12]


def inputs_digest(parameters: Mapping[str, Any], inputs: Sequence[str | Path]) -> str:
    """A digest of parameters and of the content of files and folders."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for path in map(Path, inputs):
        digest.update(files_digest(_files(path).values()).encode())
    return digest.hexdigest()


def leave_outputs(store: Store, prefix: str, outputs: Outputs, figures: dict[str, float], said: str) -> None:
    """Leaves a finished stage's outputs.

    Args:
        store: the object store.
        prefix: of the stage's progress.
        outputs: of the stage.
        figures: what the stage's function returns.
        said: the line that tells what the stage came to.
    """
    files: list[dict[str, Any]] = []
    where: dict[str, Path] = {}
    names: Counter[str] = Counter()
    seen: set[Path] = set()
    for output, path in outputs.paths.items():
        for name, file in _files(Path(path)).items():
            if file in seen:  # one output may lie in another's folder
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
    content = {"files": files, "figures": figures, "said": said}
    store.write_bytes(f"{prefix}/{FINISHED}{outputs.key}.json", json.dumps(content).encode())


def fetch_outputs(store: Store, prefix: str, outputs: Outputs) -> tuple[dict[str, float], str] | None:
    """Brings the outputs that an attempt which has finished left.

    Args:
        store: the object store.
        prefix: of the stage's progress.
        outputs: of the stage; made as they were.

    Returns:
        The figures and the line; None where there are none, or not as a whole.
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
    """The files of a folder by their names in it; a file itself under no name."""
    if path.is_file():
        return {"": path}
    return {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
