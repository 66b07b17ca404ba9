"""How the desk looks: tokens for four themes, schemes of profit and loss, a palette, QSS for shape, fonts, icons.

Colour comes from ``QPalette`` and from delegates that ask ``active()``; QSS only shapes. Meaning is never carried
by colour alone: every coloured number has a sign or a glyph beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

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
    gain: str = ""  # profit, buying
    loss: str = ""  # loss, selling

    @property
    def dark(self) -> bool:
        """Say whether light ink stands on dark ground."""
        return luminance(self.surface) < luminance(self.text)


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
    selection="#142841",
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
    muted="#4C5869",
    accent="#0A55B8",
    on_accent="#FFFFFF",
    pos="#07663F",
    neg="#AD1C1C",
    warn="#774B00",
    crit="#A81F17",
    kill="#C81E1E",
    on_kill="#FFFFFF",
    selection="#DCEAFD",
    zebra="#F9FAFC",
    hover="#EEF3F9",
    flash="#A9CFFA",
)

CONTRAST_DARK = Tokens(
    name="contrast_dark",
    window="#000000",
    surface="#000000",
    raised="#0D0D0D",
    line="#7A7A7A",
    edge="#FFFFFF",
    text="#FFFFFF",
    muted="#E0E0E0",
    accent="#7CC4FF",
    on_accent="#000000",
    pos="#4DFFB0",
    neg="#FF9C9C",
    warn="#FFD84D",
    crit="#FFA899",
    kill="#C40000",
    on_kill="#FFFFFF",
    selection="#00325C",
    zebra="#000000",
    hover="#1A1A1A",
    flash="#004A80",
)

CONTRAST_LIGHT = Tokens(
    name="contrast_light",
    window="#FFFFFF",
    surface="#FFFFFF",
    raised="#FFFFFF",
    line="#5A5A5A",
    edge="#000000",
    text="#000000",
    muted="#1F1F1F",
    accent="#003E8A",
    on_accent="#FFFFFF",
    pos="#004D2E",
    neg="#7D0000",
    warn="#4F3200",
    crit="#7A0A00",
    kill="#A80000",
    on_kill="#FFFFFF",
    selection="#CFE4FF",
    zebra="#FFFFFF",
    hover="#EDEDED",
    flash="#BBDDFF",
)

THEMES: dict[str, Tokens] = {
    tokens.name: tokens for tokens in (DARK, LIGHT, CONTRAST_DARK, CONTRAST_LIGHT)
}
SYSTEM = "system"
"""The theme that follows the operating system's."""

PRICE_SCHEMES: tuple[str, ...] = ("green_red", "red_green", "blue_orange")
"""Profit and loss: green and red, the other way round (East Asia), or for eyes that do not tell the two apart."""
_BLUE_ORANGE = {
    "dark": {"pos": "#62B6FF", "neg": "#FF9F4A"},
    "light": {"pos": "#0A55B8", "neg": "#8A3C00"},
    "contrast_dark": {"pos": "#8CCBFF", "neg": "#FFB066"},
    "contrast_light": {"pos": "#003E8A", "neg": "#7A2E00"},
}

_ROLE = QPalette.ColorRole
_ROLES: dict[str, tuple[QPalette.ColorRole, str]] = {
    "window": (_ROLE.Window, "window"), "surface": (_ROLE.Base, "base"), "raised": (_ROLE.Button, "button"),
    "line": (_ROLE.Mid, "mid"), "edge": (_ROLE.Light, "light"), "text": (_ROLE.Text, "text"),
    "muted": (_ROLE.PlaceholderText, "placeholder-text"), "accent": (_ROLE.Accent, "accent"),
    "crit": (_ROLE.BrightText, "bright-text"), "selection": (_ROLE.Highlight, "highlight"),
    # No role is meant for these: they stand in roles that nothing here is drawn by (no rows alternate by Qt's hand,
    # no link was ever visited, tool tips are the sheet's).
    "field": (_ROLE.AlternateBase, "alternate-base"), "off": (_ROLE.ToolTipBase, "tooltip-base"),
    "faint": (_ROLE.ToolTipText, "tooltip-text"), "border": (_ROLE.Midlight, "midlight"),
    "kill": (_ROLE.LinkVisited, "link-visited"), "on_accent": (_ROLE.Shadow, "shadow"),
}  # fmt: skip
"""The colours of the style sheet: the role of the palette that holds each, and what the sheet calls it."""

INKS = ("text", "muted", "pos", "neg", "warn", "crit", "accent", "gain", "loss")
GROUNDS = ("window", "surface", "raised", "zebra", "hover", "selection")
TINTED = ("pos", "neg", "warn", "crit", "accent", "muted", "gain", "loss")
CHIP_ALPHA, BANNER_ALPHA, FLASH_ALPHA = 34, 36, 170
"""How strongly a state's tone tints its chip, a banner its bar, a change its cell (of 255)."""


