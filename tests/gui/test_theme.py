from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QFontMetricsF
from PySide6.QtWidgets import QApplication

from gui import theme
from gui.theme import LIGHT, PRICE_SCHEMES, THEMES, active, contrast, contrast_pairs, priced

SCHEMES = [(name, prices) for name in THEMES for prices in PRICE_SCHEMES]


@pytest.mark.parametrize(("name", "prices"), SCHEMES)
def test_every_pair_of_ink_and_ground_can_be_read(name: str, prices: str) -> None:
    least = 7.0 if name.startswith("contrast") else 4.5
    pairs = contrast_pairs(priced(THEMES[name], prices))
    assert len(pairs) > 100
    plain = [pair for pair in pairs if "chip" not in pair[0] and "banner" not in pair[0]]
    for some, limit in ((pairs, 4.5), ([p for p in plain if p[0].startswith("text")], least)):
        poor = {
            what: round(contrast(ink, ground), 2)
            for what, ink, ground in some
            if contrast(ink, ground) < limit
        }
        assert poor == {}


def test_contrast_is_the_one_of_wcag() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


def simulated(color: str, kind: str) -> tuple[float, ...]:
    """How a dichromat sees a colour (Viénot 1999, linear RGB)."""
    rows = {
        "protan": ((0.11238, 0.88762, 0), (0.11238, 0.88762, 0), (0.00401, -0.00401, 1)),
        "deutan": ((0.29275, 0.70725, 0), (0.29275, 0.70725, 0), (-0.02234, 0.02234, 1)),
    }[kind]
    channels = [(int(color[at : at + 2], 16) / 255) ** 2.2 for at in (1, 3, 5)]
    return tuple(max(0.0, sum(a * b for a, b in zip(row, channels, strict=True))) for row in rows)


def lab(linear: tuple[float, ...]) -> tuple[float, float, float]:
    r, g, b = linear
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def apart(one: str, other: str, kind: str) -> float:
    seen = (lab(simulated(color, kind)) for color in (one, other))
    return sum((a - b) ** 2 for a, b in zip(*seen, strict=True)) ** 0.5


@pytest.mark.parametrize("kind", ["protan", "deutan"])
@pytest.mark.parametrize("name", THEMES)
def test_blue_and_orange_differ_for_every_eye(name: str, kind: str) -> None:
    tokens = priced(THEMES[name], "blue_orange")
    assert apart(tokens.gain, tokens.loss, kind) >= 20
    assert apart(tokens.pos, tokens.neg, kind) >= 20


def test_red_and_green_swap_for_money_alone() -> None:
    plain, swapped = (priced(theme.DARK, prices) for prices in ("green_red", "red_green"))
    assert (swapped.gain, swapped.loss) == (plain.loss, plain.gain)
    assert (swapped.pos, swapped.neg) == (
        plain.pos,
        plain.neg,
    )  # a filled order is not bad news in Tokyo


def test_the_system_theme_is_followed(qapp: QApplication) -> None:
    hints = qapp.styleHints()
    active().use("system")
    light = hints.colorScheme() is Qt.ColorScheme.Light
    assert active().tokens.dark is not light
    heard = []
    active().changed.connect(lambda: heard.append(active().choice))
    hints.colorSchemeChanged.emit(Qt.ColorScheme.Light)
    assert heard == ["system"]
    active().use("dark")
    hints.colorSchemeChanged.emit(Qt.ColorScheme.Light)
    assert heard == ["system", "dark"]  # a theme of one's own stays


def test_figures_have_one_width(qapp: QApplication) -> None:
    metrics = QFontMetricsF(active().font(13))
    widths = {metrics.horizontalAdvance(digit * 8) for digit in "0123456789"}
    assert max(widths) - min(widths) < 0.5


def test_switching_tells_and_changes_the_palette(qapp: QApplication) -> None:
    heard = []
    active().changed.connect(lambda: heard.append(active().tokens.name))
    active().use("light")
    assert heard == ["light"]
    assert qapp.palette().window().color().name().upper() == LIGHT.window
    active().use("light", prices="blue_orange", scale=500)
    assert active().tokens.gain == active().tokens.pos == active().tokens.accent
    assert active().scale == 160


def test_every_icon_of_a_command_exists(qapp: QApplication) -> None:
    for name in ("check", "cross", "force", "close", "cancel", "ticket", "halt", "arm", "volley"):
        assert not theme.icon(name).isNull(), name
    assert theme.icon("no-such-icon").isNull()
