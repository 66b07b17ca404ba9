"""What decides before an order exists: the checks of every entry, by a signal or by hand, and the sums they rest on.

Everything counts from the moment an order is reserved, in the same turn of the loop in which it was planned: two
signals at once, or a signal and an approval, cannot both use what is left of a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from engine.clock import Clock
from engine.config import Config
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus, OrderType, TimeInForce
from engine.model.instrument import Instrument
from engine.model.messages import Quote
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order
from engine.model.position import Position
from engine.model.signal import Signal
from engine.risk import checks, slices
from engine.risk.day_counts import DayCounts
from engine.risk.exposure import ExposureBook, InstrumentIfKnown, Positions
from engine.risk.repeats import Repeats
from engine.risk.slices import Slices
from engine.risk.throttle import Throttle
from engine.risk.trading_state import FIRM

Reason = tuple[str, str]
Entry = Signal | Order
"""What asks to open or add: both name symbol, side, type and prices alike."""


class Prices(Protocol):
    """The newest prices (engine.portfolio.marks)."""

    def get(self, symbol: str) -> Quote | None:
        """Return the newest price with its stamp."""
        ...

    def price(self, symbol: str) -> Decimal | None:
        """Return the newest price, however old."""
        ...


@dataclass(slots=True)
class Sums:
    """Open orders and gross exposure of an account or of the firm, with their limits (control C06)."""

    most_open: Decimal | None
    most_gross: Decimal | None
    open_value: Decimal = ZERO
    gross: Decimal = ZERO
    unproven: str = ""  # an open entry of unknown value

    def __bool__(self) -> bool:
        return self.most_open is not None or self.most_gross is not None

    def fill(self, book: ExposureBook, account: str) -> None:
        """Read what the book holds now."""
        self.unproven = book.unproven(account)
        self.open_value = book.open_value(account)
        if self.most_gross is not None:
            self.gross = book.gross(account)

    def refusal(self, who: str, ask: Ask, book: ExposureBook) -> Reason | None:
        """Refuse an order that goes beyond a limit, or whose sum cannot be proven for want of a price."""
        if not self:
            return None
        if ask.worth is None:
            return "REF_MISSING", f"there is no price to check the open value of {who} with"
        if self.unproven:
            return (
                "REF_MISSING",
                f"{who}: no price is known to value the open order {self.unproven} with",
            )
        worth = ask.worth - book.counted(ask.instead_of)[1]
        for code, name, before, most in (
            ("OPEN_VALUE_MAX", "open orders", self.open_value, self.most_open),
            ("EXPOSURE_MAX", "gross exposure", self.gross, self.most_gross),
        ):
            if most is not None and worth > 0 and before + worth > most:
                added = f"{before:.2f} + {worth:.2f} = {before + worth:.2f}"
                return code, f"{name} of {who}: {added} > {to_text(most)}"
        return None


@dataclass(slots=True)
class Room:
    """The firm's counts while one plan is made: its orders are not reserved yet, and count all the same."""

    sums: Sums
    orders: int
    strategy_orders: int

    def take(self, worth: Decimal | None) -> None:
        """Count one more order of the plan."""
        self.orders += 1
        self.strategy_orders += 1
        if worth is not None:
            self.sums.open_value += worth
            self.sums.gross += worth


@dataclass(slots=True)
class Ask:
    """One order about to be: how much, at what price it is valued, and what it must be counted together with.

    ``earlier``: the other orders of the same decision. ``instead_of``: the ClOrdID of an order that counts already and
    whose place this one takes (its own, when it is sent again). ``flaw`` is what is wrong with it whoever trades it,
    found by the first account's check (``checked``) and shared by all that are asked the same.
    """

    quantity: Decimal
    price: Decimal | None
    instrument: Instrument
    room: Room | None = None
    earlier: tuple[Order, ...] = ()
    instead_of: str = ""
    checked: bool = False
    flaw: Reason | None = None

    @property
    def worth(self) -> Decimal | None:
        """Return the order's value, ``None`` while there is no price."""
        if self.price is None:
            return None
        return self.quantity * self.price * self.instrument.multiplier


