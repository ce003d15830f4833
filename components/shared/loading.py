"""Importing large libraries quickly."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Pauses Python's cyclic garbage collector while the block imports or loads libraries.

    An import makes hundreds of thousands of objects that stay, and the collector goes through all of them again and
    again: a quarter of the time that importing transformers and TRL takes. What little garbage there is goes at the
    first collection after the block.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
