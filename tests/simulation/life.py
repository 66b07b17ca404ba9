"""One life of the engine: built by the real wiring over simulated outside, until it crashes or is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import Config
from engine.home import Home
from engine.model.account import Account
from engine.model.order import Order
from engine.outside import Outside, Stores
from engine.ports import AccountsChanged
from engine.trading_engine import TradingEngine
from engine.wiring import build_engine
from tests.simulation.disk import SimJournal
from tests.simulation.loop import VirtualLoop
from tests.simulation.session import SimAdapter, SimSession
from tests.simulation.venue import Request, VenueAccount, VenueOrder
from tests.simulation.world import SimClock

if TYPE_CHECKING:
    from tests.simulation.day import Day


class SimStore:
    """The account store (``engine.ports.AccountStore``) of one life, over documents that outlive it."""

    def __init__(self, documents: dict[str, Account]) -> None:
        self._documents = documents
        self._edited = asyncio.Event()

    def edited(self) -> None:
        """Take the news that documents changed."""
        self._edited.set()

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to release."""

    async def load(self) -> list[Account]:
        """Return every account."""
        await asyncio.sleep(0.001)
        return list(self._documents.values())

    def problems(self) -> dict[str, str]:
        """Every document can be read."""
        return {}

    async def get(self, account_id: str) -> Account | None:
        """Return one account."""
        return self._documents.get(account_id)

    async def put(self, accounts: Any) -> None:
        """Insert or replace accounts."""
        self._documents.update({account.id: account for account in accounts})
        self.edited()

    async def remove(self, account_id: str) -> bool:
        """Remove one."""
        return self._documents.pop(account_id, None) is not None

    async def watch(self, changed: AccountsChanged) -> None:
        """Tell of changes."""
        while True:
            await self._edited.wait()
            self._edited.clear()
            await asyncio.sleep(0.25)
            await changed(())


class _PlainVault:
    """A vault without secrets: the simulated brokers ask for none."""

    def seal(self, account_id: str, name: str, text: str) -> str:
        del account_id, name
        return text

    def reveal(self, account_id: str, name: str, stored: str) -> str:
        del account_id, name
        return stored


class Life:
    """An engine and what belongs to its process."""

    def __init__(self, day: Day, number: int, home: Path, config: Config) -> None:
        self.day = day
        self.number = number
        self.world = day.world
        self.venue = day.venue
        self.malice = day.malice
        self.loop = VirtualLoop(day.world)
        self.clock = SimClock(day.world)
        self.journal = SimJournal(day.disk, self.clock)
        self.sessions: dict[str, SimSession] = {}
        self.store: SimStore | None = None
        self.engine: TradingEngine | None = None
        self.dead = False
        self.up = False  # it takes signals and commands
        self.ended = False  # it stopped, or could not start
        self._home = home
        self._config = config
        self._tasks: list[asyncio.Task[Any]] = []

    # ---- life ------------------------------------------------------------------------------------------------

    def begin(self, *, start: bool = True) -> None:
        """Let the process begin; with ``start=False`` it only recovers."""
        self.loop.call_soon(lambda: self.hold(self._run(start)))

    async def _run(self, start: bool) -> None:
        self.store = SimStore(self.day.documents)
        outside = Outside(
            clock=self.clock,
            journal=self.journal,
            vault=_PlainVault(),
            stores=self._stores,
            adapter=lambda name: SimAdapter(name, self),
        )
        self.engine = await build_engine(Home(self._home), self._config, outside)
        if start:
            await self.engine.start()
        self.up = True
        self.world.trace("up", self.number)
        if start:
            self.day.began(self)

    async def _stores(self, home: Home, config: Config) -> Stores:
        del home, config
        assert self.store is not None
        return self.store, None, None

    def stop(self) -> None:
        """Stop in an orderly way."""
        if self.up:
            self.up = False
            self.loop.call_soon(lambda: self.hold(self._stop()))

    async def _stop(self) -> None:
        assert self.engine is not None
        await self.engine.stop()
        self.ended = True

    def kill(self) -> None:
        """Die: nothing of it has any effect any more."""
        self.dead = True
        self.up = False
        self.journal.kill()
        self.loop.kill()
        shared = self.engine.shared if self.engine is not None else None
        if shared is not None and not shared._memory.closed:
            shared.close()  # the system closes what a dead process had open

    def hold(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work beside; what goes wrong in it is a finding."""
        task = self.loop.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.ended = not self.up
            self.day.failed(self, error)

    # ---- what sessions tell ------------------------------------------------------------------------------------

    def keep(self, session: SimSession) -> SimSession:
        """Remember an account's newest session."""
        self.sessions[session.account_id] = session
        return session

    def streamed(self, order: VenueOrder, report: Any) -> None:
        """Carry an event of an order stream to the account's session, if it has one."""
        session = self.sessions.get(order.account)
        if session is not None and session.up:
            session.streamed(order, report)

    def another_account(self, account: str) -> SimSession | None:
        """Return some other account's session."""
        others = [s for name, s in self.sessions.items() if name != account and s.up]
        return self.world.rng("crossed").choice(others) if others else None

    def sent(self, account: str, order: Order) -> None:
        """Note that an order's first byte leaves."""
        self.day.oracle.sent(account, order)

    def changed(self, account: str, verb: str, order: Order) -> None:
        """Note that a cancel or a replace leaves."""
        self.world.trace(verb, account, order.cl_ord_id)
        self.world.counts[verb] += 1

    def arrived(self, account: VenueAccount, request: Request, *, beyond: bool = False) -> None:
        """Note that an order is about to be accepted."""
        self.day.oracle.arrived(account, request, beyond=beyond)

    def cancel_arrived(self, order: VenueOrder) -> None:
        """Note that a cancel arrives."""
        self.day.oracle.cancel_arrived(order)
