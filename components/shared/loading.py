"""Importing large libraries quickly."""

import contextlib
import gc
import sys
from collections.abc import Iterator

_LARGE = 100  # modules that a large import brings at least


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Pauses Python's cyclic garbage collector while the block imports or loads libraries.

    An import makes hundreds of thousands of objects that stay, and the collector goes through all of them again and
    again: a quarter of the time that importing transformers and TRL takes. Later collections leave out what a large
    import made: a few MB of garbage stay. Import before loading weights, so that none of that is a model's.
    """
    was_enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if len(sys.modules) > modules + _LARGE:
                gc.freeze()
            gc.enable()
