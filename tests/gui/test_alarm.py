"""What is heard and seen outside the window; codes explained; every dialog by the keyboard; sharp at every scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from engine.model import tables
from engine.model.codes import CODES
from gui import formatting as fmt
from gui import sounds
from gui.alarm import STATES, state_picture
from gui.dialogs.codes import CodesDialog
from tests.gui.conftest import DeskUnderTest, until
from tests.gui.test_desk import opened, valid


def alert(desk: DeskUnderTest, number: int, severity: str, **fields: Any) -> None:
    row = {"id": str(900 + number), "at": "2026-11-23T15:00:00Z", "severity": severity, "area": "account",
           "code": "NOT_CONNECTED", "account": "A-001", "text": "line down", "count": 1,
           "last_at": "2026-11-23T15:00:00Z", "acknowledged_at": None}  # fmt: skip
    desk.client.put(tables.ALERTS, row | fields)
    desk.frame()


@pytest.fixture
def heard(desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(desk.window.alarm, "_play", lambda path: found.append(path.stem))
    return found


async def test_alerts_are_heard_by_severity_and_a_storm_once(
    desk: DeskUnderTest, heard: list[str]
) -> None:
    alert(desk, 1, "info")
    assert heard == []  # from warnings on
    alert(desk, 2, "warning")
    for number in range(3, 30):
        alert(desk, number, "warning")
    alert(desk, 30, "critical")
    assert heard == ["warning", "critical"]


async def test_the_mute_key_silences_and_the_severity_is_chosen(
    qtbot: QtBot, desk: DeskUnderTest, heard: list[str]
) -> None:
    desk.window.activateWindow()
    await until(lambda: QApplication.activeWindow() is desk.window)
    held = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier
    qtbot.keyClick(desk.window, Qt.Key.Key_M, held)
    alert(desk, 1, "critical")
    assert heard == []
    qtbot.keyClick(desk.window, Qt.Key.Key_M, held)
    desk.window.settings.change(sound_from="critical")
    alert(desk, 2, "warning")
    assert heard == []
    alert(desk, 3, "critical")
    assert heard == ["critical"]


async def test_the_system_is_told_while_the_desk_is_not_in_front(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, str]] = []
    alarm = desk.window.alarm
    monkeypatch.setattr(alarm, "_notify", lambda *words: told.append(words))
    front = [True]
    monkeypatch.setattr(desk.window, "isActiveWindow", lambda: front[0])
    alert(desk, 1, "critical")
    assert told == []
    front[0] = False
    desk.window.settings.change(private=True)
    alert(desk, 2, "critical", text="A-001 lost its line")
    alert(desk, 3, "warning")
    assert [severity for severity, _, _ in told] == ["critical"]
    assert "A-001" not in " ".join(told[0])
    assert fmt.Privacy.veil("A-001") in told[0][2]


@pytest.mark.parametrize("severity", sounds.TONES)
def test_a_sound_is_a_file_that_plays(severity: str) -> None:
    with wave.open(str(sounds.file_of(severity)), "rb") as file:
        frames = file.readframes(file.getnframes())
        seconds = file.getnframes() / file.getframerate()
    expected = sum(ms for _, ms in sounds.TONES[severity]) / 1_000
    assert seconds == pytest.approx(expected, abs=0.01)
    assert max(frames) > 0
    assert sounds.file_of(severity) is sounds.file_of(severity)


def test_what_the_system_has_plays_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qapp: QApplication
) -> None:
    if sys.platform == "win32":
        monkeypatch.setattr(
            "winsound.PlaySound", lambda path, flags: (tmp_path / "played").write_text(path)
        )
    else:
        program = tmp_path / ("afplay" if sys.platform == "darwin" else "aplay")
        program.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/played\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
    sounds.player()(tmp_path / "x.wav")
    played = tmp_path / "played"
    deadline = 400
    while not (played.exists() and played.read_text()) and (deadline := deadline - 1):
        qapp.thread().msleep(5)
    assert played.read_text().strip().endswith("x.wav")


async def test_the_tray_shows_the_state_by_shape_and_offers_kill(desk: DeskUnderTest) -> None:
    alarm = desk.window.alarm
    assert alarm.state == "active"
    assert alarm.tray.toolTip() == "Volley: Armed"
    titles = [action.text() for action in alarm.menu.actions() if action.text()]
    assert titles == [
        "Open the desk", "Pause all entries", "Resume all entries", "KILL: halt everything now", "Quit",
    ]  # fmt: skip
    next(action for action in alarm.menu.actions() if action.text().startswith("KILL")).trigger()
    await until(lambda: desk.sent("kill"))
    valid(desk.client.sent)
    desk.client.put(tables.ENGINE, desk.client.engine(trading="halted"))
    desk.frame()
    desk.window.tick()
    assert (alarm.state, alarm.tray.toolTip()) == ("halted", "Volley: HALTED")


def test_no_two_states_have_the_same_shape(qapp: QApplication) -> None:
    def shape(state: str) -> list[bool]:
        image = state_picture(state).toImage()
        return [
            image.pixelColor(x, y).alpha() > 127 for x in range(0, 64, 2) for y in range(0, 64, 2)
        ]

    shapes = {state: shape(state) for state in STATES if state != "reducing"} | {
        "reducing": shape("reducing")
    }
    for one, other in combinations(shapes, 2):
        differing = sum(a != b for a, b in zip(shapes[one], shapes[other], strict=True))
        assert differing > 20, (one, other)


# --- alerts and codes -------------------------------------------------------------------------


async def test_a_test_alert_is_sent_and_its_outcome_said(desk: DeskUnderTest) -> None:
    desk.client.answers["test_alerts"] = {
        "result": "sent",
        "channels": [
            {"channel": "channel 1 (json)", "problem": ""},
            {"channel": "channel 2 (tgram)", "problem": "it was not taken"},
        ],
    }
    desk.desk.registry.run("alert.test")
    await until(lambda: desk.desk.notifier.history)
    notice = desk.desk.notifier.history[-1]
    assert (notice.severity, "channel 2 (tgram)" in notice.text) == ("warning", True)
    valid(desk.client.sent)


async def test_a_code_is_explained_from_its_alert(desk: DeskUnderTest) -> None:
    alert(desk, 1, "critical", code="UNKNOWN_ORDERS")
    view = desk.window.panels["alerts"].view
    assert view.select_key("901")
    desk.desk.registry.run("alert.explain")
    dialog: CodesDialog = opened(desk, "codes")
    assert CODES["UNKNOWN_ORDERS"].explanation in dialog.text.toPlainText()


async def test_every_code_is_found_by_its_words(qtbot: QtBot, desk: DeskUnderTest) -> None:
    desk.desk.registry.run("desk.codes")
    dialog: CodesDialog = opened(desk, "codes")
    assert dialog.list.count() == len(CODES)
    qtbot.keyClicks(dialog.search, "collar")
    shown = [str(dialog.list.item(at).data(0x0100)) for at in range(dialog.list.count())]
    assert "COLLAR" in shown
    assert len(shown) < 10
    qtbot.keyClicks(dialog.search, "zzz")
    assert dialog.text.toPlainText() == "No code matches."


# --- keyboard alone, and sharpness ------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["preferences", "layouts", "codes", "keys", "shortcuts", "export", "about"]
)
async def test_tab_reaches_everything_in_a_dialog(
    qtbot: QtBot, desk: DeskUnderTest, name: str
) -> None:
    desk.window.open_dialog(name, {"view": desk.view} if name == "export" else {})
    dialog = opened(desk, name)
    dialog.activateWindow()
    await until(lambda: QApplication.activeWindow() is dialog)
    wanted = {
        widget
        for widget in dialog.findChildren(QWidget)
        if widget.isVisible() and widget.isEnabled() and widget.focusPolicy() & Qt.FocusPolicy.TabFocus
        and not widget.focusProxy() and widget.window() is dialog
    }  # fmt: skip
    reached: list[QWidget] = []
    for _ in range(3 * len(wanted) + 3):
        focused = QApplication.focusWidget()
        if focused is not None:
            reached.append(focused)
        qtbot.keyClick(focused or dialog, Qt.Key.Key_Tab)
    named = {widget for widget in wanted if widget.accessibleName()}
    missed = [f"{type(w).__name__} {w.accessibleName()}" for w in named - set(reached)]
    assert missed == []
    assert named


SCRIPT = """
import asyncio, json, sys, tempfile
from pathlib import Path
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QApplication, QPushButton
app = QApplication([]); app.setStyle("Fusion")
from gui.main_window import MainWindow
window = MainWindow(Path(tempfile.mkdtemp()))
window.resize(1280, 800); window.show(); window.build(); app.processEvents()
ratio = window.devicePixelRatioF()
picture = QPixmap(window.size() * ratio); picture.setDevicePixelRatio(ratio); window.render(picture)
image = picture.toImage()
colours = len({image.pixel(x, y) for x in range(0, image.width(), 5) for y in range(0, image.height(), 5)})
clipped = [b.text() for b in window.findChildren(QPushButton)
           if b.isVisible() and b.text() and b.width() < b.minimumSizeHint().width()]
icon = window.windowIcon().pixmap(64, 64)
print(json.dumps({"ratio": ratio, "width": image.width(), "colours": colours, "clipped": clipped,
                  "icon": icon.width()}))
import os; sys.stdout.flush(); os._exit(0)
"""


@pytest.mark.parametrize("scale", [1, 1.5, 2])
def test_the_window_is_sharp_at_every_scale(scale: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen", "QT_SCALE_FACTOR": str(scale)},
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["ratio"] == scale
    assert seen["width"] == round(1280 * scale)
    assert seen["colours"] > 10
    assert seen["clipped"] == []
    assert seen["icon"] >= 64 * scale