class PreTrade:
    """Checks entries and keeps what the checks count. One per engine."""

    def __init__(  # noqa: PLR0913 (everything a decision rests on)
        self,
        *,
        config: Config,
        clock: Clock,
        states: Mapping[str, AccountState],
        positions: Positions,
        prices: Prices,
        instrument_if_known: InstrumentIfKnown,
        unsupported: Callable[[AccountState, OrderType, TimeInForce], str],
        orders: Callable[[], Iterable[Order]],
    ) -> None:
        """``orders`` returns all that are known, done ones too."""
        self._limits = limits = config.limits
        self._clock = clock
        self._states = states
        self._prices = prices
        self._unsupported = unsupported
        self._orders = orders
        self._max_age_ns = int(float(limits.reference_max_age_s) * 1e9)
        self._restricted = frozenset(limits.restricted_symbols)
        self._summed = limits.max_open_value is not None or limits.max_gross_exposure is not None
        self._capped = (
            self._summed
            or limits.max_orders_per_day is not None
            or limits.max_strategy_orders_per_day is not None
        )
        self._follows = False  # whether any limit asks for the exposure book
        self.on_execution: Callable[[str, dict[str, Any]], None] = lambda _strategy, _fact: None
        """Called with a strategy and what the journal is to keep of it, once an execution of it is durable."""
        self.dirty: set[str] = set()  # accounts whose use of limits has changed
        self.exposure = ExposureBook(states, positions, prices.price, instrument_if_known)
        self.days = DayCounts(clock, states)
        self.throttle = Throttle(limits.max_unreviewed)
        self.repeats = Repeats(config.signals.repeat_window_s)
        self.slices = Slices()

    # ---- following orders (engine.execution.order_manager.Book) -------------------------------------------------

    def follow_limits(self, positions: Iterable[Position]) -> None:
        """Take the accounts' limits as they are now: the book is kept only while one of them needs it."""
        wanted = self._summed or any(state.summed for state in self._states.values())
        if wanted and not self._follows:
            working = [order for state in self._states.values() for order in state.working.values()]
            self.exposure.begin(working, positions)
        self._follows = wanted
        self.dirty.update(self._states)

    def added(self, order: Order) -> None:
        """Count a new order: it is reserved from now on."""
        self.dirty.add(order.account)
        self.days.added(order)
        if self._follows:
            self.exposure.follow(order)

    def changed(self, order: Order) -> None:
        """Follow an order's change."""
        self.dirty.add(order.account)
        if self._follows:
            self.exposure.follow(order)
        if order.status is OrderStatus.DENIED:
            self.days.removed(order)

    def taken_back(self, order: Order) -> None:
        """Forget an order whose plan did not become durable."""
        self.dirty.add(order.account)
        self.days.removed(order)
        self.exposure.forget(order)

    def moved(self, position: Position) -> None:
        """Follow a position's change."""
        self.dirty.add(position.account)
        if self._follows:
            self.exposure.moved(position)

    def replaces(self, order: Order, replacement: Order) -> None:
        """Note, before it is reserved, that ``replacement`` is to take the place of ``order``."""
        self.slices.replaces(order, replacement)
        if self._follows:
            self.exposure.replaces(order, replacement)

    def together_with(self, order: Order, instead_of: Order | None) -> tuple[Order, ...]:
        """Return the orders that come of the same decision as ``order`` (or as the one whose place it takes)."""
        others = self.slices.together_with(instead_of or order, self._orders())
        return tuple(other for other in others if other.cl_ord_id != order.cl_ord_id)

    def begin(self, signal: Signal, *, sent: bool, held: bool) -> None:
        """Count a signal as soon as it is planned: its content, and that its strategy is carried out."""
        if signal.side is None or not (sent or held):
            return
        self.repeats.taken(signal, self._clock.monotonic_ns())
        if sent and self.throttle.on:
            self.throttle.begin(signal.strategy)

    def end(self, signal: Signal, seq: int | None, *, sent: bool, held: bool) -> None:
        """Take the news that a signal is durable as number ``seq``, or (``None``) that it came to nothing."""
        if signal.side is None or not (sent or held):
            return
        if seq is None:
            self.repeats.taken_back(signal)
        if sent and self.throttle.on:
            fact = self.throttle.end(signal.strategy, seq)
            if fact is not None:
                self.on_execution(signal.strategy, fact)

    # ---- once a signal ---------------------------------------------------------------------------------------

    def restricted(self, symbol: str) -> Reason | None:
        """Refuse what nobody may trade (control C14)."""
        if symbol not in self._restricted:
            return None
        return "RESTRICTED", f"{symbol} is on limits.restricted_symbols"

    def repeated(self, signal: Signal) -> Reason | None:
        """Refuse the same content under another id (control C12)."""
        return self.repeats.refusal(signal, self._clock.monotonic_ns())

    def fresh(self, quote: Quote) -> bool:
        """Say whether a price may serve as a reference."""
        return self._clock.monotonic_ns() - quote.at_ns <= self._max_age_ns

    def reference(self, entry: Entry) -> Reason | None:
        """Check prices once: a fresh reference, the collar around it for limit and stop, the producer's own price."""
        limits, symbol = self._limits, entry.symbol
        quote = self._prices.get(symbol)
        required = limits.price_reference == "required"
        if quote is None or not checks.is_plain(quote.price):
            return ("REF_MISSING", f"no price of {symbol} is known") if required else None
        if not self.fresh(quote):
            if not required:
                return None
            age = (self._clock.monotonic_ns() - quote.at_ns) / 1e9
            most = float(limits.reference_max_age_s)
            return "REF_STALE", f"the newest price of {symbol} is {age:.1f} s old > {most:g} s"
        for price in (entry.limit_price, entry.stop_price):
            if price is not None and (
                found := checks.collar(price, quote.price, limits.collar_percent)
            ):
                return found
        intended = entry.reference_price if isinstance(entry, Signal) else None
        return (
            checks.drift(quote.price, intended, limits.collar_percent)
            if intended is not None
            else None
        )

    def room(self, strategy: str) -> Room | None:
        """Return the firm's sums to plan with; ``None`` where the firm has no such limit."""
        if not self._capped:
            return None
        limits, days = self._limits, self.days
        sums = Sums(limits.max_open_value, limits.max_gross_exposure)
        if sums:
            sums.fill(self.exposure, FIRM)
        return Room(sums, days.of_firm(), days.of_strategy(strategy))

    # ---- once an order -----------------------------------------------------------------------------------------

    def refusal(self, state: AccountState, entry: Entry, ask: Ask) -> Reason | None:
        """Check one order of one account against everything but the account's own rules of eligibility."""
        unsupported = self._unsupported(state, entry.order_type, entry.time_in_force)
        if unsupported:
            return "BROKER_UNSUPPORTED", unsupported
        limits, instrument, quantity = state.limits, ask.instrument, ask.quantity
        before, worth_before = slices.NO_SUM, ZERO
        if ask.earlier:
            before, worth_before = self._before(state, ask)
        return (
            (self._unknown(state, entry, ask) if state.working else None)
            or self._flaw(entry, ask)
            or checks.quantity(quantity, limits, before.quantity)
            or checks.value(quantity, ask.price, instrument, limits, worth_before)
            or (self._over_a_sum(state, entry, ask) if state.capped or ask.room else None)
        )

    def refusals(self, state: AccountState, entry: Entry, ask: Ask) -> list[tuple[str, Reason]]:
        """Return every check of ``refusal`` that does not pass, in its order, each with the name of its rule."""
        unsupported = self._unsupported(state, entry.order_type, entry.time_in_force)
        limits, instrument, quantity = state.limits, ask.instrument, ask.quantity
        before, worth_before = self._before(state, ask)
        asked = {
            "order_type": ("BROKER_UNSUPPORTED", unsupported) if unsupported else None,
            "unknown": self._unknown(state, entry, ask),
            "order": self._flaw(entry, ask),
            "quantity": checks.quantity(quantity, limits, before.quantity),
            "value": checks.value(quantity, ask.price, instrument, limits, worth_before),
            "day_orders": self._too_many(state, ask.room),
            "position": self._position_too_large(state, entry, ask),
            "exposure": self._too_much_open(state, ask),
        }
        return [(rule, reason) for rule, reason in asked.items() if reason is not None]

    def _before(self, state: AccountState, ask: Ask) -> tuple[slices.Sum, Decimal]:
        """Return what the same decision ordered for an account within the last minute, and what that is worth."""
        before = slices.recent(ask.earlier, state.id, self._clock.now(), ask.price)
        return before, before.value * ask.instrument.multiplier

    @staticmethod
    def _flaw(entry: Entry, ask: Ask) -> Reason | None:
        """Check what is the same for every account that is asked this."""
        if not ask.checked:
            instrument, quantity = ask.instrument, ask.quantity
            ask.flaw = (
                checks.exact(quantity, ask.price)
                or checks.tick(entry.limit_price, instrument)
                or checks.tick(entry.stop_price, instrument)
                or checks.tradable(quantity, ask.price, instrument)
            )
            ask.checked = True
        return ask.flaw

    @staticmethod
    def _unknown(state: AccountState, entry: Entry, ask: Ask) -> Reason | None:
        for order in state.working.values():
            if (
                order.status is OrderStatus.UNKNOWN
                and order.symbol == entry.symbol
                and order.side is entry.side
                and order.cl_ord_id != ask.instead_of
            ):
                return "UNKNOWN_OPEN", f"{order.cl_ord_id} has no proven outcome yet"
        return None

    def _over_a_sum(self, state: AccountState, entry: Entry, ask: Ask) -> Reason | None:
        again = isinstance(entry, Order) and entry.cl_ord_id == ask.instead_of  # counted already
        return (
            (None if again else self._too_many(state, ask.room))
            or self._position_too_large(state, entry, ask)
            or self._too_much_open(state, ask)
        )

    def _too_many(self, state: AccountState, room: Room | None) -> Reason | None:
        """Check the orders of the day (control C10)."""
        limits = self._limits
        counted: list[tuple[str, int | None, int]] = []
        most = state.limits.max_orders_per_day
        if most is not None:
            counted.append(("account", most, self.days.of_account(state.id)))
        if room is not None:
            counted.append(("strategy", limits.max_strategy_orders_per_day, room.strategy_orders))
            counted.append(("firm", limits.max_orders_per_day, room.orders))
        for who, limit, done in counted:
            if limit is not None and done >= limit:
                return "DAY_MAX", f"the {who} has had {done} orders today, the limit is {limit}"
        return None

    def _position_too_large(self, state: AccountState, entry: Entry, ask: Ask) -> Reason | None:
        """Check position, what works, what is unknown and this order together, on its side (control C05)."""
        most, side = state.limits.max_position_quantity, entry.side
        if most is None or side is None:
            return None
        book = self.exposure
        held = book.position(state, entry.symbol, side)
        before = book.counted(ask.instead_of)[0]
        working = book.working(state.id, entry.symbol, side) - before
        total = held + working + ask.quantity
        if total <= most or ask.quantity <= before:
            return None
        return _position_max(held, working, ask.quantity, most)

    def position_refusal(self, state: AccountState, order: Order) -> Reason | None:
        """Check C05 once more before an entry's first byte: a position it reckoned with may be closed by now.

        Of entries that wait, the first take what room there is; a replacement counts with what it adds.
        """
        most, book = state.limits.max_position_quantity, self.exposure
        quantity = book.counted(order.cl_ord_id)[0]
        if most is None or not quantity:
            return None
        held = book.position(state, order.symbol, order.side)
        # In the turn of a fill the position has it before the book does: no more than is left counts.
        working = sum(
            (
                min(book.counted(other.cl_ord_id)[0], other.leaves_qty)
                for other in state.working.values()
                if other is not order
                and other.symbol == order.symbol
                and other.side is order.side
                and (other.was_sent or other.status is not OrderStatus.PENDING_NEW)
            ),
            ZERO,
        )
        if held + working + quantity <= most:
            return None
        return _position_max(held, working, quantity, most)

    def _too_much_open(self, state: AccountState, ask: Ask) -> Reason | None:
        """Check open orders and gross exposure, of the account and of the firm (control C06)."""
        own, book = state.limits, self.exposure
        sums = Sums(own.max_open_value, own.max_gross_exposure)
        if state.summed and sums:
            sums.fill(book, state.id)
            found = sums.refusal(f"account {state.id}", ask, book)
            if found is not None:
                return found
        room = ask.room
        return room.sums.refusal("the firm", ask, book) if room is not None else None


def _position_max(held: Decimal, working: Decimal, quantity: Decimal, most: Decimal) -> Reason:
    parts = " + ".join(map(to_text, (held, working, quantity)))
    total = to_text(held + working + quantity)
    return "POS_MAX", f"position + working + this: {parts} = {total} > {to_text(most)}"
