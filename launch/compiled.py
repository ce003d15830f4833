"""The compiled pipeline as the other modules read it."""

from pathlib import Path
from typing import Any

import yaml


def read_compiled(compiled: Path) -> list[dict[str, Any]]:
    """The documents of a compiled pipeline: its specification, then what concerns the platform."""
    # The parser in C: in Python, a pipeline of many iterations takes seconds.
    return list(yaml.load_all(compiled.read_text(), Loader=yaml.CSafeLoader))
