"""Pieces of HTML: numbers, tables, tiles, figures. Text is escaped, except in arguments that are HTML already."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

NONE = "–"
"""Shown if there is no value."""


@dataclass(frozen=True)
class Cell:
    """A cell of a sortable table.

    Attributes:
        html: what is shown.
        value: value to sort by; an empty text if there is none.
    """

    html: str
    value: str


def number(value: float | None, digits: int = 4) -> str:
    """A number as text, with separators of thousands and a real minus sign."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    text = f"{value:,.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    return (f"{value:.2e}" if "e" in text else text).replace("-", "−")


def fixed(value: float | None, decimals: int) -> str:
    """A number as text, with fixed decimals and a real minus sign."""
    return NONE if value is None else f"{value:,.{decimals}f}".replace("-", "−")


def percent(tally: Mapping[str, Any]) -> str:
    """The share of a tally in %; 0 % and 100 % are shown only if they are exact."""
    if tally["share"] is None:
        return NONE
    text = f"{100 * tally['share']:.1f}"
    if text == "100.0":
        text = "100" if tally["count"] == tally["of"] else ">\u00a099.9"
    elif text == "0.0":
        text = "0" if tally["count"] == 0 else "<\u00a00.1"
    return f"{escape(text)}\u00a0%"


def share_cell(tally: Mapping[str, Any] | None) -> str:
    """A share with its numbers and a bar, as the content of a table's cell."""
    if tally is None or tally["share"] is None:
        return NONE
    width = f"{100 * tally['share']:.1f}"
    return (
        f"{percent(tally)}<small>{tally['count']:,} of {tally['of']:,}</small>"
        f'<span class="bar"><i style="width:{width}%"></i></span>'
    )


def int_cell(value: int) -> Cell:
    """A cell with an integer without separators, such as a row or a space group."""
    return Cell(str(value), str(value))


def float_cell(value: float | None, decimals: int | None = None) -> Cell:
    """A cell with a number, with four digits or with fixed decimals."""
    shown = number(value) if decimals is None else fixed(value, decimals)
    return Cell(shown, "" if value is None else repr(value))


def words(name: str) -> str:
    """The name of a column or check as words."""
    return escape(name.replace("_", " "))


def formula_html(formula: str) -> str:
    """A formula such as ``Na4 Cl4`` with the numbers as subscripts; a number of 1 is left out."""
    return re.sub(r"(\d+)", lambda m: "" if m[1] == "1" else f"<sub>{m[1]}</sub>", escape(formula)).replace(" ", "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table. The first columns are text, the others are numbers.

    Args:
        head: HTML of the headings.
        rows: HTML of the cells; the first cell of a row is its heading.
        text_columns: number of columns that are text.
    """
    kinds = ["" if index < text_columns else ' class="num"' for index in range(len(head))]
    headings = "".join(f'<th scope="col"{kind}>{text}</th>' for text, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>"
        + f'<th scope="row">{row[0]}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{headings}</tr></thead><tbody>\n{body}</tbody></table></div>\n'


def sortable(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[Cell]]) -> str:
    """A table that the reader sorts by pressing a heading.

    Args:
        columns: text of each heading, and whether the column holds text.
        rows: the cells.
    """
    headings = "".join(
        f'<th scope="col" data-kind="{"text" if is_text else "number"}"{"" if is_text else " class=num"}>'
        f'<button type="button">{escape(text)}</button></th>'
        for text, is_text in columns
    )
    kinds = ["" if is_text else " class=num" for _, is_text in columns]
    body = "".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-value="{escape(cell.value)}">{cell.html}</td>'
            for cell, kind in zip(row, kinds, strict=True)
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll tall"><table class="sortable"><thead><tr>{headings}</tr></thead><tbody>\n'
        f"{body}</tbody></table></div>\n"
    )


def tile(label: str, value: str, *notes: str) -> str:
    """One number of the overview. All arguments are HTML."""
    more = "".join(f"<span>{note}</span>" for note in notes if note)
    return f'<div class="tile"><span class="label">{label}</span><b>{value}</b>{more}</div>\n'


def figure(svg: str, caption: str, wide: bool = False) -> str:
    """A drawing with its caption (HTML). Screen readers read the caption as well."""
    words = escape(re.sub(r"<[^>]*>", "", caption))
    labelled = svg.replace("<svg", f'<svg role="img" aria-label="{words}"', 1)
    kind = ' class="wide"' if wide else ""
    return f'<figure{kind}><div class="canvas">{labelled}</div><figcaption>{caption}</figcaption></figure>\n'


def section(identifier: str, title: str, body: str) -> str:
    """A part of the page with a title; the navigation links to its identifier."""
    return f'<section id="{identifier}"><h2>{title}</h2>\n{body}</section>\n'
