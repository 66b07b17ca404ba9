"""The order ticket: a signal by hand, through the same rules and limits as every other, seen before it is sent."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QCompleter,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from engine.errors import CommandRefused
from engine.model import tables
from gui.dialogs.base import Dialog
from gui.panel import row_of
from gui.preview import Asker, PreviewView
from gui.theme import active
from gui.undo import rests, take_back

KINDS = (("market", "Market"), ("limit", "Limit"), ("stop", "Stop"), ("stop_limit", "Stop limit"))
TIFS = (
    ("day", "Day"),
    ("gtc", "Good till cancelled"),
    ("ioc", "Immediate or cancel"),
    ("fok", "Fill or kill"),
)
EVERYBODY, TAG, SOME = "everybody", "tag", "some"
WHO = (
    (EVERYBODY, "Everybody who follows the strategy"),
    (TAG, "A tag, a group"),
    (SOME, "These accounts"),
)


class TicketDialog(Dialog):
    """Makes a schema v1 signal with the source ``desk``. Subject: perhaps ``symbol``, ``side``, ``account``.

    Enter asks for the preview at once, Ctrl+Enter sends.
    """

    WIDTH = 940

    def build(self) -> None:
        """Make the widgets: the form on the left, what would come of it on the right."""
        self.setObjectName("dialog.ticket")
        self.heading(
            "Order ticket", "Sent as a signal: each account's own sizing, limits and hours apply."
        )
        self._attempt: dict[str, Any] | None = None  # what was sent without a word of its fate
        self._fresh_id()
        page = self.page
        form, self.preview = QWidget(), PreviewView(self.desk)
        form.setFixedWidth(active().px(372))
        self.page = QVBoxLayout(form)
        self.page.setContentsMargins(0, 0, 0, 0)
        self._build_form()
        self.page.addStretch(1)
        self.page = page
        halves = QHBoxLayout()
        halves.setSpacing(18)
        halves.addWidget(form)
        halves.addWidget(self.preview, 1)
        page.addLayout(halves, 100)
        self.asker = Asker(self.desk, self._question, self)
        self.asker.answered.connect(self._on_answer)
        self.asker.failed.connect(self._on_no_answer)
        self.asker.outdated.connect(self.preview.show_outdated)
        self.finished.connect(lambda _result: self.asker.stop())
        self._build_buttons()
        self._listen()
        self._on_kind()
        self._on_who()
        self.resize(active().px(self.WIDTH), active().px(540))
        self._symbol.setFocus()
        self.asker.changed()

    def _build_form(self) -> None:
        self._side_buttons()
        self._symbol = QLineEdit(str(self.subject.get("symbol", "")))
        self._symbol.setPlaceholderText("AAPL")
        self._complete(self._symbol, self._symbols())
        self.field("Symbol", self._symbol)
        self._kind = self._choice("Type", KINDS)
        self._limit = self.number_field("Limit price")
        self._stop_price = self.number_field("Stop price")
        self._quantity = self.number_field(
            "Quantity",
            "",
            "Used by accounts that size by the signal; the others size by their own rule",
        )
        self._stop = self.number_field("Stop loss")
        self._profit = self.number_field("Take profit")
        self._trail = self.number_field("Trail %", "", "Percent of the best price")
        self._numbers = {
            "limit_price": self._limit,
            "stop_price": self._stop_price,
            "quantity": self._quantity,
            "stop_loss": self._stop,
            "take_profit": self._profit,
            "trail_percent": self._trail,
        }
        for edit in self._numbers.values():
            edit.setPlaceholderText("none")
        self._quantity.setPlaceholderText("as each account sizes")
        self._tif = self._choice("Time in force", TIFS)
        self._strategy = QLineEdit("manual")
        self.field("Strategy", self._strategy, "Accounts subscribed to it, or to all, will trade")
        self._who = self._choice("Who", WHO)
        self._tags = self._tag_choice()
        self._accounts = QLineEdit(str(self.subject.get("account", "")))
        self._accounts.setPlaceholderText("A-001, A-002")
        self._complete(self._accounts, sorted(self.desk.store.rows(tables.ACCOUNTS)))
        self.field("Accounts", self._accounts)
        if self._accounts.text():
            self._who.setCurrentIndex(self._who.findData(SOME))

    def _build_buttons(self) -> None:
        self.buttons("Send", self._on_go, focus_go=True)
        assert self._go is not None
        self._go.setDefault(False)
        self._go.setAutoDefault(False)
        self._go.setToolTip("Ctrl+Enter")
        self.look = QPushButton("Preview")
        self.look.setObjectName("preview")
        self.look.setAccessibleName("Preview now")
        self.look.setToolTip("Enter")
        self.look.clicked.connect(self.asker.ask)
        self.button_line.insertWidget(2, self.look)  # behind the stretch and the way back
        self.look.setDefault(True)
        for keys in ("Ctrl+Return", "Ctrl+Enter"):
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setAutoRepeat(False)  # a held key is one order, not twenty
            shortcut.activated.connect(self._on_go)

    def _listen(self) -> None:
        for edit in (self._symbol, self._strategy, self._accounts, *self._numbers.values()):
            edit.textChanged.connect(lambda _text: self.asker.changed())
        for box in (self._tif, self._tags):
            box.currentIndexChanged.connect(lambda _at: self.asker.changed())
        self._sides.idClicked.connect(lambda _at: self.asker.changed())
        self._kind.currentIndexChanged.connect(lambda _at: self._on_kind())
        self._who.currentIndexChanged.connect(lambda _at: self._on_who())

    # --- parts --------------------------------------------------------------------------------

    def _side_buttons(self) -> None:
        self._sides = QButtonGroup(self)
        made = []
        for at, text in enumerate(("▲ Buy", "▼ Sell")):
            button = QPushButton(text)
            button.setCheckable(True)
            button.setChecked(at == (self.subject.get("side") == "sell"))
            button.setAutoDefault(False)
            button.setAccessibleName(text[2:])
            self._sides.addButton(button, at)
            made.append(button)
        self.field("Side", row_of(*made))

    def _choice(self, name: str, entries: tuple[tuple[str, str], ...]) -> QComboBox:
        box = QComboBox()
        for value, text in entries:
            box.addItem(text, value)
        self.field(name, box)
        return box

    def _tag_choice(self) -> QComboBox:
        rows = self.desk.store.rows(tables.ACCOUNTS).values()
        known = sorted({tag for row in rows for tag in row.get("tags") or ()})
        return self._choice("Tag", tuple((tag, tag) for tag in known))

    def _symbols(self) -> list[str]:
        rows = [
            *self.desk.store.rows(tables.POSITIONS).values(),
            *self.desk.store.rows(tables.SIGNALS).values(),
        ]
        return sorted({str(row["symbol"]) for row in rows})

    def _complete(self, edit: QLineEdit, words: list[str]) -> None:
        completer = QCompleter(words, edit)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        edit.setCompleter(completer)

    def _on_kind(self) -> None:
        kind = self._kind.currentData()
        self._limit.setEnabled(kind in {"limit", "stop_limit"})
        self._stop_price.setEnabled(kind in {"stop", "stop_limit"})
        self.asker.changed()

    def _on_who(self) -> None:
        who = self._who.currentData()
        self._tags.setEnabled(who == TAG)
        self._accounts.setEnabled(who == SOME)
        self.asker.changed()

    # --- the signal ---------------------------------------------------------------------------

    def _fresh_id(self) -> None:
        self._id = f"ticket-{uuid.uuid4().hex[:16]}"

    def fields(self) -> dict[str, Any]:
        """Return what the form says, as fields of schema v1.

        Raises:
            ValueError: with what is missing or wrong.
        """
        symbol = self._symbol.text().strip().upper()
        if not symbol:
            raise ValueError("Symbol: which one?")
        kind = str(self._kind.currentData())
        document: dict[str, Any] = {
            "strategy": self._strategy.text().strip() or "manual",
            "symbol": symbol,
            "action": "buy" if self._sides.checkedId() == 0 else "sell",
            "order_type": kind,
            "time_in_force": str(self._tif.currentData()),
        }
        for name, edit in self._numbers.items():
            label = name.replace("_", " ").capitalize()
            value = self.number(edit, label) if edit.isEnabled() else None
            if value is not None:
                document[name] = value
        for name, wanted in (("limit_price", "limit"), ("stop_price", "stop")):
            if wanted in kind.split("_") and name not in document:
                label = name.replace("_", " ").capitalize()
                raise ValueError(f"{label}: a {kind.replace('_', ' ')} order needs one")
        return document | self._audience()

    def _audience(self) -> dict[str, Any]:
        who = self._who.currentData()
        if who == SOME:
            names = [name for name in self._accounts.text().replace(",", " ").split() if name]
            if not names:
                raise ValueError("Accounts: which ones?")
            return {"audience": {"accounts": names}}
        if who == TAG:
            if not self._tags.currentData():
                raise ValueError("Tag: which one?")
            return {"audience": {"tags": [self._tags.currentData()]}}
        return {}

    def document(self) -> dict[str, Any]:
        """Return the signal to send. What was sent without an answer is the same one again, to the letter.

        So a second press can make no second order: the engine knows the id, and answers with what came of the first.

        Raises:
            ValueError: with what is missing or wrong.
        """
        fields = self.fields()
        sent = self._attempt
        if sent is not None and {name: sent.get(name) for name in fields} == fields:
            return sent
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"id": self._id, "source": "desk", "issued_at": stamp, **fields}

    # --- previewing ---------------------------------------------------------------------------

    def _question(self) -> dict[str, Any]:
        return {"signal": self.fields()}

    def _on_answer(self, answer: dict[str, Any]) -> None:
        self.preview.show_answer(answer)
        count = self.preview.sends()
        self._name_go(f"Send {count} order{'s' if count != 1 else ''}" if count else "Send")

    def _on_no_answer(self, tone: str, words: str) -> None:
        self.preview.show_words(tone, words)
        self._name_go("Send")

    def _name_go(self, text: str) -> None:
        assert self._go is not None
        if self._go.text() != text:
            self._go.setText(text)
            self._go.setAccessibleName(text)

    # --- sending ------------------------------------------------------------------------------

    def _on_go(self) -> None:
        assert self._go is not None
        if not self._go.isEnabled():
            return  # it is on its way
        try:
            document = self.document()
        except ValueError as error:
            self.fail(str(error))
            return
        self._attempt = document
        self.asker.stop()
        self.run(self._send(document), "Order ticket")

    async def _send(self, document: dict[str, Any]) -> None:
        try:
            answer = await self.desk.send_signal(document)
        except CommandRefused as refusal:
            if refusal.status < 500:  # the engine's own word: nothing came of it
                self._forget_attempt()
            raise
        state = str(answer.get("state", ""))
        title = f"{document['action']} {document['symbol']}"
        reason = f"{answer.get('code') or ''} {answer.get('message') or ''}".strip()
        key = f"{document['source']}/{document['id']}"
        self.desk.pick_signal(key)
        if state == "refused":
            self._forget_attempt()
            raise CommandRefused(
                str(answer.get("code") or "REFUSED"), str(answer.get("message") or "refused")
            )
        word = {"accepted": "Sent", "held": "Held for review"}.get(state, state)
        if state == "held" or rests(document):
            text = reason or "Undo cancels what has not filled."
            self.desk.undo.offer(f"{word}: {title}", text, lambda: take_back(self.desk, key))
        else:
            self.desk.say("ok", f"{word}: {title}", reason)

    def _forget_attempt(self) -> None:
        """Let the next press be a new order: of this one it is known that nothing came."""
        self._attempt = None
        self._fresh_id()
