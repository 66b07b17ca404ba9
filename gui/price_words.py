"""What a price chart says in words: the bar under the pointer, or why there is none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gui import formatting as fmt


def why_empty(symbol: str, problem: str, *, loading: bool, recorded: bool) -> tuple[str, str]:
    """Return title and sentence of a chart without candles."""
    if recorded:
        return (
            "A recording has no candles",
            "Prices are kept every ten seconds, for the marks of positions; bars are not.",
        )
    if problem:
        return "No candles", f"{problem} Trying again."
    if loading:
        return f"Reading {symbol}…", ""
    if not symbol:
        return "No symbol yet", "It begins with the first signal, order or price."
    return "No prices yet", f"No price of {symbol} has come so far."


def bar_words(symbol: str, series: Any, bar: Any) -> str:
    """Return a bar (start, open, high, low, close) of a ``gui.bar_series`` in a line."""
    opened, high, low, close = (series.text(value) for value in bar[1:])
    stamp = fmt.Times.clock(datetime.fromtimestamp(float(bar[0]), UTC).isoformat())
    return (
        f"{symbol} {stamp}   O {opened}  H {high}  L {low}  C {close}  {fmt.arrow(bar[4] - bar[1])}"
    )


def beyond_words(above: int, below: int) -> str:
    """Return how many lines lie above and below what is in sight."""
    return " ".join(f"{sign}{count}" for sign, count in (("↑", above), ("↓", below)) if count)
