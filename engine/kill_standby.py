"""Ready to cancel beside the engine: connected, credentials open, an eye on the latch (``HOME/latch``).

A press that the engine does not answer within ``ANSWER_S`` (or answers, and does not carry out within ``CARRY_S``) is
carried out here. Both doing it does no harm: a cancel repeated cancels nothing else. An engine that starts or stops
is left alone: it obeys the latch first, and another process that pressed sees to the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Final

from engine.config import Config
from engine.errors import TradingError
from engine.home import Home
from engine.kill_act import Act, Pressed
from engine.kill_books import accounts_of
from engine.kill_clearing import Outcome
from engine.kill_connections import Connections
from engine.kill_latch import (
    CARRIED,
    FIRM,
    GENERATION,
    KEPT,
    PRESSED_NS,
    READY_NS,
    RUNNING,
    SEEN,
    STATE,
    TAKEN,
    KillLatch,
    Record,
)
from engine.kill_out_of_band import Accounts, OutOfBandKill
from engine.model.account import Account

LOOK_S: Final = 0.01
ANSWER_S: Final = 0.05
CARRY_S: Final = 0.5
RELOAD_S: Final = 5.0
"""How often the files that hold accounts are looked at for changes."""
SERVERS_RELOAD_S: Final = 60.0
"""How often accounts kept on a server are read again."""
AT_ONCE: Final = 4
"""Accounts connecting at a time: nobody waits for these connections."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one press."""

    press: int
    cancels_ms: float
    outcomes: list[Outcome]

    @property
    def clear(self) -> bool:
        """Say whether nothing works any more in any account."""
        return bool(self.outcomes) and all(outcome.clear for outcome in self.outcomes)


