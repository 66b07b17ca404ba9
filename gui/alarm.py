"""What reaches a trader who does not look at the window: sound, the system's notifications, the tray icon."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Final

from PySide6.QtCore import QObject, QPointF, QRectF, Qt
from PySide6.QtGui import QIcon, QPainter, QPen, QPixmap, QPolygonF
from PySide6.QtWidgets import QMenu, QSystemTrayIcon, QWidget

from gui import formatting as fmt
from gui import sounds
from gui.desk import Desk
from gui.preferences import SEVERITIES
from gui.theme import active
from gui.words import tr

AGAIN_S: Final = 3.0
"""The same severity is heard once in this time: a storm of alerts is one alarm."""
NOTICE_MS: Final = 10_000
_SIZE: Final = 64
STATES: Final = {
    "active": ("Armed", "pos"),
    "disarmed": ("Disarmed", "warn"),
    "reducing": ("Exits only", "warn"),
    "halted": ("HALTED", "crit"),
    "away": ("No engine", "muted"),
}
_ICONS: Final = {
    "info": QSystemTrayIcon.MessageIcon.Information,
    "warning": QSystemTrayIcon.MessageIcon.Warning,
    "critical": QSystemTrayIcon.MessageIcon.Critical,
}


class Alarm(QObject):
    """Makes alerts heard and seen outside the window, as far as the preferences want it; owns the tray icon."""

    def __init__(self, desk: Desk, window: QWidget) -> None:
        super().__init__(window)
        self._desk = desk
        self._window = window
        self._play = sounds.player()
        self._heard: dict[str, float] = {}
        self.state = ""
        self.menu = QMenu(window)
        self.menu.setAccessibleName(tr("Tray menu"))
        self.menu.addAction(tr("Open the desk"), self.open_window)
        self.menu.addSeparator()
        desk.registry.fill(
            self.menu, ["trading.pause", "trading.resume", "", "trading.kill", "", "desk.quit"]
        )
        self.tray = QSystemTrayIcon(self)
        self.tray.setContextMenu(self.menu)
        self.tray.activated.connect(self._on_tray)
        self.tray.messageClicked.connect(self.open_window)
        self.tick()
        if QSystemTrayIcon.isSystemTrayAvailable():
            self.tray.show()

    # --- alerts -------------------------------------------------------------------------------

    def hear(self, severity: str, title: str, text: str) -> None:
        """Make an alert heard, and shown by the system while the desk is not in front."""
        now = self._desk.settings.now
        if now.sounds and _grave(severity, now.sound_from):
            self._sound(severity)
        if (
            now.notifications
            and _grave(severity, now.notify_from)
            and not self._window.isActiveWindow()
        ):
            self._notify(severity, fmt.Privacy.veil(title), fmt.Privacy.veil(text))

    def _sound(self, severity: str) -> None:
        at = monotonic()
        if at - self._heard.get(severity, -AGAIN_S) >= AGAIN_S:
            self._heard[severity] = at
            self.play(sounds.file_of(severity))

    def play(self, path: Path) -> None:
        """Play a file."""
        self._play(path)

    def _notify(self, severity: str, title: str, text: str) -> None:
        if self.tray.isVisible() and self.tray.supportsMessages():
            self.tray.showMessage(title, text, _ICONS[severity], NOTICE_MS)

    # --- tray ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """Show the state of now."""
        store = self._desk.store
        trading = str(store.engine.get("trading"))
        state = trading if store.connected and trading in STATES else "away"
        if state == self.state:
            return
        self.state = state
        self.tray.setIcon(QIcon(state_picture(state)))
        self.tray.setToolTip(f"Volley: {tr(STATES[state][0])}")

    def open_window(self) -> None:
        """Bring the window to the front."""
        self._window.showNormal() if self._window.isMinimized() else self._window.show()
        self._window.raise_()
        self._window.activateWindow()

    def _on_tray(self, reason: QSystemTrayIcon.ActivationReason) -> None:
        if reason is not QSystemTrayIcon.ActivationReason.Context:
            self.open_window()

    def close(self) -> None:
        """Take the icon away."""
        self.tray.hide()


def _grave(severity: str, least: str) -> bool:
    return severity in SEVERITIES and SEVERITIES.index(severity) >= SEVERITIES.index(least)


def state_picture(state: str) -> QPixmap:
    """Return the icon of a state; its shape says it as well as its colour.

    Armed is a full disc, disarmed a ring, exits only a triangle that points down, halted a square, and no engine a
    ring with a bar through it.
    """
    ink = active().colors[STATES[state][1]]
    pixmap = QPixmap(_SIZE, _SIZE)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(ink, 8))
    box = QRectF(8, 8, _SIZE - 16, _SIZE - 16)
    if state in {"active", "halted", "reducing"}:
        painter.setBrush(ink)
    if state == "halted":
        painter.drawRect(box)
    elif state == "reducing":
        painter.drawPolygon(
            QPolygonF([QPointF(8, 12), QPointF(_SIZE - 8, 12), QPointF(_SIZE / 2, _SIZE - 8)])
        )
    else:
        painter.drawEllipse(box)
    if state == "away":
        painter.drawLine(QPointF(14, _SIZE - 14), QPointF(_SIZE - 14, 14))
    painter.end()
    return pixmap
