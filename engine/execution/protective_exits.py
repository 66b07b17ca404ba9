"""Stop loss, take profit, trailing stop: watched by the engine wherever the broker does not work them itself.

One guard a position (account and symbol). Of its levels the engine watches those that no working leg of a bracket at
the broker covers in full. A level that a price reaches is carried out by one market order over the whole position:

- at most one exit of a position is under way; an exit of unknown outcome blocks every further one;
- its ClOrdID is a pure function of book, account, symbol, generation and leg, and the generation moves on only once the
  exit is over, so an engine killed anywhere names the same exit the same way;
- an exit that came to nothing is tried again, later each time, and said aloud; while a halt or the disarmed state
  forbids it, the guard waits and then looks at the price of that moment;
- only fresh prices close a position. Where none come, that is said aloud, once a symbol.

Everything here is synchronous and moved by events (prices, fills, reports, ticks), so a test moves it by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from engine.clock import Clock
from engine.execution.closing import resting_exits
from engine.execution.exits_host import ExitsHost
from engine.execution.price_watch import TELL_AGAIN_NS, PriceWatch
from engine.execution.triggers import TIME_LEG, TRAIL_LEG, Triggers
from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import EXIT_LEGS, PROTECTIVE, STOP_LEG, TARGET_LEG, ClOrdIDs
from engine.model.messages import Fill
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order
from engine.model.position import Levels, Position

SECOND = 1_000_000_000
LEGS_WITHIN_NS = 5 * SECOND
"""How long after an entry's fill, or a reconciliation, the broker may take to tell of the exits it was given."""
LEGS_AFTER_START_NS = 60 * SECOND
BLOCKED_LOOK_NS = 5 * SECOND
TRAILS_EVERY_NS = SECOND
"""How often trails' best prices are made durable: what a crash takes of them is at most this old."""
MOST_PAUSE_NS = 30 * SECOND
_FORBIDDEN = frozenset({"HALTED", "DISARMED", "PAUSED", "INACTIVE"})
_WORDS = {
    STOP_LEG: "stop loss",
    TARGET_LEG: "take profit",
    TRAIL_LEG: "trailing stop",
    TIME_LEG: "square-off",
}

Key = tuple[str, str]  # account, symbol


class _Guard:
    """What is known of a position's protection beside its levels."""

    __slots__ = ("asked", "blocked", "legs_until_ns", "quiet", "told_ns", "tries", "wait_until_ns")

    def __init__(self) -> None:
        self.tries = 0  # exits in a row that came to nothing
        self.wait_until_ns = 0  # nothing is sent before
        self.legs_until_ns = 0  # the broker may still tell of the exits it was given
        self.asked = False  # the broker was asked for them
        self.told_ns = 0
        self.blocked = False  # a latch forbids the exit
        self.quiet = False  # the legs are being taken back on purpose


