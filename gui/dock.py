"""Docks: a title row that holds the panel's own tools, so that no height is lost."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QRect, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import (
    QDockWidget,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QPushButton,
    QSizePolicy,
    QWidget,
)

from gui.panel import Caption, Panel
from gui.theme import active
from gui.words import tr

_CHANGES = frozenset((QEvent.Type.LayoutRequest, QEvent.Type.StyleChange, QEvent.Type.FontChange))
"""Events after which a title's tools may need another width."""


class DockTitle(QWidget):
    """The panel's name and tools; drags the dock where nothing else is.

    Where they do not fit, buttons of commands leave for the menu of ``»``, the last first: the filter and what is
    primary stay in sight.
    """

    def __init__(self, panel: Panel) -> None:
        super().__init__()
        self.setObjectName(panel.NAME + ".title")
        self._line = line = QHBoxLayout(self)
        line.setContentsMargins(10, 3, 6, 3)
        line.setSpacing(5)
        self.title = Caption(tr(panel.TITLE), 12.5, 600, "text")
        self.title.setToolTip(tr(panel.ABOUT))
        line.addWidget(self.title)
        line.addStretch(1)
        self._tools = panel.header_tools()
        self.tucked: list[QPushButton] = []
        self._hint: QSize | None = None
        self.more = self._more_button(panel)
        movable = self._movable()
        for tool in self._tools:
            line.addWidget(tool)
            if movable and tool is movable[-1]:
                line.addWidget(self.more)
        self.setMinimumHeight(active().px(30))
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def _more_button(self, panel: Panel) -> QPushButton:
        more = QPushButton("»", self)
        more.setProperty("variant", "flat")
        more.setAccessibleName(tr(f"More of {panel.TITLE}"))
        more.setToolTip(tr("What does not fit here"))
        menu = QMenu(more)
        menu.aboutToShow.connect(lambda: self._fill(menu))
        more.setMenu(menu)
        more.hide()
        return more

    def _movable(self) -> list[QPushButton]:
        """Return the buttons that are commands: these can stand in a menu as well."""
        return [
            tool
            for tool in self._tools
            if isinstance(tool, QPushButton)
            and tool.objectName().endswith(".button")
            and tool.property("variant") != "primary"
        ]

    def _fill(self, menu: QMenu) -> None:
        menu.clear()
        for button in self.tucked:
            action = menu.addAction(button.text() or button.accessibleName(), button.click)
            action.setEnabled(button.isEnabled())
            action.setCheckable(button.isCheckable())
            action.setChecked(button.isChecked())

    def minimumSizeHint(self) -> QSize:
        """Return the least: with everything that can be in the menu; the dock can be as narrow as that.

        The docks' layouts ask for it a hundred times for every step of theirs: it is kept until a tool changes.
        """
        if self._hint is None:
            least, gap = super().minimumSizeHint(), self._line.spacing()
            spare = sum(_least(tool) + gap for tool in self._movable() if not tool.isHidden())
            if spare and self.more.isHidden():
                spare -= _least(self.more) + gap
            self._hint = QSize(max(least.width() - spare, active().px(200)), least.height())
        return self._hint

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Tuck away what does not fit, bring back what does."""
        super().resizeEvent(event)
        self._fit()

    def event(self, event: QEvent) -> bool:
        """Do the same when a tool's text has become longer or shorter."""
        if event.type() in _CHANGES:
            self._hint = None
        done = super().event(event)
        if event.type() is QEvent.Type.LayoutRequest:
            self._fit()
        return done

    def _fit(self) -> None:
        margins, gap = self._line.contentsMargins(), self._line.spacing()
        shown = [tool for tool in self._tools if tool in self.tucked or not tool.isHidden()]
        widths = {tool: _least(tool) + gap for tool in shown}
        over = margins.left() + margins.right() + _least(self.title) + gap - self.width()
        over += sum(widths.values())
        tucked: list[QPushButton] = []
        for button in reversed([one for one in self._movable() if one in widths]):
            if over <= 0:
                break
            over += 0 if tucked else _least(self.more) + gap
            over -= widths[button]
            tucked.insert(0, button)
        if tucked == self.tucked:
            return
        before, self.tucked = self.tucked, tucked
        for button in before:
            button.setVisible(button not in tucked)
        for button in tucked:
            button.hide()
        self.more.setVisible(bool(tucked))

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint ground and hairline."""
        theme = active()
        painter = QPainter(self)
        painter.fillRect(self.rect(), theme.colors["surface"])
        painter.fillRect(QRect(0, self.height() - 1, self.width(), 1), theme.colors["line"])
        painter.end()


def _least(tool: QWidget) -> int:
    """Return the width a tool needs to be read: a field its least, everything else what it asks for."""
    if isinstance(tool, QLineEdit):
        return tool.minimumWidth()
    return min(max(tool.minimumWidth(), tool.sizeHint().width()), tool.maximumWidth())


class PanelDock(QDockWidget):
    """One panel in a dock; its object name is the panel's, for ever."""

    def __init__(self, panel: Panel, parent: QWidget) -> None:
        super().__init__(tr(panel.TITLE).replace("&", "&&"), parent)  # tabs take & for a mnemonic
        self.panel = panel
        self.setObjectName("dock." + panel.NAME)
        self.setAccessibleName(tr(panel.TITLE + " dock"))
        self.setWidget(panel)
        self.setTitleBarWidget(DockTitle(panel))
        features = QDockWidget.DockWidgetFeature
        self.setFeatures(
            features.DockWidgetMovable | features.DockWidgetFloatable | features.DockWidgetClosable
        )
        self.setAllowedAreas(Qt.DockWidgetArea.AllDockWidgetAreas)
