"""Docks: a title row that holds the panel's own tools, so that no height is lost."""

from __future__ import annotations

from PySide6.QtCore import QRect, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QDockWidget, QHBoxLayout, QSizePolicy, QWidget

from gui.panel import Caption, Panel
from gui.theme import active
from gui.words import tr


class DockTitle(QWidget):
    """The panel's name and tools; drags the dock where nothing else is."""

    def __init__(self, panel: Panel) -> None:
        super().__init__()
        self.setObjectName(panel.NAME + ".title")
        line = QHBoxLayout(self)
        line.setContentsMargins(10, 3, 6, 3)
        line.setSpacing(5)
        self.title = Caption(tr(panel.TITLE), 12.5, 600, "text")
        self.title.setToolTip(tr(panel.ABOUT))
        line.addWidget(self.title)
        line.addStretch(1)
        for tool in panel.header_tools():
            line.addWidget(tool)
        self.setMinimumHeight(active().px(30))
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint ground and hairline."""
        theme = active()
        painter = QPainter(self)
        painter.fillRect(self.rect(), theme.colors["surface"])
        painter.fillRect(QRect(0, self.height() - 1, self.width(), 1), theme.colors["line"])
        painter.end()


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
