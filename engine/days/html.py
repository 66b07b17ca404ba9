"""Pages of our own: self-contained HTML without scripts and references, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from html import escape
from typing import Final

from engine.log import escape as visible

_STYLE: Final = """
body{font-family:Inter,"Segoe UI",Arial,sans-serif;font-size:13px;color:#1c2430;background:#ffffff;margin:28px auto;
max-width:1000px;padding:0 20px;line-height:1.45}
h1{font-size:24px;margin:0 0 2px}h2{font-size:17px;margin:30px 0 8px;border-bottom:1px solid #c9d1da;padding-bottom:4px}
p.quiet,td.quiet{color:#57606a}table{border-collapse:collapse;width:100%;margin:6px 0 4px}
th{text-align:left;font-weight:600;color:#414a56;border-bottom:1px solid #8c959f;padding:4px 8px;font-size:12px}
td{padding:3px 8px;border-bottom:1px solid #e4e8ed;vertical-align:top}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.gain{color:#0b5a2b}td.loss{color:#9a2d0e}tr.sum td{font-weight:600;border-top:1px solid #8c959f}
td.changed{background:#fff4d6}svg{max-width:100%;height:auto}
@media print{body{margin:0;max-width:none}h2{break-after:avoid}tr{break-inside:avoid}}
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
MINUS: Final = "\u2212"
NONE: Final = "\u2013"


class Cell(str):
    """The HTML of one cell, attributes and all: made here only, from text that was escaped."""

    __slots__ = ()


def text(value: object, kind: str = "") -> Cell:
    """Return a cell of text."""
    shown = NONE if value is None or value == "" else escape(visible(str(value)))
    return Cell(f'<td class="{kind}">{shown}</td>' if kind else f"<td>{shown}</td>")


def number(value: object) -> Cell:
    """Return a cell of a number as it is, its thousands apart."""
    return Cell(f'<td class="n">{plain(value)}</td>')


def amount(value: Decimal | None, *, signed: bool = False) -> Cell:
    """Return a cell of money to the cent; ``signed``: a profit or loss, by sign and tone."""
    if value is None:
        return Cell(f'<td class="n">{NONE}</td>')
    shown = plain(f"{value:.2f}")
    if not signed or not round(value, 2):
        return Cell(f'<td class="n">{shown}</td>')
    tone = "gain" if value > 0 else "loss"
    return Cell(f'<td class="n {tone}">{"+" if value > 0 else ""}{shown}</td>')


def plain(value: object) -> str:
    """Write a number for people."""
    if value is None or value == "":
        return NONE
    try:
        number_ = Decimal(str(value))
    except InvalidOperation:
        return escape(visible(str(value)))
    return f"{number_:,f}".replace("-", MINUS)


def table(titles: Sequence[str], rows: Iterable[Sequence[Cell]], last_is_sum: bool = False) -> str:
    """Return a table; a title that ends in ``#`` stands over numbers."""
    head = "".join(
        f'<th class="n">{escape(title[:-1])}</th>'
        if title.endswith("#")
        else f"<th>{escape(title)}</th>"
        for title in titles
    )
    lines = ["".join(row) for row in rows]
    body = "".join(
        f'<tr class="sum">{line}</tr>'
        if last_is_sum and at == len(lines) - 1
        else f"<tr>{line}</tr>"
        for at, line in enumerate(lines)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def section(title: str, *parts: str) -> str:
    """Return a part of the page; nothing where there is nothing to say."""
    body = "".join(part for part in parts if part)
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def quiet(sentence: str) -> str:
    """Return a line in a low voice."""
    return f'<p class="quiet">{escape(visible(sentence))}</p>'


def page(title: str, about: str, sections: Iterable[str]) -> str:
    """Return the whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(visible(title))}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(visible(title))}</h1>{quiet(about)}{''.join(sections)}</body></html>\n"
    )
