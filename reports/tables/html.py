"""The rows of a table as HTML; a large page has a hundred thousand fields, too many for a template."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import escape

from reports.tables.base import Cell


def rows_html(rows: Iterable[tuple[Cell, ...]], *, stacked: bool) -> str:
    """`<tr>` elements, the first field of each its header; `stacked` puts facts of a field below each other."""
    return "\n".join(
        f"<tr>{_header(first)}{''.join(_field(cell, stacked) for cell in rest)}</tr>" for first, *rest in rows
    )


def _header(cell: Cell) -> str:
    return f'<th scope="row">{escape(cell.text)}</th>'


def _field(cell: Cell, stacked: bool) -> str:
    note = f' title="{escape(cell.note)}"' if cell.note else ""
    text = _text(cell, stacked)
    return f'<td class="{cell.look}"{note}>{f"<strong>{text}</strong>" if cell.bold else text}</td>'


def _text(cell: Cell, stacked: bool) -> str:
    value, bracket, ends = cell.text.partition(" [")
    if cell.look == "number" and bracket:
        return f'{escape(value)} <span class="interval">[{escape(ends)}</span>'
    fact, *others = cell.text.split("; ") if stacked else [cell.text]
    return " ".join([str(escape(fact)), *(f'<span class="fact">{escape(other)}</span>' for other in others)])
