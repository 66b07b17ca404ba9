"""The desktop program: one window, one qasync loop, an engine beside it (or inside, or elsewhere)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import getpass
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import platformdirs

from engine.client import load_remote
from engine.errors import ConfigError, TradingError
from gui.arguments import add_arguments
from gui.garbage import keep_to_this_thread

if TYPE_CHECKING:
    from engine.client import EngineClient
    from gui.main_window import MainWindow
    from gui.supervisor import EngineAddress

log = logging.getLogger(__name__)
InlineEngine = Callable[[argparse.Namespace], "AbstractAsyncContextManager[EngineClient]"]
"""Opens an engine in this process: given the parsed arguments, a context that yields its client."""

__all__ = ["InlineEngine", "add_arguments", "run"]

_HERE: Final = {"127.0.0.1", "::1", "localhost"}
_LOOK_AGAIN_S: Final = 1.0
_PATIENCE_S: Final = 20.0
"""How much longer than ``--for`` says an engine of the desk's own may take to come, on a machine under load."""
_LIBRARIES: Final = {
    "libEGL": ("libegl1", "libglvnd-egl"),
    "libGL": ("libgl1", "libglvnd-glx"),
    "libxkbcommon": ("libxkbcommon0", "libxkbcommon"),
    "libdbus": ("libdbus-1-3", "dbus-libs"),
    "libfontconfig": ("libfontconfig1", "fontconfig"),
    "libglib": ("libglib2.0-0", "glib2"),
    "libxcb-cursor": ("libxcb-cursor0", "xcb-util-cursor"),
}


def run(args: argparse.Namespace, inline: InlineEngine | None = None) -> int:
    """Open the desk and stay until it is closed; return the exit status.

    ``args``: ``home``, ``config`` and the flags of ``gui.arguments``. ``inline`` opens an engine in this process.

    Raises:
        ConfigError: the configuration or the address is wrong.
    """
    refusal = _refusal(args)
    if refusal:
        return _complain(refusal)
    os.environ.setdefault("QT_API", "pyside6")
    if args.demo:  # on a port of its own, beside a real engine
        os.environ.setdefault("VOLLEY_ENGINE__LISTEN", "127.0.0.1:0")
    try:
        from PySide6.QtWidgets import QApplication
    except ImportError as error:
        return _complain(missing_library(error))
    token = _token_for(args) if getattr(args, "connect", None) else ""
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(_home(args))
        gc.disable()  # see gui.garbage
        existing = QApplication.instance()
        app = existing if isinstance(existing, QApplication) else QApplication([sys.argv[0]])
        app.setApplicationName("Volley")
        app.setDesktopFileName("volley")
        app.setStyle("Fusion")
        app.setQuitOnLastWindowClosed(False)
        from gui.main_window import MainWindow

        window = MainWindow(
            home,
            demo=bool(args.demo),
            theme=getattr(args, "theme", None),
            fresh=bool(getattr(args, "layout_reset", False)),
        )
        window.show()
        app.processEvents()  # the first paint; the rest is loaded behind it
        import qasync

        with asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(app)) as runner:
            return runner.run(_Session(args, home, window, token, inline).run())


def _refusal(args: argparse.Namespace) -> str:
    """Return why the desk cannot be opened here, empty when it can; picks the platform."""
    import PySide6

    version = tuple(int(part) for part in PySide6.__version__.split(".")[:2])
    if version >= (6, 12) and sys.version_info < (3, 12):
        return f"PySide6 {PySide6.__version__} aborts Python 3.11; install PySide6-Essentials<6.12 or use Python 3.12"
    if args.inline and args.connect:
        return "--inline has an engine of its own; leave out --connect"
    if getattr(args, "day", None) and not args.replay:
        return "--day is of a recorded day: expected --replay HOME_OR_FILE beside it"
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform in {"win32", "darwin"} or os.environ.get("QT_QPA_PLATFORM") or shown:
        return ""
    if args.seconds:
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
        return ""
    return "there is no display; use `volley engine`, or `volley desk --for SECONDS --screenshot FILE.png`"


def _complain(text: str) -> int:
    sys.stderr.write(f"volley: {text}\n")
    return 1


def missing_library(error: ImportError) -> str:
    """Return one line that names a missing system library and the package that has it."""
    library = str(error).partition(":")[0]
    for start, (debian, fedora) in _LIBRARIES.items():
        if library.startswith(start):
            return f"the system has no {library}; install {debian} (Debian, Ubuntu) or {fedora} (Fedora)"
    if ".so" in library:
        return f"the system has no {library}, which Qt needs; install the package that has it"
    return f"the desktop cannot be opened: {error}"


