"""Formats numbers the way a plan prints them."""


def format_count(number: float) -> str:
    """Formats a count to three digits with k, M, G or T."""
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.3g}"


def format_tokens(number: int) -> str:
    """Formats a number of tokens with k, M or G."""
    if not number:
        return "-"
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return str(number)


def format_bytes(number: int) -> str:
    """Formats a number of bytes with KiB to TiB."""
    if not number:
        return "-"
    for scale, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number / 2**10:,.1f} KiB"


def format_duration(seconds: float) -> str:
    """Formats a duration in seconds, minutes or hours."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"


def format_seconds(seconds: float) -> str:
    """Formats a duration in seconds, to two digits below 100."""
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.2g} s"
