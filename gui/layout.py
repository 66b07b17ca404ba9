"""Where things are: presets of docks, and the layout file in HOME."""

from __future__ import annotations

import json
import logging
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QMainWindow, QTabBar

from gui.dock import PanelDock

log = logging.getLogger(__name__)
VERSION = 3
FILE = "layout.json"
ACROSS, DOWN = Qt.Orientation.Horizontal, Qt.Orientation.Vertical

Docks = dict[str, PanelDock]


def arrange(window: QMainWindow, docks: Docks, preset: str) -> None:
    """Put the docks where a preset wants them."""
    for dock in docks.values():
        dock.setFloating(False)
        window.removeDockWidget(dock)
    {"latency": _latency, "review": _review, "risk": _risk}.get(preset, _trade)(window, docks)
    for bar in window.findChildren(QTabBar):
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
    for dock in docks.values():
        dock.show()
    for entry in [entry for block in (rows, right) for line in block for entry in line]:
        docks[entry.split("+")[0]].raise_()


def _trade(window: QMainWindow, docks: Docks) -> None:
    _place(
        window,
        docks,
        [["signals", "signal_detail"], ["orders+positions+fills+alerts+reconciliation"]],
        [["accounts+todo+risk+controls"], ["latency"], ["pnl"]],
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
        [["signals"], ["orders+fills+alerts+latency"]],
        [["signal_detail"], ["accounts+todo+positions+risk+controls+reconciliation+pnl"]],
    )
    width, height = window.width(), window.height()
    _size(window, docks, {"signals": int(width * 0.56), "signal_detail": int(width * 0.44)}, ACROSS)
    _size(window, docks, {"signals": int(height * 0.6), "orders": int(height * 0.4)}, DOWN)
    _size(window, docks, {"signal_detail": int(height * 0.6), "accounts": int(height * 0.4)}, DOWN)


def _latency(window: QMainWindow, docks: Docks) -> None:
    _place(
        window,
        docks,
        [["latency"], ["signals+orders+positions+fills+alerts+reconciliation"]],
        [["signal_detail"], ["accounts+todo+risk+controls+pnl"]],
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
        [["controls"], ["reconciliation+orders+positions+fills"]],
        [["risk"], ["alerts+accounts+todo+signals+signal_detail+latency+pnl"]],
    )
    width, height = window.width(), window.height()
    _size(window, docks, {"controls": int(width * 0.56), "risk": int(width * 0.44)}, ACROSS)
    _size(
        window, docks, {"controls": int(height * 0.58), "reconciliation": int(height * 0.42)}, DOWN
    )
    _size(window, docks, {"risk": int(height * 0.5), "alerts": int(height * 0.5)}, DOWN)


def _size(window: QMainWindow, docks: Docks, sizes: dict[str, int], way: Qt.Orientation) -> None:
    window.resizeDocks([docks[name] for name in sizes], list(sizes.values()), way)


def read(home: Path) -> dict[str, Any]:
    """Return the layout file's content; an unreadable one is no layout."""
    try:
        document = json.loads((home / FILE).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("the layout file cannot be read, using the default: %s", error)
        return {}
    return document if isinstance(document, dict) and document.get("version") == VERSION else {}


def write(home: Path, document: dict[str, Any]) -> None:
    """Replace the layout file; a crash in between leaves the old one."""
    path = home / FILE
    fresh = path.with_suffix(".json.new")
    try:
        home.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(document | {"version": VERSION}, indent=1), "utf-8")
        os.replace(fresh, path)
    except OSError as error:
        log.warning("the layout cannot be saved: %s", error)
