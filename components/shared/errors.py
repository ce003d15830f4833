"""The one error that is meant for the user's eyes."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave cannot be used. The message names it, says what was expected and what to do.

    A stage that raises it ends with the message alone, without a traceback.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name most like `name`, or the list of known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known)}."
