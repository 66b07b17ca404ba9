"""What open orders and positions add up to (controls C05 and C06), counted from the moment an order is planned.

The book is incremental: each order is one record, and a change of it moves two sums. Only entries are counted in the
sums; an entry counts with what may still fill, at its own price or, for a market order, at the newest price when it
was reserved. Exits are kept by symbol and side: what they leave of a position is asked with it. Unknown orders count
like working ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from engine.model.account_state import AccountState
from engine.model.enums import Side
from engine.model.instrument import Instrument
from engine.model.numbers import ZERO
from engine.model.order import Order
from engine.model.position import Position
from engine.risk.trading_state import FIRM

InstrumentIfKnown = Callable[[str, str], Instrument | None]
_ONE = Decimal(1)


class Positions(Protocol):
    """The positions by account (engine.portfolio.position_keeper)."""

    def get(self, account: str, symbol: str) -> Position | None:
        """Return one position."""
        ...

    def of(self, account: str) -> list[Position]:
        """Return an account's positions."""
        ...

    def mark(self, position: Position) -> Decimal:
        """Return the price a position is valued at."""
        ...


@dataclass(frozen=True, slots=True)
class ForeignOrder:
    """A working order at a broker that is none of ours (F56): counted as an entry, never touched.

    ``price``: its own, or ``None`` for one at the market.
    """

    order_id: str
    symbol: str
    side: Side
    leaves_qty: Decimal
    price: Decimal | None


@dataclass(slots=True)
class _Reserved:
    """What one order counts for. ``unit``: the value of one unit, ``None`` while no price is known.

    ``qty`` and ``value`` are what the sums hold of it: all that may still fill (``leaves``), or, while the order whose
    place it is to take still works, only what goes beyond that one.
    """

    account: str
    symbol: str
    side: Side
    unit: Decimal | None
    leaves: Decimal = ZERO
    qty: Decimal = ZERO
    value: Decimal = ZERO
    instead_of: str = ""
    successors: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Account:
    """Sums over one account's entries. ``qty`` by symbol and side; ``unpriced``: those of unknown value."""

    value: Decimal = ZERO
    qty: dict[tuple[str, Side], Decimal] = field(default_factory=dict)
    unpriced: set[str] = field(default_factory=set)


