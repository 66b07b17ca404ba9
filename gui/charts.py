"""Charts in the desk's colours: pyqtgraph is imported only when the first one is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor

from gui import formatting as fmt
from gui.theme import active


def _pg() -> Any:
    import pyqtgraph  # 0.3 s: after the first paint

    return pyqtgraph


def time_axis() -> Any:
    """Return an axis that writes the time of day as the rest of the desk does."""
    axis = _pg().AxisItem(orientation="bottom")

    def strings(values: Sequence[float], _scale: float, spacing: float) -> list[str]:
        made = []
        for value in values:
            moment = datetime.fromtimestamp(value, UTC)
            moment = fmt.Times.there(moment)
            made.append(f"{moment:%H:%M}" if spacing >= 60 else f"{moment:%H:%M:%S}")
        return made

    axis.tickStrings = strings
    return axis


def latency_axis(orientation: str, *, logarithmic: bool) -> Any:
    """Return an axis of microseconds (decimal logarithms of them when ``logarithmic``)."""
    axis = _pg().AxisItem(orientation=orientation)

    def strings(values: Sequence[float], _scale: float, _spacing: float) -> list[str]:
        return [fmt.micros(10**value if logarithmic else value) for value in values]

    def ticks(low: float, high: float, _size: float) -> list[tuple[float, list[float]]]:
        return [(1.0, decade_ticks(low, high))]

    axis.tickStrings = strings
    if logarithmic:
        axis.tickValues = ticks
    return axis


def decade_ticks(low: float, high: float) -> list[float]:
    """Return ticks between two decimal logarithms: powers of ten, with 2 and 5 where the span is short."""
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    ticks = [
        at + math.log10(step)
        for at in range(math.floor(low), math.ceil(high) + 1)
        for step in steps
    ]
    return [tick for tick in ticks if low <= tick <= high]


def money_axis() -> Any:
    """Return a left axis of amounts."""
    axis = _pg().AxisItem(orientation="left")

    def strings(values: Sequence[float], _scale: float, spacing: float) -> list[str]:
        places = 0 if spacing >= 1 else 2
        return [fmt.money(f"{value:.2f}", places=places) for value in values]

    axis.tickStrings = strings
    return axis


def rate_axis() -> Any:
    """Return a left axis of counts a second."""
    axis = _pg().AxisItem(orientation="left")

    def strings(values: Sequence[float], _scale: float, spacing: float) -> list[str]:
        places = 0 if spacing >= 1 else 1
        return [
            fmt.money(f"{value:.{places}f}", places=places) if value >= 0 else ""
            for value in values
        ]

    axis.tickStrings = strings
    return axis


def millis_axis() -> Any:
    """Return a left axis of milliseconds."""
    axis = _pg().AxisItem(orientation="left")
    axis.tickStrings = lambda values, _scale, _spacing: [
        fmt.micros(value * 1e3) if value > 0 else "" for value in values
    ]
    return axis


def price_axis() -> Any:
    """Return a left axis of prices, with as many decimals as its ticks need."""
    axis = _pg().AxisItem(orientation="left")

    def strings(values: Sequence[float], _scale: float, spacing: float) -> list[str]:
        places = max(2, min(8, math.ceil(-math.log10(spacing)))) if spacing > 0 else 2
        return [fmt.money(f"{value:.{places}f}", places=places) for value in values]

    axis.tickStrings = strings
    return axis


def plot(name: str, axes: dict[str, Any]) -> Any:
    """Return a plot widget: no frame, no menu, quiet grid, no auto-range button."""
    from gui.chart_items import Plot

    widget = Plot(axisItems=axes)
    widget.setAccessibleName(name)
    widget.setFrameShape(widget.Shape.NoFrame)
    widget.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    item = widget.getPlotItem()
    item.setMenuEnabled(False)
    item.hideButtons()
    item.setContentsMargins(2, 6, 8, 2)
    item.showGrid(x=False, y=True, alpha=0.12)
    item.setDownsampling(auto=True, mode="peak")
    item.setClipToView(True)
    restyle(widget)
    return widget


def restyle(widget: Any) -> None:
    """Take the theme's colours and fonts."""
    theme = active()
    widget.setBackground(theme.colors["surface"])
    for side in ("left", "bottom"):
        axis = widget.getPlotItem().getAxis(side)
        axis.setPen(pen("line"))
        axis.setTextPen(pen("muted"))
        axis.setTickFont(theme.font(11))
        axis.setStyle(tickLength=0, tickTextOffset=5, hideOverlappingLabels=side == "bottom")


def pen(token: str, *, dashed: bool = False) -> Any:
    """Return a pen one pixel wide: wider ones cost ten times as much to draw."""
    style = Qt.PenStyle.DashLine if dashed else Qt.PenStyle.SolidLine
    return _pg().mkPen(color=active().colors[token], width=1, style=style)


def brush(token: str, alpha: int = 255) -> QColor:
    """Return a token's colour for filling."""
    return active().color(token, alpha)


def curve(widget: Any, token: str) -> Any:
    """Add a live line."""
    return widget.plot(pen=pen(token), antialias=True, skipFiniteCheck=True)


def text(widget: Any) -> Any:
    """Add a word at a place (``setPos``), which may be written anew with its ink (``setText``)."""
    from gui.chart_items import Word

    word = Word(anchor=(0, 0.5))
    widget.addItem(word, ignoreBounds=True)
    return word


def long_line(widget: Any, token: str) -> Any:
    """Add a line that may have a million points (``set_line``)."""
    from gui.chart_items import LongLine

    line = LongLine(pen=pen(token))
    widget.addItem(line)
    return line


def scatter(widget: Any) -> Any:
    """Add marks (``gui.chart_items.spots``)."""
    item = _pg().ScatterPlotItem(pxMode=True)
    widget.addItem(item, ignoreBounds=True)
    return item


def across(widget: Any) -> Any:
    """Add a horizontal hair line."""
    line = _pg().InfiniteLine(angle=0, movable=False, pen=pen("edge"))
    line.setVisible(False)
    widget.addItem(line, ignoreBounds=True)
    return line


def bars(widget: Any) -> Any:
    """Add a histogram's bars."""
    item = _pg().BarGraphItem(x=[], height=[], width=1.0, pen=None, brush=brush("accent", 150))
    widget.addItem(item)
    return item


def cross(widget: Any) -> tuple[Any, Any]:
    """Add a vertical hair line and a text that follow the pointer."""
    pg = _pg()
    line = pg.InfiniteLine(angle=90, movable=False, pen=pen("edge"))
    line.setVisible(False)
    widget.addItem(line, ignoreBounds=True)
    label = pg.TextItem(anchor=(0, 0), color=active().colors["text"])
    label.setVisible(False)
    widget.addItem(label, ignoreBounds=True)
    return line, label
