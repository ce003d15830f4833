"""What a stage's code is, found from the code: nothing too much, nothing missing."""

import shutil
import subprocess
import sys
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from components.shared.imports import stage_code
from launch.images import ROOT, STAGES

# Started as programs, by name.
PROGRAMS = ("components.shared.grading.worker", "components.shared.training.node")


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / "components" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(root: Path, stage: str) -> set[str]:
    return {file.relative_to(root / "components").as_posix() for file in stage_code(stage, root)}


def test_imports_are_followed_wherever_they_stand(tmp_path: Path) -> None:
    write(
        tmp_path,
        rft__component="def rft():\n    from components.rft.refine import refine\n",
        rft__refine="import components.shared.a\nfrom components.shared import b\nfrom .settings import Own\n",
        rft__settings="class Own: ...\n",
        rft__unused="",
        shared__a="def later():\n    if True:\n        from components.shared.c import deep\n",
        shared__b="import importlib\nmodule = importlib.import_module('components.shared.by_name')\n",
        shared__by_name="",
        shared__c="from ..shared import d\ncommand = ['python', '-m', 'components.shared.program']\n",
        shared__d="def f(): ...\n",
        shared__program='"""As components.shared.told says."""\nopen(Path(__file__).with_name("words.txt"))\n',
        shared__told="",
        evaluation__component="",
    )
    (tmp_path / "components" / "shared" / "words.txt").write_text("a b")
    (tmp_path / "components" / "shared" / "other.txt").write_text("a b")
    shared = {f"shared/{name}" for name in ("a.py", "b.py", "by_name.py", "c.py", "d.py", "program.py", "words.txt")}
    assert names(tmp_path, "rft") == {"rft/component.py", "rft/refine.py", "rft/settings.py", *shared}
    assert names(tmp_path, "evaluation") == {"evaluation/component.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_it_is_what_pythons_own_finder_finds(stage: str, tmp_path: Path) -> None:
    """In a copy of these files alone, as in the stage's image: nothing that they import is missing, or too much."""
    code = stage_code(stage)
    for file in code:
        target = tmp_path / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    finder = ModuleFinder(path=[str(tmp_path)])
    finder.load_file(str(tmp_path / "components" / stage / "component.py"))
    for program in PROGRAMS:
        if (tmp_path / f"{program.replace('.', '/')}.py").exists():
            finder.import_hook(program)
    found = {Path(module.__file__).relative_to(tmp_path) for module in finder.modules.values() if module.__file__}
    assert found == {file.relative_to(ROOT) for file in code}
    # The finder takes names within a module for modules too; those that are some here are missing there.
    assert not [name for name in finder.badmodules if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()]
    assert not [file for file in code if file.parts[-2] in STAGES and file.parts[-2] != stage], "of another stage"


def test_a_stages_files_are_enough_to_run_it(tmp_path: Path) -> None:
    for file in stage_code("rollout_harvesting"):
        target = tmp_path / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    (tmp_path / "rollouts").mkdir()
    call = (
        "from components.rollout_harvesting.harvest import harvest\n"
        "harvest('rollouts', trajectories_out='t', success_rates_out='s', report_out='r.json', page_out='p.html')"
    )
    done = subprocess.run([sys.executable, "-c", call], cwd=tmp_path, capture_output=True, text=True)
    assert "InputError: rollouts has no complete rollout shard" in done.stderr, done.stderr
