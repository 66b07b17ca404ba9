"""A translator reaches every table: its columns' titles, what they mean, their menu, and what is copied of them."""

from __future__ import annotations

import gettext
from collections.abc import Iterator
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QMenu
from pytestqt.qtbot import QtBot

from engine.model import tables
from gui import dialogs, words
from gui.panels import ALL
from gui.table_view import TableView
from tests.gui.conftest import DeskUnderTest

HORIZONTAL = Qt.Orientation.Horizontal
TIP = Qt.ItemDataRole.ToolTipRole


class Fake(gettext.NullTranslations):
    """Puts every text it is asked for between marks."""

    def gettext(self, message: str) -> str:
        return f"«{message}»"


@pytest.fixture
def translated(desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeskUnderTest]:
    """Return a desk whose language is changed while it runs."""
    monkeypatch.setattr(words._now, "name", "fake")
    monkeypatch.setattr(words._now, "catalogue", Fake())
    return desk


def headers(view: TableView) -> list[tuple[str, str, str]]:
    model = view.model()
    return [
        (
            view.table.columns[at].title,
            str(model.headerData(at, HORIZONTAL)),
            str(model.headerData(at, HORIZONTAL, TIP)),
        )
        for at in range(model.columnCount())
    ]


async def test_every_table_has_its_header_translated(
    translated: DeskUnderTest, qtbot: QtBot
) -> None:
    window = translated.window
    order = next(iter(translated.store.rows(tables.ORDERS).values()))
    for name, subject in (
        ("comparison", {}),
        ("ticket", {"symbol": "AAPL"}),
        ("replace", {"order": order}),
    ):
        dialogs.ALL[name](window.desk, subject).present()  # fmt: skip
    views = window.findChildren(TableView)
    assert len(views) >= len(ALL)  # several panels have two, and dialogs have theirs
    seen = 0
    for view in views:
        for title, shown, tip in headers(view):
            if not title:
                continue  # a column of marks alone has no title
            seen += 1
            where = (view.objectName(), title)
            assert shown.startswith(f"«{title}»"), where
            assert tip.startswith("«"), where
            assert tip.endswith("»"), where
    assert seen > 150


async def test_the_header_menu_and_what_is_copied_speak_it_too(
    translated: DeskUnderTest, qtbot: QtBot
) -> None:
    view: Any = translated.window.panels["orders"].view
    opened: list[QMenu] = []
    view._open_menu = lambda menu, _where: opened.append(menu)
    view._header_menu(QPoint(5, 5))
    first = view.table.columns[view.header.logicalIndexAt(QPoint(5, 5))].title
    texts = [action.text() for action in opened[0].actions() if action.text()]
    assert f"«Hide» «{first}»" in texts
    assert "«Reset columns»" in texts
    assert {f"«{column.title}»" for column in view.table.columns if column.title} <= set(texts)
    copied = view.table.as_tsv(view.table.order[:1], [0, 1]).splitlines()[0]
    assert copied == "\t".join(f"«{view.table.columns[at].title}»" for at in (0, 1))
    opened[0].deleteLater()


async def test_a_filter_knows_a_column_by_both_its_titles(
    translated: DeskUnderTest, qtbot: QtBot
) -> None:
    columns = {
        column.key: column for column in translated.window.panels["orders"].view.table.columns
    }
    names = columns["account"].names
    assert {"account", "«account»"} <= set(names)