class Standby:
    """``say`` is told in words what it does, ``done`` what came of it; both may write a file."""

    def __init__(
        self,
        home: Home,
        config: Config,
        shared: KillLatch,
        say: Callable[[str], None],
        done: Callable[[Result], None],
    ) -> None:
        self._home = home
        self._shared = shared
        self._say = say
        self._done = done
        self._config = config
        self._connections = Connections(home, self._config)
        self._accounts: Accounts = ([], {})
        self._files: dict[Path, tuple[int, int]] = {}
        self._read_at = 0.0
        self._known = shared.words[GENERATION]
        self._acting: set[asyncio.Task[None]] = set()

    async def run(self, gone: Callable[[], bool]) -> None:
        """Connect, then watch until the engine has gone; what has begun by then is brought to its end."""
        keeping = asyncio.create_task(self._keep_ready(gone))
        try:
            while not gone():
                if self._read_at:  # the accounts are known
                    self._shared.words[READY_NS] = monotonic_ns()
                    self.look()
                await asyncio.sleep(LOOK_S)
            await asyncio.gather(*self._acting, return_exceptions=True)
        finally:
            self._shared.words[READY_NS] = self._shared.words[KEPT] = 0
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await self._connections.close()

    @property
    def idle(self) -> bool:
        """Say whether the latest press was dealt with."""
        return not self._acting and self._known == self._shared.words[GENERATION]

    # ---- the latch ---------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look once at the latch, and act where the engine does not."""
        words = self._shared.words
        press = words[GENERATION]
        if press == self._known:
            return
        if words[STATE] != RUNNING or press in {words[TAKEN], words[CARRIED]}:
            self._known = press
            return
        passed = (monotonic_ns() - words[PRESSED_NS]) / 1e9
        if passed < ANSWER_S or (words[SEEN] == press and passed < CARRY_S):
            return
        self._known = words[TAKEN] = press
        why = "did not carry out" if words[SEEN] == press else "did not answer"
        self._say(f"the engine {why} the kill switch within {passed * 1e3:.0f} ms: canceling here")
        # Beside one that goes on: a wider press does not wait for a broker that does not answer an earlier one.
        task = asyncio.create_task(self._act(press, words[PRESSED_NS]))
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)

    async def _act(self, press: int, pressed_ns: int) -> None:
        records = [record for record in self._shared.halts() if record["open"]]
        records = [record for record in records if record["scope"] == FIRM] or records
        kills: list[OutOfBandKill] = []
        found = await asyncio.gather(
            *(self._carry_out(record, press, pressed_ns, kills) for record in records),
            return_exceptions=True,
        )
        outcomes: list[Outcome] = []
        for record, part in zip(records, found, strict=True):
            if isinstance(part, BaseException):
                outcomes.append(Outcome("-", "-", error=f"{record['scope']}: {part}"))
                continue
            outcomes += part
            if part and all(one.clear and one.broker != "paper" for one in part):
                self._shared.finish(record["scope"])
        with contextlib.suppress(OSError):  # it is in force; what came of it is told all the same
            await asyncio.to_thread(self._shared.sync)
        self._done(Result(press, max((kill.canceled_ms for kill in kills), default=0.0), outcomes))

    async def _carry_out(
        self, record: Record, press: int, pressed_ns: int, kills: list[OutOfBandKill]
    ) -> list[Outcome]:
        """Cancel a scope's orders in the accounts that are known, and in those that came since they were read."""

        def begin(accounts: Accounts) -> asyncio.Task[list[Outcome]]:
            kills.append(kill := self._kill(record, press, pressed_ns, accounts))
            return asyncio.create_task(kill.run())

        parts = [begin(self._accounts)]
        outcomes: list[Outcome] = []
        try:
            new = await self._come_since()
            if any(new):
                parts.append(begin(new))
        except Exception as error:  # noqa: BLE001 (whatever goes wrong: it is not known who is missing)
            text = f"which accounts came last cannot be read: {error}"
            outcomes.append(Outcome("-", "-", error=text))
        for part in parts:
            outcomes += await part
        return outcomes

    async def _come_since(self) -> Accounts:
        """Return the accounts that are new, or other than those known: the engine takes them in within a second."""
        await asyncio.sleep(LOOK_S)  # the cancels for those known leave first
        if self._config.storage.profile != "servers" and self._stamps() == self._files:
            return [], {}
        async with asyncio.timeout(RELOAD_S):
            accounts, unreadable = await accounts_of(self._home, self._config)
        known = {account.id: account for account in self._accounts[0]}
        unknown = self._accounts[1]
        return (
            [account for account in accounts if account != known.get(account.id)],
            {name: text for name, text in unreadable.items() if name not in unknown},
        )

    def _kill(
        self, record: Record, press: int, pressed_ns: int, accounts: Accounts
    ) -> OutOfBandKill:
        scope = record["scope"]
        act = Act(scope, record["reason"], "watchdog")
        pressed = Pressed(0.0, record["at"], press, pressed_ns)
        kill = OutOfBandKill(self._home, self._config, act, pressed, self._connections, accounts)
        kill.stands = lambda: self._shared.stands(scope)
        kill.shared = self._shared
        return kill

    # ---- being ready -------------------------------------------------------------------------------------------

    async def _keep_ready(self, gone: Callable[[], bool]) -> None:
        """Follow the accounts: connect those that came or changed, let go those that went."""
        while not gone():
            try:
                if not self._acting and self._changed():
                    await self._take_over(await accounts_of(self._home, self._config))
            except Exception as error:  # noqa: BLE001 (whatever goes wrong, it follows on)
                self._files = {}  # read again at the next look
                log.warning("standby: %s", error)
            self._shared.words[KEPT] = self._connections.connected
            await asyncio.sleep(RELOAD_S)

    def _changed(self) -> bool:
        """Say whether accounts or credentials may be others than were read."""
        if self._config.storage.profile == "servers":
            return monotonic() - self._read_at > SERVERS_RELOAD_S
        stamps = self._stamps()
        changed = stamps != self._files
        self._files = stamps
        return changed

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        names = ("accounts.sqlite3", "accounts.sqlite3-wal", "vault.key")
        return {path: _stamp(path) for path in (self._home.path / name for name in names)}

    async def _take_over(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._read_at = monotonic()
        wanted = {account.id: account for account in accounts[0] if account.active}
        kept = self._connections.kept()
        for gone in kept.keys() - wanted.keys():
            await self._connections.let_go(gone)
        turn = asyncio.Semaphore(AT_ONCE)
        fresh = [account for name, account in wanted.items() if kept.get(name) != account]
        await asyncio.gather(*(self._connect(account, turn) for account in fresh))

    async def _connect(self, account: Account, turn: asyncio.Semaphore) -> None:
        async with turn:
            try:
                await self._connections.keep_ready(account)
            except TradingError as error:
                log.warning("standby: %s", error)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
