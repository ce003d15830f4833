"""Numbers as a plan prints them."""


def tokens(number: int) -> str:
    """Tokens with k, M or G."""
    if not number:
        return "-"
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return str(number)


def size(number: int) -> str:
    """Bytes with KiB to TiB."""
    if not number:
        return "-"
    for scale, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number / 2**10:,.1f} KiB"


def time(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"
