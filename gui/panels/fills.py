"""Fills: every execution, newest first."""

from __future__ import annotations

from engine.model import tables
from gui import columns as col
from gui.panel import TablePanel


class FillsPanel(TablePanel):
    """Executions as the brokers report them."""

    NAME = "fills"
    TITLE = "Fills"
    ABOUT = "Every execution"
    TABLE = tables.FILLS
    SORT = ("at", True)
    EMPTY = ("No fills yet", "Each execution a broker reports appears here, partial ones too.")
    COLUMNS = (
        col.stamp("at", "Time"),
        col.text("account", "Account", 76),
        col.side(),
        col.text("symbol", "Symbol", 92),
        col.quantity("last_qty", "Qty"),
        col.price("last_px", "Price"),
        col.quiet("strategy", "Strategy", 104),
        col.quiet("source", "Source", 96),
        col.quiet("signal_id", "Signal", 150),
        col.quiet("cl_ord_id", "ClOrdID", 190),
        col.quiet("exec_id", "ExecID", 160),
    )
