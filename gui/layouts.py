"""The layouts of one window: the one in use, presets, those saved under a name; locking them and undoing a change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from PySide6.QtCore import QByteArray, QObject, QRect, Qt, QTimer, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QMainWindow, QWidget

from gui import home_file, layout
from gui.commands import Command
from gui.desk import Desk
from gui.dock import PanelDock
from gui.paint_later import PaintLater

log = logging.getLogger(__name__)
VERSION: Final = 3
FILE: Final = "layout.json"
NAMED: Final = "layouts.json"
SAVE_MS: Final = 1_000
UNDO_DEPTH: Final = 20
LONGEST_NAME: Final = 40
KEYS: Final = 9
PRESETS: Final = (
    ("trade", "Trade"),
    ("review", "Review"),
    ("latency", "Latency"),
    ("risk", "Risk"),
)
_GRIP: Final = (
    60  # this much of a title must be in sight, in pixels, for a window to be grabbed again
)
_NO_AREA: Final = Qt.DockWidgetArea.NoDockWidgetArea
Snapshot = dict[str, Any]


def read_session(home: Path) -> dict[str, Any]:
    """Return how the window was left; a layout of another version is none."""
    document = home_file.read(home / FILE)
    return document if document.get("version") == VERSION else {}


class Layouts(QObject):
    """Keeps the docks' places. ``settled`` says that what a person changed has been noted and written."""

    settled = Signal()

    def __init__(
        self, window: QMainWindow, desk: Desk, home: Path, session: dict[str, Any]
    ) -> None:
        super().__init__(window)
        self._window = window
        self._desk = desk
        self._home = home
        self._session = session
        self._docks: dict[str, PanelDock] = {}
        self.now = str(session.get("preset", "trade"))
        self.locked = bool(session.get("locked", False))
        self.named: dict[str, Snapshot] = _checked(home_file.read(home / NAMED))
        self.ready = False
        self._painting = PaintLater(window)
        self._undo: list[Snapshot] = []
        self._last: tuple[Any, Snapshot] | None = None
        self._saver = QTimer(self)
        self._saver.setSingleShot(True)
        self._saver.setInterval(SAVE_MS)
        self._saver.timeout.connect(self._settle)

    # --- life ---------------------------------------------------------------------------------

    def take(self, docks: dict[str, PanelDock]) -> None:
        """Take the window's docks, once, and put them as the preset in use has them."""
        self._docks = docks
        for dock in docks.values():
            dock.dockLocationChanged.connect(lambda *_: self.touch())
            dock.visibilityChanged.connect(lambda *_: self.touch())
            dock.topLevelChanged.connect(lambda *_: self.touch())
        self._arrange(self.now)

    def restore(self) -> None:
        """Take back how the window was left; after show(), or Qt 6 quietly ignores it."""
        geometry = self._session.get("geometry")
        if isinstance(geometry, str):
            self._window.restoreGeometry(QByteArray.fromBase64(geometry.encode()))
            keep_in_sight(self._window)
        self._apply(self._session)
        self.lock(self.locked)
        self._last = (self._shape(), self.snapshot())
        self.ready = True

    def close(self) -> None:
        """Write what is still to be written; nothing is noted afterwards."""
        self._saver.stop()
        if self.ready:
            self.save()
        self.ready = False

    # --- commands -----------------------------------------------------------------------------

    def commands(self) -> list[Command]:
        """Return what can be done with layouts; those saved are added to the registry as they come."""
        group, words = "Layout", "preset workspace"
        made = [
            Command(
                f"layout.{name}", f"Layout: {title}", self._user(name), words, f"Ctrl+{at}", group
            )
            for at, (name, title) in enumerate(PRESETS, 1)
        ]
        return [
            *made,
            Command("layout.save", "Save layout as…", lambda: self._desk.ask("layouts"), "name workspace", "", group,
                    about="Keep panels, columns and filters under a name"),
            Command("layout.manage", "Layouts…", lambda: self._desk.ask("layouts"), "rename delete import export", "",
                    group, about="Use, rename, delete, import and export saved layouts"),
            Command("layout.undo", "Undo layout change", self.undo, "back", "Ctrl+Alt+Z", group,
                    enabled=lambda: bool(self._undo), about="Put the panels back as they were before the last change"),
            Command("layout.lock", "Lock layout", lambda: self.lock(not self.locked), "freeze fix", "", group,
                    checked=lambda: self.locked, about="Panels cannot be moved, floated or closed by accident"),
            Command("layout.reset", "Layout: reset", self.reset, "default", "", group,
                    about="The trade layout, every column as it came"),
            Command("panel.float", "Float or dock the panel", self._float, "window monitor screen", "Ctrl+Shift+D",
                    group, enabled=self._free, about="Make the panel that has the focus a window of its own, or not"),
            Command("panel.close", "Close the panel", self._close, "hide", "Ctrl+W", group, enabled=self._free,
                    about="Hide the panel that has the focus; Panels in the menu brings it back"),
        ]  # fmt: skip

    def offer_named(self) -> None:
        """Make the commands of the saved layouts anew; they take the keys Ctrl+5 to Ctrl+9 in order."""
        registry = self._desk.registry
        for name in [name for name in registry.commands if name.startswith("layout.saved.")]:
            registry.remove(name)
        for at, name in enumerate(self.named, len(PRESETS) + 1):
            key = f"Ctrl+{at}" if at <= KEYS else ""
            registry.add(Command(f"layout.saved.{name}", f"Layout: {name}", self._user_named(name),
                                 "saved workspace", key, "Layout"))  # fmt: skip

    def _user(self, preset: str) -> Callable[[], None]:
        return lambda: self.arrange(preset)

    def _user_named(self, name: str) -> Callable[[], None]:
        return lambda: self.use(name)

    def _free(self) -> bool:
        return not self.locked and self._focused() is not None

    def _focused(self) -> PanelDock | None:
        widget = QApplication.focusWidget() or QApplication.activeWindow()
        while widget is not None:
            if isinstance(widget, PanelDock):
                return widget
            widget = widget.parentWidget()
        return None

    def _float(self) -> None:
        dock = self._focused()
        if dock is not None:
            dock.setFloating(not dock.isFloating())
            keep_in_sight(dock)

    def _close(self) -> None:
        dock = self._focused()
        if dock is not None:
            dock.close()

    # --- changing -----------------------------------------------------------------------------

    def arrange(self, preset: str) -> None:
        """Put the docks as a preset has them."""
        self._note()
        self._arrange(preset)
        self._changed()

    def _arrange(self, preset: str) -> None:
        self.now = preset
        self._painting.hold()
        layout.arrange(self._window, self._docks, preset)

    def use(self, name: str) -> None:
        """Put everything as a saved layout has it."""
        self._note()
        self.now = name
        self._apply(self.named[name])
        self._changed()

    def reset(self) -> None:
        """Put the docks as the trade preset has them, and every table's columns as they came."""
        self._note()
        for dock in self._docks.values():
            dock.panel.reset()
        self._arrange("trade")
        self._changed()

    def undo(self) -> None:
        """Put everything back as it was before the last change."""
        if self._undo:
            self._apply(self._undo.pop())
            self._last = (self._shape(), self.snapshot())
            self._saver.start()

    def lock(self, on: bool) -> None:
        """Fix the docks where they are, or let them go."""
        self.locked = on
        feature = PanelDock.DockWidgetFeature
        free = feature.DockWidgetMovable | feature.DockWidgetFloatable | feature.DockWidgetClosable
        for dock in self._docks.values():
            dock.setFeatures(feature.NoDockWidgetFeatures if on else free)
        self._desk.registry.refresh()
        self.touch()

    # --- saved ones ---------------------------------------------------------------------------

    def save_as(self, name: str) -> None:
        """Keep the layout in use under a name; one of that name is replaced.

        Raises:
            ValueError: the name is empty, too long or a preset's.
        """
        self.named[_name(name)] = self.snapshot()
        self.now = _name(name)
        self._write_named()

    def rename(self, old: str, new: str) -> None:
        """Give a saved layout another name; it keeps its place.

        Raises:
            ValueError: the name is empty, too long, a preset's or another layout's.
        """
        fresh = _name(new)
        if fresh != old and fresh in self.named:
            raise ValueError(f"There is a layout {fresh} already.")
        self.named = {fresh if name == old else name: kept for name, kept in self.named.items()}
        self.now = fresh if self.now == old else self.now
        self._write_named()

    def delete(self, name: str) -> None:
        """Forget a saved layout."""
        del self.named[name]
        self._write_named()

    def put_back(self, name: str, kept: Snapshot) -> None:
        """Take back a layout that was deleted."""
        self.named.setdefault(name, kept)
        self._write_named()

    def export(self, names: list[str], path: Path) -> str:
        """Write saved layouts to a file; returns why it could not be, else nothing."""
        return home_file.write(path, _document({name: self.named[name] for name in names}))

    def take_file(self, path: Path) -> list[str]:
        """Take over the layouts of a file; one whose name is taken gets a number. Returns their names.

        Raises:
            ValueError: there is no layout of this version in it.
        """
        found = _checked(home_file.read(path))
        if not found:
            raise ValueError("There is no layout of this version of Volley in that file.")
        taken = []
        for name, kept in found.items():
            fresh, number = name, 2
            while fresh in self.named:
                fresh, number = f"{name[: LONGEST_NAME - 4]} {number}", number + 1
            self.named[fresh] = kept
            taken.append(fresh)
        self._write_named()
        return taken

    def _write_named(self) -> None:
        home_file.write(self._home / NAMED, _document(self.named))
        self.offer_named()
        self.save()

    # --- snapshots ----------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return where every dock is and how every panel's columns are."""
        return {
            "state": bytes(self._window.saveState(VERSION).toBase64().data()).decode(),
            "panels": {name: dock.panel.state() for name, dock in self._docks.items()},
        }

    def _apply(self, kept: Snapshot) -> None:
        self._painting.hold()
        panels = kept.get("panels", {})
        for name, state in panels.items() if isinstance(panels, dict) else ():
            if name in self._docks and isinstance(state, dict):
                self._docks[name].panel.restore(state)
        state = kept.get("state")
        restored = isinstance(state, str) and self._window.restoreState(
            QByteArray.fromBase64(state.encode()), VERSION
        )
        if not restored:
            self._arrange(self.now if self.now in dict(PRESETS) else "trade")
            return
        self._adopt_strays()
        for dock in self._docks.values():
            if dock.isFloating():
                keep_in_sight(dock)
        layout.shape_tabs(self._window)

    def _adopt_strays(self) -> None:
        """Panels that came after a layout was saved lie behind the alerts."""
        for name, dock in self._docks.items():
            if not dock.isFloating() and self._window.dockWidgetArea(dock) is _NO_AREA:
                self._window.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, dock)
                if name != "alerts":
                    self._window.tabifyDockWidget(self._docks["alerts"], dock)

    def _shape(self) -> Any:
        """Return what tells two layouts apart: groups of tabs, where they are; not which tab is in front."""
        width, height = max(1, self._window.width()), max(1, self._window.height())
        groups: dict[tuple[str, ...], Any] = {}
        for dock in self._docks.values():
            tabs = [dock, *self._window.tabifiedDockWidgets(dock)]
            key = tuple(sorted(one.objectName() for one in tabs))
            if dock.isHidden():
                groups[(dock.objectName(), "hidden")] = None
            elif dock.isFloating():
                groups[key] = dock.geometry().getRect()
            elif not dock.visibleRegion().isEmpty():
                box = dock.geometry()
                groups[key] = (box.x() * 50 // width, box.y() * 50 // height,
                               box.width() * 50 // width, box.height() * 50 // height)  # fmt: skip
        return groups

    def _note(self) -> None:
        """Remember how things are before a change of the desk's own making."""
        if self.ready:
            self._undo = [*self._undo, self.snapshot()][-UNDO_DEPTH:]

    def _changed(self) -> None:
        if self.ready:
            self._last = None  # the change is noted already; what Qt moves later belongs to it
            self._saver.start()

    def touch(self) -> None:
        """Note that something changed; it is looked at and written a moment later."""
        if self.ready:
            self._saver.start()

    def _settle(self) -> None:
        shape, kept = self._shape(), self.snapshot()
        if self._last is not None and self._last[0] != shape:
            self._undo = [*self._undo, self._last[1]][-UNDO_DEPTH:]
        self._last = (shape, kept)
        self.save()
        self._desk.registry.refresh()
        self.settled.emit()

    def save(self) -> None:
        """Write how the window is."""
        geometry = bytes(self._window.saveGeometry().toBase64().data()).decode()
        kept = {"preset": self.now, "locked": self.locked, "geometry": geometry}
        home_file.write(self._home / FILE, {"version": VERSION} | kept | self.snapshot())


def _name(text: str) -> str:
    name = " ".join(text.split())
    if not name or len(name) > LONGEST_NAME:
        raise ValueError(f"A name of 1 to {LONGEST_NAME} characters.")
    if name.lower() in dict(PRESETS):
        raise ValueError(f"{name} is one of the layouts that come with the desk.")
    return name


def _document(named: dict[str, Snapshot]) -> dict[str, Any]:
    return {"version": VERSION, "layouts": [{"name": name} | kept for name, kept in named.items()]}


def _checked(document: dict[str, Any]) -> dict[str, Snapshot]:
    """Return the layouts of a file that make sense."""
    found: dict[str, Snapshot] = {}
    entries = document.get("layouts") if document.get("version") == VERSION else None
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("state"), str):
            continue
        try:
            name = _name(str(entry.get("name", "")))
        except ValueError:
            continue
        found[name] = {"state": entry["state"], "panels": entry.get("panels", {})}
    return found


def keep_in_sight(window: QWidget) -> None:
    """Move a window that no screen shows any more (a monitor was taken away) to the nearest that there is."""
    screens = [screen.availableGeometry() for screen in QGuiApplication.screens()]
    moved = in_sight(window.frameGeometry(), screens)
    if moved != window.frameGeometry():
        window.resize(moved.size())
        window.move(moved.topLeft())


def in_sight(box: QRect, screens: list[QRect]) -> QRect:
    """Return a window's place such that its title can be grabbed on one of the screens; its own when it can."""
    title = QRect(box.left(), box.top(), box.width(), _GRIP)
    for screen in screens:
        shared = screen.intersected(title)
        if shared.width() >= min(_GRIP, box.width()) and shared.height() >= _GRIP // 3:
            return box
    if not screens:
        return box
    middle = box.center()
    near = min(screens, key=lambda one: (one.center() - middle).manhattanLength())
    width, height = min(box.width(), near.width()), min(box.height(), near.height())
    left = min(max(box.left(), near.left()), near.right() + 1 - width)
    top = min(max(box.top(), near.top()), near.bottom() + 1 - height)
    return QRect(left, top, width, height)
