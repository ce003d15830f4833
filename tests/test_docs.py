"""The documents say what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_of_parameters_is_up_to_date() -> None:
    specification = importlib.util.spec_from_file_location("make_parameters", ROOT / "docs" / "make_parameters.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    text = (ROOT / "docs" / "parameters.md").read_text()
    assert text == module.markdown(), "run `make docs`"
    for key in ("rl.learning_rate", "filter.max_success_rate", "pools.POOL.node_selector", "base_policy"):
        assert f"`{key}`" in text


PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "manifests", ROOT / "manifests" / "overlays" / "gke")
    for path in folder.glob("*.md")
)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as Git hosts make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target}: there is no {file}"
        if anchor:
            assert anchor in anchors(file), f"{target}: no such heading among {sorted(anchors(file))}"
