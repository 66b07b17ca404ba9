"""The commands that change looks and formats: each changes one preference, which is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from gui.commands import Command
from gui.desk import Desk
from gui.panel import Panel
from gui.preferences import Settings
from gui.table_view import TableView
from gui.theme import active

_OTHER: Final = {
    "dark": "light",
    "light": "dark",
    "contrast_dark": "contrast_light",
    "contrast_light": "contrast_dark",
}
_CONTRAST: Final = {
    "dark": "contrast_dark",
    "light": "contrast_light",
    "contrast_dark": "dark",
    "contrast_light": "light",
}


def commands(desk: Desk) -> list[Command]:
    """Return the commands."""
    settings = desk.settings

    def flip(name: str) -> Callable[[], None]:
        return lambda: settings.change(**{name: not getattr(settings.now, name)})

    def on(name: str) -> Callable[[], bool]:
        return lambda: bool(getattr(settings.now, name))

    return [
        Command("view.preferences", "Preferences…", lambda: desk.ask("preferences"), "settings options", "Ctrl+,",
                "Desk", about="Theme, colours, times, numbers, noise, privacy"),
        Command("view.theme", "Theme: dark or light", lambda: settings.change(theme=_OTHER[active().tokens.name]),
                "colour", "Ctrl+T", "View"),
        Command("view.high_contrast", "High contrast", lambda: settings.change(theme=_CONTRAST[active().tokens.name]),
                "theme accessibility", "", "View", checked=lambda: active().tokens.name.startswith("contrast")),
        Command("view.blue_orange", "Profit blue, loss orange", _scheme(settings, "blue_orange"),
                "colour blind deuteranopia", "", "View", checked=lambda: settings.now.prices == "blue_orange"),
        Command("view.red_green", "Profit red, loss green", _scheme(settings, "red_green"),
                "colour asia china japan", "", "View", checked=lambda: settings.now.prices == "red_green"),
        Command("view.compact", "Compact rows", lambda: settings.change(density=_density(settings)), "density height",
                "", "View", checked=lambda: settings.now.density == "compact"),
        Command("view.utc", "Times in UTC", _zone(settings, "utc"), "clock zone", "", "View",
                checked=lambda: settings.now.zone == "utc"),
        Command("view.exchange_time", "Times of the exchange", _zone(settings, "exchange"), "clock zone", "", "View",
                checked=lambda: settings.now.zone == "exchange"),
        Command("view.private", "Privacy: mask money and accounts", flip("private"), "stream hide screen share",
                "Ctrl+Alt+P", "View", checked=on("private")),
        Command("view.sounds", "Sounds", flip("sounds"), "mute quiet noise alarm", "Ctrl+Alt+M", "View",
                checked=on("sounds"), about="Alerts are heard as well as seen"),
        Command("view.reduced_motion", "Reduced motion", flip("reduced_motion"), "flash animation", "", "View",
                checked=on("reduced_motion"), about="Nothing flashes when it changes"),
        Command("view.larger", "Larger text", _scaler(settings, 10), "zoom font size", "Ctrl++ | Ctrl+=", "View"),
        Command("view.smaller", "Smaller text", _scaler(settings, -10), "zoom font size", "Ctrl+-", "View"),
    ]  # fmt: skip


def rewrite(panels: Iterable[Panel]) -> None:
    """Write every cell anew: formats of numbers and times, or privacy, are others."""
    for panel in panels:
        for view in panel.findChildren(TableView):
            view.table.texts.clear()
            view.table.load()
        panel.restyle()


def _scheme(settings: Settings, name: str) -> Callable[[], None]:
    return lambda: settings.change(prices="green_red" if settings.now.prices == name else name)


def _zone(settings: Settings, name: str) -> Callable[[], None]:
    return lambda: settings.change(zone="local" if settings.now.zone == name else name)


def _density(settings: Settings) -> str:
    return "normal" if settings.now.density == "compact" else "compact"


def _scaler(settings: Settings, step: int) -> Callable[[], None]:
    return lambda: settings.change(scale=max(80, min(settings.now.scale + step, 160)))
