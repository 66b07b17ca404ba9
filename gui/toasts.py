"""Toasts: notices in the corner of the window, at most three, gone by themselves."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, QRect, QRectF, Qt, QTimer, Signal
from PySide6.QtGui import QEnterEvent, QFontMetrics, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QPushButton, QWidget

from gui.notifications import Notice, Notifier
from gui.theme import active

MOST = 3
STAY_MS = {"info": 4_000, "ok": 4_000, "warning": 8_000, "critical": 15_000}
TONES = {"info": "accent", "ok": "pos", "warning": "warn", "critical": "crit"}
GLYPHS = {"info": "●", "ok": "✓", "warning": "▲", "critical": "■"}
WIDTH = 360
BOTTOM = 40


class Toast(QWidget):
    """One notice on screen; stays while the pointer is over it, leaves on a click."""

    gone = Signal(object)

    def __init__(self, notice: Notice, parent: QWidget) -> None:
        super().__init__(parent)
        self.notice = notice
        self.setAccessibleName(f"{notice.severity}: {notice.title}. {notice.text}")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._leave)
        self._seconds = QTimer(self)  # of a button that is offered for a time
        self._seconds.setInterval(200)
        self._seconds.timeout.connect(self._count)
        self.button: QPushButton | None = self._make_button() if notice.act else None
        self.renew()

    def renew(self) -> None:
        """Measure again and start the time anew."""
        self.setFixedSize(WIDTH, self._height())
        self._timer.start(self.notice.stay_ms or STAY_MS[self.notice.severity])
        if self.button is not None:
            size = self.button.sizeHint()
            self.button.setGeometry(34, self.height() - size.height() - 8, *size.toTuple())
        self.update()

    def _make_button(self) -> QPushButton:
        button = QPushButton(self._label(self.notice.stay_ms), self)
        button.setObjectName("toast.action")
        button.setAccessibleName(f"{self.notice.action}: {self.notice.title}")
        button.setFocusPolicy(
            Qt.FocusPolicy.TabFocus
        )  # it must not take the keys from what one types in
        button.clicked.connect(self._act)
        self._seconds.start()
        return button

    def _label(self, left_ms: int) -> str:
        return f"{self.notice.action} ({max(1, -(-left_ms // 1000))} s)"

    def _count(self) -> None:
        if self.button is not None:
            self.button.setText(self._label(self._timer.remainingTime()))

    def _act(self) -> None:
        if self.notice.act is not None:
            self.notice.act()
        self._leave()

    def _leave(self) -> None:
        self.gone.emit(self)

    def _text_box(self, height: int) -> QRect:
        return QRect(34, active().px(13) + 16, WIDTH - 46, height)

    def _height(self) -> int:
        room = self.button.sizeHint().height() + 8 if self.button is not None else 0
        return self._text_height() + room

    def _text_height(self) -> int:
        if not self.notice.text:
            return active().px(13) + 24
        metrics = QFontMetrics(active().font(12))
        flags = int(Qt.TextFlag.TextWordWrap.value)
        return (
            metrics.boundingRect(self._text_box(400), flags, self.notice.text).height()
            + active().px(13)
            + 26
        )

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the card."""
        theme, notice = active(), self.notice
        tone = TONES[notice.severity]
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(theme.colors["edge"])
        painter.setBrush(theme.colors["raised"])
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6)
        painter.fillRect(QRect(1, 6, 3, self.height() - 12), theme.colors[tone])
        painter.setPen(theme.colors[tone])
        painter.setFont(theme.font(12, 600))
        line = QRect(14, 8, 18, theme.px(13) + 4)
        painter.drawText(line, Qt.AlignmentFlag.AlignVCenter, GLYPHS[notice.severity])
        painter.setPen(theme.colors["text"])
        painter.setFont(theme.font(12.5, 600))
        title = notice.title + (f"  ×{notice.times}" if notice.times > 1 else "")
        painter.drawText(
            QRect(34, 8, WIDTH - 46, theme.px(13) + 4), Qt.AlignmentFlag.AlignVCenter, title
        )
        painter.setPen(theme.colors["muted"])
        painter.setFont(theme.font(12))
        painter.drawText(self._text_box(self.height()), Qt.TextFlag.TextWordWrap, notice.text)
        painter.end()

    def enterEvent(self, event: QEnterEvent) -> None:
        """Stay while being read."""
        if self.notice.act is None:  # what is offered for a time ends with it
            self._timer.stop()
        super().enterEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """Count again."""
        if self.notice.act is None:
            self._timer.start(STAY_MS[self.notice.severity])
        super().leaveEvent(event)

    def mousePressEvent(self, _event: QMouseEvent) -> None:
        """Leave."""
        self._leave()


class Toaster(QObject):
    """Shows a notifier's notices over a window; the same one again is counted, not repeated."""

    def __init__(self, notifier: Notifier, window: QWidget) -> None:
        super().__init__(window)
        self._window = window
        self.toasts: list[Toast] = []
        notifier.said.connect(self.show_notice)
        window.installEventFilter(self)

    def show_notice(self, notice: Notice) -> None:
        """Show a notice."""
        for toast in self.toasts:
            known = toast.notice
            if known.act or notice.act:
                continue  # each offer is its own
            if (known.severity, known.title) == (notice.severity, notice.title):
                notice.times = known.times + 1
                toast.notice = notice
                toast.renew()
                self.place()
                return
        if len(self.toasts) >= MOST:
            self._close(self.toasts[0])
        toast = Toast(notice, self._window)
        toast.gone.connect(self._close)
        self.toasts.append(toast)
        self.place()
        toast.show()
        toast.raise_()

    def _close(self, toast: Toast) -> None:
        if toast in self.toasts:
            self.toasts.remove(toast)
            toast.hide()
            toast.deleteLater()
            self.place()

    def place(self) -> None:
        """Stack the toasts above the status bar, newest lowest."""
        y = self._window.height() - BOTTOM
        for toast in reversed(self.toasts):
            y -= toast.height() + 8
            toast.move(self._window.width() - WIDTH - 14, y)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Follow the window's size."""
        if event.type() is QEvent.Type.Resize:
            self.place()
        return False
