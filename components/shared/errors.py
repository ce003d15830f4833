"""The error type for messages to the user."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """User input that cannot be used. The message names it, states what was expected and how to fix it.

    A stage that raises it fails with only the message, without a traceback.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` with the known name closest to `name`, or else the list of known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known)}."