@contextlib.contextmanager
def _home(args: argparse.Namespace) -> Any:
    """Yield the data directory; a demo's is thrown away unless one is named. A recording's is never written to."""
    if getattr(args, "replay", None):
        own = args.home or platformdirs.user_data_dir("volley", appauthor=False)
        yield Path(own).expanduser().absolute() / "replay"
        return
    if args.home:
        yield Path(args.home).expanduser().absolute()
        return
    if not args.demo:
        yield Path(platformdirs.user_data_dir("volley", appauthor=False))
        return
    path = Path(tempfile.mkdtemp(prefix="volley-demo-"))
    (path / "desk.pid").write_text(str(os.getpid()), "ascii")  # as long as we live it is in use
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _token_for(args: argparse.Namespace) -> str:
    """Return the token for ``--connect``; empty when the window must ask."""
    given = os.environ.get("VOLLEY_TOKEN", "")
    if given:
        return given
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass.getpass(f"Token of the engine at {args.connect}: ").strip()
    if args.seconds:
        raise ConfigError("VOLLEY_TOKEN: expected the token of the engine to connect to")
    return ""


class _Session:
    """One run of the desk: brings window and engine together and takes them apart again."""

    def __init__(
        self,
        args: argparse.Namespace,
        home: Path,
        window: MainWindow,
        token: str,
        inline: InlineEngine | None,
    ) -> None:
        self.args = args
        self.home = home
        self.window = window
        self.token = token
        self.inline = inline
        self.recording: str = getattr(args, "replay", None) or ""
        self.client: EngineClient | None = None
        self.presence: asyncio.Task[None] | None = None
        self.status = 0
        self.failure = ""
        self.was_linked = False
        self._patience_ends = 0.0
        self._ended = asyncio.Event()

    async def run(self) -> int:
        """Run until the window is closed, the time is over, or a signal says stop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report)
        self._on_signals(loop)
        self.window.close_wanted.connect(self._ended.set)
        self.window.desk.store.link_changed.connect(self._on_link)
        beside = not (self.args.connect or self.args.inline or self.recording)
        if self.args.seconds:
            seconds = float(self.args.seconds)
            self._patience_ends = loop.time() + seconds + (_PATIENCE_S if beside else 0.0)
            loop.call_later(seconds, self._time_over)
        watching = self._watch_loop(loop)
        try:
            if not beside:
                self._build()
            async with self._engine():
                if beside:  # the engine's process starts first; all this happens meanwhile
                    await asyncio.sleep(0)
                    self._build()
                await self._ended.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._close()
        return self._verdict()

    def _build(self) -> None:
        self.window.build()
        self.window.status.ui_lag_ms = self._watch.lag_ms
        if not self.args.inline:
            load_remote()
        keep_to_this_thread()

    def _watch_loop(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        from gui.main_window import LoopWatch

        self._watch = LoopWatch()
        return loop.create_task(self._watch.run(), name="loop watch")

    def _verdict(self) -> int:
        if self.status == 0 and self.args.seconds and not self.was_linked:
            return _complain(self.failure or "the engine did not answer in that time")
        return self.status

    def _on_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        def stop(status: int) -> None:
            self.status = status
            self._ended.set()

        if os.name != "nt":  # Windows' loops take no handlers; closing the window is the way there
            loop.add_signal_handler(signal.SIGINT, stop, 130)
            loop.add_signal_handler(signal.SIGTERM, stop, 0)

    def _on_link(self) -> None:
        self.was_linked = self.was_linked or self.window.desk.store.connected

    def _time_over(self) -> None:
        """End in time; where this machine's own engine is still on its way, once it is shown."""
        loop = asyncio.get_running_loop()
        if not self.was_linked and not self.failure and loop.time() < self._patience_ends:
            loop.call_later(_LOOK_AGAIN_S, self._time_over)
            return
        if self.args.screenshot:
            self._take_picture(Path(self.args.screenshot))
        self._ended.set()

    def _take_picture(self, path: Path) -> None:
        from PySide6.QtGui import QPixmap

        ratio = self.window.devicePixelRatioF()
        picture = QPixmap(self.window.size() * ratio)
        picture.setDevicePixelRatio(ratio)
        self.window.render(picture)
        if not picture.save(str(path)):
            self.status = _complain(f"the picture cannot be written to {path}")

    async def _close(self) -> None:
        """Take the window down when all else has stopped."""
        window = self.window
        if not window.closing:
            window.finish()  # saves the layout
        await window.desk.tasks.stop()
        window.hide()
        window.close()

    # --- the engine ---------------------------------------------------------------------------

    def _engine(self) -> AbstractAsyncContextManager[None]:
        if self.recording:
            return self._recorded()
        if self.args.connect:
            return self._elsewhere()
        self.window.second_road = self._kill_beside
        return self._inside() if self.args.inline else self._beside()

    async def _use(self, client: EngineClient) -> None:
        """Show another engine."""
        from gui.bridge import present

        await self._leave()
        self.client = self.window.desk.client = client
        store = self.window.desk.store
        await client.start(store)
        self.presence = asyncio.get_running_loop().create_task(present(store, client))

    async def _leave(self) -> None:
        client, self.client = self.client, None
        if self.presence is not None:
            self.presence.cancel()
            await asyncio.gather(self.presence, return_exceptions=True)
            self.presence = None
        if client is not None:
            await client.stop()

    def _kill_beside(self, flatten: bool) -> None:
        from gui.supervisor import kill_beside

        kill_beside(self.home, flatten, self.window.kill_latched, self.window)

    @contextlib.asynccontextmanager
    async def _inside(self) -> AsyncIterator[None]:
        if self.inline is None:
            raise ConfigError("--inline: this start of the desk brings no engine of its own")
        self.window.stops_engine = not self.args.demo
        self.args.home = str(self.home)  # a demo's throw-away home is this one
        async with self.inline(self.args) as client:
            await self._use(client)
            try:
                yield
            finally:
                await self._leave()

    @contextlib.asynccontextmanager
    async def _recorded(self) -> AsyncIterator[None]:
        from engine.client import replay_client

        recording = await asyncio.to_thread(replay_client, Path(self.recording), self.args.day)
        self.client = self.window.desk.client = recording
        self.window.show_recording(recording)
        await recording.start(self.window.desk.store)
        try:
            yield
        finally:
            await self._leave()

    @contextlib.asynccontextmanager
    async def _elsewhere(self) -> AsyncIterator[None]:
        from engine.client import remote_client

        host = urlsplit(self.args.connect).hostname or ""
        self.window.desk.engine_here = host in _HERE
        token = self.token or await self._ask_token()
        if token:
            await self._use(remote_client(self.args.connect, token))
        else:
            self._ended.set()
        try:
            yield
        finally:
            await self._leave()

    async def _ask_token(self) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def take(text: str = "") -> None:
            if not answer.done():
                answer.set_result(text)

        self.window.close_wanted.connect(take)
        self.window.open_dialog("token", {"url": self.args.connect, "answer": take})
        return await answer

    @contextlib.asynccontextmanager
    async def _beside(self) -> AsyncIterator[None]:
        from gui.supervisor import Supervisor, engine_command

        extra = ["--demo"] if self.args.demo else []
        if self.args.config:
            extra += ["--config", str(self.args.config)]
        keeper = Supervisor(self.home, engine_command(self.home, extra), self._on_up, self._on_down)
        self._keeper = keeper
        self.window.stops_engine = not self.args.demo
        keeper.start()
        first = keeper.first
        if first is not None:
            first.add_done_callback(self._on_first)
        try:
            yield
        finally:
            await self._leave()
            await keeper.stop()

    async def _on_up(self, address: EngineAddress) -> None:
        from engine.client import remote_client

        self.window.set_condition("crash", None)
        if not address.ours:
            self.window.stops_engine = False
            self.window.desk.say(
                "info",
                "Attached",
                "An engine was already running on this home; closing the desk leaves it running.",
            )
        await self._use(remote_client(address.url, address.token))

    def _on_down(self, text: str, gave_up: bool) -> None:
        from engine.model.enums import ConnectionState
        from gui.banner import Condition

        self.failure = text
        button = "Start again" if gave_up else ""
        self.window.desk.store.on_link(ConnectionState.DISCONNECTED, "")
        self.window.set_condition(
            "crash", Condition("crit", text, button, self._keeper.again if gave_up else None)
        )

    def _on_first(self, first: asyncio.Future[None]) -> None:
        from gui.supervisor import WRONG_USE, EngineFailedError

        error = None if first.cancelled() else first.exception()
        if isinstance(error, EngineFailedError):
            self.failure = str(error)
            if error.status == WRONG_USE:
                self.status = (
                    WRONG_USE  # a wrong configuration: said on stderr by the engine itself
                )
                self._ended.set()


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no task caught."""
    error = context.get("exception")
    if isinstance(error, TradingError):
        log.warning("%s", error)
        return
    log.error("unexpected: %s", context.get("message"), exc_info=error)
