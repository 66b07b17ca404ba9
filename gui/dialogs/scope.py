"""Pausing, flattening or cancelling a scope: which one is chosen here, with what it would touch."""

from __future__ import annotations

from typing import Any

from PySide6.QtWidgets import QComboBox, QLineEdit

from engine.client import Row
from engine.model import tables
from gui import formatting as fmt
from gui.dialogs.base import Dialog
from gui.panel import Caption
from gui.undo import BY_HAND, pause

KINDS = (
    ("all", "The firm"),
    ("account", "An account"),
    ("broker", "A broker"),
    ("strategy", "A strategy"),
    ("symbol", "A symbol"),
)
ACTS = {
    "pause": ("Pause entries", "Pause", "No new entries in this scope until it is resumed; exits and cancels pass."),
    "resume": ("Resume entries", "Resume", "Entries in this scope are taken again."),
    "flatten": ("Flatten", "Hold to flatten", "Working orders are cancelled, positions closed at the market, at once."),
}  # fmt: skip


class ScopeDialog(Dialog):
    """Subject: ``act`` (``pause``, ``resume``, ``flatten``), perhaps ``kind`` and ``name`` of the scope."""

    WIDTH = 460

    def build(self) -> None:
        """Make the widgets."""
        self._act = str(self.subject["act"])
        title, go, about = ACTS[self._act]
        self.heading(title, about)
        self._kind = QComboBox()
        for value, words in KINDS:
            self._kind.addItem(words, value)
        self.field("Scope", self._kind)
        self._name = QComboBox()
        self._name.setEditable(True)
        self._name.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.field("Which", self._name)
        self._reason = QLineEdit()
        self._reason.setMaxLength(256)
        self._reason.setPlaceholderText("Kept in the audit trail")
        if self._act != "resume":
            self.field("Reason", self._reason)
        self.touched = Caption("", 12.5, 500, "text")
        self.touched.setWordWrap(True)
        self.touched.setAccessibleName("What it touches")
        self.page.addWidget(self.touched)
        self._kind.currentIndexChanged.connect(lambda _at: self._on_kind())
        self._name.editTextChanged.connect(lambda _text: self._say())
        self.buttons(go, self._on_go, hold=self._act == "flatten")
        self._kind.setCurrentIndex(
            max(0, self._kind.findData(str(self.subject.get("kind", "account"))))
        )
        self._on_kind()
        if "name" in self.subject:
            self._name.setEditText(str(self.subject["name"]))
        self._kind.setFocus()

    def _rows(self, table: str) -> list[Row]:
        return list(self.desk.store.rows(table).values())

    def _known(self, kind: str) -> list[str]:
        """Return the names of a kind of scope that the desk has seen."""
        accounts, orders = self._rows(tables.ACCOUNTS), self._rows(tables.ORDERS)
        found: set[Any] = set()
        if kind == "account":
            found = {row["id"] for row in accounts}
        elif kind == "broker":
            found = {row["broker"] for row in accounts}
        elif kind == "strategy":
            found = {row.get("strategy") for row in (*orders, *self._rows(tables.SIGNALS))}
        elif kind == "symbol":
            found = {row["symbol"] for row in (*orders, *self._rows(tables.POSITIONS))}
        return sorted(str(name) for name in found if name)

    def _on_kind(self) -> None:
        kind = str(self._kind.currentData())
        self._name.blockSignals(True)
        self._name.clear()
        self._name.addItems(self._known(kind))
        self._name.setEnabled(kind != "all")
        self._name.blockSignals(False)
        self._say()

    def scope(self) -> str:
        """Return the scope as commands name it."""
        kind = str(self._kind.currentData())
        return kind if kind == "all" else f"{kind}:{self._name.currentText().strip()}"

    def _in_scope(self, row: Row) -> bool:
        kind, _, name = self.scope().partition(":")
        if kind == "broker":
            row = self.desk.store.rows(tables.ACCOUNTS).get(row["account"], {})
        return kind == "all" or row.get(kind) == name

    def _say(self) -> None:
        """Say how much lies in the scope now, as far as the desk knows."""
        working = [
            r
            for r in self._rows(tables.ORDERS)
            if r["status"] in {"new", "partially_filled", "pending_new"}
        ]
        orders = [row for row in working if self._in_scope(row)]
        if str(self._kind.currentData()) == "strategy":
            name = self._name.currentText().strip()
            traded = {
                (r["account"], r["symbol"])
                for r in self._rows(tables.FILLS)
                if r.get("strategy") == name
            }
            held = [
                r for r in self._rows(tables.POSITIONS) if (r["account"], r["symbol"]) in traded
            ]
        else:
            held = [row for row in self._rows(tables.POSITIONS) if self._in_scope(row)]
        held = [row for row in held if fmt.number(row.get("qty"))]
        pnl = sum(fmt.number(row.get("unrealised")) or 0.0 for row in held)
        self.touched.setText(
            f"In it now: {_many(len(orders), 'working order')}, {_many(len(held), 'position')} in "
            f"{_many(len({row['account'] for row in held}), 'account')}, open profit or loss {fmt.pnl(f'{pnl:.2f}')}."
        )

    def _on_go(self) -> None:
        if not self.scope().partition(":")[2] and self.scope() != "all":
            self.fail("Say which one.")
            self._name.setFocus()
            return
        self.run(self._send(self.scope(), self._reason.text().strip()), ACTS[self._act][0])

    async def _send(self, scope: str, reason: str) -> None:
        where = "the firm" if scope == "all" else scope.replace(":", " ", 1)
        if self._act == "pause":
            await pause(self.desk, f"Paused: {where}", [scope], reason)
        elif self._act == "resume":
            await self.desk.command("resume", scope=scope)
            self.desk.say("ok", f"Resumed: {where}")
        else:
            answer = await self.desk.command("flatten", scope=scope, reason=reason or BY_HAND)
            exits, cancels = len(answer.get("orders") or ()), answer.get("cancels", 0)
            self.desk.say(
                "ok", f"Flatten {where}", f"{cancels} cancels and {exits} exits are on their way."
            )


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
