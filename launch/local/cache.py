"""The local runner's cache of finished stages, which stays correct when files are lost or the run is moved.

kfp.local considers an entry valid as long as the path of each artifact exists, and keys stages by absolute paths. Here
an entry is valid only while every file that the stage left is there with its size, and paths below the run's folder are
stored relative to it: a run's folder can be renamed, moved or copied.
"""

from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.local import cache as kfp_cache

from components.shared.stage import read_json, write_json

MANIFEST = "outputs.json"  # beside a stage's artifacts: its files and their sizes
_ROOT = "{run}"  # stands for the artifacts' folder in entries and keys


def use(artifacts: Path) -> None:
    """Makes kfp.local use this cache for a run; call it after `local.init`."""
    cache = RunCache(artifacts)
    kfp_cache._cache_singleton, kfp_cache._cache_singleton_root = cache, cache.cache_root


def record_outputs(folder: Path) -> None:
    """Records the files in the folder of a stage's artifacts; from then on its cache entry is valid."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(folder / MANIFEST, files)


def is_complete(folder: Path) -> bool:
    """Returns whether every recorded file of a stage is still in the folder of its artifacts."""
    if not (folder / MANIFEST).is_file():
        return False  # the run was killed before the files were recorded
    files = {folder / name: size for name, size in read_json(folder / MANIFEST).items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in files.items())


class RunCache(kfp_cache.LocalCache):
    """kfp.local's cache with paths relative to the run's artifacts.

    Args:
        artifacts: folder of the run's artifacts.
    """

    def __init__(self, artifacts: Path) -> None:
        super().__init__(str(artifacts / ".kfp_cache"))
        self._root = str(artifacts)

    def compute_key(self, *, arguments: dict[str, Any], **others: Any) -> str:
        """Returns the key of a stage's entry: the same wherever the run's folder is."""
        plain = kfp_cache.LocalCache._serialize_value_for_key(arguments)
        key: str = super().compute_key(arguments=self._replaced(plain, self._root, _ROOT), **others)
        return key

    def _serialize_outputs(self, outputs: dict[str, Any]) -> Any:
        return self._replaced(kfp_cache.LocalCache._serialize_outputs(outputs), self._root, _ROOT)

    def _deserialize_outputs(self, serialized: dict[str, Any]) -> dict[str, Any]:
        outputs: dict[str, Any] = kfp_cache.LocalCache._deserialize_outputs(
            self._replaced(serialized, _ROOT, self._root)
        )
        for value in outputs.values():
            if isinstance(value, dsl.Artifact) and not is_complete(Path(value.path).parent):
                raise kfp_cache._MissingArtifactError(value.uri)
        return outputs

    def _replaced(self, value: Any, old: str, new: str) -> Any:
        """Returns a JSON value with `old` replaced by `new` at the start of its paths."""
        if isinstance(value, dict):
            return {key: self._replaced(inner, old, new) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._replaced(inner, old, new) for inner in value]
        if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
            return new + value[len(old) :]
        return value
