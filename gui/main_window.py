"""The window: bars, docks, menus, and the answers to what panels ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QGuiApplication, QKeyEvent, QKeySequence
from PySide6.QtWidgets import (
    QApplication,
    QComboBox,
    QKeySequenceEdit,
    QMainWindow,
    QMenu,
    QTabWidget,
    QToolBar,
    QWidget,
)

from engine.client import Recording
from engine.errors import CommandRefused
from engine.model import tables
from engine.model.enums import ConnectionState
from gui import formatting as fmt
from gui import journal, looks, shortcuts
from gui.alarm import Alarm
from gui.banner import Banner, Condition
from gui.beat import Beat, Part
from gui.commands import CONFIRM, HOLD, Command, Work
from gui.desk import Desk
from gui.dock import PanelDock
from gui.garbage import collect_if_due
from gui.layouts import PRESETS, Layouts, read_session
from gui.notifications import Notice
from gui.panel import Caption, Panel, TablePanel
from gui.preferences import Settings
from gui.replay import TransportBar, explain_empty
from gui.restyle import Restyler
from gui.status_bar import DeskStatus
from gui.table_view import TableView
from gui.theme import active, icon
from gui.toasts import Toaster
from gui.top_bar import TopBar
from gui.undo import pause
from gui.words import tr

if TYPE_CHECKING:
    from gui.dialogs.base import Dialog

STALE_S = 3.0
KILL_PATIENCE_S = 1.0


class MainWindow(QMainWindow):
    """The desk."""

    close_wanted = Signal()

    def __init__(
        self, home: Path, *, demo: bool = False, theme: str | None = None, fresh: bool = False
    ) -> None:
        super().__init__()
        self.home = home
        self.desk = Desk(self)
        self.desk.demo = demo
        self.settings = self.desk.settings = Settings(
            home, self, **({"theme": theme} if theme else {})
        )
        self.layouts = self.desk.layouts = Layouts(
            self, self.desk, home, {} if fresh else read_session(home)
        )
        self.desk.registry.chosen_keys = shortcuts.read(home)
        self.toaster = Toaster(self.desk.notifier, self)
        self.closing = False
        self._dialogs: dict[str, type[Dialog]] = {}
        self.panels: dict[str, Panel] = {}
        self.docks: dict[str, PanelDock] = {}
        self.stops_engine = False  # closing this window stops an engine that is not a demo's
        self._close_asked = False
        self._said = 0
        self._kill_pending = False
        self.second_road: Callable[[bool], None] | None = None  # a kill past the engine's API
        self._kill_shown = False
        self._built = False
        self._last_table: TableView | None = (
            None  # that had the focus, for what is done from a menu
        )
        self.setWindowTitle("Volley" + (" — Demo" if demo else ""))
        self.setObjectName("main")
        self.setWindowIcon(icon("volley", size=64))
        options = QMainWindow.DockOption
        self.setDockOptions(
            options.AllowNestedDocks | options.AllowTabbedDocks | options.GroupedDragging
        )
        self.setTabPosition(Qt.DockWidgetArea.AllDockWidgetAreas, QTabWidget.TabPosition.North)
        self.setMinimumSize(960, 600)
        self.resize(1280, 800)
        self.setStyleSheet(active().sheet)
        self.restyler = Restyler(self)
        self._beat = Beat(lambda: self.desk.store.news, self)
        self._beat.second.connect(self.desk.store.catch_up)
        self._beat.second.connect(self.desk.second)
        self._beat.second.connect(collect_if_due)
        self.desk.store.stirred.connect(self._beat.stir)
        self._bars = Part(self._tick_bars, lambda: True, lambda: False)

    # --- building -----------------------------------------------------------------------------

    def build(self) -> None:
        """Make bars, menus and docks; called once, after the first paint.

        What is in them is loaded here, too: the engine's process starts meanwhile.
        """
        from gui import dialogs, panels

        self._dialogs = dialogs.ALL
        self.desk.registry.add_all(self._commands())
        for make in panels.ALL:
            panel = make(self.desk)
            self.panels[panel.NAME] = panel
        for panel in self.panels.values():
            panel.build()
            dock = PanelDock(panel, self)
            self.docks[panel.NAME] = dock
            self.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, dock)
        self.desk.registry.add_all(journal.commands(self.desk, self.home))
        self.desk.registry.add_all(journal.note_commands(self.desk, self.panels))
        self._build_bars()
        self._add_window_commands()
        self._build_menus()
        self.alarm = Alarm(self.desk, self)
        self._connect()
        self._built = True
        self.layouts.take(self.docks)
        QTimer.singleShot(0, self, self._restore)
        self._beat.add(self._bars)
        for name, panel in self.panels.items():
            part = Part(panel.tick, panel.in_sight, panel.lively)
            self.docks[name].visibilityChanged.connect(part.come_and_go)
            panel.touched.connect(self._stirrer(part))
            self.docks[name].visibilityChanged.connect(self._stirrer(part))
            self.docks[name].visibilityChanged.connect(self._raiser(self.docks[name]))
            self._beat.add(part)
        self._beat.start()
        self.tick()

    def _build_bars(self) -> None:
        self.top_bar = TopBar(self.desk)
        self.banner = Banner()
        bar = self._tool_bar("toolbar.top", self.top_bar)
        self.addToolBarBreak()
        self._banner_bar = self._tool_bar("toolbar.banner", self.banner)
        self._banner_bar.hide()
        self.banner.visible_changed = self._banner_bar.setVisible
        bar.setAccessibleName("Top bar")
        self.status = DeskStatus(self.desk)
        self.setStatusBar(self.status)
        self.menuBar().setAccessibleName("Menu bar")

    def _tool_bar(self, name: str, content: QWidget) -> QToolBar:
        bar = QToolBar(self)
        bar.setObjectName(name)
        bar.setWindowTitle(name)
        bar.setMovable(False)
        bar.setFloatable(False)
        bar.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        bar.addWidget(content)
        self.addToolBar(bar)
        return bar

    def _connect(self) -> None:
        desk = self.desk
        desk.asked.connect(self.open_dialog)
        desk.panel_wanted.connect(self.show_panel)
        desk.place_wanted.connect(self.go_to)
        desk.layout_touched.connect(self.layouts.touch)
        self.settings.rewritten.connect(self._rewrite)
        self.settings.changed.connect(desk.registry.refresh)
        desk.store.link_changed.connect(self._on_link)
        desk.store.watch(tables.HALTS, lambda *_: self._conditions(), self._conditions)
        desk.store.watch(tables.KILL, lambda *_: self._on_kill_rows(), self._on_kill_rows)
        desk.store.watch(tables.ALERTS, self._on_alerts, lambda: None)
        desk.store.watch(tables.ACCOUNTS, lambda *_: self._know_accounts(), self._know_accounts)
        desk.store.reset_done.connect(self._keep_notices)
        desk.notifier.said.connect(self._on_said)
        desk.store.watch(tables.ENGINE, lambda *_: self._on_engine(), self._on_engine)
        active().changed.connect(self._on_theme)
        for panel in self.panels.values():
            view = getattr(panel, "view", None)
            if view is not None:
                view.menu_guard = self.guard_menu
            for table in panel.findChildren(TableView):
                table.export_wanted.connect(self._exporter(table))
        self._guard_combos(self)
        application = QApplication.instance()
        if isinstance(application, QApplication):
            application.focusChanged.connect(self._on_focus)

    def _on_focus(self, _old: object, now: object) -> None:
        self.desk.registry.unsettle()
        self._beat.stir(self._bars)
        if isinstance(now, TableView) and self.isAncestorOf(now):
            self._last_table = now

    def _commands(self) -> list[Command]:
        group = "Trading"
        return [
            Command("trading.kill", "KILL: halt everything now", self.kill, "stop panic halt", "Ctrl+Shift+K", group,
                    icon="halt", about="Halt all trading and cancel every working order, at once"),
            Command("trading.kill_flatten", "KILL and flatten everything…", self._kill_flatten, "panic close", "",
                    group, HOLD, about="Halt, cancel every working order and close every position"),
            Command("trading.arm", "Arm or disarm trading", self._arm, "rearm enable", "Ctrl+Shift+A", group, HOLD,
                    icon="arm", enabled=self._linked, about="Armed, signals are acted on; disarmed, only exits pass"),
            Command("trading.pause", "Pause all entries", lambda: self._scope("pause"), "hold", "Ctrl+.", group,
                    enabled=self._linked, about="Take no new entries anywhere; exits pass"),
            Command("trading.resume", "Resume all entries", lambda: self._scope("resume"), "", "", group,
                    enabled=self._linked, about="End the pause"),
            Command("desk.palette", "Command palette…", lambda: self.open_dialog("palette", {}), "search find run",
                    "Ctrl+K | Ctrl+Shift+P", "Desk", about="Find and run any command"),
            Command("desk.shortcuts", "Keyboard shortcuts", lambda: self.open_dialog("shortcuts", {}),
                    "keys help cheat sheet", "F1 | ?", "Help"),
            Command("desk.keys", "Customise shortcuts…", lambda: self.open_dialog("keys", {}), "rebind hotkeys", "",
                    "Help"),
            Command("desk.codes", "Codes and what they mean…", lambda: self.open_dialog("codes", {}),
                    "refusal reason error explain", "Shift+F1", "Help"),
            Command("desk.export", "Export table…", self._export, "csv xlsx excel json save", "Ctrl+E", "Desk",
                    enabled=lambda: self._table_in_hand() is not None, about="Write the table as filtered to a file"),
            Command("desk.about", "About Volley", lambda: self.open_dialog("about", {}), "version", "", "Help"),
            Command("desk.quit", "Quit", self._quit, "exit close", "Ctrl+Q", "Desk"),
        ]  # fmt: skip

    def _add_window_commands(self) -> None:
        registry = self.desk.registry
        registry.add_all([*self.layouts.commands(), *looks.commands(self.desk)])
        self.layouts.offer_named()
        for panel in self.panels.values():
            registry.add(Command(f"panel.{panel.NAME}", f"Show {panel.TITLE}", self._shower(panel.NAME),
                                 "panel dock go to", "", "Panels", about=panel.ABOUT))  # fmt: skip

    def _build_menus(self) -> None:
        registry = self.desk.registry
        for title, names in (
            ("&Desk", ["desk.palette", "view.preferences", "desk.export", "journal.report", "journal.replay",
                        "journal.rerun", "journal.compare", "", "account.reload", "", "desk.quit"]),
            ("&Trade", ["order.ticket", "", "signal.approve", "signal.approve_edit", "signal.reject", "signal.force",
                        "signal.close", "signal.cancel", "", "order.cancel_all", "position.flatten_all", "",
                        "trading.arm", "trading.pause", "trading.resume", "", "trading.kill", "trading.kill_flatten"]),
            ("&View", ["view.theme", "view.high_contrast", "view.blue_orange", "view.red_green", "view.compact",
                       "view.larger", "view.smaller", "", "view.utc", "view.exchange_time", "view.private", "",
                       "view.sounds", "view.reduced_motion"]),
            ("&Layout", [*(f"layout.{name}" for name, _ in PRESETS), "", "layout.save", "layout.manage", "layout.undo",
                         "layout.lock", "layout.reset", "", "panel.float", "panel.close"]),
            ("&Panels", [f"panel.{name}" for name in self.panels]),
            ("&Help", ["desk.shortcuts", "desk.keys", "desk.codes", "", "desk.about"]),
        ):  # fmt: skip
            menu = self.menuBar().addMenu(tr(title))
            menu.setAccessibleName(tr(title).replace("&", ""))
            registry.fill(menu, names)
            menu.aboutToShow.connect(registry.refresh)
            self.guard_menu(menu)

    def guard_menu(self, menu: QMenu) -> None:
        """Let the kill key work while a menu holds the keyboard."""
        menu.installEventFilter(self)

    def _guard_combos(self, root: QWidget) -> None:
        for combo in root.findChildren(QComboBox):
            combo.view().installEventFilter(self)
        for recorder in root.findChildren(QKeySequenceEdit):
            recorder.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Catch the kill key while a menu or a list of choices holds the keyboard."""
        if event.type() is QEvent.Type.KeyPress:
            key: QKeyEvent = event  # type: ignore[assignment]
            pressed = QKeySequence(key.keyCombination())
            if self.desk.registry.means(shortcuts.KILL, pressed) and not key.isAutoRepeat():
                self.desk.registry.run("trading.kill")
                return True
        return False

    # --- time ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """Move what changes with time alone, and tell what lasts."""
        self._tick_bars()
        self.desk.registry.refresh()
        for panel in self.panels.values():
            if panel.isVisible():
                panel.tick()

    def _raiser(self, dock: PanelDock) -> Callable[[bool], None]:
        return lambda front: self.restyler.raised(dock) if front else None

    def _stirrer(self, part: Part) -> Callable[..., None]:
        return lambda *_: self._beat.stir(part)

    def _tick_bars(self) -> None:
        self.top_bar.tick()
        self.status.tick()
        self.alarm.tick()
        self.desk.registry.settle(self.desk.store.matters)
        self._conditions()

    def _conditions(self) -> None:
        store, put = self.desk.store, self.banner.set_condition
        age = store.age()
        stale = store.connected and age is not None and age > STALE_S
        text = f"The engine has said nothing for {fmt.whole_age(age)}; what is shown may be old."
        put("stale", Condition("warn", text)
            if stale else None)  # fmt: skip
        halted = [
            row["scope"]
            for row in store.rows(tables.HALTS).values()
            if row.get("state") == "halted"
        ]
        text = f"HALTED: {', '.join(sorted(halted)[:6])}. No entries are sent; exits by hand still pass."
        put(
            "halted", Condition("crit", text, "Show risk", self._shower("risk")) if halted else None
        )
        from gui.panels.positions import unwatched

        # Who watched a stop is not in a recording.
        positions = [] if store.recorded else store.rows(tables.POSITIONS).values()
        bare = sum(map(unwatched, positions))
        text = f"{bare} position{'s have' if bare != 1 else ' has'} stops that NOBODY watches: set them again or close."
        put(
            "unprotected",
            Condition("crit", text, "Show positions", self._shower("positions")) if bare else None,
        )
        unknown = store.engine.get("unknown_orders")
        text = f"{unknown} order{'s' if unknown != 1 else ''} of unknown fate, being looked up; nothing is sent twice."
        put(
            "unknown",
            Condition("warn", text, "Show orders", self._shower("orders")) if unknown else None,
        )

    def _on_link(self) -> None:
        store = self.desk.store
        if store.connected:
            self.banner.set_condition("link", None)
            self.banner.set_condition("crash", None)
            if self._kill_pending:
                self.desk.spawn(self._send_kill(flatten=False), "KILL")
        else:
            word = {
                ConnectionState.CONNECTING: "Connecting to the engine",
                ConnectionState.ERROR: "The engine refuses this desk",
            }.get(store.link, "No link to the engine")
            text = f"{word}: {store.link_text}" if store.link_text else word
            seen = store.age() is not None
            tone = "crit" if seen else "accent"
            shown = f"{text}. Rows are shown as last known, in grey." if seen else text
            self.banner.set_condition("link", Condition(tone, shown))
        self.tick()

    def _on_said(self, notice: Notice) -> None:
        """Keep what the desk said among the alerts, where it can be read again."""
        self._said += 1
        severity = "info" if notice.severity == "ok" else notice.severity
        text = f"{notice.title}. {notice.text}" if notice.text else notice.title
        self.desk.store.put_local(tables.ALERTS, {
            "id": f"desk/{self._said}", "at": notice.at.isoformat(), "severity": severity, "area": "desk",
            "code": None, "account": None, "text": text,
        })  # fmt: skip

    def _keep_notices(self) -> None:
        for notice in self.desk.notifier.history[-50:]:
            self._on_said(notice)

    def _on_alerts(self, changed: Iterable[str], _removed: Iterable[str]) -> None:
        """Say aloud what the engine finds worth a warning."""
        if self.desk.store.recorded:
            return  # of a day that is over
        rows = self.desk.store.rows(tables.ALERTS)
        for key in changed:
            row = rows.get(key)
            if (
                row is None
                or row.get("area") == "desk"
                or row.get("severity") not in {"warning", "critical"}
            ):
                continue
            title = " ".join(
                str(part) for part in (fmt.words(row.get("area")), row.get("account")) if part
            )
            notice = Notice(
                str(row["severity"]), title, str(row.get("text") or ""), datetime.now(UTC)
            )
            self.toaster.show_notice(notice)
            self.alarm.hear(notice.severity, notice.title, notice.text)

    def _know_accounts(self) -> None:
        """Learn which words privacy masks."""
        rows = self.desk.store.rows(tables.ACCOUNTS).values()
        fmt.Privacy.know((str(row.get("id") or ""), str(row.get("name") or "")) for row in rows)

    def _on_engine(self) -> None:
        self.top_bar.tick()

    def _on_kill_rows(self) -> None:
        rows = self.desk.store.rows(tables.KILL)
        if rows and not self._kill_shown and not self.desk.store.recorded:
            self.show_panel("risk")
        self._kill_shown = bool(rows)

    def set_condition(self, name: str, condition: Condition | None) -> None:
        """Raise or clear a lasting condition (the supervisor's crash, for one)."""
        if self._built:
            self.banner.set_condition(name, condition)

    def show_recording(self, recording: Recording) -> None:
        """Become the window of a recorded day; called once, when it is built."""
        self.desk.store.recorded = True
        self.setWindowTitle(f"Volley — REPLAY of {recording.day}")
        explain_empty(self.panels, recording)
        self.transport = TransportBar(self.desk, recording)
        self.addToolBarBreak()
        self._tool_bar("toolbar.transport", self.transport).setAccessibleName("Replay")

    # --- trading ------------------------------------------------------------------------------

    def _linked(self) -> bool:
        store = self.desk.store
        return store.connected and self.desk.client is not None and not store.recorded

    def kill(self) -> Work | None:
        """Halt everything, now: no question, again as often as it is pressed."""
        if self.desk.store.recorded:
            text = "This window shows a recorded day; nothing was sent. Press it in the window of the engine."
            self.desk.say("critical", "NOT KILLED", text)
            return None
        self.show_panel("risk")
        self.desk.say(
            "critical", "KILL sent", "Halting everything and cancelling every working order."
        )
        return self._send_kill(flatten=False)

    async def _send_kill(self, *, flatten: bool) -> None:
        """Send it; when the engine does not answer, say so loudly, take the second road, and try again."""
        self._kill_shown = False
        loop = asyncio.get_running_loop()
        overdue = loop.call_later(
            KILL_PATIENCE_S, self._kill_unheard, "the engine has not answered yet", flatten
        )
        try:
            await self.desk.command(
                "kill", scope="all", reason="kill switch at the desk", flatten=flatten
            )
        except CommandRefused as refusal:
            if refusal.code != "NO_ENGINE":
                raise
            self._kill_pending = True
            self._kill_unheard("the engine cannot be reached", flatten)
            return
        finally:
            overdue.cancel()
        self._kill_pending = False
        self.set_condition("kill", None)
        self.show_panel("risk")

    def _kill_unheard(self, why: str, flatten: bool) -> None:
        text = f"KILL NOT CONFIRMED: {why}. It is sent again as soon as it can be; from any shell: volley kill"
        again = Condition(
            "crit", text, "Send again", lambda: self.desk.registry.run("trading.kill")
        )
        self.set_condition("kill", again)
        if self.second_road is not None:
            self.second_road(flatten)

    def kill_latched(self) -> None:
        """Tell that the second road was taken: the order lies where the engine looks before it sends anything."""
        if "kill" in self.banner.conditions:
            text = "KILL left in the home: the engine obeys as soon as it moves, and before it sends anything again."
            again = Condition(
                "crit", text, "Send again", lambda: self.desk.registry.run("trading.kill")
            )
            self.set_condition("kill", again)

    def _kill_flatten(self) -> None:
        self.open_dialog("confirm", {
            "title": "KILL and flatten everything",
            "facts": [("Scope", "all accounts"),
                      ("Working orders", fmt.count(self.desk.store.engine.get("open_orders"))),
                      ("Exposure", fmt.money(self.desk.store.engine.get("exposure")))],
            "go": "Hold to kill and flatten",
            "run": lambda: self._send_kill(flatten=True),
            "danger": HOLD,
        })  # fmt: skip

    def _arm(self) -> Work | None:
        state = self.desk.store.engine.get("trading")
        if state == "active":
            return self._disarm()
        self.open_dialog("rearm", {"scope": "all", "state": state})
        return None

    async def _disarm(self) -> None:
        await self.desk.command("disarm", reason="by hand at the desk")
        self.desk.say("ok", "Disarmed", "No signal is acted on until trading is armed again.")

    async def _scope(self, command: str) -> None:
        if command == "pause":
            await pause(self.desk, "Entries paused", ["all"])
            return
        await self.desk.command(command, scope="all")
        self.desk.say("ok", "Entries resumed")

    # --- dialogs and panels -------------------------------------------------------------------

    def open_dialog(self, name: str, subject: dict[str, Any]) -> None:
        """Open a dialog by name; never modal, so that KILL always works."""
        dialog = self._dialogs[name](self.desk, subject)
        self._guard_combos(dialog)
        dialog.present()

    def _table_in_hand(self) -> TableView | None:
        """Return the table that has the focus, else the one of its panel."""
        widget = QApplication.focusWidget()
        while widget is not None:
            if isinstance(widget, TableView):
                return widget
            if isinstance(widget, PanelDock):
                return widget.findChild(TableView)
            widget = widget.parentWidget()
        return self._last_table

    def _exporter(self, view: TableView) -> Callable[[], None]:
        return lambda: self.open_dialog("export", {"view": view})

    def _export(self) -> None:
        view = self._table_in_hand()
        if view is not None:
            self.open_dialog("export", {"view": view})

    def show_panel(self, name: str) -> None:
        """Bring a panel to the front."""
        dock = self.docks.get(name)
        if dock is None:
            return
        dock.show()
        dock.raise_()
        view = getattr(self.panels[name], "view", None)
        if view is not None and QGuiApplication.focusWindow() is not None:
            view.setFocus(Qt.FocusReason.OtherFocusReason)

    def go_to(self, name: str, key: str) -> None:
        """Show a row of a panel, out of its filter if that hides it; ``/WORD`` filters the panel instead."""
        self.show_panel(name)
        panel = self.panels.get(name)
        if not isinstance(panel, TablePanel):
            return
        if key.startswith("/"):
            panel.filter.setText(key[1:])
        elif not panel.view.select_key(key):
            panel.filter.clear()
            panel.view.select_key(key)

    def _shower(self, name: str) -> Callable[[], None]:
        return lambda: self.show_panel(name)

    # --- looks and layout ---------------------------------------------------------------------

    def _rewrite(self) -> None:
        """Write every number and time anew."""
        looks.rewrite(self.panels.values())
        self.tick()

    def _on_theme(self) -> None:
        if self.styleSheet() == active().sheet:
            self.restyler.restyle()
        else:  # another size of text: everything is measured anew
            self.setStyleSheet(active().sheet)
            for caption in self.findChildren(Caption):
                caption.restyle()  # a new sheet gives every label the palette of before the old one back
            for panel in self.panels.values():
                panel.catch_up()
        self.desk.registry.restyle()
        self.status.restyle()

    def arrange(self, preset: str) -> None:
        """Put the docks as a preset has them."""
        self.layouts.arrange(preset)

    def _restore(self) -> None:
        """Take back how the window was left; after show(), or Qt 6 quietly ignores it."""
        self.layouts.restore()
        self._banner_bar.setVisible(bool(self.banner.conditions))
        self.tick()

    def save_layout(self) -> None:
        """Write the layout file."""
        self.layouts.save()

    # --- the end ------------------------------------------------------------------------------

    def _quit(self) -> None:
        if not self._ask_before_close():
            self.finish()

    def _ask_before_close(self) -> bool:
        """Ask, once, when closing would stop an engine that is trading; says whether it asked."""
        row = self.desk.store.engine
        busy = row.get("trading") == "active" or row.get("open_orders")
        if not self.stops_engine or not busy or self._close_asked:
            return False
        self._close_asked = True
        self.open_dialog("confirm", {
            "title": "Close the desk and stop its engine?",
            "facts": [("Trading", fmt.words(row.get("trading"))),
                      ("Working orders", f"{fmt.count(row.get('open_orders'))}, left at the brokers"),
                      ("Exposure", f"{fmt.money(row.get('exposure'))}, left open"),
                      ("Signals", "not acted on until an engine runs again")],
            "go": "Close and stop",
            "run": self._finish_later,
            "back": self._stay,
            "danger": CONFIRM,
        })  # fmt: skip
        return True

    async def _finish_later(self) -> None:
        self.finish()

    def _stay(self) -> None:
        self._close_asked = False

    def closeEvent(self, event: QCloseEvent) -> None:
        """Ask the application to end in good order; it closes the window when all is stopped."""
        if self.closing:
            event.accept()
            return
        event.ignore()
        if event.spontaneous() and self._ask_before_close():
            return
        self.finish()

    def finish(self) -> None:
        """Save the layout and ask the application to end."""
        self.closing = True
        self._beat.stop()
        self.layouts.close()
        if self._built:
            self.alarm.close()
        self.close_wanted.emit()


class LoopWatch:
    """Measures how late the desk's own loop runs: the longest delay of the last seconds."""

    def __init__(self, every: float = 0.25) -> None:
        self._every = every
        self._late: list[float] = []

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            before = monotonic()
            await asyncio.sleep(self._every)
            self._late.append(max(0.0, monotonic() - before - self._every) * 1e3)
            del self._late[:-12]

    def lag_ms(self) -> float | None:
        """Return the longest delay of the last three seconds in milliseconds."""
        return max(self._late) if self._late else None
