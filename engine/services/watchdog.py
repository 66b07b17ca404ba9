"""The watchdog: a small process beside the engine that acts when the engine's loop stands still (C19, F37).

It reads the beats in ``HOME/latch``. After ``WARN_S`` without one it says so in ``HOME/watchdog.json``; after
``safety.watchdog_s`` it latches a halt of everything and has ``main.py kill --out-of-band`` cancel at the brokers.
It never acts on an engine that is starting, stopping or gone, and counts only time in which it ran itself: when the
machine sleeps, both stand still. Its stdin is the engine's hold on it: closed, it ends.

With ``safety.kill_standby`` it is ready to cancel by itself (engine.kill_standby), in a thread that begins once the
engine runs. The rest is the standard library and light modules of ours: it must start beside an engine that starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from engine.child import own_command
from engine.kill_latch import BEATS, FILE, FIRM, RUNNING, STALLED_MS, STATE, KillLatch

POLL_S: Final = 0.25
WARN_S: Final = 2.0
STAND_BY_AFTER_S: Final = 2.0
"""An engine that starts has better use for the processor."""
REPORT: Final = "watchdog.json"


class Watchdog:
    """Watches one engine. ``options``: how the command line names home and configuration.

    ``standby``: waits, ready to cancel, until what it is given says that the engine has gone; ``None``: nobody does.
    """

    def __init__(
        self,
        home: Path,
        after_s: float,
        options: Sequence[str],
        standby: Callable[[Watchdog, Callable[[], bool]], None] | None = None,
    ) -> None:
        self._report = home / REPORT
        self._after_s = after_s
        self._options = options
        self._shared = KillLatch(home / FILE)
        self._beats = -1
        self._stalled_s = 0.0
        self._warned = False
        self._kill: subprocess.Popen[bytes] | None = None
        self._hearing: threading.Thread | None = None
        self._said = b""
        self._result: dict[str, Any] = {}  # of the last kill
        self._standby = standby
        self._acted = False
        self._gone = threading.Event()

    def run(self) -> None:
        """Watch until the engine lets go."""
        threading.Thread(target=self._hold, name="lifeline", daemon=True).start()
        ready = threading.Thread(target=self._stand_by, name="standby", daemon=True)
        ready.start()
        last = time.monotonic()
        while not self._gone.wait(POLL_S):
            now = time.monotonic()
            self.look(min(now - last, 2 * POLL_S))
            last = now
        if self._kill is not None:  # begun, it is brought to its end
            assert self._hearing is not None
            self._hearing.join()
            self._note_result()
        elif self._warned:
            self.say("gone", "the engine ended while it stood still")
        ready.join()
        self._shared.close()

    def _hold(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        self._gone.set()

    def _stand_by(self) -> None:
        while self._shared.words[STATE] != RUNNING:
            if self._gone.wait(POLL_S):
                return
        if self._standby is None or self._gone.wait(STAND_BY_AFTER_S):
            return
        try:
            self._standby(self, self._gone.is_set)
        except Exception as error:  # noqa: BLE001 (the watch goes on without it)
            self.say("failed", f"not ready to cancel by itself: {type(error).__name__}: {error}")

    def look(self, passed_s: float) -> None:
        """Look once, ``passed_s`` after the last time."""
        words = self._shared.words
        if self._hearing is not None and not self._hearing.is_alive():
            self._note_result()
        if words[STATE] != RUNNING or words[BEATS] != self._beats:
            self._beats = words[BEATS]
            if self._warned:
                self.say("ok", f"the engine moves again after {self._stalled_s:.1f} s")
            self._stalled_s = 0.0
            self._warned = self._acted = False
            return
        self._stalled_s += passed_s
        if self._stalled_s >= WARN_S:
            words[STALLED_MS] = int(self._stalled_s * 1000)
            if not self._warned:
                self._warned = True
                self.say("hung", "the engine gives no sign of life")
        if self._stalled_s >= self._after_s and not self._acted:
            self._acted = True
            self._act()

    def _act(self) -> None:
        """Halt everything, durably; then cancel in the engine's stead."""
        reason = f"ENGINE_HUNG: no sign of life for {self._stalled_s:.0f} s"
        now = _now()
        try:
            self._shared.halt(FIRM, reason, "watchdog", now, unfinished=True)
            self._shared.press()
            self._shared.sync()
        except OSError as error:
            self.say("acting", f"the latch is in force and not durable: {error}")
        if self._shared.watchdog_ready():
            self.say("acting", f"{reason}: latched")  # our own thread sees the press
            return
        command = own_command(*self._options, "kill", "--out-of-band", "--json", "--reason", reason)
        try:
            self._kill = subprocess.Popen(  # noqa: S603 (our own program)
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self.say("failed", f"latched; nothing can be canceled from here: {error}")
            return
        # While it runs: many accounts' outcomes are more than a pipe holds, and it would wait for ever.
        self._hearing = threading.Thread(
            target=self._hear, args=(self._kill,), name="kill", daemon=True
        )
        self._hearing.start()
        self.say("acting", f"{reason}: latched, canceling at the brokers")

    def _hear(self, kill: subprocess.Popen[bytes]) -> None:
        self._said, _ = kill.communicate()

    def _note_result(self) -> None:
        kill, self._kill, self._hearing = self._kill, None, None
        assert kill is not None
        try:
            result = json.loads(self._said)
        except ValueError:
            result = {}
        self.tell_result({**result, "clear": kill.returncode == 0})

    def tell_result(self, result: dict[str, Any]) -> None:
        """Leave word of what came of a kill."""
        self._result = result
        clear = result["clear"]
        text = "canceled at the brokers, nothing works any more" if clear else "not clear"
        self.say("acted" if clear else "failed", text)

    def say(self, state: str, text: str) -> None:
        """Leave word for the desk and for who pressed, which the engine cannot tell."""
        document = {
            "state": state,
            "text": text,
            "at": _now(),
            "stalled_s": round(self._stalled_s, 1),
            "result": self._result,
        }
        draft = self._report.with_name(f".{REPORT}.{os.getpid()}.{threading.get_ident()}")
        with contextlib.suppress(OSError):  # the latch is what counts
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=2)
            os.replace(draft, self._report)


def _now() -> str:
    return datetime.now(UTC).isoformat("T", "microseconds")[:26] + "Z"


def watch(
    home: Path,
    after_s: float,
    options: Sequence[str],
    standby: Callable[[Watchdog, Callable[[], bool]], None] | None = None,
) -> None:
    """Watch the engine of ``home``. A ^C in its terminal is the engine's to take."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    Watchdog(home, after_s, options, standby).run()
