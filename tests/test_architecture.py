"""The rules of docs/architecture.md, checked against the code's imports."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from components.shared.imports import stage_code
from launch.images import TRAINING_STAGES

ROOT = Path(__file__).resolve().parent.parent
CODE = ("pipeline.py", "launch", "components", "images", "bench", "reproduction")
MAX_FUNCTION_LINES = 150
MAX_MODULES = 13  # per package: a module beside a dozen others, __init__.py not counted
# What else needs kfp itself: the local runner, the client, what turns stages into tasks, and what times the compiler.
WITH_KFP = ("launch.local", "launch.kubeflow.server", "launch.tasks", "bench.compile")
# Packages that take seconds to import or are missing from the CPU stages' images.
HEAVY = ("torch", "transformers", "trl", "vllm", "accelerate", "peft", "bitsandbytes", "datasets")

# Packages that none of the stages needs before its work begins; each takes a fifth of a second or more.
LARGE = {*HEAVY, "kfp.compiler", "kubernetes", "matplotlib", "pandas", "pint", "sympy"}


class Import(NamedTuple):
    """A module that another one imports, at its top or inside a function."""

    importer: str
    imported: str
    where: str  # FILE:LINE
    at_top: bool

    @property
    def package(self) -> str:
        return self.imported.partition(".")[0]


def module_files(root: Path) -> dict[str, Path]:
    """The repository's own modules by dotted name; a package by the name of its folder."""
    modules = {}
    for name in CODE:
        for file in [root / name] if name.endswith(".py") else sorted((root / name).rglob("*.py")):
            if file.exists():
                modules[".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = file
    return modules


def imports(root: Path) -> list[Import]:
    """Every import of every module, except those for type checkers alone."""
    files = module_files(root)
    found = []
    for name, file in files.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node, at_top in import_nodes(ast.parse(file.read_text()), True):
            where = f"{file.relative_to(root)}:{node.lineno}"
            found += [Import(name, target, where, at_top) for target in imported_by(node, package, files)]
    return found


def import_nodes(node: ast.AST, at_top: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, at_top
        return
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = iter(node.orelse)
    inside = at_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from import_nodes(child, inside)


def imported_by(node: ast.Import | ast.ImportFrom, package: str, files: dict[str, Path]) -> set[str]:
    """The modules that a statement imports: of `from a import b`, a.b if it is a module of ours, else a."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    parents = package.split(".")
    above = parents[: len(parents) - node.level + 1] if node.level else []
    origin = ".".join([*above, *([node.module] if node.module else [])])
    return {f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in files else origin for alias in node.names}


def stages(root: Path) -> list[str]:
    folders = (file.parent.name for file in (root / "components").glob("*/component.py"))
    return sorted(folder for folder in folders if folder != "shared")


def circles(root: Path) -> list[str]:
    graph: dict[str, set[str]] = {name: set() for name in module_files(root)}
    lines = {(each.importer, each.imported): each.where for each in imports(root)}
    for importer, imported in lines:
        if imported in graph and imported != importer:
            graph[importer].add(imported)
    found = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]  # graphlib's goes from the imported to the importer
            steps = [f"{a} imports {b} ({lines[a, b]})" for a, b in pairwise(circle)]
            found.append("import circle: " + ", ".join(steps))
            graph[circle[0]].discard(circle[1])  # look for further ones
        else:
            return found


def stages_that_import_another(root: Path) -> list[str]:
    of_stage = {f"components.{stage}": stage for stage in stages(root)}
    found = []
    for each in imports(root):
        importer, imported = (".".join(name.split(".")[:2]) for name in (each.importer, each.imported))
        if imported in of_stage and importer != imported and importer.startswith("components."):
            found.append(f"{each.where}: {importer} imports {each.imported}; move what both need to components.shared")
    return found


def components_that_import_launch(root: Path) -> list[str]:
    others = {name.removesuffix(".py") for name in CODE} - {"components"}
    return [
        f"{each.where}: components are in the stages' images, where there is no {each.package}: {each.imported}"
        for each in imports(root)
        if each.importer.startswith("components.") and each.package in others
    ]


def kfp_out_of_place(root: Path) -> list[str]:
    def may(importer: str) -> bool:
        is_component = importer.startswith("components.") and importer.endswith(".component")
        allowed = any(f"{importer}.".startswith(f"{name}.") for name in WITH_KFP)
        return importer == "pipeline" or is_component or allowed

    return [
        f"{each.where}: {each.importer} imports {each.imported}; only pipeline.py, component.py files and "
        f"{', '.join(WITH_KFP)} may"
        for each in imports(root)
        if each.package == "kfp" and not may(each.importer)
    ]


def heavy_at_top(root: Path) -> list[str]:
    """Heavy packages that a CPU stage or a command would load, imported at the top of a module."""
    files, found = module_files(root), imports(root)
    loaded_by: dict[Path, str] = {}
    for stage in stages(root):
        if stage not in TRAINING_STAGES:
            loaded_by |= dict.fromkeys(stage_code(stage, root), f"the CPU stage {stage}")
    waiting = [name for name in files if name.split(".")[0] in ("pipeline", "launch")]
    of_commands = set(waiting)
    while waiting:
        importer = waiting.pop()
        imported = [each.imported.split(".") for each in found if each.importer == importer and each.at_top]
        more = {".".join(parts[:end]) for parts in imported for end in range(1, len(parts) + 1)} & set(files)
        waiting += more - of_commands
        of_commands |= more
    loaded_by |= {files[name]: "the commands" for name in of_commands}
    return [
        f"{each.where}: {each.imported} at the top of a module that {loaded_by[files[each.importer]]} may load; import "
        f"it in the function that needs it"
        for each in found
        if each.at_top and each.package in HEAVY and files[each.importer] in loaded_by
    ]


def crowded_packages(root: Path) -> list[str]:
    packages: dict[Path, list[str]] = {}
    for folder in ("launch", "components/shared"):
        for file in (root / folder).rglob("*.py"):
            if file.name != "__init__.py":
                packages.setdefault(file.parent, []).append(file.name)
    return [
        f"{package.relative_to(root)} has {len(names)} modules, more than {MAX_MODULES}: move some of them into a "
        f"package of their own ({', '.join(sorted(names))})"
        for package, names in sorted(packages.items())
        if len(names) > MAX_MODULES
    ]


def long_functions(root: Path) -> list[str]:
    return [
        f"{file.relative_to(root)}:{node.lineno}: {node.name} has {lines} lines; {MAX_FUNCTION_LINES} at most: split it"
        for file in module_files(root).values()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def test_no_import_circles() -> None:
    assert not (found := circles(ROOT)), "\n".join(found)


def test_no_stage_imports_another() -> None:
    assert not (found := stages_that_import_another(ROOT)), "\n".join(found)


def test_components_do_not_import_launch() -> None:
    assert not (found := components_that_import_launch(ROOT)), "\n".join(found)


def test_kfp_is_imported_only_where_it_belongs() -> None:
    assert not (found := kfp_out_of_place(ROOT)), "\n".join(found)


def test_cpu_stages_and_commands_load_no_training_libraries() -> None:
    assert not (found := heavy_at_top(ROOT)), "\n".join(found)


def test_no_stage_starts_with_large_packages() -> None:
    """What a stage imports before its function begins to work, in a process as KFP starts it."""
    code = f"""
import ast, importlib, sys
for stage in {stages(ROOT)!r}:
    component = importlib.import_module(f"components.{{stage}}.component")
    with open(component.__file__) as file:
        tree = ast.parse(file.read())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    exec("\\n".join(map(ast.unparse, imports)), dict())
    found = sorted({LARGE!r} & set(sys.modules))
    if found:
        sys.exit(f"{{stage}}: {{', '.join(found)}}: import it in the function that needs it")
"""
    environment = {**os.environ, "_KFP_RUNTIME": "true"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_package_is_crowded() -> None:
    assert not (found := crowded_packages(ROOT)), "\n".join(found)


def test_no_function_is_long() -> None:
    assert not (found := long_functions(ROOT)), "\n".join(found)


GOOD = {
    "pipeline.py": "import kfp\nfrom components.report.component import report\nfrom launch.local import run\n",
    "launch/__init__.py": "",
    "launch/local/__init__.py": "",
    "launch/local/run.py": "from kfp import local\n",
    "launch/check.py": "def check():\n    import torch\n",
    "components/__init__.py": "",
    "components/report/component.py": "def report():\n    from components.report.report import report\n",
    "components/report/report.py": "from components.shared.page import page\n",
    "components/rft/component.py": "def rft():\n    from components.rft.refine import refine\n",
    "components/rft/refine.py": "import torch\nfrom ..shared.page import page\n",
    "components/shared/page.py": "from typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    import torch\n    from components.shared.tables import Table\n",
    "components/shared/tables.py": "from components.shared import page\n",
}
Rule = Callable[[Path], list[str]]
RULES: list[Rule] = [
    circles,
    stages_that_import_another,
    components_that_import_launch,
    kfp_out_of_place,
    heavy_at_top,
    crowded_packages,
    long_functions,
]
LATER = "def later():\n    "
BROKEN: list[tuple[Rule, dict[str, str], str]] = [
    (circles, {"components/shared/page.py": "from components.shared.tables import rows\n"}, "page.py:1"),
    (circles, {"components/shared/page.py": LATER + "from . import tables\n"}, "page.py:2"),
    (
        circles,
        {
            "launch/a.py": "import launch.b\n",
            "launch/b.py": LATER + "import launch.c\n",
            "launch/c.py": "from launch import a\n",
        },
        "launch.c imports launch.a",
    ),
    (
        stages_that_import_another,
        {"components/report/report.py": LATER + "from components.rft import refine\n"},
        "components.report imports components.rft.refine",
    ),
    (
        stages_that_import_another,
        {"components/shared/page.py": "from components.rft.refine import refine\n"},
        "components.shared imports",
    ),
    (
        components_that_import_launch,
        {"components/shared/page.py": LATER + "from launch import check\n"},
        "no launch: launch.check",
    ),
    (components_that_import_launch, {"components/rft/refine.py": "import pipeline\n"}, "no pipeline"),
    (kfp_out_of_place, {"components/report/report.py": LATER + "from kfp import dsl\n"}, "report.py:2"),
    (kfp_out_of_place, {"launch/check.py": "from kfp.local import status\n"}, "launch.check imports kfp.local"),
    (heavy_at_top, {"components/shared/page.py": "import torch\n"}, "the CPU stage report"),
    (
        heavy_at_top,
        {"components/shared/page.py": "try:\n    from transformers import A\nexcept ImportError:\n    A = None\n"},
        "page.py:2",
    ),
    (heavy_at_top, {"launch/check.py": "from vllm import LLM\n"}, "the commands"),
    (
        heavy_at_top,
        {"launch/check.py": "import components.rft.settings\n", "components/rft/settings.py": "import trl\n"},
        "settings.py:1",
    ),
    (crowded_packages, {f"launch/local/module{n}.py": "" for n in range(13)}, "launch/local has 14 modules"),
    (
        long_functions,
        {"launch/check.py": "class A:\n    def long(self):\n" + "        x = 1\n" * 150},
        "long has 151 lines",
    ),
]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_what_keeps_a_rule_passes(rule: Rule, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert rule(tmp_path) == []


@pytest.mark.parametrize(("rule", "files", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_what_breaks_a_rule_is_found(rule: Rule, files: dict[str, str], message: str, tmp_path: Path) -> None:
    write(tmp_path, GOOD | files)
    (found,) = rule(tmp_path)
    assert message in found
