"""A recorded day at the desk: the transport bar that moves through it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic

from PySide6.QtCore import QPointF, QRect, Qt, Signal
from PySide6.QtGui import QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QSlider,
    QStyle,
    QStyleOptionSlider,
    QWidget,
)

from engine.client import Moment, Recording
from engine.model import tables
from gui import formatting as fmt
from gui.commands import Command
from gui.desk import Desk
from gui.panel import Caption, Panel
from gui.table_view import TableView
from gui.theme import active
from gui.top_bar import Badge

SPEEDS = (1, 5, 20, 60, 200, 600)
_STEP_MS = 5_000
_PAGE_MS = 60_000
_TONES = {"signal": "accent", "alert": "crit", "command": "warn"}


Empty = tuple[str, str]
_EMPTY: dict[tuple[str, str], tuple[str, Empty, Empty | None]] = {
    ("reconciliation", "view"): (tables.DIFFERENCES, (
        "Books agree at this moment",
        "A recording has every difference that counted, from when it was proven until it was gone.",
    ), None),
    ("reconciliation", "second_view"): (tables.EXTERNAL, (
        "No orders of others at this moment",
        "They are recorded to ten seconds.",
    ), (
        "Orders of others are not recorded",
        "This day is of a version that kept only how many there were: see the accounts.",
    )),
    ("controls", "second_view"): (tables.USAGE, (
        "No limit in use at this moment",
        "Recorded are the firm's limits, to ten seconds, and those of accounts that were half used, to a minute.",
    ), (
        "Limits in use are not recorded",
        "This day is of a version that did not keep them; what the controls refused and which tripped is below.",
    )),
    ("risk", "second_view"): (tables.KILL, (
        "No kill at this moment",
        "A recording follows a kill by the ends of our own orders; what brokers' lists held is not in it.",
    ), None),
    ("unknown", "view"): (tables.UNKNOWN, (
        "Every order is proven at this moment",
        "Recorded is which orders were unknown, and how long; how often brokers were asked and what they said is not.",
    ), None),
}  # fmt: skip
"""By panel and table: what an empty one says of a recorded day, and what where that day does not hold it at all."""


def explain_empty(panels: Mapping[str, Panel], recording: Recording) -> None:
    """Let empty tables say what a recording holds and what it does not."""
    for (name, view), (table, held, absent) in _EMPTY.items():
        shown: TableView | None = getattr(panels.get(name), view, None)
        if shown is not None:
            lacks = absent is not None and table not in recording.recorded
            shown.empty_title, shown.empty_text = absent if absent and lacks else held
            shown.viewport().update()


class Scrubber(QSlider):
    """A slider over the day with a tick for each moment worth going to: signals below, commands and alerts above."""

    hovered = Signal(float)

    def __init__(self, recording: Recording) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self._recording = recording
        self._ticked = QRect()
        self._known_ticks: list[tuple[int, str]] = []
        self.setRange(0, round((recording.ends - recording.begins) * 1000))
        self.setSingleStep(_STEP_MS)
        self.setPageStep(_PAGE_MS)
        self.setMouseTracking(True)
        self.setMinimumHeight(active().px(30))
        self.setAccessibleName("Moment shown")

    def _groove(self) -> QRect:
        option = QStyleOptionSlider()
        self.initStyleOption(option)
        style = self.style()
        part = QStyle.SubControl
        whole = style.subControlRect(
            QStyle.ComplexControl.CC_Slider, option, part.SC_SliderGroove, self
        )
        handle = style.subControlRect(
            QStyle.ComplexControl.CC_Slider, option, part.SC_SliderHandle, self
        )
        return whole.adjusted(handle.width() // 2, 0, -handle.width() // 2, 0)

    def value_at(self, x: float) -> int:
        """Return the value under a place of the pointer."""
        groove = self._groove()
        share = (x - groove.left()) / max(1, groove.width())
        return round(min(1.0, max(0.0, share)) * self.maximum())

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go where it was clicked, then drag from there."""
        if event.button() is Qt.MouseButton.LeftButton:
            self.setValue(self.value_at(event.position().x()))
        super().mousePressEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Tell the moment under the pointer."""
        self.hovered.emit(self._recording.begins + self.value_at(event.position().x()) / 1000)
        super().mouseMoveEvent(event)

    def _ticks(self) -> list[tuple[int, str]]:
        """Return where each tick is and of what kind; found once for a width, as a day has thousands."""
        groove = self._groove()
        if groove != self._ticked:
            begins, ends = self._recording.begins, self._recording.ends
            scale = groove.width() / max(0.001, ends - begins)
            self._ticked = groove
            self._known_ticks = list(
                dict.fromkeys(
                    (groove.left() + round((moment.at - begins) * scale), moment.kind)
                    for moment in self._recording.marks
                )
            )
        return self._known_ticks

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the ticks under the slider; several in one place are one."""
        painter = QPainter(self)
        theme, height = active(), self.height()
        for x, kind in self._ticks():
            painter.setPen(theme.colors[_TONES[kind]])
            if kind == "signal":
                painter.drawLine(QPointF(x, height - 6), QPointF(x, height - 1))
            elif kind == "command":
                painter.drawLine(QPointF(x, 1), QPointF(x, 5))
            else:  # thicker: an alert is told apart by its form, too
                painter.fillRect(x - 1, 0, 3, 7, theme.colors[_TONES[kind]])
        painter.end()
        super().paintEvent(event)


