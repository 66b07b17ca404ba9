"""Arming: the one direction that needs a reason and a held button."""

from __future__ import annotations

from PySide6.QtWidgets import QLineEdit

from gui import formatting as fmt
from gui.dialogs.base import Dialog


class RearmDialog(Dialog):
    """Subject: ``scope`` and the ``state`` it is in."""

    def build(self) -> None:
        """Make the widgets."""
        scope, state = str(self.subject["scope"]), str(self.subject.get("state") or "disarmed")
        row = self.desk.store.engine
        everything = scope == "all"
        self.heading(
            "Arm trading" if everything else f"Lift the halt of {scope}",
            "From then on signals are acted on: orders go out for every account that is switched on."
            if everything
            else "From then on entries in this scope are sent again.",
        )
        self.facts([
            ("Now", fmt.words(state)),
            ("Accounts connected", f"{row.get('connected', 0)} of {row.get('accounts', 0)}"),
            ("Working orders", fmt.count(row.get("open_orders"))),
            ("Unknown orders", fmt.count(row.get("unknown_orders"))),
            ("Held for review", fmt.count(row.get("held"))),
        ])  # fmt: skip
        self._reason = QLineEdit()
        self._reason.setPlaceholderText("Why it is safe to go on")
        self._reason.setMaxLength(256)
        self.field("Reason", self._reason, "Kept in the audit log")
        self.buttons("Hold to arm" if everything else "Hold to lift", self._on_go, hold=True)
        self._reason.setFocus()

    def _on_go(self) -> None:
        reason = self._reason.text().strip()
        if not reason:
            self.fail("A reason is needed; it is kept in the audit log.")
            self._reason.setFocus()
            return
        self.run(self._send(reason), "Arm")

    async def _send(self, reason: str) -> None:
        scope = self.subject["scope"]
        if self.subject.get("state") in {"paused", "reducing"}:
            await self.desk.command("resume", scope=scope)
        else:
            await self.desk.command("rearm", scope=scope, reason=reason)
        self.desk.say("ok", "Armed" if scope == "all" else f"Lifted: {scope}", reason)
