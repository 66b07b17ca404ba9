"""Copies of live state for other programs: the mirror (Redis) and the history (MongoDB), where the profile has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.clock import Clock
from engine.model import tables
from engine.model.messages import Fill
from engine.model.order import Order
from engine.model.position import Position
from engine.portfolio.marks import Marks
from engine.ports import History, Mirror
from engine.signal_record import SignalRecord
from engine.views import fill_row, order_row, position_row, signal_row


class Copies:
    """Hands rows over; neither is ever waited for. False where there is nobody to hand them to."""

    def __init__(
        self,
        mirror: Mirror | None,
        history: History | None,
        clock: Clock,
        marks: Marks,
        broker_of: Callable[[str], str],
    ) -> None:
        self.mirror = mirror
        self.history = history
        self._clock = clock
        self._marks = marks
        self._broker_of = broker_of

    def __bool__(self) -> bool:
        return self.mirror is not None or self.history is not None

    async def open(self) -> None:
        """Connect."""
        for copy in (self.mirror, self.history):
            if copy is not None:
                await copy.open()

    async def close(self) -> None:
        """Write what is pending and disconnect."""
        for copy in (self.mirror, self.history):
            if copy is not None:
                await copy.close()

    def everything(self, orders: Iterable[Order], positions: Iterable[Position]) -> None:
        """Hand over what is open: a mirror that was emptied or missed something while we were away is whole again."""
        if not self:
            return
        for order in orders:
            self.order(order)
        if self.mirror is not None:
            now = self._clock.now()
            for position in positions:
                row = position_row(position, self._marks, now)
                self.mirror.position(position.account, position.symbol, row)

    def order(self, order: Order) -> None:
        """Hand an order's row over."""
        if not self:
            return
        row = order_row(order, self._broker_of(order.account))
        if self.mirror is not None:
            self.mirror.order(order.account, order.cl_ord_id, row)
            self.mirror.event("order", row)
        if self.history is not None:
            self.history.write(tables.ORDERS, order.cl_ord_id, row)

    def fill(self, fill: Fill, position: Position) -> None:
        """Hand a fill's and its position's rows over."""
        if not self:
            return
        row = fill_row(fill)
        if self.mirror is not None:
            self.mirror.event("fill", row)
            self.mirror.position(
                fill.account, fill.symbol, position_row(position, self._marks, self._clock.now())
            )
        if self.history is not None:
            self.history.write(tables.FILLS, f"{fill.account}/{fill.exec_id}", row)

    def signal(self, record: SignalRecord) -> None:
        """Hand a signal's row to the history."""
        if self.history is not None:
            self.history.write(tables.SIGNALS, record.key, signal_row(record))
