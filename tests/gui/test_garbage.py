"""What is garbage dies in the desk's own thread: a timer that dies in another one takes the desk with it."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from PySide6.QtCore import QTimer
from pytestqt.qtbot import QtBot

from gui import garbage
from tests.gui.conftest import DeskUnderTest


def knot(died: list[int]) -> None:
    """Make a running timer that only the collector can free."""
    timer = QTimer()
    timer.start(1)
    timer.itself = timer  # type: ignore[attr-defined]
    weakref.finalize(timer, lambda: died.append(threading.get_ident()))


def fill_elsewhere() -> list[list[int]]:
    """Make so many objects in another thread that the interpreter would collect there."""
    made: list[list[int]] = []
    worker = threading.Thread(target=lambda: made.extend([0] for _ in range(2 * garbage.YOUNG)))
    worker.start()
    worker.join()
    return made


@pytest.mark.parametrize("when", ["a frame", "a second"])
def test_a_knot_with_a_timer_is_freed_here(qtbot: QtBot, desk: DeskUnderTest, when: str) -> None:
    gc.collect()
    died: list[int] = []
    knot(died)
    kept = fill_elsewhere()
    assert died == []
    if when == "a frame":
        desk.store.frame()
    else:
        desk.window._beat.second.emit()
    assert died == [threading.get_ident()]
    assert gc.get_count()[0] < garbage.YOUNG <= len(kept)


def test_little_is_left_to_the_next_time(qtbot: QtBot) -> None:
    gc.collect()
    died: list[int] = []
    knot(died)
    garbage.collect_if_due()
    assert died == []
    gc.collect()
    assert died == [threading.get_ident()]
