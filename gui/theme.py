"""How the desk looks: tokens for two themes, one palette, a little QSS for shape, fonts and icons.

Colour comes from ``QPalette`` and from delegates that ask ``active()``; QSS only shapes. Meaning is never carried
by colour alone: every coloured number has a sign or a glyph beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

from PySide6.QtCore import QByteArray, QObject, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontDatabase,
    QGuiApplication,
    QIcon,
    QPainter,
    QPalette,
    QPixmap,
)
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication

RESOURCES = Path(__file__).resolve().parent.parent / "resources"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The colours of one theme, by what they mean."""

    name: str
    window: str  # behind the panels
    surface: str  # panels, tables
    raised: str  # headers, buttons, inputs
    line: str  # hairlines
    edge: str  # borders of controls
    text: str
    muted: str  # labels, secondary columns
    accent: str
    on_accent: str
    pos: str
    neg: str
    warn: str
    crit: str
    kill: str
    on_kill: str
    selection: str
    zebra: str
    hover: str
    flash: str


DARK = Tokens(
    name="dark",
    window="#0B0E13",
    surface="#11151C",
    raised="#191F29",
    line="#212936",
    edge="#323D4E",
    text="#E4E9F0",
    muted="#93A1B4",
    accent="#5FA8FF",
    on_accent="#07121F",
    pos="#3CCB95",
    neg="#FF7272",
    warn="#F3B54A",
    crit="#FF7A6B",
    kill="#D22B2B",
    on_kill="#FFFFFF",
    selection="#1D3658",
    zebra="#141922",
    hover="#1B222D",
    flash="#2B5C8F",
)

LIGHT = Tokens(
    name="light",
    window="#E6EAF0",
    surface="#FFFFFF",
    raised="#F3F5F8",
    line="#E0E5EC",
    edge="#BFC8D4",
    text="#141B26",
    muted="#536072",
    accent="#0B5FCC",
    on_accent="#FFFFFF",
    pos="#08734A",
    neg="#B92222",
    warn="#855400",
    crit="#B3241B",
    kill="#C81E1E",
    on_kill="#FFFFFF",
    selection="#D3E5FC",
    zebra="#F9FAFC",
    hover="#EEF3F9",
    flash="#A9CFFA",
)

BLUE_ORANGE = {
    "dark": {"pos": "#62B6FF", "neg": "#FF9F4A"},
    "light": {"pos": "#0B5FCC", "neg": "#9C4400"},
}
"""Profit and loss for eyes that do not tell green from red."""

CONTRAST_PAIRS: tuple[tuple[str, str], ...] = tuple(
    [(ink, ground) for ink in ("text", "muted", "pos", "neg", "warn", "crit", "accent")
     for ground in ("window", "surface", "raised", "zebra", "hover")]
    + [(ink, "selection") for ink in ("text", "pos", "neg", "warn", "crit", "accent")]
    + [("on_accent", "accent"), ("on_kill", "kill")]
)  # fmt: skip
"""Ink on ground as it is painted; each must reach 4.5:1 in every theme (a test says so)."""


def luminance(color: str) -> float:
    """Return the relative luminance of ``#rrggbb`` (WCAG 2)."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


class Theme(QObject):
    """The theme in force; emits ``changed`` when colours or text size change."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.tokens = DARK
        self.blue_orange = False
        self.scale = 100
        self.colors: dict[str, QColor] = {}
        self._fill()

    def _fill(self) -> None:
        names = (field.name for field in fields(Tokens) if field.name != "name")
        self.colors = {name: QColor(getattr(self.tokens, name)) for name in names}
        self.colors[""] = self.colors["text"]
        self.colors["ok"] = self.colors["pos"]

    def color(self, name: str, alpha: int = 255) -> QColor:
        """Return a token's colour, translucent when ``alpha`` says so."""
        found = self.colors[name]
        if alpha == 255:
            return found
        return QColor(found.red(), found.green(), found.blue(), alpha)

    def use(self, name: str, *, blue_orange: bool | None = None, scale: int | None = None) -> None:
        """Switch theme, colour scheme and text size (percent), and repaint everything."""
        if blue_orange is not None:
            self.blue_orange = blue_orange
        if scale is not None:
            self.scale = max(80, min(scale, 160))
        tokens = LIGHT if name == "light" else DARK
        self.tokens = replace(tokens, **BLUE_ORANGE[tokens.name]) if self.blue_orange else tokens
        self._fill()
        _icon.cache_clear()
        app = QApplication.instance()
        if isinstance(app, QApplication):
            app.setPalette(_palette(self.tokens))
            app.setFont(self.font())
        self.changed.emit()

    @property
    def sheet(self) -> str:
        """Return the style sheet; for the window: on the application it costs four times as much to change."""
        return _qss(self.tokens, self.px(12))

    def px(self, size: float) -> int:
        """Return a text size in pixels at the current text scale."""
        return max(8, round(size * self.scale / 100))

    def font(self, size: float = 12.5, weight: int = 400) -> QFont:
        """Return the desk's font with figures of equal width."""
        font = QFont(_family())
        font.setPixelSize(self.px(size))
        font.setWeight(QFont.Weight(weight))
        font.setFeature(QFont.Tag("tnum"), 1)
        return font

    @property
    def row_height(self) -> int:
        """Return the height of a table row in pixels."""
        return self.px(12.5) + 10