class ProtectiveExits:
    """The guards of every position."""

    def __init__(self, book: str, clock: Clock, host: ExitsHost, fresh_ns: int) -> None:
        self._book = book
        self._clock = clock
        self._host = host
        self._prices = PriceWatch(clock, host, fresh_ns)
        self._guards: dict[Key, _Guard] = {}
        self._triggers: dict[str, Triggers] = {}
        self._due: set[Key] = set()  # guards that wait for a moment
        self._trails_next_ns = 0

    # ---- what happens -----------------------------------------------------------------------------------------

    def load(self, positions: Iterable[Position]) -> None:
        """Go on after a restart."""
        now = self._clock.monotonic_ns()
        for position in positions:
            if position.qty and position.levels:
                if position.native and not any(self._worked(position).values()):
                    self._await_legs(position, now + LEGS_AFTER_START_NS)
                self.refresh(position)

    def on_reconciled(self, account: str) -> None:
        """Take the news that an account's orders are as the broker has them: legs not told by now are missing."""
        now = self._clock.monotonic_ns()
        for key, guard in list(self._guards.items()):
            if key[0] == account and guard.legs_until_ns:
                guard.legs_until_ns = min(guard.legs_until_ns, now)
                self._legs_are_late(key, guard)

    def on_fill(self, fill: Fill, order: Order, position: Position) -> None:
        """Follow a fill. The newest entry that carries exits sets them for the whole position; one that carries none
        leaves what is there.
        """
        if not position.qty:
            self._drop(position)
            return
        adds = (position.qty > 0) == (order.side is Side.BUY)
        began = order.cum_qty == fill.last_qty or abs(position.qty) == fill.last_qty
        if not order.reducing and adds and began:
            position.source, position.signal_id = order.source, order.signal_id
            position.strategy = order.strategy
            if order.levels:
                position.protect(order.levels)
                if position.trail_percent is not None and position.best is None:
                    position.best = fill.last_px
                session = self._host.session(order.account)
                position.native = session is not None and session.works_exits(order)
                guard = self._guard(position)
                guard.tries = guard.wait_until_ns = 0
                guard.quiet = False
                if position.native and not self._knows_legs_of(order):
                    guard.asked = False
                    self._await_legs(position, self._clock.monotonic_ns() + LEGS_WITHIN_NS)
                self._host.follow(position.symbol)
        self.refresh(position)

    def on_order(self, order: Order) -> None:
        """Follow a change of an order."""
        ended = order.status.terminal
        if not order.reducing:
            if (
                ended and order.cum_qty and order.levels
            ):  # its legs at the broker are awake now, or gone
                position = self._host.position(order.account, order.symbol)
                if position is not None:
                    self.refresh(position)
            return
        if ended and order.source == PROTECTIVE:
            self._exit_ended(order)
        if ended or order.parent:
            position = self._host.position(order.account, order.symbol)
            if position is not None:
                guard = self._guards.get((order.account, order.symbol))
                if guard is not None and not ended:
                    guard.legs_until_ns = 0  # told
                self.refresh(position, look=ended)

    def on_price(self, symbol: str, price: Decimal) -> None:
        """Take a price that has just come."""
        triggers = self._triggers.get(symbol)
        if triggers is not None and (fired := triggers.hit(price)):
            self._fire(symbol, fired, price)

    def set_levels(self, position: Position, levels: Levels) -> None:
        """Set where an open position is to be closed (all of it: what ``levels`` lacks is cleared)."""
        position.protect(levels)
        quote = self._prices.fresh(position.symbol)
        if levels.trail_percent is not None and position.best is None and quote is not None:
            position.best = quote.price
        guard = self._guard(position)
        guard.tries = guard.wait_until_ns = 0
        if levels:
            self._host.follow(position.symbol)
        self._host.note(position)
        self.refresh(position)

    def close_now(self, position: Position) -> bool:
        """Close a position because of the time; say whether an exit is under way or it is to be tried again."""
        if not position.qty:
            return False
        guard = self._guard(position)
        if self._clock.monotonic_ns() >= guard.wait_until_ns:
            self._fire(position.symbol, {position.account: TIME_LEG}, None)
        return True

    def look_again(self) -> None:
        """Look at the price of this moment wherever an exit was forbidden: a latch was lifted."""
        for key, guard in list(self._guards.items()):
            if guard.blocked:
                self._look(key, guard)

    def hush(self, position: Position, *, quiet: bool) -> None:
        """Say nothing (or something again) when the broker's legs go: we take them back ourselves."""
        self._guard(position).quiet = quiet

    def tick(self) -> None:
        """Do what is due; called a few times a second."""
        now = self._clock.monotonic_ns()
        for key in sorted(self._due):
            guard = self._guards.get(key)
            if guard is None or max(guard.wait_until_ns, guard.legs_until_ns) <= now:
                self._due.discard(key)
            if guard is None:
                continue
            if guard.legs_until_ns and guard.legs_until_ns <= now:
                self._legs_are_late(key, guard)
            if guard.wait_until_ns and guard.wait_until_ns <= now:
                self._look(key, guard)
        keep = now >= self._trails_next_ns
        if keep:
            self._trails_next_ns = now + TRAILS_EVERY_NS
        for symbol, triggers in list(self._triggers.items()):
            if keep:
                self._keep_trails(symbol, triggers)
            self._prices.check(symbol, triggers.accounts())

    def _keep_trails(self, symbol: str, triggers: Triggers) -> None:
        for account, best in list(triggers.take_moved()):
            position = self._host.position(account, symbol)
            if position is not None:
                position.best = best
                self._host.note(position)

    # ---- guards -----------------------------------------------------------------------------------------------

    def _guard(self, position: Position) -> _Guard:
        key = position.account, position.symbol
        guard = self._guards.get(key)
        if guard is None:
            guard = self._guards[key] = _Guard()
        return guard

    def _drop(self, position: Position) -> None:
        self._guards.pop((position.account, position.symbol), None)
        self._unwatch(position.account, position.symbol)
        position.protected = ""

    def _unwatch(self, account: str, symbol: str) -> None:
        triggers = self._triggers.get(symbol)
        if triggers is not None:
            triggers.remove(account)
            if not triggers:
                del self._triggers[symbol]

    def _look(self, key: Key, guard: _Guard) -> None:
        guard.wait_until_ns, guard.blocked = 0, False
        position = self._host.position(*key)
        if position is not None:
            self.refresh(position, look=True)

    def refresh(self, position: Position, *, look: bool = False) -> None:
        """Watch what is to be watched of a position; with ``look`` act on the price of this moment, if it is fresh."""
        account, symbol = position.account, position.symbol
        if not position.qty:
            self._drop(position)
            return
        levels = position.levels
        if not levels and not position.protected:
            return
        guard = self._guard(position)
        watched = self._watched(position, guard)
        self._show(position, guard, "engine" if watched else "broker" if levels else "")
        triggers = self._triggers.get(symbol)
        if triggers is not None and account in triggers:
            long = position.qty > 0
            best = triggers.best(account, levels.trail_percent, long=long)
            position.best = best or position.best
        if not watched or guard.wait_until_ns:
            self._unwatch(account, symbol)
            return
        if triggers is None:
            triggers = self._triggers[symbol] = Triggers()
        triggers.set(account, watched, position.best, long=position.qty > 0)
        if look and (quote := self._prices.fresh(symbol)) is not None:
            self.on_price(symbol, quote.price)

    def _watched(self, position: Position, guard: _Guard) -> Levels:
        """Return those levels that the broker does not work."""
        levels = position.levels
        if guard.legs_until_ns and position.native:
            covered = dict.fromkeys(EXIT_LEGS, True)
        else:
            worked = self._worked(position)
            covered = {leg: worked[leg] >= abs(position.qty) for leg in EXIT_LEGS}
        if not (covered[STOP_LEG] or covered[TARGET_LEG]):
            return levels
        session = self._host.session(position.account)
        trails = session is not None and session.capabilities.native_trailing
        return Levels(
            None if covered[STOP_LEG] else levels.stop_loss,
            None if covered[TARGET_LEG] else levels.take_profit,
            None if covered[STOP_LEG] and trails else levels.trail_percent,
        )

    def _worked(self, position: Position) -> dict[str, Decimal]:
        """Return how much of a position working legs at the broker cover, by leg.

        Alpaca and Binance let the exits of an entry in only once it has filled completely, so legs of one that has
        not are counted for nothing.
        """
        worked = dict.fromkeys(EXIT_LEGS, ZERO)
        state = self._host.state(position.account)
        side = Side.SELL if position.qty > 0 else Side.BUY
        if state is None:
            return worked
        for order in resting_exits(state, position.symbol):
            entry = state.working.get(order.parent)
            awake = entry is None or entry.status.terminal
            if order.parent and awake and order.side is side:
                worked[order.leg] = worked.get(order.leg, ZERO) + order.leaves_qty
        return worked

    def _knows_legs_of(self, entry: Order) -> bool:
        state = self._host.state(entry.account)
        return state is not None and any(
            order.parent == entry.cl_ord_id for order in state.working.values()
        )

    def _await_legs(self, position: Position, until_ns: int) -> None:
        self._guard(position).legs_until_ns = until_ns
        self._due.add((position.account, position.symbol))

    def _legs_are_late(self, key: Key, guard: _Guard) -> None:
        """Ask for the exits the broker was given; if it does not tell of them then either, it does not have them."""
        guard.legs_until_ns = 0
        position = self._host.position(*key)
        if position is None or not position.native or any(self._worked(position).values()):
            return
        if not guard.asked:
            guard.asked = True
            self._await_legs(position, self._clock.monotonic_ns() + LEGS_WITHIN_NS)
            self._host.ask_for_legs(position)
            return
        self.refresh(position, look=True)

    def on_lost(self, orders: Iterable[Order]) -> None:
        """Take back exits that could not be made durable: nothing of them left."""
        for order in orders:
            position = self._host.position(order.account, order.symbol)
            if position is not None:
                self.refresh(position, look=True)

    def _show(self, position: Position, guard: _Guard, protected: str) -> None:
        if position.protected != protected:
            position.protected = protected
            self._host.note(position)
        lost = (
            position.native and not guard.legs_until_ns and not any(self._worked(position).values())
        )
        if lost and protected == "engine":
            position.native = False
            self._host.note(position)
            if not guard.quiet and not self._under_way(position):
                self._tell_taken_over(position)

    def _tell_taken_over(self, position: Position) -> None:
        refused = self._host.gate(self._exit(position, STOP_LEG, None))
        if refused is not None and refused[0] == "HALTED":
            return  # a kill cancels everything: that is no news of one position
        blind = self._prices.fresh(position.symbol) is None
        text = f"{position.symbol}: the broker does not work its exits any more, Volley watches them now"
        if blind:
            text += "; there is no fresh price, so they cannot fire: watch it by hand"
        self._host.alert(
            "critical" if blind else "warning", "EXITS_TAKEN_OVER", position.account, text
        )

    # ---- exits -------------------------------------------------------------------------------------------------

    def _under_way(self, position: Position) -> bool:
        """Say whether an exit is on its way (or of unknown outcome): no other may leave beside it."""
        state = self._host.state(position.account)
        return state is not None and any(
            order.reducing and order.symbol == position.symbol and not order.rests
            for order in state.working.values()
        )

    def _fire(self, symbol: str, fired: dict[str, str], price: Decimal | None) -> None:
        """Close positions; those of one price leave together, in one transaction and one fan-out."""
        orders = []
        for account, leg in fired.items():
            position = self._host.position(account, symbol)
            if position is None or not position.qty or self._under_way(position):
                continue  # its end makes the guard look again
            order = self._exit(position, leg, price)
            refused = self._host.gate(order)
            if refused is None:
                orders.append(order)
            else:
                self._forbidden(position, order, *refused)
        if orders:
            self._host.send_exits(orders)

    def _exit(self, position: Position, leg: str, price: Decimal | None) -> Order:
        signal_id = f"{position.symbol}.{position.generation}"
        session = self._host.session(position.account)
        lives = TimeInForce.DAY
        if session is not None and lives not in session.capabilities.time_in_force:
            lives = TimeInForce.GTC
        order = Order(
            cl_ord_id=ClOrdIDs(self._book, PROTECTIVE, signal_id).make(position.account, leg),
            account=position.account,
            symbol=position.symbol,
            side=Side.SELL if position.qty > 0 else Side.BUY,
            order_qty=abs(position.qty),
            order_type=OrderType.MARKET,
            time_in_force=lives,
            created_at=self._clock.now(),
            source=PROTECTIVE,
            signal_id=signal_id,
            strategy=position.strategy,
            leg=leg,
            reducing=True,
        )
        order.text = _WORDS[leg] + (f" at {to_text(price)}" if price is not None else "")
        return order

    def _exit_ended(self, order: Order) -> None:
        position = self._host.position(order.account, order.symbol)
        if position is None or order.signal_id != f"{position.symbol}.{position.generation}":
            return  # counted already
        position.generation += 1
        self._host.note(position)
        if not position.qty:
            return
        guard = self._guard(position)
        if order.status is OrderStatus.FILLED or order.cum_qty:
            guard.tries = 0
        elif order.status is OrderStatus.DENIED and order.code in _FORBIDDEN:
            self._forbidden(position, order, order.code, order.text)
        elif order.code != "NO_POSITION":
            self._failed(position, guard, order)

    def _forbidden(self, position: Position, order: Order, code: str, text: str) -> None:
        """Wait until the exit may leave; what happens meanwhile is the operator's to know."""
        guard = self._guard(position)
        guard.blocked = True
        self._pause(position, guard, BLOCKED_LOOK_NS)
        if self._may_tell(guard):
            self._host.alert(
                "critical",
                "EXIT_BLOCKED",
                position.account,
                f"{position.symbol}: {_WORDS[order.leg]} reached, but its exit may not leave: {code}, {text}",
            )

    def _failed(self, position: Position, guard: _Guard, order: Order) -> None:
        guard.tries += 1
        pause = min(SECOND << min(guard.tries - 1, 10), MOST_PAUSE_NS)
        self._pause(position, guard, pause)
        if self._may_tell(guard):
            self._host.alert(
                "critical",
                "EXIT_FAILED",
                position.account,
                f"{position.symbol}: its exit {order.cl_ord_id} ({_WORDS.get(order.leg, order.leg)}) is "
                f"{order.status.value}: {order.text or order.code}; it is tried again, close it by hand if in doubt",
            )

    def _pause(self, position: Position, guard: _Guard, nanoseconds: int) -> None:
        guard.wait_until_ns = self._clock.monotonic_ns() + nanoseconds
        self._due.add((position.account, position.symbol))

    def _may_tell(self, guard: _Guard) -> bool:
        now = self._clock.monotonic_ns()
        if guard.told_ns and now - guard.told_ns < TELL_AGAIN_NS:
            return False
        guard.told_ns = now
        return True
