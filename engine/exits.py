"""Exits at work: the guards, what waits to close, square-offs and changed stops, beside the engine they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from engine.errors import CommandRefused, StoreError
from engine.execution.closing import Closing, resting_exits
from engine.execution.protective_exits import ProtectiveExits
from engine.execution.square_off import Window, window_of
from engine.model import tables
from engine.model.account import Hours
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus, Side, TradingState
from engine.model.identifiers import STOP_LEG, ClOrdIDs
from engine.model.messages import Fill, Quote
from engine.model.numbers import ZERO
from engine.model.order import Order
from engine.model.position import Levels, Position
from engine.ports import BrokerSession
from engine.risk import checks
from engine.risk.trading_state import FIRM, refusal
from engine.trading_engine import TradingEngine

TICK_S = 0.25
SQUARE_OFF_EVERY_NS = 1_000_000_000
EXIT_WITHIN_NS = 10_000_000_000
"""An exit that cannot leave within this is denied, and the guard looks at the price again."""
CHANGED_WITHIN_S = 10.0
CANCEL_AGAIN_NS = 2_000_000_000
MISSED_WITHIN = timedelta(hours=12)


class Exits:
    """Every way out of a position that nobody sends by hand; also what those by hand have to wait for."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        fresh_ns = int(float(engine.config.limits.reference_max_age_s) * 1e9)
        self.guards = ProtectiveExits(engine.journal.book, engine.clock, self, fresh_ns)
        self.closing = Closing(engine.clock, self)
        self._task: asyncio.Task[None] | None = None
        self._squared: dict[
            str, str
        ] = {}  # account → the last session's date it was squared off on
        self._square_next_ns = 0
        self._asked: dict[str, int] = {}  # entries asked to cancel for a square-off, when
        self._waiters: set[asyncio.Future[None]] = set()
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        engine.marks.listen(self.guards.on_price)

    # ---- life ------------------------------------------------------------------------------------------------

    def load(self, squared: dict[str, str]) -> None:
        """Go on after a restart; positions and orders have been loaded."""
        self._squared.update(squared)
        self.guards.load(self._engine.keeper)

    async def start(self) -> None:
        """Begin to keep time; say so if what the engine watches may not be acted on."""
        latch = self._engine.states.get(FIRM)
        watched = sum(position.protected == "engine" for position in self._engine.keeper)
        if watched and latch is not None and latch.state is not TradingState.REDUCING:
            text = f"the exits of {watched} positions that Volley watches do not leave: {refusal(latch)[1]}"
            self.alert("critical", "EXIT_BLOCKED", "", text)
        self._task = asyncio.get_running_loop().create_task(self._keep_time(), name="exits")

    async def stop(self) -> None:
        """End; what waits to be sent is denied."""
        self.closing.stop("NOT_SENT", "the engine stopped before it could leave")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.tick()
            except Exception as error:  # noqa: BLE001 (a fault here must not end every protection)
                self.alert("critical", "INTERNAL", "", f"exits: {type(error).__name__}: {error}")

    def tick(self) -> None:
        """Do what is due."""
        self.guards.tick()
        self.closing.tick()
        now_ns = self._engine.clock.monotonic_ns()
        if now_ns >= self._square_next_ns:
            self._square_next_ns = now_ns + SQUARE_OFF_EVERY_NS
            self._square_off(self._engine.clock.now(), now_ns)

    # ---- what the engine tells -------------------------------------------------------------------------------

    def on_fill(self, fill: Fill, order: Order, position: Position) -> None:
        """Follow a fill, in the same turn as its position: both are written in one transaction."""
        self.guards.on_fill(fill, order, position)
        if not position.qty or not order.levels:
            return
        differing = self._differing(position, position.levels)
        if any(leg.parent != order.cl_ord_id for leg, _price in differing):
            # An earlier entry's bracket works other prices: the newest entry's hold for all of it.
            self._engine.spawn(
                self._change_or_tell(position, position.levels, fill.exec_id),
                "align-exits",
                fill.account,
            )

    def on_order(self, order: Order) -> None:
        """Follow a change of an order."""
        self.closing.on_order(order)
        self.guards.on_order(order)
        if order.reducing:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def on_reconciled(self, account: str) -> None:
        """Take the news that an account's orders are as its broker has them."""
        self.guards.on_reconciled(account)

    def look_again(self) -> None:
        """Act wherever a latch has forbidden an exit: it was lifted."""
        self.guards.look_again()

    def hold(self, order: Order) -> bool:
        """Take an exit that must wait until what rests of its position has ended; say whether it must."""
        return self.closing.hold(order)

    def makes_way(self, order: Order) -> bool:
        """Take an entry against an open position: exits that rest there are taken back before it leaves.

        They hold the quantity it would sell (Alpaca, Binance), and would reopen what it closes. Exits of its own it
        cannot carry along either; Volley watches both. Say whether it has to wait.
        """
        position = self.position(order.account, order.symbol)
        if position is None or position.qty * order.side.sign >= 0:
            return False
        order.alone = True
        self.guards.hush(position, quiet=True)
        return self.closing.hold(order)

    def fits(self, order: Order) -> bool:
        """Cut an exit to what is left to close; ``False``: nothing is, and it was denied."""
        return self.closing.fits(order)

    def deny(self, order: Order, code: str, text: str) -> bool:
        """Deny an exit that waits; say whether it did."""
        return self.closing.deny(order, code, text)

    # ---- what guards and closing need ------------------------------------------------------------------------

    def position(self, account: str, symbol: str) -> Position | None:
        """Return a position."""
        return self._engine.keeper.get(account, symbol)

    def state(self, account: str) -> AccountState | None:
        """Return an account."""
        return self._engine.fleet.states.get(account)

    def session(self, account: str) -> BrokerSession | None:
        """Return an account's broker session."""
        return self._engine.fleet.sessions.get(account)

    def quote(self, symbol: str) -> Quote | None:
        """Return the newest price."""
        return self._engine.marks.get(symbol)

    def gate(self, order: Order) -> tuple[str, str] | None:
        """Say why an order may not leave now."""
        return self._engine.gate(order)

    def follow(self, symbol: str) -> None:
        """Keep a symbol's price fresh."""
        if self._engine.prices is not None:
            self._engine.prices.follow(symbol)

    def ask_for_legs(self, position: Position) -> None:
        """Ask the broker for the exits it made along with a position's newest entry: a look-up of it tells them."""
        for order in reversed(self._engine.orders.orders.values()):
            if (
                order.account == position.account
                and order.symbol == position.symbol
                and order.levels
                and order.cum_qty
            ):
                self.look_up(order)
                return

    def alert(self, severity: str, code: str, account: str, text: str) -> None:
        """Tell the operator."""
        self._engine.alert(severity, code, account, text)

    def note(self, position: Position) -> None:
        """Make a position's protection durable soon, and show it."""
        self._engine.journal.note_position(position)
        self._engine.publisher.touch(tables.POSITIONS, f"{position.account}/{position.symbol}")

    def send_exits(self, orders: list[Order]) -> None:
        """Count exits as working from now on; they leave once they are durable."""
        for order in orders:
            self._engine.orders.add(order)
        first = orders[0]
        self.alert(
            "info", "EXIT", first.account if len(orders) == 1 else "",
            f"{first.symbol}: {first.text} closes {len(orders)} position{'s' if len(orders) > 1 else ''}",
        )  # fmt: skip
        self._engine.spawn(self._send_exits(orders), "protective-exits")

    async def _send_exits(self, orders: list[Order]) -> None:
        engine = self._engine
        try:
            await engine.journal.commit_orders(orders)
        except StoreError:  # told by the journal itself: nothing is sent
            for order in orders:
                engine.orders.take_back(order)
            self.guards.on_lost(orders)
            return
        ready = [
            order
            for order in orders
            if order.status is OrderStatus.PENDING_NEW and self.closing.fits(order)
        ]
        engine.send(ready, None, engine.clock.monotonic_ns() + EXIT_WITHIN_NS)

    def lot(self, account: str, symbol: str) -> Decimal:
        """Return the step of quantities, zero while it is not known."""
        state = self.state(account)
        found = self._engine.instruments.find(state.broker, symbol) if state else None
        return found.lot if found is not None else ZERO

    def cancel(self, order: Order) -> None:
        """Take a resting exit back."""
        self._engine.cancel(order, "CANCELED", "its position is closed another way")

    def look_up(self, order: Order) -> None:
        """Ask the broker what became of an order."""
        session = self.session(order.account)
        if session is not None:
            self._engine.reconciler.ask(order, session)

    def send(self, order: Order) -> None:
        """Send an exit that has waited."""
        self._engine.dispatcher.dispatch([order])
        self._engine.journal.note_order(order)
        self._engine.publisher.touch(tables.ORDERS, order.cl_ord_id)

    def close(self, order: Order, code: str, text: str) -> None:
        """Close an order that never left."""
        self._engine.orders.deny(order, code, text)

    # ---- changing stops ----------------------------------------------------------------------------------------

    def wrong_side(self, position: Position, levels: Levels) -> tuple[str, str] | None:
        """Refuse levels that would close an open position at once, at the newest fresh price (or what it cost)."""
        quote = self.quote(position.symbol)
        price = quote.price if quote is not None else position.avg_px
        side = Side.BUY if position.qty > 0 else Side.SELL
        return checks.exit_sides(side, price, levels.stop_loss, levels.take_profit)

    def change_soon(self, position: Position, levels: Levels, change_id: str) -> None:
        """Set an open position's levels (a signal's); where the broker works them, what fails is told."""
        if self._differing(position, levels):
            work = self._change_or_tell(position, levels, change_id)
            self._engine.spawn(work, "change-exits", position.account)
        else:
            self.guards.set_levels(position, levels)

    async def _change_or_tell(self, position: Position, levels: Levels, change_id: str) -> None:
        try:
            await self.change(position, levels, change_id)
        except (CommandRefused, StoreError) as error:
            if position.qty:
                text = f"{position.symbol}: its exits were not changed, the old ones stand: {error}"
                self.alert("critical", "EXITS_UNCHANGED", position.account, text)

    async def change(self, position: Position, levels: Levels, change_id: str) -> None:
        """Set an open position's levels, at the broker where it works them.

        ``change_id``: unique for this change; what is sent for it is named after it.

        Raises:
            CommandRefused: the old levels stand; says why.
            StoreError: it could not be made durable; the old levels stand.
        """
        lock = self._locks.setdefault((position.account, position.symbol), asyncio.Lock())
        async with lock:
            differing = self._differing(position, levels)
            session = self.session(position.account)
            replaceable = session is not None and session.capabilities.can_replace
            if replaceable and all(_can_be_replaced(leg, price) for leg, price in differing):
                for leg, price in differing:
                    await self._replace(leg, price, change_id)
                    self._note_replaced(position, leg, price)
            elif differing:
                await self._take_back(position)
            if not position.qty:
                raise CommandRefused("NO_POSITION", "the position was closed meanwhile")
            self.guards.set_levels(position, levels)

    def _differing(self, position: Position, levels: Levels) -> list[tuple[Order, Decimal | None]]:
        """Return the legs at the broker that work another price than ``levels`` want, with that price."""
        state = self.state(position.account)
        found = []
        for order in resting_exits(state, position.symbol) if state else ():
            if not order.parent:
                continue
            is_stop = order.leg == STOP_LEG
            wanted = levels.stop_loss if is_stop else levels.take_profit
            if wanted != (order.stop_price if is_stop else order.limit_price):
                found.append((order, wanted))
        return found

    def _note_replaced(self, position: Position, leg: Order, price: Decimal | None) -> None:
        """Note one leg's new price: should the other's replacement fail, the position says what is true."""
        name = "stop_loss" if leg.leg == STOP_LEG else "take_profit"
        if position.qty:
            self.guards.set_levels(position, replace(position.levels, **{name: price}))

    async def _replace(self, leg: Order, price: Decimal | None, change_id: str) -> None:
        engine = self._engine
        assert price is not None
        successor = _successor(leg, price, engine.journal.book, change_id, engine.clock.now())
        refused = engine.gate(successor)
        if refused is not None:
            raise CommandRefused(*refused)
        await engine.journal.commit_orders([successor])
        lane = engine.dispatcher.lanes.get(leg.account)
        if lane is None or leg.status.terminal:
            raise CommandRefused("EXITS_UNCHANGED", f"{leg.cl_ord_id} is {leg.status.value}")
        engine.orders.add(successor)
        lane.replace(leg, successor)
        unproven = {OrderStatus.PENDING_NEW, OrderStatus.UNKNOWN}
        await self._until(lambda: successor.status not in unproven)
        if successor.status in unproven or not (
            successor.status.working or successor.status is OrderStatus.FILLED
        ):
            text = successor.text or successor.status.value
            raise CommandRefused(
                "EXITS_UNCHANGED", f"the broker did not replace {leg.cl_ord_id}: {text}"
            )

    async def _take_back(self, position: Position) -> None:
        """Cancel a position's legs at the broker: the engine watches from then on."""
        state = self.state(position.account)
        legs = [
            order
            for order in (resting_exits(state, position.symbol) if state else ())
            if order.parent
        ]
        self.guards.hush(position, quiet=True)
        try:
            for leg in legs:
                self._engine.cancel(leg, "CANCELED", "its position's exits were changed")
            await self._until(lambda: all(leg.status.terminal for leg in legs))
        finally:
            self.guards.hush(position, quiet=False)
        left = [leg.cl_ord_id for leg in legs if not leg.status.terminal]
        if left:
            raise CommandRefused(
                "EXITS_UNCHANGED", f"the broker did not take back {', '.join(left)} in time"
            )

    async def _until(self, fact: Callable[[], bool]) -> None:
        """Wait for something exits' reports bring about, ``CHANGED_WITHIN_S`` at most."""
        loop = asyncio.get_running_loop()
        end = loop.time() + CHANGED_WITHIN_S
        while not fact() and loop.time() < end:
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait({waiter}, timeout=end - loop.time())
            finally:
                self._waiters.discard(waiter)

    # ---- square-off --------------------------------------------------------------------------------------------

    def _square_off(self, now: datetime, now_ns: int) -> None:
        windows: dict[Hours, Window | None] = {}  # accounts share a few sorts of hours
        for state in list(self._engine.fleet.states.values()):
            hours = state.account.hours
            if hours is None or hours.square_off is None:
                continue
            if hours not in windows:
                windows[hours] = window_of(hours, now)
            window = windows[hours]
            if window is None or self._squared.get(state.id, "") >= window.day.isoformat():
                continue
            if now < window.ends:
                done = not self._flatten(state, now_ns)
            else:
                done = True
                self._tell_if_missed(state, window, now)
            if done:
                self._squared[state.id] = window.day.isoformat()
                self._engine.journal.note_square_off(state.id, window.day.isoformat())

    def _flatten(self, state: AccountState, now_ns: int) -> bool:
        """Cancel an account's entries and close its positions; say whether there is anything left to do."""
        entries = [order for order in state.working.values() if not order.reducing]
        for order in entries:
            if now_ns - self._asked.get(order.cl_ord_id, -CANCEL_AGAIN_NS) >= CANCEL_AGAIN_NS:
                self._asked[order.cl_ord_id] = now_ns
                self._engine.cancel(order, "CANCELED", "canceled by the square-off before it left")
        left = any(order.status.working for order in entries)
        for position in self._engine.keeper.of(state.id):
            left |= self.guards.close_now(position)
        if not left:
            self._asked.clear()
        return left

    def _tell_if_missed(self, state: AccountState, window: Window, now: datetime) -> None:
        held = sorted(self._engine.keeper.open_symbols(state.id))
        if held and now - window.ends < MISSED_WITHIN:
            text = (
                f"the square-off of {window.day} is over and it still holds {', '.join(held[:10])}"
            )
            self.alert("critical", "SQUARE_OFF_MISSED", state.id, text)


def _can_be_replaced(leg: Order, price: Decimal | None) -> bool:
    # Brokers differ in what the new quantity of a partly filled order counts.
    return price is not None and bool(leg.order_id) and not leg.cum_qty


def _successor(leg: Order, price: Decimal, book: str, change_id: str, now: datetime) -> Order:
    """Return the order that takes a leg's place at another price."""
    is_stop = leg.leg == STOP_LEG
    limit = leg.limit_price
    if not is_stop:
        limit = price
    elif limit is not None and leg.stop_price is not None:
        limit += price - leg.stop_price  # a stop limit keeps its distance
    return Order(
        cl_ord_id=ClOrdIDs(book, "change", change_id).make(
            leg.account, f"{leg.leg}:{leg.cl_ord_id}"
        ),
        account=leg.account,
        symbol=leg.symbol,
        side=leg.side,
        order_qty=leg.leaves_qty,
        order_type=leg.order_type,
        time_in_force=leg.time_in_force,
        created_at=now,
        limit_price=limit,
        stop_price=price if is_stop else leg.stop_price,
        source=leg.source,
        signal_id=leg.signal_id,
        strategy=leg.strategy,
        leg=leg.leg,
        reducing=True,
        parent=leg.parent,
    )
