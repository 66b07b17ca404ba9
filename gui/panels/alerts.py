"""Alerts: what the engine found worth saying, loudest in colour and with a mark, seen or not."""

from __future__ import annotations

from engine.client import Row
from engine.model import tables
from engine.model.codes import CODES
from gui import columns as col
from gui import formatting as fmt
from gui.commands import Command, Work
from gui.desk import Desk
from gui.panel import TablePanel

TONES = {"info": "accent", "warning": "warn", "critical": "crit"}
MARKS = {"info": "●", "warning": "▲", "critical": "■"}


def waits(row: Row) -> bool:
    """Say whether an alert wants somebody to say that it was seen."""
    return row.get("severity") == "critical" and not row.get("acknowledged_at")


def _seen(row: Row) -> str:
    if row.get("acknowledged_at"):
        return f"✓ {fmt.Times.clock(row['acknowledged_at'])}"
    return "▲ open" if waits(row) else ""


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
        col.text("acknowledged_at", "Seen", 84, text=_seen, tone=lambda row: "crit" if waits(row) else "muted",
                 about="Critical alerts stay open until somebody acknowledges them"),
        col.count("count", "Times", 50, about="How often the same was told; repeats are grouped"),
        col.quiet("area", "Area", 90),
        col.text("account", "Account", 90),
        col.code("code", "Code", 130),
        col.text("text", "What happened", 560),
        col.stamp("last_at", "Last", visible=False),
    )  # fmt: skip

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        desk.registry.add_all([
            Command("alert.acknowledge", "Acknowledge alert", self._some, "seen ack", "A", "Alerts",
                    enabled=self.offers(waits), scope=self.view, about="Say that the selected alerts were seen"),
            Command("alert.acknowledge_all", "Acknowledge all alerts", self._all, "seen ack", "", "Alerts",
                    enabled=lambda: self.can_command() and any(map(waits, self.model.rows.values())),
                    about="Say that every alert was seen"),
            Command("alert.explain", "Explain the code…", self._explain, "why help refusal", "E", "Alerts",
                    enabled=lambda: self._code() is not None, scope=self.view, about="What the alert's code means"),
            Command("alert.test", "Send a test alert", self._test, "telegram webhook e-mail channel", "", "Alerts",
                    enabled=self.can_command, about="Send a message to every channel of [alerts] in volley.toml"),
        ])  # fmt: skip

    def build(self) -> None:
        """Put the table in, and the button that says everything was seen."""
        super().build()
        self.tools = [self.desk.registry.button("alert.acknowledge_all", "Acknowledge all")]

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["alert.acknowledge", "alert.acknowledge_all", "", "alert.explain"]

    def _some(self) -> Work:
        return self._send([row["id"] for row in self.chosen() if waits(row)])

    def _all(self) -> Work:
        return self._send([row["id"] for row in self.model.rows.values() if waits(row)])

    def _code(self) -> str | None:
        row = self.chosen_one()
        return str(row["code"]) if row and row.get("code") in CODES else None

    def _explain(self) -> None:
        self.desk.ask("codes", code=self._code())

    async def _test(self) -> None:
        answer = await self.desk.command("test_alerts")
        failed = [
            f"{one['channel']}: {one['problem']}" for one in answer["channels"] if one["problem"]
        ]
        if failed:
            self.desk.say("warning", "Test alert", "; ".join(failed))
        else:
            self.desk.say(
                "ok",
                "Test alert",
                f"Taken by {', '.join(one['channel'] for one in answer['channels'])}.",
            )

    async def _send(self, alerts: list[str]) -> None:
        await self.desk.command("acknowledge", alerts=alerts)
        self.desk.say("ok", f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''} acknowledged")
