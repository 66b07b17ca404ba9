"""Closing a position that has exits resting at the broker: they are taken back first, so that it is never closed twice.

A market exit beside a bracket's leg or a limit exit may both fill, and turn the position around. So an exit waits here
until every exit that rests has ended, and is then cut to what is left. Where a broker does not say within
``CLEAR_WITHIN_NS`` that they have ended, an operator's exit leaves all the same (a person has seen the alert and takes
the risk); the engine's own is denied and tried again later, since the resting exits still protect the position.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from engine.clock import Clock
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus, Side
from engine.model.identifiers import OPERATOR
from engine.model.numbers import ZERO, floor_to
from engine.model.order import Order
from engine.model.position import Position

SECOND = 1_000_000_000
LOOK_AFTER_NS = 2 * SECOND
CLEAR_WITHIN_NS = 10 * SECOND


def resting_exits(state: AccountState, symbol: str) -> list[Order]:
    """Return the exits of a symbol that wait for their price.

    Legs of an entry that has not filled at all are none yet: they close what that entry will have opened.
    """
    return [
        order
        for order in state.working.values()
        if order.rests and order.symbol == symbol and not _sleeps(order, state)
    ]


def _sleeps(leg: Order, state: AccountState) -> bool:
    entry = state.working.get(leg.parent) if leg.parent else None
    return entry is not None and not entry.cum_qty


def in_the_way(state: AccountState, symbol: str) -> list[Order]:
    """Return what must end before a position is closed: its resting exits, and entries that would wake them.

    A bracket's exits are for the whole entry: were the entry to fill on after the close, they would cover more than
    there is, and turn the position around.
    """
    rests = resting_exits(state, symbol)
    entries = dict.fromkeys(order.parent for order in rests if order.parent in state.working)
    return [*(state.working[entry] for entry in entries), *rests]


class Room(Protocol):
    """What closing needs of the engine."""

    def position(self, account: str, symbol: str) -> Position | None:
        """Return a position."""
        ...

    def state(self, account: str) -> AccountState | None:
        """Return an account."""
        ...

    def lot(self, account: str, symbol: str) -> Decimal:
        """Return the step of quantities, zero while it is not known."""
        ...

    def cancel(self, order: Order) -> None:
        """Take a resting exit back."""
        ...

    def look_up(self, order: Order) -> None:
        """Ask the broker what became of an order."""
        ...

    def send(self, order: Order) -> None:
        """Send an exit that is durable already."""
        ...

    def close(self, order: Order, code: str, text: str) -> None:
        """Close an order that never left."""
        ...

    def alert(self, severity: str, code: str, account: str, text: str) -> None:
        """Tell the operator."""
        ...


class _Waiting:
    __slots__ = ("looked", "order", "rests", "since_ns")

    def __init__(self, order: Order, rests: list[Order], since_ns: int) -> None:
        self.order = order
        self.rests = rests
        self.since_ns = since_ns
        self.looked = False

    def left(self) -> list[Order]:
        return [order for order in self.rests if not order.status.terminal]


class Closing:
    """Exits that wait for others of the same position to end."""

    def __init__(self, clock: Clock, room: Room) -> None:
        self._clock = clock
        self._room = room
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, order: Order) -> bool:
        """Take an exit that must wait; ``False``: nothing rests, it may leave now."""
        state = self._room.state(order.account)
        rests = [
            other
            for other in (in_the_way(state, order.symbol) if state else ())
            if other is not order
        ]
        if not rests:
            return False
        waiting = _Waiting(order, rests, self._clock.monotonic_ns())
        self._waiting[order.cl_ord_id] = waiting
        self._ask(waiting)
        self._release_if_clear(waiting)
        return True

    def fits(self, order: Order) -> bool:
        """Cut an exit to what is left of its position; ``False``: nothing is, and it was denied."""
        if not order.reducing:
            return True  # an entry against the position: it may turn it around
        left = min(order.order_qty, self._left(order))
        lot = self._room.lot(order.account, order.symbol)
        if lot:
            left = floor_to(left, lot)
        if left <= 0:
            self._room.close(order, "NO_POSITION", "nothing is left that an order could close")
            return False
        order.order_qty = left
        return True

    def deny(self, order: Order, code: str, text: str) -> bool:
        """Deny an exit that waits; say whether it did."""
        if self._waiting.pop(order.cl_ord_id, None) is None:
            return False
        if order.status is not OrderStatus.PENDING_NEW:
            return False  # sent once more, and its broker has told of the first after all
        self._room.close(order, code, text)
        return True

    def on_order(self, order: Order) -> None:
        """Take the news of an order: what waited for its end may leave."""
        if not self._waiting or not order.status.terminal:
            return
        self._waiting.pop(order.cl_ord_id, None)
        for waiting in list(self._waiting.values()):
            if waiting.order.account == order.account and waiting.order.symbol == order.symbol:
                self._release_if_clear(waiting)

    def tick(self) -> None:
        """Ask again about, and give up on, what does not end."""
        now = self._clock.monotonic_ns()
        for waiting in list(self._waiting.values()):
            age = now - waiting.since_ns
            if age >= CLEAR_WITHIN_NS:
                self._give_up(waiting)
            elif age >= LOOK_AFTER_NS and not waiting.looked:
                waiting.looked = True
                for order in waiting.left():
                    self._room.look_up(order)
                self._ask(waiting)

    def stop(self, code: str, text: str) -> None:
        """Deny everything that waits: the engine stops."""
        for waiting in list(self._waiting.values()):
            self.deny(waiting.order, code, text)

    def _ask(self, waiting: _Waiting) -> None:
        for order in waiting.left():
            if order.status is not OrderStatus.PENDING_CANCEL:
                self._room.cancel(order)

    def _release_if_clear(self, waiting: _Waiting) -> None:
        if not waiting.left() and self._waiting.pop(waiting.order.cl_ord_id, None) is not None:
            self._release(waiting)

    def _release(self, waiting: _Waiting) -> None:
        order = waiting.order
        if order.status is not OrderStatus.PENDING_NEW or not self.fits(order):
            return
        if order.send_before_ns:  # the time it had to wait is not its own
            order.send_before_ns += self._clock.monotonic_ns() - waiting.since_ns
        self._room.send(order)

    def _give_up(self, waiting: _Waiting) -> None:
        order = waiting.order
        del self._waiting[order.cl_ord_id]
        if order.status is not OrderStatus.PENDING_NEW:
            return  # it is at its broker after all
        names = ", ".join(other.cl_ord_id for other in waiting.left())
        seconds = CLEAR_WITHIN_NS // SECOND
        text = f"{order.symbol}: {names} rest at the broker and did not end within {seconds} s of the cancel"
        if order.source == OPERATOR:
            self._room.alert(
                "critical",
                "EXITS_REST",
                order.account,
                f"{text}; it is closed all the same: look at the broker",
            )
            self._release(waiting)
        else:
            self._room.alert(
                "critical", "EXITS_REST", order.account, f"{text}; nothing was sent beside them"
            )
            self._room.close(order, "EXITS_REST", text)

    def _left(self, order: Order) -> Decimal:
        """Return how much of its position an exit may close: what no other exit under way does."""
        position = self._room.position(order.account, order.symbol)
        side = Side.BUY if order.side is Side.SELL else Side.SELL
        if position is None or position.qty * side.sign <= 0:
            return ZERO
        state = self._room.state(order.account)
        others = (
            other.leaves_qty
            for other in (state.working.values() if state else ())
            if other.reducing
            and not other.rests
            and other.symbol == order.symbol
            and other is not order
        )
        return abs(position.qty) - sum(others, ZERO)
