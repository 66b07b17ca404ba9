"""An account's limits: what is in force, what is proposed, what is to be."""

from __future__ import annotations

from typing import Any

from PySide6.QtWidgets import QLineEdit

from gui import formatting as fmt
from gui.dialogs.base import Dialog
from gui.limit_fields import AMOUNTS, COUNTS


class LimitsDialog(Dialog):
    """Subject: ``account``, its row. An empty field means: not limited."""

    WIDTH = 520

    def build(self) -> None:
        """Make the widgets."""
        row = self.subject["account"]
        limits = row.get("limits") or {}
        self.heading(
            f"Limits of {row['id']}",
            "In force for orders that are planned from then on. An empty field is no limit; a live account takes no "
            "entries without the first two.",
        )
        self.facts([
            ("Account", f"{row['id']}  {row.get('name') or ''}  {row.get('environment') or ''}"),
            ("Equity", fmt.money(row.get("equity"))),
            ("Exposure", fmt.money(row.get("exposure"))),
        ])  # fmt: skip
        self._edits: dict[str, tuple[str, QLineEdit, Any]] = {}
        for key, name, unit in (*AMOUNTS, *COUNTS):
            now = limits.get(key)
            edit = self.number_field(name, now, unit)
            edit.setPlaceholderText(f"no limit ({unit})")
            edit.setObjectName(f"limit.{key}")
            self._edits[key] = name, edit, now
        self._reason = QLineEdit()
        self._reason.setMaxLength(256)
        self._reason.setPlaceholderText("Why they change")
        self.field(
            "Reason", self._reason, "Kept in the audit trail with the values before and after"
        )
        self.buttons("Hold to set limits", self._on_go, hold=True)
        next(iter(self._edits.values()))[1].setFocus()

    def _on_go(self) -> None:
        changed: dict[str, Any] = {}
        whole = {key for key, _, _ in COUNTS}
        try:
            for key, (name, edit, now) in self._edits.items():
                value = self._whole(edit, name) if key in whole else self.number(edit, name)
                if value != (None if now is None else str(now)):
                    changed[key] = int(value) if key in whole and value is not None else value
        except ValueError as error:
            self.fail(str(error))
            return
        reason = self._reason.text().strip()
        if not changed or not reason:
            self.fail(
                "Nothing was changed."
                if not changed
                else "A reason is needed; it is kept in the audit trail."
            )
            return
        self.run(self._send(changed, reason), "Set limits")

    def _whole(self, edit: QLineEdit, name: str) -> str | None:
        value = self.number(edit, name)
        if value is not None and not value.isdigit():
            raise ValueError(f"{name}: {value} is not a whole number")
        return value

    async def _send(self, limits: dict[str, Any], reason: str) -> None:
        account = self.subject["account"]["id"]
        await self.desk.command("set_limits", account=account, limits=limits, reason=reason)
        self.desk.say("ok", f"Limits of {account} set", reason)
