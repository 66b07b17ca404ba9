"""Control C22: what leaves is never more than what was planned, counted where it leaves.

Every order reserved may leave once, with at most its planned quantity, and all orders of a signal together with at
most the quantity of its durable plan. It may leave again only after proof that the broker has nothing of it: not a
byte left, or the look-ups proved it absent. Orders known from before a restart have left, as far as anybody can tell.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from engine.model.enums import OrderStatus
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order


class _Signal:
    """What a signal's durable plan lets out."""

    __slots__ = ("left", "orders")

    def __init__(self) -> None:
        self.orders = 0
        self.left = ZERO


class _Intent:
    __slots__ = ("left", "qty", "sent", "signal")

    def __init__(self, qty: Decimal, left: int) -> None:
        self.qty = qty
        self.left = left
        self.signal: _Signal | None = None
        self.sent = ZERO  # of the signal's quantity


MOST_SIGNALS: Final = 2_000


class Ledger:
    """Planned against sent, by ClOrdID and by signal. Constant time; no clock, no disk."""

    __slots__ = ("_intents", "_signals", "refused")

    def __init__(self) -> None:
        self._intents: dict[str, _Intent] = {}
        self._signals: dict[str, _Signal] = {}
        self.refused = 0

    def planned(self, order: Order) -> None:
        """Take an order as it was reserved; one that may have left before may not leave now."""
        name = order.cl_ord_id
        if name not in self._intents:
            sent = (
                order.status is not OrderStatus.PENDING_NEW or order.first_byte_ns or order.order_id
            )
            self._intents[name] = _Intent(order.order_qty, 0 if sent else 1)

    def committed(self, key: str, orders: list[Order]) -> None:
        """Take what a signal's plan, now durable, lets out; a release or a force adds to it."""
        if not orders:
            return
        signal = self._signals.get(key)
        if signal is None:
            signal = self._signals[key] = _Signal()
            if len(self._signals) > MOST_SIGNALS:
                del self._signals[next(iter(self._signals))]  # its orders keep their own bounds
        intents, count, left = self._intents, 0, ZERO
        for order in orders:
            intent = intents.get(order.cl_ord_id)
            if intent is not None and intent.signal is None:
                intent.signal = signal
                count += 1
                left += intent.qty
        signal.orders += count
        signal.left += left

    def forget(self, cl_ord_id: str) -> None:
        """Forget an order that was taken back, or is too old to be in memory: it may not leave."""
        self._intents.pop(cl_ord_id, None)

    def proven_absent(self, order: Order) -> None:
        """Let an order leave once more: the broker is proven to have nothing of it."""
        intent = self._intents.get(order.cl_ord_id)
        if intent is None or intent.left:
            return
        intent.left = 1
        if intent.signal is not None:
            intent.signal.left += intent.sent
            intent.signal.orders += 1
            intent.sent = ZERO

    def let_go(self, order: Order) -> str:
        """Count an order that leaves now; return in a sentence why it must not, empty if it may."""
        intent = self._intents.get(order.cl_ord_id)
        if intent is None:
            return self._stop(order, "was never planned")
        qty = order.order_qty
        if not intent.left:
            return self._stop(order, "has left before, and nobody has proven that it did not")
        if qty > intent.qty:
            return self._stop(order, f"{to_text(qty)} > planned {to_text(intent.qty)}")
        signal = intent.signal
        if signal is not None:
            if not signal.orders or qty > signal.left:
                left = f"{to_text(signal.left)} in {signal.orders} orders"
                return self._stop(order, f"{to_text(qty)} > {left} that its signal has left")
            signal.orders -= 1
            signal.left -= qty
            intent.sent = qty
        intent.left = 0
        return ""

    def _stop(self, order: Order, why: str) -> str:
        self.refused += 1
        return f"{order.account} {order.symbol} {order.cl_ord_id}: {why}"
