"""Finds the files that make up a stage's code, by following its imports.

Image tags, the files in an image and the fingerprints of progress are all derived from this list, so a change affects
only the stages that import the changed file.
"""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_OURS = "components"
VERSION_FILE = f"{_OURS}/shared/version.py"  # part of every image with pages, but no result depends on it
_MODULE = re.compile(rf"\b{_OURS}(?:\.\w+)+")


def stage_code(stage: str, root: Path | None = None) -> dict[Path, Path]:
    """Returns the files that make up a stage's code, sorted, each with the file that refers to it first.

    Starts at `components/STAGE/component.py` and follows imports within `components` transitively: at the top of a
    module and inside functions, and modules named in a string (for importlib, or `python -m`). A non-Python file is
    included if a module in the same folder or above refers to it by name.

    Args:
        stage: the stage's folder under components.
        root: the folder that contains `components`; defaults to that of this module.
    """
    root = root or Path(__file__).resolve().parents[2]
    paths = (path for path in (root / _OURS).rglob("*.*") if path.suffix != ".pyc" and path.is_file())
    files = {path.relative_to(root).as_posix() for path in paths}
    data = sorted(file for file in files if not file.endswith(".py"))
    start = f"{_OURS}/{stage}/component.py"
    found, waiting = {start: start}, [start]
    while waiting:
        importer = waiting.pop(0)
        folder = importer.rpartition("/")[0]
        modules, strings = _names((root / importer).read_text(), folder.replace("/", "."))
        ends = {text.rpartition("/")[2] for text in strings} if data else set()
        named = [file for file in data if file.startswith(f"{folder}/") and file.rpartition("/")[2] in ends]
        for file in (*(file for module in modules for file in _files_of(module, files)), *named):
            if file not in found:
                found[file] = importer
                waiting += [file] if file.endswith(".py") else []
    return {root / file: root / found[file] for file in sorted(found)}


@lru_cache(maxsize=512)
def _names(source: str, package: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns our modules that a source refers to (some may be names within a module), and all its strings."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    modules, strings = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            modules |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            strings.add(node.value)
            modules |= set(_MODULE.findall(node.value))
    ours = (module for module in modules if module.split(".")[0] == _OURS)
    return tuple(sorted(ours)), tuple(sorted(strings))


def _files_of(module: str, files: set[str]) -> Iterator[str]:
    """Yields the files that importing a module executes: its packages' and its own; none for a name in a module."""
    path = ""
    for part in module.split("."):
        path += part
        if f"{path}.py" in files:
            yield f"{path}.py"
            return
        path += "/"
        if f"{path}__init__.py" in files:
            yield f"{path}__init__.py"
