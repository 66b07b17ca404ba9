"""The command palette: type a few letters, press Enter."""

from __future__ import annotations

from itertools import islice

from PySide6.QtCore import QEvent, QObject, QRect, QSize, Qt
from PySide6.QtGui import QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
)

from engine.model import tables
from gui import formatting as fmt
from gui.commands import Command
from gui.dialogs.base import Dialog
from gui.table_cells import Index
from gui.theme import active
from gui.words import tr

SHORTEST = 2  # letters before rows are looked through
MOST_PLACES = 30
SELECTED = QStyle.StateFlag.State_Selected


class _Lines(QStyledItemDelegate):
    """Group, title and keys in one line; what cannot run now is faint."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Paint one command."""
        theme = active()
        rect: QRect = option.rect
        if option.state & SELECTED:
            painter.fillRect(rect, theme.colors["selection"])
        group, title, keys, on = index.data(0x0100)
        inner = rect.adjusted(10, 0, -10, 0)
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.setFont(theme.font(11.5))
        painter.setPen(theme.colors["muted"])
        width = theme.px(84)
        painter.drawText(QRect(inner.left(), inner.top(), width, inner.height()), middle, group)
        painter.drawText(inner, middle | Qt.AlignmentFlag.AlignRight, keys)
        painter.setFont(theme.font(13, 500))
        painter.setPen(theme.colors["text" if on else "muted"])
        painter.drawText(inner.adjusted(width, 0, -90, 0), middle, title)


class PaletteDialog(Dialog):
    """Every command of the registry, found by words of title, group and keywords; and rows to go to.

    From the second letter on, accounts, orders and symbols whose names match are listed below the commands.
    """

    WIDTH = 560

    def build(self) -> None:
        """Make the widgets."""
        self.setWindowTitle(tr("Command palette"))
        self.setAccessibleName(tr("Command palette"))
        self.page.setContentsMargins(8, 8, 8, 8)
        self.edit = QLineEdit()
        self.edit.setPlaceholderText(tr("Type a command, a panel, an account, a symbol, an order…"))
        self.edit.setAccessibleName("Find a command")
        self.edit.setFont(active().font(14))
        self.edit.setMinimumHeight(active().px(32))
        self.edit.installEventFilter(self)
        self.edit.textChanged.connect(self.search)
        self.list = QListWidget()
        self.list.setAccessibleName("Commands")
        self.list.setItemDelegate(_Lines(self.list))
        self.list.setUniformItemSizes(True)
        self.list.setMinimumHeight(340)
        self.list.itemActivated.connect(lambda _item: self._run())
        self.list.itemClicked.connect(lambda _item: self._run())
        self.page.addWidget(self.edit)
        self.page.addWidget(self.list)
        self.search("")
        self.edit.setFocus()

    def search(self, text: str) -> None:
        """List what matches, what can run now first."""
        self.list.clear()
        found = [(rank, command) for command in self.desk.registry.commands.values()
                 if (rank := _rank(command, text.lower().split())) is not None]  # fmt: skip
        found.sort(key=lambda pair: (not pair[1].enabled(), pair[0], pair[1].title))
        for _, command in found:
            item = QListWidgetItem(command.title)
            item.setData(
                0x0100,
                (
                    command.group,
                    command.title,
                    command.shortcut.replace(" | ", "  "),
                    command.enabled(),
                ),
            )
            item.setData(0x0101, command.id)
            item.setSizeHint(item.sizeHint().expandedTo(self._line_size()))
            self.list.addItem(item)
        for panel, key, title in (
            self._places(text.lower().split()) if len(text) >= SHORTEST else ()
        ):
            item = QListWidgetItem(title)
            item.setData(0x0100, (tr("Go to"), title, self.desk.panel_title(panel), True))
            item.setData(0x0102, (panel, key))
            item.setSizeHint(item.sizeHint().expandedTo(self._line_size()))
            self.list.addItem(item)
        self.list.setCurrentRow(0)

    def _places(self, words: list[str]) -> list[tuple[str, str, str]]:
        """Return rows whose names have every word: the panel, the row's key (or ``/`` and a filter), a title."""
        store, found = self.desk.store, []
        for key, row in store.rows(tables.ACCOUNTS).items():
            found.append(
                ("accounts", key, f"{row.get('id', key)}  {row.get('name') or ''}".strip())
            )
        symbols = {str(row.get("symbol")) for table in (tables.POSITIONS, tables.ORDERS, tables.SIGNALS)
                   for row in store.rows(table).values() if row.get("symbol")}  # fmt: skip
        found += [("positions", f"/{symbol}", symbol) for symbol in sorted(symbols)]
        for key, row in store.rows(tables.ORDERS).items():
            found.append(
                ("orders", key, f"{key}  {row.get('symbol', '')} {row.get('account', '')}")
            )
        matching = ((panel, key, title) for panel, key, title in found
                    if all(word in title.lower() for word in words))  # fmt: skip
        return [
            (panel, key, fmt.Privacy.veil(title))
            for panel, key, title in islice(matching, MOST_PLACES)
        ]

    def _line_size(self) -> QSize:
        return QSize(100, active().px(26))

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Let arrows and Enter work on the list while typing."""
        if event.type() is not QEvent.Type.KeyPress:
            return False
        key: QKeyEvent = event  # type: ignore[assignment]
        if key.key() in {Qt.Key.Key_Down, Qt.Key.Key_Up}:
            step = 1 if key.key() == Qt.Key.Key_Down else -1
            self.list.setCurrentRow(
                max(0, min(self.list.count() - 1, self.list.currentRow() + step))
            )
            return True
        if key.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter}:
            self._run()
            return True
        return False

    def _run(self) -> None:
        item = self.list.currentItem()
        if item is None:
            return
        name, place = item.data(0x0101), item.data(0x0102)
        self.accept()
        if place is not None:
            self.desk.go_to(*place)
        else:
            self.desk.registry.run(str(name))


def _rank(command: Command, words: list[str]) -> int | None:
    title = command.title.lower()
    blob = f"{title} {command.group.lower()} {command.keywords.lower()}"
    if not all(word in blob for word in words):
        return None
    return (
        0
        if words and title.startswith(words[0])
        else (1 if all(word in title for word in words) else 2)
    )