def blend(over: str, ground: str, alpha: int) -> str:
    """Return ``over`` at ``alpha`` of 255 painted on ``ground``."""
    return _mix(ground, over, alpha / 255)


def contrast_pairs(tokens: Tokens) -> list[tuple[str, str, str]]:
    """Return what is written on what in a theme: a name, the ink and the ground as they come out.

    Every ink on every plain ground; chips and banners, whose ground is a tint of their own ink; and inverse words.
    A test asks each for 4.5:1.
    """
    color = {field.name: str(getattr(tokens, field.name)) for field in fields(tokens)}
    pairs = [
        (f"{ink} on {ground}", color[ink], color[ground]) for ink in INKS for ground in GROUNDS
    ]
    for ink in TINTED:
        pairs += [
            (f"{ink} chip on {ground}", color[ink], blend(color[ink], color[ground], CHIP_ALPHA))
            for ground in ("surface", "zebra", "hover", "selection")
        ]
        pairs.append((f"surface on {ink} badge", color["surface"], color[ink]))
        banner = blend(color[ink], color["surface"], BANNER_ALPHA)
        pairs += [(f"{word} on {ink} banner", color[word], banner) for word in ("text", "muted")]
    pairs.append(
        ("text on flash", color["text"], blend(color["flash"], color["surface"], FLASH_ALPHA))
    )
    return [
        *pairs,
        ("on_accent", color["on_accent"], color["accent"]),
        ("on_kill", color["on_kill"], color["kill"]),
    ]


def priced(tokens: Tokens, prices: str) -> Tokens:
    """Return a theme's tokens in a colour scheme of profit and loss.

    ``gain`` and ``loss`` are the money's; ``pos`` and ``neg`` also say ``good`` and ``bad`` of states and follow them
    in the blue and orange scheme alone: an order filled is no gain, and a lost link stays red in Tokyo.
    """
    if prices == "blue_orange":
        pair = _BLUE_ORANGE[tokens.name]
        return replace(tokens, **pair, gain=pair["pos"], loss=pair["neg"])
    if prices == "red_green":
        return replace(tokens, gain=tokens.neg, loss=tokens.pos)
    return replace(tokens, gain=tokens.pos, loss=tokens.neg)


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
    """The looks in force; emits ``changed`` when colours, text size, density or motion change.

    ``choice`` is the theme asked for, which may be ``system``; ``tokens`` are the colours it comes to.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.choice = DARK.name
        self.prices = PRICE_SCHEMES[0]
        self.scale = 100
        self.compact = False
        self.still = False  # nothing flashes or fades
        self.tokens = priced(DARK, self.prices)
        self.colors: dict[str, QColor] = {}
        self._fonts: dict[tuple[int, int], QFont] = {}
        self._follows = False
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

    def use(
        self,
        choice: str | None = None,
        *,
        prices: str | None = None,
        scale: int | None = None,
        compact: bool | None = None,
        still: bool | None = None,
    ) -> None:
        """Change looks and repaint everything; what is not given stays. ``scale`` is in percent, 80 to 160."""
        self.choice = self.choice if choice is None else choice
        self.prices = self.prices if prices is None else prices
        self.scale = self.scale if scale is None else max(80, min(scale, 160))
        self.compact = self.compact if compact is None else compact
        self.still = self.still if still is None else still
        name = self._of_system() if self.choice == SYSTEM else self.choice
        self.tokens = priced(THEMES.get(name, DARK), self.prices)
        self._fill()
        app = QApplication.instance()
        if isinstance(app, QApplication):
            app.setPalette(_palette(self.tokens))
            app.setFont(self.font())
        self.changed.emit()

    def _of_system(self) -> str:
        """Return the system's theme, and follow it from now on; dark where it does not say."""
        if QGuiApplication.instance() is None:
            return DARK.name
        hints = QGuiApplication.styleHints()
        if not self._follows:
            self._follows = True
            hints.colorSchemeChanged.connect(self._system_changed)
        light = hints.colorScheme() is Qt.ColorScheme.Light
        return LIGHT.name if light else DARK.name

    def _system_changed(self) -> None:
        if self.choice == SYSTEM:
            self.use()

    @property
    def blue_orange(self) -> bool:
        """Say whether profit is blue and loss orange."""
        return self.prices == "blue_orange"

    @property
    def sheet(self) -> str:
        """Return the style sheet; for the window: on the application it costs four times as much to change."""
        return _qss(self.px(12))

    def px(self, size: float) -> int:
        """Return a text size in pixels at the current text scale."""
        return max(8, round(size * self.scale / 100))

    def font(self, size: float = 12.5, weight: int = 400) -> QFont:
        """Return the desk's font with figures of equal width."""
        look = self.px(size), weight
        made = self._fonts.get(look)
        if made is None:
            made = self._fonts[look] = QFont(_family())
            made.setPixelSize(look[0])
            made.setWeight(QFont.Weight(weight))
            made.setFeature(QFont.Tag("tnum"), 1)
        return QFont(made)

    @property
    def row_height(self) -> int:
        """Return the height of a table row in pixels."""
        return self.px(12.5) + (7 if self.compact else 10)


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
        (role.WindowText, t.text), (role.ButtonText, t.text), (role.HighlightedText, t.text),
        (role.Link, t.accent), (role.Dark, t.line),
    ):  # fmt: skip
        palette.setColor(which, QColor(color))
    for name, color in _sheet_colors(t).items():
        palette.setColor(_ROLES[name][0], QColor(color))
    for which in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, which, QColor(_faint(t)))
    return palette