class ExposureBook:
    """Sums of what may still fill, per account and for the firm; positions are added where they are asked for.

    ``price`` returns the newest price of a symbol, however old.
    """

    def __init__(
        self,
        states: Mapping[str, AccountState],
        positions: Positions,
        price: Callable[[str], Decimal | None],
        instrument_if_known: InstrumentIfKnown,
    ) -> None:
        self._states = states
        self._positions = positions
        self._price = price
        self._instrument = instrument_if_known
        self._orders: dict[str, _Reserved] = {}
        self._accounts: dict[str, _Account] = {}
        self._firm = _Account()
        self._foreign: dict[str, list[str]] = {}  # account → keys of its foreign orders
        self._instead_of: dict[str, str] = {}  # a replacement about to be reserved → its original
        self._exits: dict[
            tuple[str, str, Side], dict[str, Order]
        ] = {}  # by account, symbol and side
        # Positions: (account, symbol) → (broker, |quantity|); (broker, symbol) → Σ |quantity|.
        self._held: dict[tuple[str, str], tuple[str, Decimal]] = {}
        self._held_qty: dict[tuple[str, str], Decimal] = {}

    # ---- following orders and positions --------------------------------------------------------------------

    def begin(self, orders: Iterable[Order], positions: Iterable[Position]) -> None:
        """Count orders and positions anew; foreign orders stay as they were told."""
        foreign = {key for keys in self._foreign.values() for key in keys}
        for key in self._orders.keys() - foreign:
            self._end(key)
        self._exits.clear()
        self._held.clear()
        self._held_qty.clear()
        for order in orders:
            self.follow(order)
        for position in positions:
            self.moved(position)

    def follow(self, order: Order) -> None:
        """Count an order as it is now: new, changed or done."""
        if order.reducing:
            self._follow_exit(order)
            return
        key = order.cl_ord_id
        known = self._orders.get(key)
        if order.status.terminal:
            if known is not None:
                self._end(key)
            return
        leaves = order.order_qty - order.cum_qty
        if known is None:
            known = self._reserve(order)
        elif leaves == known.leaves:
            return  # an acknowledgement: nothing filled
        known.leaves = leaves
        self._count(key, known)
        for successor in known.successors:
            self._count(successor, self._orders[successor])

    def _follow_exit(self, order: Order) -> None:
        place = (order.account, order.symbol, order.side)
        if not order.status.terminal:
            self._exits.setdefault(place, {})[order.cl_ord_id] = order
        elif exits := self._exits.get(place):
            exits.pop(order.cl_ord_id, None)
            if not exits:
                del self._exits[place]

    def forget(self, order: Order) -> None:
        """Take back an order that never came to be."""
        if exits := self._exits.get((order.account, order.symbol, order.side)):
            exits.pop(order.cl_ord_id, None)
        self._instead_of.pop(order.cl_ord_id, None)
        if order.cl_ord_id in self._orders:
            self._end(order.cl_ord_id)

    def replaces(self, order: Order, replacement: Order) -> None:
        """Note, before ``replacement`` is reserved, whose place it is to take: of the two the larger counts."""
        self._instead_of[replacement.cl_ord_id] = order.cl_ord_id

    def moved(self, position: Position) -> None:
        """Take a position's new quantity."""
        key = (position.account, position.symbol)
        broker, before = self._held.pop(key, ("", ZERO))
        if before:
            self._held_qty[broker, position.symbol] -= before
        if position.qty:
            state = self._states.get(position.account)
            broker = state.broker if state is not None else ""
            held = abs(position.qty)
            self._held[key] = (broker, held)
            group = (broker, position.symbol)
            self._held_qty[group] = self._held_qty.get(group, ZERO) + held

    def foreign(self, account: str, orders: Iterable[ForeignOrder]) -> None:
        """Take an account's foreign orders, all of them; those told before are forgotten."""
        for key in self._foreign.pop(account, ()):
            self._end(key)
        keys = self._foreign[account] = []
        for order in orders:
            key = f"{account}/{order.order_id}"
            if key in self._orders:
                continue  # told twice
            known = _Reserved(account, order.symbol, order.side, order.price)
            known.unit = self._unit(account, order.symbol, order.price)
            known.leaves = order.leaves_qty
            self._orders[key] = known
            self._count(key, known)
            keys.append(key)

    def _reserve(self, order: Order) -> _Reserved:
        price = order.limit_price or order.stop_price
        made = _Reserved(
            order.account, order.symbol, order.side, self._unit(order.account, order.symbol, price)
        )
        original = self._instead_of.pop(order.cl_ord_id, "")
        if original in self._orders:
            made.instead_of = original
            self._orders[original].successors.append(order.cl_ord_id)
        self._orders[order.cl_ord_id] = made
        return made

    def _unit(self, account: str, symbol: str, price: Decimal | None) -> Decimal | None:
        """Return the value of one unit at an order's own price, or at the newest there is."""
        price = price or self._price(symbol)
        return None if price is None else price * self.multiplier(account, symbol)

    def multiplier(self, account: str, symbol: str) -> Decimal:
        """Return an instrument's multiplier at an account's broker, 1 while it is not known."""
        state = self._states.get(account)
        return self._multiplier(state.broker if state is not None else "", symbol)

    def _multiplier(self, broker: str, symbol: str) -> Decimal:
        found = self._instrument(broker, symbol)
        return found.multiplier if found is not None else _ONE

    def _count(self, key: str, known: _Reserved) -> None:
        """Move the sums to what a record counts for now."""
        qty = known.leaves
        value = qty * known.unit if known.unit is not None else ZERO
        before = self._orders.get(known.instead_of) if known.instead_of else None
        if before is not None:
            qty = max(qty - before.leaves, ZERO)
            value = max(value - before.leaves * (before.unit or ZERO), ZERO)
        account = self._accounts.get(known.account)
        if account is None:
            account = self._accounts[known.account] = _Account()
        place = (known.symbol, known.side)
        account.qty[place] = account.qty.get(place, ZERO) + qty - known.qty
        if not account.qty[place]:
            del account.qty[place]
        more = value - known.value
        known.qty, known.value = qty, value
        for sums in (account, self._firm):
            sums.value += more
            if known.unit is None and qty:
                sums.unpriced.add(key)
            elif sums.unpriced:
                sums.unpriced.discard(key)

    def _end(self, key: str) -> None:
        """Take a record out; what was to take its place counts in full from now on."""
        known = self._orders[key]
        known.leaves = ZERO
        self._count(key, known)
        del self._orders[key]
        original = self._orders.get(known.instead_of)
        if original is not None:
            original.successors.remove(key)
        for successor in known.successors:
            self._count(successor, self._orders[successor])

    # ---- what is asked ---------------------------------------------------------------------------------------

    def counted(self, cl_ord_id: str) -> tuple[Decimal, Decimal]:
        """Return what one order counts for: quantity and value."""
        known = self._orders.get(cl_ord_id)
        return (ZERO, ZERO) if known is None else (known.qty, known.value)

    def working(self, account: str, symbol: str, side: Side) -> Decimal:
        """Return what an account's entries may still fill of a symbol, on one side."""
        found = self._accounts.get(account)
        return found.qty.get((symbol, side), ZERO) if found is not None else ZERO

    def position(self, state: AccountState, symbol: str, side: Side) -> Decimal:
        """Return the position on ``side`` that exits under way leave at most; below zero it lies on the other side.

        An exit fills in full whatever has become of its position meanwhile (brokers know no "reduce only" for most
        of them): what it has beyond the position counts. Of exits that cancel each other (those a broker works for
        one entry) only the largest can fill.
        """
        held = self._positions.get(state.id, symbol)
        signed = held.qty * side.sign if held is not None else ZERO
        exits = self._exits.get((state.id, symbol, side))
        return signed + _may_fill(exits.values()) if exits else signed

    def open_value(self, account: str = FIRM) -> Decimal:
        """Return the value of an account's working and unknown entries, or of the firm's."""
        found = self._firm if account == FIRM else self._accounts.get(account)
        return found.value if found is not None else ZERO

    def gross(self, account: str = FIRM) -> Decimal:
        """Return positions, either way, and open entries together, at the newest prices; of an account or the firm."""
        held = self._firm_held() if account == FIRM else self._account_held(account)
        return held + self.open_value(account)

    def _account_held(self, account: str) -> Decimal:
        state = self._states.get(account)
        broker = state.broker if state is not None else ""
        return sum(
            (
                self._worth(position, broker)
                for position in self._positions.of(account)
                if position.qty
            ),
            ZERO,
        )

    def _worth(self, position: Position, broker: str) -> Decimal:
        mark = self._positions.mark(position)
        return abs(position.qty) * mark * self._multiplier(broker, position.symbol)

    def _firm_held(self) -> Decimal:
        total = ZERO
        for (broker, symbol), qty in self._held_qty.items():
            price = self._price(symbol)
            if price is not None:
                total += qty * price * self._multiplier(broker, symbol)
            elif qty:  # valued at what they cost, one by one
                total += self._at_cost(broker, symbol)
        return total

    def _at_cost(self, broker: str, symbol: str) -> Decimal:
        found = (
            self._positions.get(account, symbol)
            for (account, held), (at, _qty) in self._held.items()
            if held == symbol and at == broker
        )
        return sum((self._worth(position, broker) for position in found if position), ZERO)

    def unproven(self, account: str = FIRM) -> str:
        """Return an entry whose value is not known for want of any price, empty if there is none.

        A price may have come since it was reserved: then it is counted now.
        """
        sums = self._firm if account == FIRM else self._accounts.get(account)
        for key in list(sums.unpriced) if sums is not None else ():
            known = self._orders[key]
            known.unit = self._unit(known.account, known.symbol, None)
            if known.unit is None:
                return key
            self._count(key, known)
        return ""


def _may_fill(exits: Iterable[Order]) -> Decimal:
    """Return the most that exits of one side can fill together."""
    total = ZERO
    one_of: dict[str, Decimal] = {}
    for order in exits:
        if order.parent:
            one_of[order.parent] = max(one_of.get(order.parent, ZERO), order.leaves_qty)
        else:
            total += order.leaves_qty
    return sum(one_of.values(), total)
