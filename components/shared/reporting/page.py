"""Self-contained HTML pages of tables, figures and notes: no scripts, no external resources."""

import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.stage import whole_file
from components.shared.version import VERSION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.lead { color: #465064; margin-top: 0; } .note { color: #465064; font-size: .92rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .92rem; margin: .6rem 0; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid #dde2ea; text-align: right; white-space: nowrap; }
.text { text-align: left; }
thead th { border-bottom: 2px solid #8a94a6; } tr.chosen td { background: #e9f5ec; font-weight: 600; }
summary { cursor: pointer; color: #465064; margin: .6rem 0; }
footer { margin-top: 2.5rem; } figure { margin: .6rem 0; } svg { max-width: 100%; height: auto; }
code, pre { font: .85rem/1.4 ui-monospace, monospace; } pre { background: #f4f6f9; padding: .8rem; overflow-x: auto; }
@media (max-width: 40rem) { figure svg { min-width: 36rem; max-width: none; } }
@media print { figure svg { min-width: 0; max-width: 100%; } }
@media print { body { margin: 0; max-width: none; } h2, figure { break-inside: avoid; } }
"""


def page(path: str | Path, title: str, lead: str, *parts: str) -> None:
    """Writes a complete page, with the version of rloop at its foot.

    Args:
        path: HTML file to write.
        title: plain text.
        lead: a sentence below the title, plain text.
        parts: HTML, as returned by the functions of this module.
    """
    body = "".join(parts)
    with whole_file(path) as temporary:
        temporary.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
            f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{body}'
            f'<footer class="note">rloop {VERSION}</footer></body></html>\n'
        )


def heading(text: str) -> str:
    """A section heading."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """A sentence or two of explanation."""
    return f'<p class="note">{escape(text)}</p>'


def bullets(texts: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def links(addresses: Iterable[tuple[str, str]]) -> str:
    """A list of links, each given as text and URL; empty if there are none."""
    items = "".join(f'<li><a href="{escape(url)}">{escape(text)}</a></li>' for text, url in addresses)
    return f"<ul>{items}</ul>" if items else ""


def folded(title: str, *parts: str) -> str:
    """Details that few readers need, collapsed under a title."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def preformatted(text: str) -> str:
    """Preformatted text, such as YAML or a sample completion."""
    return f"<pre>{escape(text)}</pre>"


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], chosen: int | None = None) -> str:
    """A table; the row with index `chosen` is highlighted.

    Numbers are right-aligned, words left-aligned; floats have three decimals.
    """
    rows = list(rows)
    words = [any(isinstance(row[i], str) and not row[i][:1].isdigit() for row in rows) for i in range(len(headers))]
    kinds = [' class="text"' if is_words else "" for is_words in words]

    def line(tag: str, cells: Iterable[str]) -> str:
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(
        f"<tr{' class=chosen' if index == chosen else ''}>{line('td', map(_cell, row))}</tr>"
        for index, row in enumerate(rows)
    )
    head = line("th", headers)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def figure(drawing: "Figure", caption: str) -> str:
    """A matplotlib figure as inline SVG, with a caption that explains it."""
    import matplotlib

    buffer = io.StringIO()
    # Keep text as text rather than paths: smaller, searchable and selectable.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rloop", "font.family": "sans-serif"}):
        drawing.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    drawn = svg[svg.index("<svg") :]
    return f'<figure><div class="scroll">{drawn}</div><figcaption class="note">{escape(caption)}</figcaption></figure>'


def new_figure(width: float = 8.0, height: float = 3.2, rows: int = 1, columns: int = 1) -> tuple["Figure", list[Any]]:
    """A matplotlib figure in the report's style and its axes in row-major order; needs no display."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    axes = list(drawing.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return drawing, axes
