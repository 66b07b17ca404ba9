"""One account under an out-of-band kill: its orders and positions, until its broker shows none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic
from typing import Final, Protocol

from engine.brokers.session import WireSession
from engine.clock import rfc3339
from engine.errors import BrokerError, TradingError
from engine.kill import as_order
from engine.kill_connections import Line
from engine.model.enums import (
    OrderStatus,
    OrderType,
    Side,
    TimeInForce,
)
from engine.model.identifiers import OPERATOR, cl_ord_id
from engine.model.messages import ExecutionReport
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order
from engine.ports import Swept

LOOK_EVERY_S: Final = 0.25
LOOK_AT_LEAST_S: Final = 2.0
CANCEL_AGAIN_S: Final = 2.0
CLOSED_WITHIN_S: Final = 10.0
LEAST_SETTLE_S: Final = 1.0
_DEAD: Final = {OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REJECTED}
_OVER: Final = _DEAD | {OrderStatus.FILLED}
TRIES: Final = 5
"""How many orders for one exit may have been cancelled or expired before a person has to look."""


@dataclass(slots=True)
class Outcome:
    """One account's: a row of the verified-flat list.

    ``verified_at``: when its broker's own list was read empty, after the last cancel and long enough after the latch.
    ``clear``: nothing of the scope works there, and with ``flatten`` nothing of ours is held.
    """

    account: str
    broker: str
    asked: int = 0
    canceled: int = 0
    working: int = 0
    late: int = 0
    residual: dict[str, str] = field(default_factory=dict)
    closing: list[str] = field(default_factory=list)
    verified_at: str | None = None
    clear: bool = False
    error: str = ""
    listed_ms: int | None = None
    """When its list was first read, since the beginning."""


class Scope(Protocol):
    """What the kill of all accounts knows (engine.kill_out_of_band)."""

    reply_timeout_s: float

    @property
    def closes_whole(self) -> bool:
        """Say whether what is held of a symbol is wholly in the scope."""
        ...

    @property
    def whole_accounts(self) -> bool:
        """Say whether all that works in an account is to go, others' orders, too."""
        ...

    @property
    def stands(self) -> Callable[[], bool]:
        """Say whether the halt still does."""
        ...

    def begin_sweep(self, account: str) -> bool:
        """Announce a cancel of all; say whether it may leave."""
        ...

    def end_sweep(self, *, proven: bool) -> None:
        """Note that it was answered; ``proven``: it cancels nothing new any more."""
        ...

    async def turn_to_close(self) -> bool:
        """Wait until positions may be closed from here; ``False``: another process is at it."""
        ...

    async def announce(self, exits: list[Order]) -> str:
        """Let nobody cancel these, which leave next; return why that is not sure."""
        ...

    def noted(self, account: str, symbol: str) -> set[str]:
        """Return the exits of a position that a process like this one has sent under this halt (ClOrdIDs)."""
        ...

    def of_scope(self, listed: list[ExecutionReport]) -> list[ExecutionReport]:
        """Return the listed orders that are to go."""
        ...

    def in_symbol(self, symbol: str) -> bool:
        """Say whether positions of a symbol lie in the scope."""
        ...

    def position(self, account: str, symbol: str) -> Decimal:
        """Return what the journal says is held of ours."""
        ...

    def elapsed_ms(self) -> int:
        """Return the milliseconds since the kill began."""
        ...

    def note_cancel(self, at_ns: int) -> None:
        """Take the time: an order's first cancel left."""
        ...


