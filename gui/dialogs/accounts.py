"""Many accounts changed at once: approval, sizing, limits. What is left alone stays as it is in each."""

from __future__ import annotations

from collections import Counter
from typing import Any

from PySide6.QtWidgets import QComboBox, QLineEdit

from engine.client import Row
from gui import formatting as fmt
from gui.account_columns import sizing
from gui.dialogs.base import Dialog
from gui.limit_fields import AMOUNTS, COUNTS

AS_IT_IS = ""
NO_LIMIT = "none"
APPROVALS = (
    (AS_IT_IS, "As it is in each"),
    ("auto", "Auto: sent at once"),
    ("review", "Review: waits for a person"),
)
METHODS = (
    (AS_IT_IS, "As it is in each", ""),
    ("fixed", "Fixed quantity", "quantity"),
    ("signal", "The signal's quantity", ""),
    ("percent_equity", "Percent of equity", "percent"),
    ("risk_percent", "Percent at risk to the stop", "percent"),
    ("notional", "Value", "value"),
    ("multiplier", "Factor × the signal's quantity", "factor"),
)
_FIELDS = {method: name for method, _, name in METHODS}
_WHOLE = frozenset(key for key, _, _ in COUNTS)


class AccountsDialog(Dialog):
    """Subject: ``accounts``, their rows. All are changed, or none."""

    WIDTH = 560

    def build(self) -> None:
        """Make the widgets."""
        self.rows: list[Row] = list(self.subject.get("accounts", ()))
        count = len(self.rows)
        many = "1 account" if count == 1 else f"{count} accounts"
        self.heading(
            f"Change {many}",
            "In force for orders that are planned from then on. A field left empty stays as it is in each account; "
            f"“{NO_LIMIT}” takes a limit away.",
        )
        self.facts([
            ("Accounts", names(self.rows)),
            ("Approval now", _mixture([str(row.get("approval")) for row in self.rows])),
            ("Sizing now", _mixture([sizing(row) for row in self.rows])),
        ])  # fmt: skip
        self._approval = self._box("Approval", [entry[:2] for entry in APPROVALS])
        self._method = self._box("Sizing", [entry[:2] for entry in METHODS])
        self._method.currentIndexChanged.connect(lambda _at: self._on_method())
        self._amount = self.number_field("Sized by")
        self._edits: dict[str, tuple[str, QLineEdit]] = {}
        for key, name, unit in (*AMOUNTS, *COUNTS):
            now = Counter(str((row.get("limits") or {}).get(key) or NO_LIMIT) for row in self.rows)
            edit = self.number_field(name, "", unit)
            edit.setPlaceholderText(f"now {_mixture(list(now.elements()))}")
            edit.setObjectName(f"limit.{key}")
            self._edits[key] = name, edit
        self._reason = QLineEdit()
        self._reason.setMaxLength(256)
        self._reason.setPlaceholderText("Why they change")
        self.field(
            "Reason",
            self._reason,
            "Kept in the audit trail of each account, with the values before and after",
        )
        self.buttons(f"Hold to change {many}", self._on_go, hold=True)
        self._on_method()
        self._approval.setFocus()

    def _box(self, name: str, entries: list[tuple[str, str]]) -> QComboBox:
        box = QComboBox()
        for value, text in entries:
            box.addItem(text, value)
        self.field(name, box)
        return box

    def _on_method(self) -> None:
        wanted = _FIELDS[str(self._method.currentData())]
        self._amount.setEnabled(bool(wanted))
        self._amount.setPlaceholderText(
            {"quantity": "units", "percent": "percent", "value": "account currency", "factor": "times"}.get(
                wanted, "as it is" if not self._method.currentData() else "nothing more")
        )  # fmt: skip

    def changes(self) -> dict[str, Any]:
        """Return the fields of ``set_account`` that change.

        Raises:
            ValueError: a number is none.
        """
        found: dict[str, Any] = {}
        if approval := self._approval.currentData():
            found["approval"] = approval
        if method := str(self._method.currentData()):
            found["sizing"] = {"method": method}
            if name := _FIELDS[method]:
                amount = self.number(self._amount, "Sized by")
                if amount is None:
                    raise ValueError(f"Sizing: {self._method.currentText()} needs a number.")
                found["sizing"][name] = amount
        limits = {
            key: self._limit(key) for key, (_, edit) in self._edits.items() if edit.text().strip()
        }
        return found | ({"limits": limits} if limits else {})

    def _limit(self, key: str) -> str | int | None:
        name, edit = self._edits[key]
        if edit.text().strip().lower() == NO_LIMIT:
            return None
        value = self.number(edit, name)
        if key not in _WHOLE or value is None:
            return value
        if not value.isdigit():
            raise ValueError(f"{name}: {value} is not a whole number")
        return int(value)

    def _on_go(self) -> None:
        try:
            changes = self.changes()
        except ValueError as error:
            self.fail(str(error))
            return
        reason = self._reason.text().strip()
        if not changes or not reason:
            self.fail("Nothing was changed." if not changes else
                      "A reason is needed; it is kept in the audit trail.")  # fmt: skip
            return
        self.run(self._send(changes, reason), "Change accounts")

    async def _send(self, changes: dict[str, Any], reason: str) -> None:
        accounts = [row["id"] for row in self.rows]
        result = await self.desk.command("set_account", accounts=accounts, reason=reason, **changes)
        changed = len(result.get("changed", accounts))
        self.desk.say("ok", f"{changed} of {len(accounts)} accounts changed", reason)


def names(rows: list[Row]) -> str:
    """Return the first few ids and how many more there are."""
    shown = ", ".join(str(row["id"]) for row in rows[:8])
    return f"{shown} and {len(rows) - 8} more" if rows[8:] else shown


def _mixture(values: list[str]) -> str:
    """Return what several accounts have: one value, or the commonest with their counts."""
    counts = Counter(values)
    if len(counts) == 1:
        return fmt.words(values[0]) if values[0] in {"auto", "review"} else values[0]
    said = [f"{value} ({count})" for value, count in counts.most_common(3)]
    return ", ".join(said) + ("…" if counts.keys() - dict(counts.most_common(3)).keys() else "")
