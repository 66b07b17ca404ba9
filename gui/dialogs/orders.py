"""Changing a working order, and settling one whose fate is unproven."""

from __future__ import annotations

from typing import Any

from engine.model.codes import CODES
from gui import formatting as fmt
from gui.dialogs.base import Dialog, HoldButton


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Account", str(row["account"])),
        ("Order", f"{fmt.side(row['side'])} {fmt.quantity(row['order_qty'])} {row['symbol']}"),
        ("Filled", f"{fmt.quantity(row.get('cum_qty'))} of {fmt.quantity(row['order_qty'])}"),
        ("Status", fmt.words(row["status"])),
    ]


class WhyDialog(Dialog):
    """Subject: ``order``. Its outcome in words: the code, what the broker or the engine said, what that means."""

    def build(self) -> None:
        """Make the widgets."""
        row = self.subject["order"]
        code = str(row.get("code") or "")
        found = CODES.get(code)
        self.heading(found.title if found else fmt.words(row["status"]))
        facts = [*_facts(row), ("Said", str(row.get("text") or "nothing"))]
        if code:
            facts.append(("Code", code))
        if found:
            way_out = (
                "It may be forced past this, one signal at a time."
                if found.soft
                else "It cannot be forced."
            )
            facts += [("Meaning", found.explanation), ("Way out", way_out)]
        self.facts(facts)
        self.closing_line([("Open trace", self._trace)] if row.get("signal_id") else [])

    def _trace(self) -> None:
        row = self.subject["order"]
        self.desk.pick_signal(f"{row['source']}/{row['signal_id']}")
        self.desk.show_panel("signal_detail")
        self.accept()


class ReplaceDialog(Dialog):
    """Subject: ``order``."""

    def build(self) -> None:
        """Make the widgets."""
        row = self.subject["order"]
        self.heading(
            "Replace order",
            "The broker changes or replaces it; until it answers, the old terms stand.",
        )
        self.facts(_facts(row))
        self._edits = {
            "order_qty": self.number_field("Quantity", row.get("order_qty")),
            "limit_price": self.number_field("Limit price", row.get("limit_price")),
            "stop_price": self.number_field("Stop price", row.get("stop_price")),
        }
        kind = str(row.get("order_type"))
        self._edits["limit_price"].setEnabled(kind in {"limit", "stop_limit"})
        self._edits["stop_price"].setEnabled(kind in {"stop", "stop_limit"})
        self.buttons("Replace", self._on_go, focus_go=True)

    def _on_go(self) -> None:
        row, fields = self.subject["order"], {}
        try:
            for name, edit in self._edits.items():
                value = self.number(edit, name.replace("_", " "))
                if value is not None and value != row.get(name):
                    fields[name] = value
        except ValueError as error:
            self.fail(str(error))
            return
        if not fields:
            self.fail("Nothing is changed.")
            return
        self.run(self._send(fields), "Replace order")

    async def _send(self, fields: dict[str, Any]) -> None:
        row = self.subject["order"]
        await self.desk.command("replace_order", cl_ord_id=row["cl_ord_id"], **fields)
        self.desk.say("ok", f"Replacing {row['symbol']} in {row['account']}")


class ResolveDialog(Dialog):
    """Subject: ``order`` of unknown fate."""

    def build(self) -> None:
        """Make the widgets."""
        row = self.subject["order"]
        self.heading(
            "Resolve unknown order",
            "It left this machine and no proof of its fate came back. Look it up at the broker by its id, then say"
            " what you found. Saying it does not exist frees its exposure: be certain.",
        )
        self.facts(
            [
                *_facts(row),
                ("ClOrdID", str(row["cl_ord_id"])),
                ("Engine says", str(row.get("text") or "–")),
            ]
        )
        self.buttons("It exists at the broker", lambda: self._on_go(exists=True))
        self._absent_button()

    def _absent_button(self) -> None:
        button = HoldButton("Hold: it does not exist", lambda: self._on_go(exists=False))
        button.setAccessibleName("It does not exist at the broker")
        self.page.addWidget(button)

    def _on_go(self, *, exists: bool) -> None:
        self.run(self._send(exists), "Resolve order")

    async def _send(self, exists: bool) -> None:
        row = self.subject["order"]
        await self.desk.command("resolve_unknown", cl_ord_id=row["cl_ord_id"], exists=exists)
        self.desk.say(
            "ok", f"{row['symbol']} in {row['account']}: {'exists' if exists else 'does not exist'}"
        )