_active: list[Theme] = []


def active() -> Theme:
    """Return the theme in force."""
    if not _active:
        _active.append(Theme())
    return _active[0]


@lru_cache(maxsize=1)
def _family() -> str:
    loaded = ""
    for face in sorted((RESOURCES / "fonts").glob("Inter-*.ttf")):
        number = QFontDatabase.addApplicationFont(str(face))
        if number >= 0:
            loaded = "Inter"
    return loaded or QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont).family()


def _palette(t: Tokens) -> QPalette:
    palette = QPalette()
    role = QPalette.ColorRole
    for which, color in (
        (role.Window, t.window), (role.WindowText, t.text), (role.Base, t.surface),
        (role.AlternateBase, t.zebra), (role.Text, t.text), (role.Button, t.raised),
        (role.ButtonText, t.text), (role.BrightText, t.crit), (role.Highlight, t.selection),
        (role.HighlightedText, t.text), (role.ToolTipBase, t.raised), (role.ToolTipText, t.text),
        (role.PlaceholderText, t.muted), (role.Link, t.accent), (role.Light, t.edge),
        (role.Midlight, t.line), (role.Mid, t.line), (role.Dark, t.line), (role.Shadow, t.window),
        (role.Accent, t.accent),
    ):  # fmt: skip
        palette.setColor(which, QColor(color))
    off = QPalette.ColorGroup.Disabled
    faint = _mix(t.muted, t.surface, 0.45)
    for which in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(off, which, QColor(faint))
    return palette


def _url(name: str) -> str:
    return (RESOURCES / "icons" / f"{name}.svg").as_posix()


def _mix(one: str, other: str, share: float) -> str:
    parts = [
        round(int(one[at : at + 2], 16) * (1 - share) + int(other[at : at + 2], 16) * share)
        for at in (1, 3, 5)
    ]
    return "#{:02x}{:02x}{:02x}".format(*parts)