class Clearing:
    """One account's orders and positions, until its broker shows none."""

    def __init__(
        self,
        kill: Scope,
        line: Line,
        outcome: Outcome,
    ) -> None:
        self._kill = kill
        self._account = line.account
        self._session = line.session
        self._listener = line.listener
        self._outcome = outcome
        self._began = monotonic()
        self._swept = False  # the broker's list was gone through once
        self._answered: asyncio.Future[None] | None = None  # to the cancel of all in one request
        self._unproven = False  # whether it may still arrive, and cancel what is new then
        self._asked: dict[str, float] = {}
        self._left: set[str] = set()  # whose first cancel has left
        self._doubtful: dict[str, Order | None] = {}
        self._filled: dict[str, Decimal] = {}  # what filled, as far as the journal does not know

    # ---- orders ------------------------------------------------------------------------------------------------

    async def rehearse(self) -> None:
        """Read the list and cancel nothing."""
        found = await self._list()
        self._outcome.clear = found is not None
        self._outcome.working = len(found or ())

    def know(self, doubtful: Mapping[str, Order | None]) -> None:
        """Learn what the journal thinks is not over, by ClOrdID; ``None``: it is only planned."""
        self._doubtful = dict(doubtful)

    async def cancel_in_one(self) -> bool:
        """Ask for the cancel of all in one request, if all is to go and the broker has such a request; say whether."""
        session = self._session
        if not isinstance(session, WireSession):
            return False
        session.on_cancel_written = self._written
        if not self._kill.whole_accounts or session.cancel_all_request() is None:
            return False
        await self._listener.turn()
        if not self._kill.stands():  # armed again while it waited: it would cancel what is new
            return False
        if not self._kill.begin_sweep(self._account.id):  # it would cancel exits
            return False
        self._answered = asyncio.get_running_loop().create_future()
        if session.cancel_all(self._in_one_answered):
            return True
        self._in_one_answered(Swept(0))
        return False

    def _in_one_answered(self, swept: Swept) -> None:
        """Take what it was for; whatever it was not for the list shows, and it is asked for one by one."""
        assert self._answered is not None
        if swept.written_ns:
            self._kill.note_cancel(swept.written_ns)
        now = monotonic()
        self._asked |= dict.fromkeys(swept.asked or (), now)
        self._unproven = bool(swept.written_ns) and swept.asked is None
        self._kill.end_sweep(proven=not self._unproven)
        if not self._answered.done():
            self._answered.set_result(None)

    def _written(self, order: Order, at_ns: int) -> None:
        """Take the time of an order's first cancel."""
        key = order.order_id or order.cl_ord_id
        if key not in self._left:
            self._left.add(key)
            self._kill.note_cancel(at_ns)

    async def cancel_known(self) -> None:
        """Ask for the cancel of what the journal knows, while the session still starts: no list is waited for."""
        if not isinstance(self._session, WireSession):
            return
        for order in list(self._doubtful.values()):
            if order is not None and order.order_id:
                await self._ask(order, order.order_id)

    async def sweep(self) -> None:
        """Cancel what the broker's list holds, once; after the answer to the cancel of all, which the list shows."""
        if self._answered is not None:
            await self._answered
            self._doubtful = {
                name: order
                for name, order in self._doubtful.items()
                if order is None or order.order_id not in self._asked
            }
        found = await self._list()
        if found is not None:
            self._outcome.working = len(found)
            await self._cancel(found)

    async def cancel_all(self, until: float) -> None:
        """List and cancel until the list stays empty, or it is time to give up."""
        outcome = self._outcome
        pause = LOOK_EVERY_S
        while True:
            asked_at = monotonic()
            found = await self._list()
            if found is not None:
                outcome.working = len(found)
                await self._cancel(found)
            if found == []:
                await self._look_for_doubtful()
                pause = self._began + self._settle_s() - asked_at
                if pause <= 0:
                    outcome.verified_at = rfc3339(datetime.now(UTC))
                    outcome.error = ""
                    break
            if not self._kill.stands():
                outcome.error = "armed again meanwhile: what works there was left alone"
                break
            if monotonic() > until:
                outcome.error = outcome.error or f"{outcome.working} orders still work"
                break
            await asyncio.sleep(max(pause, LOOK_EVERY_S))
            pause = min(pause * 2, LOOK_AT_LEAST_S)
        outcome.asked = len(self._asked)
        outcome.canceled = outcome.asked - min(outcome.asked, outcome.working)
        outcome.clear = outcome.verified_at is not None

    def _settle_s(self) -> float:
        """Return how long after the latch an order of ours may still show up."""
        settle = max(self._session.capabilities.settle_s, LEAST_SETTLE_S)
        doubt = self._doubtful or self._unproven
        return settle + (self._kill.reply_timeout_s if doubt else 0.0)

    async def _list(self) -> list[ExecutionReport] | None:
        try:
            listed = await self._session.open_orders()
            if self._outcome.listed_ms is None:
                self._outcome.listed_ms = self._kill.elapsed_ms()
            return self._kill.of_scope(listed)
        except TradingError as error:
            self._outcome.error = f"its list of orders cannot be read: {error}"
            return None

    async def _cancel(self, found: list[ExecutionReport]) -> None:
        for report in found:
            self._doubtful.pop(report.cl_ord_id, None)
            key = report.order_id or report.cl_ord_id
            last = self._asked.get(key)
            if report.side is None or (last is not None and monotonic() - last < CANCEL_AGAIN_S):
                continue
            if last is None and self._swept:
                self._outcome.late += 1
            await self._ask(as_order(report, self._account.id, datetime.now(UTC)), key)
        self._swept = True

    async def _ask(self, order: Order, key: str) -> None:
        await self._listener.turn()
        if not self._kill.stands():
            return
        self._session.cancel(order)
        self._asked[key] = monotonic()

    async def _look_for_doubtful(self) -> None:
        """Ask for each order that the journal thinks is not over, and the broker does not list."""
        for name, order in list(self._doubtful.items()):
            symbol, order_id = (order.symbol, order.order_id) if order is not None else ("", "")
            try:
                report = await self._session.find(name, symbol, order_id)
            except BrokerError as error:
                self._outcome.error = f"{name} cannot be looked up: {error}"
                continue
            if report is None:
                continue  # never came, or not yet
            del self._doubtful[name]
            known = order.cum_qty if order is not None else ZERO
            side = report.side or (order.side if order is not None else None)
            if side is not None and report.cum_qty is not None:
                symbol = report.symbol or symbol
                before = self._filled.get(symbol, ZERO)
                self._filled[symbol] = before + (report.cum_qty - known) * side.sign

    # ---- positions ---------------------------------------------------------------------------------------------

    async def read_positions(self) -> dict[str, Decimal]:
        """Read what is held at the broker into the outcome."""
        try:
            held = {p.symbol: p.qty for p in await self._session.positions() if p.qty}
        except TradingError as error:
            self._outcome.error = self._outcome.error or f"its positions cannot be read: {error}"
            self._outcome.clear = False
            return {}
        self._outcome.residual = {symbol: to_text(qty) for symbol, qty in held.items()}
        return held

    def _ours(self, symbol: str, held: Decimal) -> Decimal:
        """Return how much was ours to close of what the broker holds, before this halt closed anything."""
        if not self._kill.closes_whole:
            return ZERO
        ours = self._kill.position(self._account.id, symbol) + self._filled.get(symbol, ZERO)
        return ours if ours * held > 0 else ZERO

    async def flatten(self, book: str, since: str) -> None:
        """Close what is ours at the market. The same position under the same halt has the same order, so that doing
        it again sends nothing that the broker has already; nothing is sent twice here, whatever came of it.
        """
        if not self._kill.closes_whole:
            self._refuse("a strategy's part of a position is not known here")
            return
        if not await self._kill.turn_to_close():
            self._refuse("another main.py kill --flatten closes positions: nothing is sent twice")
            return
        if not self._kill.stands():
            self._refuse("armed again meanwhile: no position is closed")
            return
        exits, left = await self._plan(book, since)
        doubt = await self._kill.announce(exits) if exits else ""
        for order in exits:
            await self._listener.turn()
            if not self._kill.stands():  # all that has taken seconds
                self._refuse("armed again meanwhile: not every position is closed")
                return
            self._session.submit(order)
            self._outcome.closing.append(order.cl_ord_id)
        await self._wait_closed(left)
        if doubt and not self._outcome.error:
            self._outcome.error = doubt

    async def _plan(self, book: str, since: str) -> tuple[list[Order], dict[str, Decimal]]:
        """Return the exits to send, and what is to be left of each position that is closed."""
        left: dict[str, Decimal] = {}
        exits: list[Order] = []
        for symbol, held in (await self.read_positions()).items():
            ours = self._ours(symbol, held) if self._kill.in_symbol(symbol) else ZERO
            if not ours:
                continue
            names = cl_ord_id_of(book, since, self._account.id, f"kill:{symbol}:{to_text(ours)}")
            earlier = await self._earlier(names, symbol)
            if earlier is None:
                continue
            name, closed = earlier
            rest = min(abs(ours) - closed, abs(held))
            if rest <= 0:
                continue  # what is left is none of ours
            rest = rest if ours > 0 else -rest
            left[symbol] = held - rest
            if name:
                exits.append(self._exit(name, symbol, rest))
        return exits, left

    async def _earlier(self, names: list[str], symbol: str) -> tuple[str, Decimal] | None:
        """Return the first ClOrdID the broker has no order of, and what those before have closed.

        Without one (empty), an exit is under way, or so many died that a person has to look; ``None``: it cannot be
        known.
        """
        closed = ZERO
        try:
            # One for another quantity: the journal has moved since.
            for name in self._kill.noted(self._account.id, symbol) - set(names):
                report = await self._session.find(name, symbol)
                if report is not None and report.status not in _OVER:
                    return "", closed
            for name in names:
                report = await self._session.find(name, symbol)
                if report is None:
                    return name, closed
                closed += report.cum_qty or ZERO
                if report.status not in _DEAD:
                    break
        except BrokerError as error:
            self._refuse(f"{symbol} is not closed: its exits cannot be looked up: {error}")
            return None
        return "", closed

    def _exit(self, name: str, symbol: str, ours: Decimal) -> Order:
        return Order(
            cl_ord_id=name,
            account=self._account.id,
            symbol=symbol,
            side=Side.SELL if ours > 0 else Side.BUY,
            order_qty=abs(ours),
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY,
            created_at=datetime.now(UTC),
            source=OPERATOR,
            reducing=True,
        )

    async def _wait_closed(self, wanted: dict[str, Decimal]) -> None:
        """Wait until the broker's own positions are what should be left of them."""
        until = monotonic() + CLOSED_WITHIN_S
        while True:
            held = await self.read_positions()
            open_still = [s for s, qty in wanted.items() if held.get(s, ZERO) != qty]
            if not open_still:
                return
            refused = [t for n in self._outcome.closing if (t := self._listener.refused.get(n))]
            if refused or monotonic() > until:
                self._refuse("; ".join(refused) or f"not closed yet: {', '.join(open_still)}")
                return
            await asyncio.sleep(LOOK_EVERY_S)

    def _refuse(self, text: str) -> None:
        self._outcome.clear = False
        self._outcome.error = text


def cl_ord_id_of(book: str, since: str, account: str, leg: str) -> list[str]:
    """Return the ClOrdIDs an exit may have, in the order they are tried: a later one only after those before died."""
    return [cl_ord_id(book, OPERATOR, since, account, f"{leg}:{n}") for n in range(TRIES)]
