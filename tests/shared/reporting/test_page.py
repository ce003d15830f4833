import tomllib
from importlib import import_module
from pathlib import Path

from components.shared.reporting import page
from components.shared.version import VERSION
from launch.images import ROOT


def test_a_page_shows_the_version_that_made_it(tmp_path: Path) -> None:
    page.page(tmp_path / "page.html", "Title", "Lead.")
    assert f'<footer class="note">rloop {VERSION}</footer>' in (tmp_path / "page.html").read_text()


def test_the_distribution_takes_its_version_from_the_same_place() -> None:
    dynamic = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    module, _, attribute = dynamic["version"]["attr"].rpartition(".")
    assert getattr(import_module(module), attribute) == VERSION
