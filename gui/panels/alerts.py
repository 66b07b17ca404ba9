"""Alerts: what the engine found worth saying, loudest in colour and with a mark."""

from __future__ import annotations

from engine.model import tables
from gui import columns as col
from gui.panel import TablePanel

TONES = {"info": "accent", "warning": "warn", "critical": "crit"}
MARKS = {"info": "●", "warning": "▲", "critical": "■"}


class AlertsPanel(TablePanel):
    """The engine's alerts, newest first."""

    NAME = "alerts"
    TITLE = "Alerts"
    ABOUT = "What the engine found worth saying"
    TABLE = tables.ALERTS
    SORT = ("at", True)
    EMPTY = (
        "Nothing to worry about",
        "Refusals by brokers, lost connections, unknown orders and halts are told here.",
    )
    COLUMNS = (
        col.stamp("at", "Time"),
        col.chip("severity", "Severity", 92, TONES, MARKS),
        col.quiet("area", "Area", 90),
        col.text("account", "Account", 90),
        col.code("code", "Code", 130),
        col.text("text", "What happened", 560),
    )
