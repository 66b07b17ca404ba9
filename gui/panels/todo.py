"""To do: everything that keeps orders from leaving, one line each, with a button where one helps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from engine.model import tables
from gui import todo
from gui.commands import CONFIRM, Command, Work
from gui.desk import Desk
from gui.panel import Caption, EmptyNote, Panel
from gui.theme import active
from gui.todo import Item

MOST = 60  # lines; more than that nobody works through from a list


class Line(QWidget):
    """One thing to do."""

    def __init__(self, item: Item, act: Callable[[Item], None]) -> None:
        super().__init__()
        self.item = item
        self._mark = Caption(todo.MARKS[item.tone], 13, 600, _ink(item.tone))
        self._mark.setAccessibleName(
            {"crit": "Stops trading", "warn": "Warning"}.get(item.tone, "Remark")
        )
        self._who = Caption("", 12.5, 600, "text")
        self._what = Caption("", 12.5, 400, "text")
        self._todo = Caption("", 12.5)
        self._mark.setFixedWidth(active().px(14))
        words = QVBoxLayout()
        words.setSpacing(1)
        for label in (self._who, self._what, self._todo):
            label.setWordWrap(True)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            words.addWidget(label)
        line = QHBoxLayout(self)
        line.setContentsMargins(10, 7, 10, 7)
        line.setSpacing(9)
        line.addWidget(self._mark, 0, Qt.AlignmentFlag.AlignTop)
        line.addLayout(words, 1)
        self.button: QPushButton | None = None
        if item.action:
            self.button = QPushButton(item.button)
            self.button.setObjectName(f"todo.{item.action}.{item.ids[0]}")
            self.button.setAccessibleName(f"{item.button.rstrip('…')} {item.who}")
            self.button.setAutoDefault(False)
            self.button.clicked.connect(lambda: act(self.item))
            line.addWidget(self.button, 0, Qt.AlignmentFlag.AlignTop)
        self.show_item(item)

    def show_item(self, item: Item) -> None:
        """Take other words for the same thing."""
        self.item = item
        texts = (item.who, _sentence(item.what), f"→ {_sentence(item.todo)}")
        for label, text in zip((self._who, self._what, self._todo), texts, strict=True):
            if label.text() != text:
                label.setText(text)
        if self.button is not None:
            self.button.setAccessibleDescription(f"{_sentence(item.what)}. {_sentence(item.todo)}")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ink(tone: str) -> str:
    return "muted" if tone == "muted" else tone


class TodoPanel(Panel):
    """What to fix before the open, worst first."""

    NAME = "todo"
    TITLE = "To do"
    ABOUT = "What to fix before the open: logins, links, limits, unknown orders, prices, disk, clock, halts"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.lines: list[Line] = []
        self._keys: list[tuple[str, ...]] = []
        self._count = Caption()
        self._count.setAccessibleName("To do: how much")
        self._list = QWidget()
        self._area = QScrollArea()
        self._stack = QStackedWidget()
        desk.registry.add(
            Command("todo.show", "To do before the open", lambda: desk.show_panel(self.NAME),
                    "readiness fix log in credentials checklist", "Ctrl+D", "Desk", about=self.ABOUT)
        )  # fmt: skip

    def build(self) -> None:
        """Make the list."""
        page = QVBoxLayout(self._list)
        page.setContentsMargins(0, 2, 0, 2)
        page.setSpacing(0)
        page.addStretch(1)
        self._area.setWidget(self._list)
        self._area.setWidgetResizable(True)
        self._area.setFrameShape(QFrame.Shape.NoFrame)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._area.setAccessibleName("To do before the open")
        nothing = EmptyNote("Nothing to do", "Every account that is switched on can trade.")
        self._stack.addWidget(nothing)
        self._stack.addWidget(self._area)
        self.body.addWidget(self._stack, 1)
        self.tools = [self._count, self.desk.registry.button("account.reload", "Reload accounts")]

    def tick(self) -> None:
        """Look at what there is to do now."""
        found = todo.items(self.store.rows, self.store.age_of)
        text = f"{todo.urgent(found)} to fix" if todo.urgent(found) else "Ready"
        if len(found) > MOST:
            text = f"{text}, the first {MOST} shown"
        if self._count.text() != text:
            self._count.setText(text)
        self._show(found[:MOST])
        for line in self.lines:
            if line.button is not None:
                line.button.setEnabled(self.can_command())

    def _show(self, found: list[Item]) -> None:
        self._stack.setCurrentIndex(1 if found else 0)
        keys = [item.key for item in found]
        if keys != self._keys:
            self._keys = keys
            self._rebuild(found)
        for line, item in zip(self.lines, found, strict=True):
            line.show_item(item)

    def _rebuild(self, found: list[Item]) -> None:
        """Make the lines anew; the button that had the focus keeps it, if it is still there."""
        had = next(
            (line.item.key for line in self.lines if line.button and line.button.hasFocus()), None
        )
        page = self._list.layout()
        assert isinstance(page, QVBoxLayout)
        for line in self.lines:
            page.removeWidget(line)
            line.hide()
            line.deleteLater()
        self.lines = [Line(item, self._act) for item in found]
        for at, line in enumerate(self.lines):
            page.insertWidget(at, line)
            if line.button is not None and line.item.key == had:
                line.button.setFocus()

    # --- acting -------------------------------------------------------------------------------

    def _act(self, item: Item) -> None:
        if not self.can_command():
            return
        if item.action == todo.LOG_IN:
            self.desk.ask("log_in", account=dict(self.store.rows(tables.ACCOUNTS)[item.ids[0]]))
        elif item.action == todo.REARM:
            self.desk.ask("rearm", scope=item.ids[0], state=item.state)
        elif item.action == todo.LIMITS:
            self._limits(item)
        elif item.action in {todo.UNKNOWN, todo.COMPARE}:
            self.desk.show_panel(item.action)
        elif item.action == todo.ENABLE and len(item.ids) > 1:
            self._confirm_enable(item)
        else:
            self.desk.spawn(self._work(item), item.button)

    def _limits(self, item: Item) -> None:
        """Let limits be set: of one account, or of several together."""
        known = self.store.rows(tables.ACCOUNTS)
        rows = [dict(known[name]) for name in item.ids if name in known]
        if len(rows) == 1:
            self.desk.ask("limits", account=rows[0])
        elif rows:
            self.desk.ask("accounts", accounts=rows)

    def _confirm_enable(self, item: Item) -> None:
        title = f"Switch on {len(item.ids)} accounts"
        self.desk.ask("confirm", title=title, facts=[("Accounts", item.who)], go=title,
                      run=partial(self._work, item), danger=CONFIRM)  # fmt: skip

    def _work(self, item: Item) -> Work:
        if item.action == todo.ENABLE:
            if len(item.ids) > 1:
                fields = {"accounts": list(item.ids), "active": True}
                return self.desk.each("Switched on", "set_accounts_active", [fields])
            fields = {"account": item.ids[0], "active": True}
            return self.desk.each("Switched on", "set_account_active", [fields])
        if item.action == todo.RESUME:
            return self.desk.each("Resumed", "resume", [{"scope": name} for name in item.ids])
        return self.desk.each("Accounts read again", "reload_accounts", [{}])
