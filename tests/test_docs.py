"""The documents say what the code says."""

import importlib.util
from pathlib import Path

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
