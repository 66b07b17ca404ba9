"""Alerts to people who are not at the desk: Telegram, e-mail, webhooks and a hundred more, by the library apprise.

A thread of its own takes them from a bounded queue, so that no channel's slowness is ever the order path's. The first
alert leaves at once; what comes within ``alerts.group_s`` after it is one message. In quiet hours only critical ones
leave, the rest waits for their end. A channel that fails becomes one local alert, until it works again.

A channel's URL is a credential: the configuration holds a reference to it (``env:NAME``, ``keyring:NAME``, or
``vault:NAME`` after ``volley alerts add NAME``); it is shown nowhere, and the logs of the libraries are off.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from datetime import time as clock_time
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from engine.clock import Clock
from engine.config import AlertsConfig
from engine.errors import CommandRefused, ConfigError
from engine.log import redact
from engine.model.commands import TestAlerts

if TYPE_CHECKING:
    from apprise import Apprise

log = logging.getLogger(__name__)

CODE: Final = "ALERT_CHANNEL"
RANK: Final = {"info": 0, "warning": 1, "critical": 2}
MOST_WAITING: Final = 1_000
MOST_LINES: Final = 20
RETRY_S: Final = (2.0, 8.0)
HOUR_S: Final = 3_600.0
FAREWELL_S: Final = 5.0
_MARKS: Final = {"info": "ℹ", "warning": "▲", "critical": "■"}
_KINDS: Final = {"info": "info", "warning": "warning", "critical": "failure"}


@dataclass(frozen=True, slots=True)
class Told:
    """One alert to pass on."""

    severity: str
    code: str
    account: str
    text: str


@dataclass(slots=True)
class Batch:
    """What goes into the next message: the last words of each kind of alert, and how often it was told."""

    lines: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)
    dropped: int = 0

    def add(self, told: Told) -> None:
        """Take one alert in."""
        key = (told.severity, told.code, told.account)
        if key in self.lines:
            self.lines[key][0] += 1
            self.lines[key][1] = told.text
        elif len(self.lines) < MOST_WAITING:
            self.lines[key] = [1, told.text]
        else:
            self.dropped += 1

    def take(self, least: int) -> Batch:
        """Take out what is at least so grave."""
        chosen = {key: line for key, line in self.lines.items() if RANK[key[0]] >= least}
        self.lines = {key: line for key, line in self.lines.items() if key not in chosen}
        dropped, self.dropped = self.dropped, 0
        return Batch(chosen, dropped)

    def compose(self, engine: str) -> tuple[str, str, str]:
        """Return severity, title and text of the message, gravest first."""
        ordered = sorted(self.lines.items(), key=lambda item: -RANK[item[0][0]])
        worst = ordered[0][0][0]
        total = sum(line[0] for line in self.lines.values())
        lines = []
        for (severity, code, account), (times, text) in ordered[:MOST_LINES]:
            about = " ".join(part for part in (code, account) if part)
            lines.append(
                f"{_MARKS[severity]} {about}: {text}" + (f" (×{times})" if times > 1 else "")
            )
        more = len(ordered) - MOST_LINES
        if more > 0 or self.dropped:
            lines.append(f"and {max(more, 0) + self.dropped} more; see the desk")
        title = f"Volley {engine}: {worst}" + (f", {total} alerts" if total > 1 else "")
        return worst, title, "\n".join(lines)


class Channels:
    """The channels of ``[alerts]``: each has a name that may be shown (``channel 1 (tgram)``) and sends, blocking."""

    def __init__(self, references: tuple[str, ...], reveal: Callable[[str], str]) -> None:
        self._references = references
        self._reveal = reveal
        self._made: dict[str, Apprise] = {}

    def open(self) -> None:
        """Load the library and make the channels; takes a few tenths of a second, so not on the order path's thread.

        Raises:
            ConfigError: a reference leads nowhere, or what it leads to is no channel.
        """
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # its modules look for what they can do without
            self._made = self._make()

    def _make(self) -> dict[str, Apprise]:
        import apprise

        for name in ("apprise", "urllib3"):  # they write addresses with the secrets in them
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        made: dict[str, Apprise] = {}
        for number, reference in enumerate(self._references, 1):
            channel = apprise.Apprise()
            url = self._reveal(reference)
            if not channel.add(url):
                raise ConfigError(
                    f"alerts.channels: entry {number} leads to no address that apprise knows"
                )
            made[f"channel {number} ({url.partition(':')[0]})"] = channel
        return made

    def send(
        self, severity: str, title: str, text: str, only: set[str] | None = None
    ) -> dict[str, str]:
        """Send to every channel, or to ``only`` those; return why not by channel, empty where it went."""
        return {
            name: self._send_one(channel, severity, title, text)
            for name, channel in self._made.items()
            if only is None or name in only
        }

    @staticmethod
    def _send_one(channel: Apprise, severity: str, title: str, text: str) -> str:
        try:
            sent = channel.notify(title=title, body=text, notify_type=_KINDS[severity])
        except Exception as error:  # noqa: BLE001 (a library of a hundred services; no failure of one may end the thread)
            return type(error).__name__  # its words may hold the address
        return "" if sent else "it was not taken"


class AlertChannels:
    """Passes alerts on. ``start`` and ``stop`` make it a service of the engine; ``tell`` never blocks.

    ``reveal`` finds a channel's address (engine.stores.channel_store). ``failed`` is called on the engine's loop, with
    a sentence, when a channel stops working.
    """

    def __init__(
        self,
        config: AlertsConfig,
        engine: str,
        reveal: Callable[[str], str],
        clock: Clock,
        failed: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._config = config
        self._engine = engine
        self._clock = clock
        self._failed = failed
        self._channels = Channels(config.channels, reveal)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._least = RANK[config.min_severity]
        self._queue: queue.Queue[Told | None] = queue.Queue(MOST_WAITING)
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._opened = threading.Event()
        self._broken: set[str] = set()
        self._sent_at: deque[float] = deque()

    async def start(self) -> None:
        """Begin; the library is loaded in the thread."""
        if self._config.channels:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
            self._thread.start()

    async def stop(self) -> None:
        """Send what waits, once, and end."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ending.set()
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        await asyncio.to_thread(thread.join, FAREWELL_S)

    def tell(self, severity: str, code: str, account: str, text: str) -> None:
        """Pass an alert on if it is grave enough; forgotten when too many wait."""
        if self._thread is None or RANK.get(severity, 0) < self._least or code == CODE:
            return
        try:
            self._queue.put_nowait(Told(severity, code, account, text))
        except queue.Full:
            self._dropped += 1

    async def probe(self, _command: TestAlerts) -> dict[str, Any]:
        """Carry out the command: send a message to every channel now.

        Raises:
            CommandRefused: there is no channel, or one cannot be made.
        """
        answers = await asyncio.to_thread(self.test)
        found = [{"channel": name, "problem": why} for name, why in answers.items()]
        return {"result": "sent", "channels": found}

    def test(self) -> dict[str, str]:
        """Send a message to every channel now, whatever the hour; blocking. Returns why not by channel.

        Raises:
            CommandRefused: there is no channel, or one cannot be made.
        """
        if not self._config.channels:
            raise CommandRefused("NO_CHANNEL", "alerts.channels in volley.toml names none.", 409)
        try:
            self._channels.open()
        except ConfigError as error:
            raise CommandRefused("NO_CHANNEL", str(error), 409) from error
        return self._channels.send(
            "info", f"Volley {self._engine}: test", "Alerts of this engine reach you here."
        )

    # ---- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._channels.open()
        except Exception as error:  # noqa: BLE001 (said as an alert: there is nobody above to catch it)
            why = str(error) if isinstance(error, ConfigError) else type(error).__name__
            self._fail(f"alerts reach nobody outside: {why}")
            return
        batch = Batch()
        while not self._ending.is_set():
            self._collect(batch, self._wait_s(batch))
            if self._due(batch):
                self._pass_on(batch.take(self._quiet_rank()), RETRY_S)
        self._collect(batch, 0.0)
        farewell = batch.take(self._quiet_rank())
        if farewell.lines:
            self._pass_on(farewell, ())

    def _collect(self, batch: Batch, wait_s: float | None) -> None:
        """Take what waits, or wait for something."""
        with suppress(queue.Empty):
            told = self._queue.get(timeout=wait_s) if wait_s != 0 else self._queue.get_nowait()
            while True:
                if told is not None:
                    batch.add(told)
                told = self._queue.get_nowait()
        dropped, self._dropped = self._dropped, 0
        batch.dropped += dropped

    def _wait_s(self, batch: Batch) -> float | None:
        if not batch.lines:
            return None
        if not self._leaves(batch):
            return 30.0  # quiet hours end by the clock on the wall
        return min(max(self._pause_s(), 0.01), 30.0)

    def _pause_s(self) -> float:
        """Return how long the next message has to wait: of the last one, and of those of the hour."""
        now = time.monotonic()
        while self._sent_at and self._sent_at[0] <= now - HOUR_S:
            self._sent_at.popleft()
        after_last = self._sent_at[-1] + self._config.group_s - now if self._sent_at else 0.0
        full = len(self._sent_at) >= self._config.max_per_hour
        return max(after_last, self._sent_at[0] + HOUR_S - now if full else 0.0)

    def _quiet_rank(self) -> int:
        return RANK["critical"] if is_quiet(self._config, self._clock.now()) else 0

    def _leaves(self, batch: Batch) -> bool:
        least = self._quiet_rank()
        return any(RANK[key[0]] >= least for key in batch.lines)

    def _due(self, batch: Batch) -> bool:
        return self._leaves(batch) and self._pause_s() <= 0

    def _pass_on(self, batch: Batch, tries: tuple[float, ...]) -> None:
        severity, title, text = map(redact, batch.compose(self._engine))
        self._sent_at.append(time.monotonic())
        failures = self._channels.send(severity, title, text)
        for pause in tries:
            missed = {name for name, why in failures.items() if why}
            if not missed or self._ending.wait(pause):
                break
            failures |= self._channels.send(severity, title, text, missed)
        self._tell_failures(failures)

    def _fail(self, text: str) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._failed, text)

    def _tell_failures(self, failures: Mapping[str, str]) -> None:
        for name, why in failures.items():
            if why and name not in self._broken:
                self._fail(f"{name} does not take alerts: {why}; they are shown here only")
            self._broken = self._broken | {name} if why else self._broken - {name}


def is_quiet(config: AlertsConfig, now: datetime) -> bool:
    """Say whether only critical alerts may leave now; hours that end before they begin go over midnight."""
    if not config.quiet_hours:
        return False
    begin, end = (clock_time.fromisoformat(part) for part in config.quiet_hours.split("-"))
    at = now.astimezone(ZoneInfo(config.quiet_zone)).time()
    return begin <= at < end if begin <= end else at >= begin or at < end