def _faint(t: Tokens) -> str:
    return _mix(t.muted, t.surface, 0.45)


def _sheet_colors(t: Tokens) -> dict[str, str]:
    """Return the colours that the style sheet names: tokens, and what fields are on and off and edged with."""
    field, off, border = (t.window, t.surface, t.line) if t.dark else (t.surface, t.raised, t.edge)
    made = {"faint": _faint(t), "field": field, "off": off, "border": border}
    return {name: made.get(name) or str(getattr(t, name)) for name in _ROLES}


def _url(name: str) -> str:
    return (RESOURCES / "icons" / f"{name}.svg").as_posix()


def _mix(one: str, other: str, share: float) -> str:
    parts = [
        round(int(one[at : at + 2], 16) * (1 - share) + int(other[at : at + 2], 16) * share)
        for at in (1, 3, 5)
    ]
    return "#{:02x}{:02x}{:02x}".format(*parts)


def _qss(px: int) -> str:
    """Return the sheet at a text size. Its colours are roles of the palette: another theme does not change it."""
    small = max(9, px - 1)
    t = SimpleNamespace(**{name: f"palette({role})" for name, (_, role) in _ROLES.items()})
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
QMenu::item:disabled {{ color: {t.faint}; }}
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
QLineEdit, QPlainTextEdit, QComboBox, QAbstractSpinBox {{ background: {t.field}; color: {t.text};
  border: 1px solid {t.border}; border-radius: 4px; padding: 2px 7px; font-size: {px}px;
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
QPushButton:disabled {{ color: {t.faint}; border-color: {t.line}; background: transparent; }}
QPushButton:checked {{ background: {t.selection}; border-color: {t.accent}; }}
QPushButton[variant="primary"] {{ background: {t.accent}; color: {t.on_accent}; border-color: {t.accent}; }}
QPushButton[variant="primary"]:focus {{ border-color: {t.text}; }}
QPushButton[variant="primary"]:disabled {{ background: transparent; color: {t.faint}; border-color: {t.line}; }}
QPushButton[variant="danger"] {{ color: {t.crit}; }}
QPushButton[variant="danger"]:disabled {{ color: {t.faint}; }}
QPushButton[variant="kill"] {{ background: {t.kill}; color: {DARK.on_kill}; border: 1px solid {t.kill};
  font-weight: 700; letter-spacing: 1px; padding: 5px 18px; }}
QPushButton[variant="kill"]:hover, QPushButton[variant="kill"]:focus {{ border-color: {t.text}; }}
QPushButton[variant="flat"] {{ background: transparent; border: 1px solid transparent;
  padding: 2px 6px; color: {t.muted}; }}
QPushButton[variant="flat"]:hover {{ color: {t.text}; background: {t.raised}; }}
QPushButton[variant="flat"]:checked {{ color: {t.text}; background: {t.selection}; }}
QPushButton[variant="flat"]:focus {{ border-color: {t.accent}; }}
QLineEdit:disabled, QComboBox:disabled {{ color: {t.faint}; background: {t.off}; border-color: {t.line}; }}
QComboBox::down-arrow {{ image: url({_url("chevron")}); width: 10px; height: 10px; }}
QCheckBox::indicator, QListView::indicator, QMenu::indicator {{ width: 13px; height: 13px;
  border: 1px solid {t.muted}; border-radius: 3px; }}
QMenu::indicator {{ margin-left: 6px; }}
QCheckBox::indicator:focus {{ border: 2px solid {t.accent}; }}
QCheckBox::indicator:checked, QListView::indicator:checked, QMenu::indicator:checked {{ background: #1450A0;
  border-color: {t.accent}; image: url({_url("tick")}); }}
QListView {{ background: {t.field}; border: 1px solid {t.line}; border-radius: 4px; }}
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
