"""Where things are: presets of docks."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLayout, QMainWindow, QTabBar, QWidget

from gui.dock import PanelDock

_DIRECT = Qt.FindChildOption.FindDirectChildrenOnly
ACROSS, DOWN = Qt.Orientation.Horizontal, Qt.Orientation.Vertical

Docks = dict[str, PanelDock]


def arrange(window: QMainWindow, docks: Docks, preset: str) -> None:
    """Put the docks where a preset wants them."""
    for dock in docks.values():
        if dock.isFloating():  # asked in vain, Qt hides and shows it all the same
            dock.setFloating(False)
        window.removeDockWidget(dock)
    {"latency": _latency, "review": _review, "risk": _risk}.get(preset, _trade)(window, docks)
    cast("QLayout", window.layout()).activate()
    shape_tabs(window)


def shape_tabs(window: QMainWindow) -> None:
    """Give the tabs of stacked docks their shape; Qt makes new bars as docks move.

    A bar is a child of the window, or of the one that holds docks which float together.
    """
    children = window.findChildren(QWidget, options=_DIRECT)
    floating = [child for child in children if child.inherits("QDockWidgetGroupWindow")]
    for holder in (window, *floating):
        for bar in holder.findChildren(QTabBar, options=_DIRECT):
            bar.setDocumentMode(True)
            bar.setExpanding(False)
            bar.setDrawBase(False)


def _place(
    window: QMainWindow, docks: Docks, rows: list[list[str]], right: list[list[str]]
) -> None:
    """Lay out a left block of rows and a right column; each entry is one dock or a stack of tabs."""
    area = Qt.DockWidgetArea.LeftDockWidgetArea
    first_left, first_right = rows[0][0].split("+")[0], right[0][0].split("+")[0]
    window.addDockWidget(area, docks[first_left])
    window.splitDockWidget(docks[first_left], docks[first_right], ACROSS)
    for block in (rows, right):
        above = docks[block[0][0].split("+")[0]]
        for line in block[1:]:
            head = docks[line[0].split("+")[0]]
            window.splitDockWidget(above, head, DOWN)
            above = head
        for line in block:
            for beside, entry in pairwise(line):
                window.splitDockWidget(
                    docks[beside.split("+")[0]], docks[entry.split("+")[0]], ACROSS
                )
    for entry in [entry for block in (rows, right) for line in block for entry in line]:
        names = entry.split("+")
        for name in names[1:]:
            window.tabifyDockWidget(docks[names[0]], docks[name])
    heads = {
        name for block in (rows, right) for line in block for e in line for name in e.split("+")
    }
    for name in docks.keys() - heads:  # a panel this preset does not know lies behind the others
        window.tabifyDockWidget(docks[right[-1][0].split("+")[0]], docks[name])
    whole = cast("QLayout", window.layout())
    whole.setEnabled(False)  # or each dock shown has all of them laid out once more
    for dock in docks.values():
        dock.show()
    whole.setEnabled(True)
    for entry in [entry for block in (rows, right) for line in block for entry in line]:
        docks[entry.split("+")[0]].raise_()


def _trade(window: QMainWindow, docks: Docks) -> None:
    _place(
        window,
        docks,
        [
            ["signals", "signal_detail"],
            ["orders+unknown+positions+fills+alerts+reconciliation+heat_map+price+eligibility"],
        ],
        [["accounts+todo+risk+controls"], ["latency+throughput"], ["pnl"]],
    )
    width, height = window.width(), window.height()
    right = max(372, int(width * 0.26))
    left = width - right
    detail = max(300, int(left * 0.36))
    _size(
        window,
        docks,
        {"signals": left - detail, "signal_detail": detail, "accounts": right},
        ACROSS,
    )
    _size(window, docks, {"signals": int(height * 0.52), "orders": int(height * 0.4)}, DOWN)
    rest = int(height * 0.9)
    _size(
        window,
        docks,
        {"accounts": int(rest * 0.42), "latency": int(rest * 0.3), "pnl": int(rest * 0.28)},
        DOWN,
    )


def _review(window: QMainWindow, docks: Docks) -> None:
    _place(
        window,
        docks,
        [["signals"], ["orders+unknown+fills+alerts+latency+price+eligibility"]],
        [
            ["signal_detail"],
            ["accounts+todo+positions+risk+controls+reconciliation+pnl+throughput"],
        ],
    )
    width, height = window.width(), window.height()
    _size(window, docks, {"signals": int(width * 0.56), "signal_detail": int(width * 0.44)}, ACROSS)
    _size(window, docks, {"signals": int(height * 0.6), "orders": int(height * 0.4)}, DOWN)
    _size(window, docks, {"signal_detail": int(height * 0.6), "accounts": int(height * 0.4)}, DOWN)


def _latency(window: QMainWindow, docks: Docks) -> None:
    _place(
        window,
        docks,
        [
            ["latency"],
            [
                "signals+orders+unknown+positions+fills+alerts+reconciliation+heat_map+price+eligibility"
            ],
        ],
        [["signal_detail"], ["accounts+todo+risk+controls+pnl+throughput"]],
    )
    width, height = window.width(), window.height()
    _size(window, docks, {"latency": int(width * 0.66), "signal_detail": int(width * 0.34)}, ACROSS)
    _size(window, docks, {"latency": int(height * 0.62), "signals": int(height * 0.38)}, DOWN)
    _size(
        window, docks, {"signal_detail": int(height * 0.55), "accounts": int(height * 0.45)}, DOWN
    )


def _risk(window: QMainWindow, docks: Docks) -> None:
    _place(
        window,
        docks,
        [["controls"], ["reconciliation+heat_map+orders+unknown+positions+fills+eligibility"]],
        [["risk"], ["alerts+accounts+todo+signals+signal_detail+price+latency+throughput+pnl"]],
    )
    width, height = window.width(), window.height()
    _size(window, docks, {"controls": int(width * 0.56), "risk": int(width * 0.44)}, ACROSS)
    _size(
        window, docks, {"controls": int(height * 0.58), "reconciliation": int(height * 0.42)}, DOWN
    )
    _size(window, docks, {"risk": int(height * 0.5), "alerts": int(height * 0.5)}, DOWN)


def _size(window: QMainWindow, docks: Docks, sizes: dict[str, int], way: Qt.Orientation) -> None:
    window.resizeDocks([docks[name] for name in sizes], list(sizes.values()), way)