def _qss(t: Tokens, px: int) -> str:
    small = max(9, px - 1)
    faint = _mix(t.muted, t.surface, 0.45)
    dark = t.name == "dark"
    field, off = (t.window, t.surface) if dark else (t.surface, t.raised)  # on, off
    return f"""
QMainWindow::separator {{ background: {t.window}; width: 4px; height: 4px; }}
QMainWindow::separator:hover {{ background: {t.accent}; }}
QToolTip {{ background: {t.raised}; color: {t.text}; border: 1px solid {t.edge}; padding: 4px 6px; }}
QMenuBar {{ background: {t.window}; color: {t.muted}; font-size: {px}px; }}
QMenuBar::item {{ padding: 3px 9px; background: transparent; }}
QMenuBar::item:selected {{ color: {t.text}; background: {t.raised}; border-radius: 3px; }}
QMenu {{ background: {t.raised}; border: 1px solid {t.edge}; padding: 4px; }}
QMenu::item {{ padding: 4px 24px 4px 12px; border-radius: 3px; }}
QMenu::item:selected {{ background: {t.selection}; color: {t.text}; }}
QMenu::item:disabled {{ color: {faint}; }}
QMenu::separator {{ height: 1px; background: {t.line}; margin: 4px 6px; }}
QToolBar {{ background: {t.surface}; border: none; padding: 0; spacing: 0; }}
QStatusBar {{ background: {t.surface}; border-top: 1px solid {t.line}; }}
QStatusBar::item {{ border: none; }}
QHeaderView {{ background: {t.raised}; border: none; }}
QHeaderView::section {{ background: {t.raised}; color: {t.muted}; border: none;
  border-bottom: 1px solid {t.line}; padding: 0 7px; font-size: {small}px; font-weight: 500; }}
QHeaderView::section:hover {{ color: {t.text}; }}
QHeaderView::up-arrow, QHeaderView::down-arrow {{ width: 0; height: 0; }}
QTableView {{ background: {t.surface}; border: none; }}
QTableView:focus {{ border: none; }}
QTabBar {{ background: {t.window}; font-size: {px}px; }}
QTabBar::tab {{ background: {t.window}; color: {t.muted}; border: none;
  border-top: 2px solid transparent; padding: 4px 12px; min-height: 16px; }}
QTabBar::tab:selected {{ background: {t.surface}; color: {t.text}; border-top: 2px solid {t.accent}; }}
QTabBar::tab:hover {{ color: {t.text}; }}
QTabBar::tab:focus {{ border-top: 2px solid {t.text}; }}
QLineEdit, QPlainTextEdit, QComboBox, QAbstractSpinBox {{ background: {field}; color: {t.text};
  border: 1px solid {t.line if dark else t.edge}; border-radius: 4px; padding: 2px 7px; font-size: {px}px;
  selection-background-color: {t.selection}; selection-color: {t.text}; }}
QLineEdit:focus, QPlainTextEdit:focus, QComboBox:focus {{ border: 1px solid {t.accent}; }}
QLineEdit[invalid="true"] {{ border: 1px solid {t.crit}; }}
QComboBox::drop-down {{ border: none; width: 16px; }}
QComboBox QAbstractItemView {{ background: {t.raised}; border: 1px solid {t.edge}; }}
QPushButton {{ background: {t.raised}; color: {t.text}; border: 1px solid {t.edge};
  border-radius: 4px; padding: 3px 10px; font-size: {px}px; font-weight: 500; }}
QPushButton:hover {{ border-color: {t.muted}; }}
QPushButton:pressed {{ background: {t.selection}; }}
QPushButton:focus {{ border-color: {t.accent}; }}
QPushButton:disabled {{ color: {faint}; border-color: {t.line}; background: transparent; }}
QPushButton:checked {{ background: {t.selection}; border-color: {t.accent}; }}
QPushButton[variant="primary"] {{ background: {t.accent}; color: {t.on_accent}; border-color: {t.accent}; }}
QPushButton[variant="primary"]:focus {{ border-color: {t.text}; }}
QPushButton[variant="primary"]:disabled {{ background: transparent; color: {faint}; border-color: {t.line}; }}
QPushButton[variant="danger"] {{ color: {t.crit}; }}
QPushButton[variant="danger"]:disabled {{ color: {faint}; }}
QPushButton[variant="kill"] {{ background: {t.kill}; color: {t.on_kill}; border: 1px solid {t.kill};
  font-weight: 700; letter-spacing: 1px; padding: 5px 18px; }}
QPushButton[variant="kill"]:hover, QPushButton[variant="kill"]:focus {{ border-color: {t.text}; }}
QPushButton[variant="flat"] {{ background: transparent; border: 1px solid transparent;
  padding: 2px 6px; color: {t.muted}; }}
QPushButton[variant="flat"]:hover {{ color: {t.text}; background: {t.raised}; }}
QPushButton[variant="flat"]:checked {{ color: {t.text}; background: {t.selection}; }}
QPushButton[variant="flat"]:focus {{ border-color: {t.accent}; }}
QLineEdit:disabled, QComboBox:disabled {{ color: {faint}; background: {off}; border-color: {t.line}; }}
QComboBox::down-arrow {{ image: url({_url("chevron")}); width: 10px; height: 10px; }}
QListView::indicator, QMenu::indicator {{ width: 13px; height: 13px; border: 1px solid {t.muted}; border-radius: 3px; }}
QMenu::indicator {{ margin-left: 6px; }}
QListView::indicator:checked, QMenu::indicator:checked {{ background: #1450A0;
  border-color: {t.accent}; image: url({_url("tick")}); }}
QListView {{ background: {field}; border: 1px solid {t.line}; border-radius: 4px; }}
QDialog {{ background: {t.surface}; }}
QAbstractScrollArea::corner {{ background: {t.surface}; border: none; }}
QScrollBar:vertical {{ background: transparent; width: 9px; margin: 0; }}
QScrollBar:horizontal {{ background: transparent; height: 9px; margin: 0; }}
QScrollBar::handle {{ background: {t.edge}; border-radius: 3px; min-height: 24px; min-width: 24px; margin: 2px; }}
QScrollBar::handle:hover {{ background: {t.muted}; }}
QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
QSplitter::handle {{ background: {t.line}; }}
"""


def icon(name: str, color: str = "muted", size: int = 16) -> QIcon:
    """Return an icon of ``resources/icons`` in a token's colour; empty if there is no such file."""
    return _icon(name, active().colors[color].name(), size)


@lru_cache(maxsize=256)
def _icon(name: str, color: str, size: int) -> QIcon:
    path = RESOURCES / "icons" / f"{name}.svg"
    if not path.is_file():
        return QIcon()
    svg = path.read_text("utf-8").replace("currentColor", color)
    screen = QGuiApplication.primaryScreen()
    ratio = screen.devicePixelRatio() if screen else 1.0
    pixmap = QPixmap(round(size * ratio), round(size * ratio))
    pixmap.setDevicePixelRatio(ratio)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    QSvgRenderer(QByteArray(svg.encode())).render(painter, QRectF(0, 0, size, size))
    painter.end()
    return QIcon(pixmap)
