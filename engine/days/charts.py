"""Plots of a report as SVG text: no scripts, no references, each with a title and a description for who listens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from html import escape
from math import ceil, floor, log10
from typing import Final

WIDTH: Final = 960
HEIGHT: Final = 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 16, 12, 26
_MOST: Final = 600
"""Stretches that are drawn; of the points in each the lowest and the highest."""
_GAIN: Final = "#1f6feb"
_LOSS: Final = "#b93815"
_GRID: Final = "#dfe4ea"
_QUIET: Final = "#57606a"
_ROW: Final = 24

Point = tuple[float, float]


def line_chart(title: str, points: Sequence[Point], zone: tzinfo, *, steps: bool = False) -> str:
    """Draw values over time (seconds since 1970); with ``steps`` each holds until the next. Empty below two points."""
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return ""
    drawn = _thinned(points)
    x0, x1 = drawn[0][0], drawn[-1][0]
    ticks = _ticks(min(y for _, y in drawn), max(y for _, y in drawn))
    y0, y1 = ticks[0], ticks[-1]

    def across(x: float) -> float:
        return _LEFT + (x - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _TOP + (y1 - y) / (y1 - y0) * (HEIGHT - _TOP - _BOTTOM)

    marks = []
    for value in ticks:
        marks.append(_rule(_LEFT, down(value), WIDTH - _RIGHT, _QUIET if value == 0 else _GRID))
        marks.append(_label(_LEFT - 8, down(value) + 4, _short(value, ticks[1] - ticks[0]), "end"))
    for number in range(7):
        stamp = x0 + (x1 - x0) * number / 6
        anchor = "start" if number == 0 else "end" if number == 6 else "middle"
        marks.append(_label(across(stamp), HEIGHT - 6, _clock(stamp, zone, x1 - x0), anchor))
    parts = [f"M{across(drawn[0][0]):.1f} {down(drawn[0][1]):.1f}"]
    for x, y in drawn[1:]:
        parts.append(
            f"H{across(x):.1f}V{down(y):.1f}" if steps else f"L{across(x):.1f} {down(y):.1f}"
        )
    marks.append(
        f'<path d="{"".join(parts)}" fill="none" stroke="{_GAIN}" stroke-width="1.6" stroke-linejoin="round"/>'
    )
    about = f"{title}: {_short(drawn[0][1])} at the begin, {_short(drawn[-1][1])} at the end"
    return _svg(title, about, marks, HEIGHT)


def bar_chart(title: str, bars: Sequence[tuple[str, float]], unit: str = "") -> str:
    """Draw one bar a name, to the right above zero and to the left below. Empty without bars."""
    if not bars:
        return ""
    low, high = min(0.0, *(value for _, value in bars)), max(0.0, *(value for _, value in bars))
    span = (high - low) or 1.0
    left, room = 190, WIDTH - 190 - 110
    zero = left + (0 - low) / span * room + (70 if low < 0 else 0)
    scale = (room - (70 if low < 0 else 0)) / span
    marks = []
    for number, (name, value) in enumerate(bars):
        top = _TOP + number * _ROW
        size = max(1.0, abs(value) * scale)
        begin = zero if value >= 0 else zero - size
        tone = _GAIN if value >= 0 else _LOSS
        marks.append(_label(left - 30, top + 13, name[:24], "end"))
        marks.append(
            f'<rect x="{begin:.1f}" y="{top + 2:.1f}" width="{size:.1f}" height="14" fill="{tone}"/>'
        )
        beside, anchor = (begin + size + 6, "start") if value >= 0 else (begin - 6, "end")
        marks.append(_label(beside, top + 13, f"{_short(value)}{unit}", anchor))
    height = _TOP * 2 + len(bars) * _ROW
    marks.insert(
        0,
        f'<line x1="{zero:.1f}" y1="{_TOP}" x2="{zero:.1f}" y2="{height - _TOP}" stroke="{_QUIET}"/>',
    )
    return _svg(title, f"{title}: {len(bars)} bars", marks, height)


def _thinned(points: Sequence[Point]) -> list[Point]:
    if len(points) <= 2 * _MOST:
        return list(points)
    size = ceil(len(points) / _MOST)
    kept: list[Point] = [points[0]]
    for at in range(0, len(points), size):
        stretch = points[at : at + size]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return [*kept, points[-1]]


def _ticks(low: float, high: float) -> list[float]:
    """Return four to eight round values that enclose the range."""
    if low == high:
        low, high = low - (abs(low) or 1) * 0.01, high + (abs(high) or 1) * 0.01
    raw = (high - low) / 4
    power = 10.0 ** floor(log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = floor(low / step), ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _short(value: float, step: float = 0.01) -> str:
    places = 0 if step >= 1 else 2
    return f"{value:,.{places}f}".replace("-", "\u2212")


def _clock(stamp: float, zone: tzinfo, span: float) -> str:
    return datetime.fromtimestamp(stamp, zone).strftime("%H:%M" if span > 1800 else "%H:%M:%S")


def _rule(x: float, y: float, to: float, tone: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to:.1f}" y2="{y:.1f}" stroke="{tone}"/>'


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="{_QUIET}" '
        f'font-family="Inter, Segoe UI, Arial, sans-serif">{escape(text)}</text>'
    )


def _svg(title: str, about: str, marks: list[str], height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img"><title>{escape(title)}</title><desc>{escape(about)}</desc>'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>{"".join(marks)}</svg>'
    )
