"""Another theme: what it asks of Qt, counted, and that every widget has it afterwards, those out of sight too."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QObject, QPoint
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QApplication, QLineEdit, QPushButton, QWidget
from shiboken6 import isValid

from gui.dock import DockTitle
from gui.panel import Caption
from gui.theme import THEMES, active
from tests.gui.conftest import DeskUnderTest, until


class Told(QObject):
    """Counts the events of one kind that the widgets below a window are told."""

    def __init__(self, kind: QEvent.Type, window: QWidget) -> None:
        super().__init__()
        self._kind, self._window = kind, window
        self.by_name: Counter[str] = Counter()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        ours = isinstance(watched, QWidget) and watched.window() is self._window
        if ours and event.type() is self._kind:
            self.by_name[watched.objectName() or type(watched).__name__] += 1
        return False


@pytest.fixture
def told_of_styles(qapp: QApplication, desk: DeskUnderTest) -> Iterator[Told]:
    told = Told(QEvent.Type.StyleChange, desk.window)
    qapp.installEventFilter(told)
    yield told
    qapp.removeEventFilter(told)


def color_at(widget: QWidget, place: QPoint) -> str:
    picture = QPixmap(widget.size())
    widget.render(picture)
    return picture.toImage().pixelColor(place).name().upper()


def test_the_sheet_names_roles_and_is_one_for_all_themes(qapp: QApplication) -> None:
    sheets = set()
    for name in THEMES:
        active().use(name)
        sheets.add(active().sheet)
    assert len(sheets) == 1
    white = {tokens.on_kill for tokens in THEMES.values()}
    assert white == {"#FFFFFF"}  # the sheet says it in figures
    assert set(re.findall(r"#[0-9A-Fa-f]{6}\b", sheets.pop())) == {"#1450A0", *white}


async def test_another_theme_sets_no_sheet_anew(desk: DeskUnderTest, told_of_styles: Told) -> None:
    active().use("light")
    await until(lambda: desk.window.restyler.done)
    cells = {name for name in told_of_styles.by_name if name != "Cell"}  # with sheets of their own
    assert cells == set()
    active().use(scale=120)  # another size of text is measured anew everywhere
    assert sum(told_of_styles.by_name.values()) > 500


@pytest.mark.parametrize("name", [*THEMES, "dark"])
async def test_every_widget_has_the_colours_in_force(desk: DeskUnderTest, name: str) -> None:
    window = desk.window
    active().use("light" if name != "light" else "contrast_dark")
    active().use(name)
    tokens = active().tokens
    kill = window.findChild(QPushButton, "trading.kill.button")
    assert kill is not None
    assert color_at(kill, QPoint(8, 8)) == tokens.kill.upper()  # in sight: at once
    await until(lambda: window.restyler.done)
    assert not window.panels["fills"].in_sight()
    for panel in ("signals", "fills"):
        base = window.panels[panel].palette().base().color()
        assert base.name().upper() == tokens.surface.upper()
        edit = window.docks[panel].findChild(QLineEdit)
        assert edit is not None
        assert edit.palette().text().color().name().upper() == tokens.text.upper()
    field = (tokens.window if tokens.dark else tokens.surface).upper()
    edit = window.docks["signals"].findChild(QLineEdit)
    assert edit is not None
    assert color_at(edit, QPoint(edit.width() // 2, 4)) == field
    inks = {color.name() for color in active().colors.values()}
    for caption in window.findChildren(Caption):
        assert caption.palette().windowText().color().name() in inks
        assert caption.palette().highlight().color().name().upper() == tokens.selection.upper()


async def test_a_panel_out_of_sight_takes_the_theme_when_it_is_raised(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = desk.window
    panel, other = window.panels["throughput"], window.panels["price"]
    styled: list[str] = []
    for one in (panel, other):
        monkeypatch.setattr(one, "restyle", lambda name=one.NAME: styled.append(name))
    active().use("light")
    assert styled == []
    assert panel.late
    caption = next(c for c in window.docks["throughput"].findChildren(Caption) if c.late)
    window.show_panel("throughput")
    assert not window.restyler.done
    assert styled == ["throughput"]
    assert caption.palette().windowText().color() == active().colors[caption._tone]
    await until(lambda: window.restyler.done)
    assert styled == ["throughput", "price"]
    assert not any(one.late for one in [*window.panels.values(), *window.findChildren(Caption)])
    active().use(scale=120)  # measured anew at once, seen or not
    assert styled == ["throughput", "price", "throughput", "price"]


async def test_the_window_is_painted_after_each_theme_and_not_within_its_turn(
    qapp: QApplication, desk: DeskUnderTest
) -> None:
    told = Told(QEvent.Type.Paint, desk.window)
    await asyncio.sleep(0)
    qapp.installEventFilter(told)
    for name in ("light", "dark", "contrast_dark"):
        told.by_name.clear()
        active().use(name)
        QCoreApplication.sendPostedEvents()
        assert told.by_name == {}
        await until(lambda: told.by_name["signals"] or told.by_name["main"])
        await until(lambda: desk.window.restyler.done)
    qapp.removeEventFilter(told)


async def test_a_dialog_that_goes_meanwhile_is_left_alone(desk: DeskUnderTest) -> None:
    desk.window.open_dialog("about", {})
    dialog = next(w for w in desk.window.findChildren(QWidget) if type(w).__name__ == "AboutDialog")
    dialog.hide()  # out of sight: its turn comes later
    active().use("light")
    assert not desk.window.restyler.done
    dialog.close()
    await until(lambda: not isValid(dialog))
    await until(lambda: desk.window.restyler.done)


async def test_a_preset_hides_and_shows_each_dock_once(
    qapp: QApplication, desk: DeskUnderTest
) -> None:
    told = Told(QEvent.Type.Hide, desk.window)
    qapp.installEventFilter(told)
    desk.window.arrange("risk")
    qapp.removeEventFilter(told)
    hidden = {name: told.by_name[dock.objectName()] for name, dock in desk.window.docks.items()}
    assert set(hidden.values()) == {1}


async def test_the_least_width_of_a_title_is_one_however_wide_it_is(desk: DeskUnderTest) -> None:
    title = desk.window.docks["signals"].titleBarWidget()
    assert isinstance(title, DockTitle)
    least = title.minimumSizeHint().width()
    assert not title.tucked
    desk.window.resize(1_000, 650)
    await until(lambda: title.tucked)
    assert title.minimumSizeHint().width() == least
