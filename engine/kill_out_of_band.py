"""The kill switch in a process of its own: cancels everything at the brokers while the engine hangs or is gone.

It shares nothing with the engine but files: it latches first (``HOME/latch``), reads journal and accounts, speaks to
the brokers over sessions of its own, follows no order stream and renews no token. What it believes is each broker's
own list of working orders, read until it stays empty for as long as an order may take to show.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from time import monotonic, monotonic_ns
from typing import Any, Final

from engine.clock import rfc3339
from engine.config import Config
from engine.errors import StoreError, TradingError
from engine.home import Home
from engine.kill_act import Act, Pressed
from engine.kill_books import Books, accounts_of
from engine.kill_clearing import Clearing, Outcome
from engine.kill_connections import Connections, Line
from engine.kill_exits import KillExits
from engine.kill_latch import SWEEP_NS, KillLatch
from engine.model.account import Account
from engine.model.identifiers import OPERATOR
from engine.model.messages import ExecutionReport
from engine.model.numbers import ZERO
from engine.model.order import Order

AT_ONCE: Final = 32
"""Lists read from one place at a time."""
TURN_WITHIN_S: Final = 20.0
"""How long another process that closes positions is waited for: longer than it waits for its exits to fill."""
SWEEPS_WITHIN_S: Final = 2 * SWEEP_NS / 1e9
NOTE_WITHIN_S: Final = 2.0
"""A disk that has not noted the exits by then is not waited for."""
_LOOK_EVERY_S: Final = 0.02
Accounts = tuple[list[Account], dict[str, str]]
"""Those that can be read, and why others cannot (by id)."""


class OutOfBandKill:
    """Cancels a scope's orders at every broker, from this process alone; ``latch`` comes first.

    ``connections``: where lines come from, maybe ready ones; it stays its owner's. ``accounts``: known beforehand, with
    why others cannot be read. ``stands`` says whether the halt does still: armed again, nothing more is cancelled.
    """

    def __init__(
        self,
        home: Home,
        config: Config,
        act: Act,
        pressed: Pressed,
        connections: Connections | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self._home = home
        self._config = config
        self._act = act
        self._since = pressed.since
        passed = timedelta(microseconds=(monotonic_ns() - pressed.at_ns) / 1000)
        self._pressed_at = rfc3339(datetime.now(UTC) - passed)
        self._no_exits: set[str] = set()  # ClOrdIDs that were looked up
        self._kind, _, self._name = act.scope.partition(":")
        self._books = Books(home.journal)
        self._connections = connections
        self._accounts = accounts
        self._places: dict[tuple[str, str | None], asyncio.Semaphore] = {}
        self._began_ns = pressed.at_ns
        self._give_up_at = monotonic() + act.give_up_s
        self.reply_timeout_s = float(config.engine.reply_timeout_s)
        self.stands: Callable[[], bool] = lambda: True
        self._turn = asyncio.Lock()
        self._ours: bool | None = None  # whether positions may be closed from here
        self._no_note = ""  # why exits cannot be noted
        self.shared: KillLatch | None = None
        """The latch that was pressed; ``None``: it could not be written."""
        self.problem = ""
        """Why the journal could not be read: what is ours is not known then."""
        self.canceled_ms = 0.0
        """When the last order's first cancel left, counted from the press."""

    async def run(self) -> list[Outcome]:
        """Carry it out; every account of the scope has its outcome.

        Raises:
            StoreError: the accounts cannot be read.
        """
        own = self._connections is None
        connections = self._connections or Connections(self._home, self._config)
        reading = asyncio.create_task(self._read_books())
        try:
            accounts, unreadable = self._accounts or await accounts_of(self._home, self._config)
            chosen = [account for account in accounts if self._touches(account)]
            outcomes = await asyncio.gather(
                *(self._account(account, connections, reading) for account in chosen)
            )
        finally:
            await reading
            if own:
                await connections.close()
            if self._outside is not None:
                self._outside.close()
        return outcomes + [
            Outcome(account, "?", error=f"its document cannot be read: {text}")
            for account, text in unreadable.items()
        ]

    @functools.cached_property
    def _outside(self) -> KillExits | None:
        return None if self.shared is None else KillExits(self.shared)

    async def _read_books(self) -> None:
        await asyncio.sleep(0)  # what needs no journal leaves first
        try:
            await asyncio.to_thread(self._books.read)
        except StoreError as error:
            self.problem = str(error)

    def _touches(self, account: Account) -> bool:
        if self._kind == "account":
            return account.id == self._name
        return self._kind != "broker" or account.broker == self._name

    # ---- one account -------------------------------------------------------------------------------------------

    async def _account(
        self, account: Account, connections: Connections, reading: asyncio.Task[None]
    ) -> Outcome:
        outcome = Outcome(account.id, account.broker)
        if account.broker == "paper":
            # Its venue is the engine: nothing of it lives on beside it, and a living one knows what we cannot.
            outcome.clear = True
            outcome.error = "practice: the engine cancels it before it does anything else"
            return outcome
        try:
            line = connections.line(account)
        except TradingError as error:
            outcome.error = str(error)
            return outcome
        clearing = Clearing(self, line, outcome)
        try:
            await self._begin(line, clearing, reading)
            if self.problem and not self.whole_accounts:
                outcome.error = self.problem
                return outcome
            place = (account.broker, account.base_url)
            async with self._places.setdefault(place, asyncio.Semaphore(AT_ONCE)):
                await (clearing.rehearse() if self._act.drill else clearing.sweep())
            if self._act.drill:
                return outcome
            await clearing.cancel_all(self._give_up_at)
            await clearing.read_positions()
            if self._act.flatten and outcome.verified_at is not None:
                await clearing.flatten(self._books.book, self._since)
        except TradingError as error:
            outcome.clear = False
            outcome.error = str(error)
        finally:
            if not line.ready:
                await line.session.stop()
        return outcome

    async def _begin(self, line: Line, clearing: Clearing, reading: asyncio.Task[None]) -> None:
        """Ask for what can be asked without any list, as soon as the line is up and before anything else."""
        starting = None if line.ready else asyncio.create_task(line.session.start())
        try:
            if starting is not None:
                await asyncio.sleep(0)  # its wire takes requests from now on
            in_one = not self._act.drill and await clearing.cancel_in_one()
            await reading
            clearing.know(self.ours_of_scope(line.account.id))
            if not self._act.drill and not in_one:
                await clearing.cancel_known()
        finally:
            if starting is not None:
                await starting

    def elapsed_ms(self) -> int:
        """Return the milliseconds since the press."""
        return round((monotonic_ns() - self._began_ns) / 1e6)

    def note_cancel(self, at_ns: int) -> None:
        """Take the time: an order's first cancel left."""
        self.canceled_ms = max(self.canceled_ms, (at_ns - self._began_ns) / 1e6)

    def begin_sweep(self, account: str) -> bool:
        """Announce a cancel of all; say whether it may leave."""
        if self.shared is None or self._outside is None:
            return True
        if not self.shared.begin_sweep(self._began_ns):
            return False
        # An act that closes positions itself takes those exits over.
        if self._act.flatten or not self._outside.of(account):
            return True
        self.shared.end_sweep(proven=True)
        return False

    def end_sweep(self, *, proven: bool) -> None:
        """Note that it was answered; ``proven``: it cancels nothing new any more."""
        if self.shared is not None:
            self.shared.end_sweep(proven=proven)

    # ---- exits ----------------------------------------------------------------------------------------------------

    async def turn_to_close(self) -> bool:
        """Wait until positions may be closed from here; ``False``: another process is at it."""
        async with self._turn:
            if self._ours is None:
                self._ours = await self._take_turn()
            if self._ours and self.shared is not None:
                self.shared.begin_exits()
        await self._no_sweep()
        return self._ours

    async def _take_turn(self) -> bool:
        if self._outside is None:
            return True
        until = monotonic() + TURN_WITHIN_S
        try:
            while not self._outside.try_turn():
                if monotonic() > until:
                    return False
                await asyncio.sleep(_LOOK_EVERY_S)
        except OSError as error:  # a full or broken disk: positions are closed all the same
            self._no_note = error.strerror or str(error)
        return True

    async def announce(self, exits: list[Order]) -> str:
        """Note exits durably, then wait for what may cancel them all the same; return why that is not sure."""
        rows = [
            {
                "id": order.cl_ord_id,
                "account": order.account,
                "symbol": order.symbol,
                "scope": self._act.scope,
                "since": self._since,
            }
            for order in exits
        ]
        if self._outside is not None and self.shared is not None and not self._no_note:
            try:
                async with asyncio.timeout(NOTE_WITHIN_S):
                    await asyncio.to_thread(self._outside.note, rows)
                    await asyncio.to_thread(
                        self.shared.sync
                    )  # and that positions are closed outside
            except OSError as error:  # TimeoutError, too: a disk that hangs holds no exit up
                self._no_note = error.strerror or str(error) or "the disk does not answer"
        await self._no_sweep()
        if not self._no_note:
            return ""
        return f"its exits are not noted ({self._no_note}): an engine that moves may cancel them"

    async def _no_sweep(self) -> None:
        """Wait until no cancel of all that left elsewhere can come to a broker, and take exits with it."""
        until = monotonic() + SWEEPS_WITHIN_S
        while self.shared is not None and self.shared.sweep_left_s(own=False):
            if monotonic() > until:
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    def noted(self, account: str, symbol: str) -> set[str]:
        """Return the exits of a position that a process like this one has sent under this halt (ClOrdIDs)."""
        return set() if self._outside is None else self._outside.of(account, symbol)

    # ---- the scope ---------------------------------------------------------------------------------------------

    def ours_of_scope(self, account: str) -> dict[str, Order | None]:
        """Return what the journal thinks is not over: ClOrdID → the order, ``None`` for one only planned."""
        found: dict[str, Order | None] = {}
        for planned, (symbol, strategy) in self._books.planned[account].items():
            if self._within(symbol, strategy):
                found[planned] = None
        orders = self._books.orders[account]
        # Hardly any is looked up: the first cancels wait for this.
        self._no_exits.update(o.cl_ord_id for o in orders if o.source != OPERATOR or not o.reducing)
        names = [order.cl_ord_id for order in orders]
        try:
            exits = self._exits(names)
        except StoreError:  # the broker's list shows them again: then it is asked again, or told
            exits = set(names) - self._no_exits
        for order in orders:
            if self._within(order.symbol, order.strategy) and order.cl_ord_id not in exits:
                found[order.cl_ord_id] = order
        return found

    def _exits(self, cl_ord_ids: Iterable[str]) -> set[str]:
        """Return those that pass this halt: exits an operator, or a flatten, has sent since the press, here or there.

        None where this act closes positions itself: it takes over, and two exits would close a position twice.

        Raises:
            StoreError: the journal cannot be read.
        """
        unknown = set(cl_ord_ids) - self._no_exits
        if self._act.flatten or not unknown:
            return set()
        noted = self._noted(unknown)
        exits = noted | self._books.exits_by_hand(unknown - noted, self._pressed_at)
        self._no_exits |= unknown - exits
        return exits

    def _noted(self, cl_ord_ids: set[str]) -> set[str]:
        return set() if self._outside is None else cl_ord_ids & self._outside.of()

    def position(self, account: str, symbol: str) -> Decimal:
        """Return what the journal says is held of ours."""
        return self._books.positions.get((account, symbol), ZERO)

    def _within(self, symbol: str, strategy: str) -> bool:
        if self._kind == "symbol":
            return symbol == self._name
        return self._kind != "strategy" or strategy == self._name

    def of_scope(self, listed: list[ExecutionReport]) -> list[ExecutionReport]:
        """Return the listed orders that are to go: all, or where the scope is a symbol or strategy, ours of it.

        Raises:
            StoreError: the journal cannot be read, and without it nothing of such a scope is known.
        """
        try:
            exits = self._exits(report.cl_ord_id for report in listed)
        except StoreError as error:
            if not self.whole_accounts:
                raise
            self.problem = str(error)
            exits = self._noted({report.cl_ord_id for report in listed})
        listed = [report for report in listed if report.cl_ord_id not in exits]
        if self.whole_accounts:
            return listed
        strategies = self._books.strategies(report.cl_ord_id for report in listed)
        return [
            report
            for report in listed
            if report.cl_ord_id in strategies
            and self._within(report.symbol, strategies[report.cl_ord_id])
        ]

    @property
    def whole_accounts(self) -> bool:
        """Say whether all that works in an account is to go, others' orders, too."""
        return self._kind not in {"symbol", "strategy"}

    def in_symbol(self, symbol: str) -> bool:
        """Say whether positions of a symbol lie in the scope."""
        return self._kind != "symbol" or symbol == self._name

    @property
    def closes_whole(self) -> bool:
        """Say whether what is held of a symbol is wholly in the scope (a strategy's part of it is not known)."""
        return self._act.closes


def row(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON has it."""
    return asdict(outcome)
