"""T21, secrets on the screen: masked where typed; in no text, tooltip, title, clipboard or file of the desk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QAbstractItemModel, QModelIndex, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QAbstractItemView, QApplication, QLineEdit, QWidget

from gui import dialogs
from tests.e2e.test_canary import hits
from tests.gui.conftest import DeskUnderTest

TOKEN = "cnry-typed-token-s4~Vb"
PIN = "cnry-typed-pin-t5~Nm"
SECRETS = {"the token": TOKEN, "the PIN": PIN}
GUI = Path(dialogs.__file__).parents[1]
OFFSCREEN = (
    "does not support propagateSizeHints",
    "does not support raise",
    "grabbing the keyboard",
)
pytestmark = pytest.mark.qt_log_ignore(*OFFSCREEN)


def texts() -> Iterator[str]:
    """Return everything a person or a program that reads screens can read of every widget there is."""
    for widget in QApplication.allWidgets():
        yield widget.windowTitle()
        yield widget.toolTip()
        yield widget.statusTip()
        yield widget.whatsThis()
        yield widget.accessibleName()
        yield widget.accessibleDescription()
        yield widget.objectName()
        if isinstance(widget, QLineEdit):
            yield widget.displayText()  # what is drawn: the dots of a masked field
            yield widget.placeholderText()
            yield widget.selectedText() if widget.echoMode() is QLineEdit.EchoMode.Normal else ""
        for name in ("text", "toPlainText", "title", "currentText"):
            read = getattr(widget, name, None)
            if callable(read) and not isinstance(widget, QLineEdit):
                try:
                    yield str(read())
                except TypeError:
                    continue
        if isinstance(widget, QAbstractItemView) and widget.model() is not None:
            yield from cells(widget.model())


def cells(model: QAbstractItemModel) -> Iterator[str]:
    roles = (
        Qt.ItemDataRole.DisplayRole,
        Qt.ItemDataRole.ToolTipRole,
        Qt.ItemDataRole.EditRole,
        Qt.ItemDataRole.AccessibleTextRole,
    )
    for row in range(min(model.rowCount(QModelIndex()), 200)):
        for column in range(model.columnCount(QModelIndex())):
            for role in roles:
                yield str(model.data(model.index(row, column), role) or "")


def readable() -> bytes:
    return "\n".join(texts()).encode()


def everything_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def typed(widget: QWidget, text: str) -> QLineEdit:
    [edit] = [
        one
        for one in widget.findChildren(QLineEdit)
        if one.echoMode() is not QLineEdit.EchoMode.Normal
    ]
    edit.setText(text)
    return edit


async def test_what_is_typed_is_masked_and_gone_afterwards(
    desk: DeskUnderTest, tmp_path: Path
) -> None:
    QGuiApplication.clipboard().clear()
    given: list[str] = []
    for kind, secret, subject in (
        ("token", TOKEN, {"url": "ws://127.0.0.1:1", "answer": given.append}),
        ("pin", PIN, {"text": "rearm needs the PIN of operator", "answer": given.append}),
    ):
        dialog = dialogs.ALL[kind](desk.desk, subject)
        dialog.show()
        edit = typed(dialog, secret)
        assert edit.echoMode() is QLineEdit.EchoMode.Password
        assert not hits("while it is typed", readable(), SECRETS)
        edit.selectAll()
        edit.copy()  # a masked field gives nothing away
        assert secret not in QGuiApplication.clipboard().text()
        dialog.accept()
        assert given[-1] == secret
        assert not hits("afterwards", readable(), SECRETS)
    desk.window.close()
    assert not hits("the desk's files", everything_in(tmp_path), SECRETS)


async def test_the_crawl_finds_what_it_looks_for(desk: DeskUnderTest) -> None:
    edit = QLineEdit(desk.window)
    edit.setText(TOKEN)
    assert hits("the desk", readable(), SECRETS)
    edit.setText("")
    edit.setToolTip(PIN)
    assert hits("the desk", readable(), SECRETS)
    edit.setToolTip("")
    assert len(readable()) > 2_000  # a whole desk with its tables


async def test_a_whole_desk_shows_no_field_that_is_for_secrets(desk: DeskUnderTest) -> None:
    desk.frame()
    shown = readable().decode().lower()
    for word in ("bearer ", "secret=", "api_key", "enc:v1:", "$argon2id$", "authorization:"):
        assert word not in shown


def test_every_field_for_a_secret_is_masked_in_the_source() -> None:
    """A field whose caption speaks of a token, PIN, password or passphrase sets an echo mode in the same file."""
    for path in GUI.rglob("*.py"):
        source = path.read_text("utf-8")
        if re.search(r"self\.field\(\s*\"(Token|PIN|Password|Passphrase|Secret)\"", source):
            assert "EchoMode.Password" in source, path
