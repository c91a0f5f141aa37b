"""Results as HTML for notebooks. It knows rows of plain values, nothing of what they mean."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

AS_IT_IS: Final = "tex2jax_ignore mathjax_ignore"
"""Classes of what Jupyter is not to search for maths: a text may speak of dollars."""
SHOWN_ROWS: Final = 20
"""Rows of a long table that are shown; the rest is counted."""
_TEXT: Final = "text-align:left;white-space:pre-wrap;max-width:60em"


def table(rows: Sequence[Mapping[str, Any]], strong: int | None = None) -> str:
    """Form a table of rows with the same columns, those without any value and lists left out; one row may be strong.

    The strong row is shown however long the table.
    """
    places = [k for k in range(len(rows)) if k < SHOWN_ROWS or k == strong]
    shown = [rows[k] for k in places]
    columns = [name for name in (shown[0] if shown else ()) if any(_is_plain(row[name]) for row in shown)]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = [_line([rows[k][name] for name in columns], bold=len(rows) > 1 and k == strong) for k in places]
    more = f"<p>and {len(rows) - len(shown)} more</p>" if len(rows) > len(shown) else ""
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"
    return f'<div class="{AS_IT_IS}">{whole}</div>'


def note(text: str) -> str:
    """Form a line below a table."""
    return f"<p><small>{html.escape(text)}</small></p>"


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, list)


def _line(values: Sequence[Any], *, bold: bool) -> str:
    tag = "th" if bold else "td"
    cells = (f'<{tag} style="{_TEXT}">{_cell(value)}</{tag}>' for value in values)
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: Any) -> str:
    return html.escape(f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value))