class TransportBar(QWidget):
    """Play, pause, speed, steps to the next thing, the slider, and what time it is there."""

    def __init__(self, desk: Desk, recording: Recording) -> None:
        super().__init__()
        self.desk = desk
        self.recording = recording
        self.playing = False
        self.setObjectName("transport")
        self.setAccessibleName("Replay")
        self._moments = [moment.at for moment in recording.marks]
        self._drawn_at: float | None = None
        self._left_at = recording.begins  # where the last jump began
        self._words = ""  # about the moment stepped to
        self.badge = Badge("Mode of the window")
        self.badge.show_word(f"REPLAY {recording.day}", "warn", filled=True)
        self.slider = Scrubber(recording)
        self.slider.valueChanged.connect(self._slid)
        self.slider.hovered.connect(self._hover)
        self.clock = Caption("", 14, 600, "text")
        self.clock.setAccessibleName("Time shown")
        self.clock.setMinimumWidth(active().px(118))
        self.about = Caption("", 12)
        self.about.setMinimumWidth(active().px(150))
        self.speed = QComboBox()
        self.speed.setAccessibleName("Speed")
        self.speed.addItems([f"×{speed}" for speed in SPEEDS])
        self.speed.setCurrentIndex(SPEEDS.index(20))
        self.speed.setToolTip("How fast it plays (Ctrl+Up, Ctrl+Down)")
        desk.registry.add_all(self._commands())
        self._lay_out()
        self._show()

    def _commands(self) -> list[Command]:
        group = "Replay"
        return [
            Command("replay.play", "Play or pause", self.toggle, "stop start", "Ctrl+Space", group,
                    checked=lambda: self.playing, about="Let the recorded day go on, or hold it"),
            Command("replay.next", "Next signal", lambda: self._step(1, "signal"), "forward", "Ctrl+Right", group),
            Command("replay.previous", "Previous signal", lambda: self._step(-1, "signal"), "back", "Ctrl+Left", group),
            Command("replay.next_alert", "Next alert or command", lambda: self._step(1, "alert", "command"), "forward",
                    "Ctrl+Shift+Right", group),
            Command("replay.previous_alert", "Previous alert or command", lambda: self._step(-1, "alert", "command"),
                    "back", "Ctrl+Shift+Left", group),
            Command("replay.faster", "Faster", lambda: self._faster(1), "speed", "Ctrl+Up", group),
            Command("replay.slower", "Slower", lambda: self._faster(-1), "speed", "Ctrl+Down", group),
            Command("replay.begin", "To the begin of the day", lambda: self.go(self.recording.begins), "start first",
                    "Ctrl+Home", group),
            Command("replay.end", "To the end of the day", lambda: self.go(self.recording.ends), "last", "Ctrl+End",
                    group),
            Command("replay.return", "Back to where the jump began", lambda: self.go(self._left_at),
                    "stop interrupt undo", "Ctrl+Backspace", group,
                    about="Also while a long way is still being gone: it ends there"),
        ]  # fmt: skip

    def _lay_out(self) -> None:
        button = self.desk.registry.button
        line = QHBoxLayout(self)
        line.setContentsMargins(10, 4, 10, 4)
        line.setSpacing(8)
        self.play = button("replay.play", "Play", "primary")
        self.play.setMinimumWidth(active().px(64))
        for widget in (
            self.badge, button("replay.previous", "◂ Signal"), self.play, button("replay.next", "Signal ▸"),
            button("replay.next_alert", "Alert ▸"), self.speed, self.clock,
        ):  # fmt: skip
            line.addWidget(widget)
        line.addWidget(self.slider, 1)
        line.addWidget(self.about)

    # --- moving -------------------------------------------------------------------------------

    def toggle(self) -> None:
        """Play, or pause; at the end begin anew."""
        self.playing = not self.playing
        if self.playing:
            if self.recording.position >= self.recording.ends:
                self.go(self.recording.begins)
            self._drawn_at = None
            self.desk.store.animate(self._frame)
        self._show()

    def _frame(self, now: float) -> bool:
        """Go on by the time since the frame before."""
        since = 0.0 if self._drawn_at is None else now - self._drawn_at
        self._drawn_at = now
        if not self.playing:
            return False
        self._move(self.recording.position + since * SPEEDS[self.speed.currentIndex()])
        if self.recording.position >= self.recording.ends:
            self.playing = False
            self.desk.registry.refresh()
        self._show()
        return self.playing

    def go(self, moment: float) -> None:
        """Show a moment; a long way is gone in parts, and another jump ends it where it is."""
        self._left_at = self.recording.position
        self._move(moment)
        self._drawn_at = monotonic()
        self._show()

    def _move(self, moment: float) -> None:
        self.recording.move(moment)
        self._follow()
        self.slider.blockSignals(True)
        self.slider.setValue(round((self.recording.position - self.recording.begins) * 1000))
        self.slider.blockSignals(False)

    def _slid(self, value: int) -> None:
        self.recording.move(self.recording.begins + value / 1000)
        self._follow()
        self._drawn_at = monotonic()
        self._show()

    def _follow(self) -> None:
        """Let the tables come after what a jump has left over, a part a frame."""
        if self.recording.behind:
            self.desk.store.animate(self._catch_up)

    def _catch_up(self, _now: float) -> bool:
        self.recording.catch_up()
        behind = self.recording.behind
        self._tell(f"Going there: {1 - behind:.0%}" if behind else self._words)
        return behind > 0

    def _tell(self, text: str) -> None:
        metrics, width = self.about.fontMetrics(), self.about.width()
        self.about.setText(metrics.elidedText(text, Qt.TextElideMode.ElideRight, width))
        self.about.setToolTip(text)
        self.about.setAccessibleDescription(text)

    def _step(self, way: int, *kinds: str) -> None:
        """Go to the next moment of some kinds, or the one before; past the last stays where it is."""
        found = self._next(way, kinds)
        if found is None:
            self.desk.say(
                "info",
                "Replay",
                "There is none " + ("after" if way > 0 else "before") + " this moment.",
            )
            return
        self._words = found.text
        self.go(found.at)
        self._tell(found.text)

    def _next(self, way: int, kinds: tuple[str, ...]) -> Moment | None:
        marks, here = self.recording.marks, self.recording.position
        if way > 0:
            rest = range(bisect_right(self._moments, here + 1e-6), len(marks))
        else:
            rest = range(bisect_left(self._moments, here - 1e-6) - 1, -1, -1)
        return next((marks[at] for at in rest if marks[at].kind in kinds), None)

    def _faster(self, step: int) -> None:
        self.speed.setCurrentIndex(min(len(SPEEDS) - 1, max(0, self.speed.currentIndex() + step)))

    # --- showing ------------------------------------------------------------------------------

    def _show(self) -> None:
        word = "Pause" if self.playing else "Play"
        if self.play.text() != word:
            self.play.setText(word)
            self.play.setAccessibleName(word)
        moment = stamp_of(self.recording.position)
        self.clock.setText(fmt.Times.clock(moment))
        self.clock.setToolTip(fmt.Times.full(moment))
        self.clock.setAccessibleDescription(fmt.Times.full(moment))

    def _hover(self, moment: float) -> None:
        self.slider.setToolTip(fmt.Times.full(stamp_of(moment)))


def stamp_of(moment: float) -> str:
    """Return a moment as the engine writes stamps."""
    return (
        datetime.fromtimestamp(moment, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
