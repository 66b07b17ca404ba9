"""Changed orders. Kite changes an order in place: it keeps its id, and the tag it was placed with.

A 200 says that the change was asked for; whether it was made, the order itself has to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.brokers.kite.mapping import Row
from engine.brokers.kite.news import News
from engine.brokers.reading import rejected, unknown
from engine.errors import BrokerError
from engine.model.enums import ExecType, OrderStatus
from engine.model.messages import ExecutionReport
from engine.model.order import Order

MOST_CHANGES = 25
"""How often Kite lets one order be changed."""
_WAIT_S = 0.2


@dataclass(slots=True)
class _Change:
    """A replacement on its way."""

    order: Order
    replacement: Order

    def made(self, row: Row) -> bool:
        """Say whether the order is as it was asked to become.

        Orders with market protection are shown with a limit of the broker's, so only ours are compared.
        """
        wanted = self.replacement
        return (
            (row.settled or row.word == "MODIFIED")
            and row.quantity == wanted.order_qty
            and (not wanted.order_type.needs_limit or row.price == wanted.limit_price)
            and (not wanted.order_type.needs_stop or row.trigger == wanted.stop_price)
        )


class Changes:
    """One account's. ``deliver`` takes reports; ``settle_s``: how long Kite has to make a change."""

    def __init__(
        self,
        account: str,
        news: News,
        deliver: Callable[[ExecutionReport], None],
        settle_s: float,
    ) -> None:
        self._account = account
        self._news = news
        self._deliver = deliver
        self._settle_s = settle_s
        self._pending: dict[str, _Change] = {}  # by ClOrdID of the replacement
        self._counts: dict[str, int] = {}  # by Kite's id

    def refused(self, order: Order) -> str:
        """Return why an order cannot be changed, empty when it can."""
        family = self._news.book.of(order.order_id)
        if family is not None and len(family.ids) > 1:
            return "the broker sliced this order; cancel it and send another"
        if order.cum_qty or (family is not None and family.filled):
            return "part of it has filled; cancel the rest and send another"
        if self._counts.get(order.order_id, 0) >= MOST_CHANGES:
            return f"an order can be changed {MOST_CHANGES} times; cancel it and send another"
        if any(c.order is order and c.replacement.status.working for c in self._pending.values()):
            return "another change of it is on its way"
        return ""

    def sent(self, order: Order, replacement: Order) -> None:
        """Note a change on its way."""
        for cl_ord_id, change in list(self._pending.items()):
            if change.replacement.status.terminal:
                self.forget(cl_ord_id)  # it never left
        self._counts[order.order_id] = self._counts.get(order.order_id, 0) + 1
        self._pending[replacement.cl_ord_id] = _Change(order, replacement)

    def forget(self, cl_ord_id: str) -> None:
        """Forget a change that was refused."""
        self._pending.pop(cl_ord_id, None)

    async def settle(self, cl_ord_id: str) -> None:
        """Read the book until an accepted change is made, or is not."""
        change = self._pending.get(cl_ord_id)
        if change is None:
            return
        deadline = time.monotonic() + self._settle_s
        row: Row | None = None
        while self._pending.get(cl_ord_id) is change:
            row = None
            with contextlib.suppress(BrokerError):  # once more
                row = (await self._news.read_book()).get(change.order.order_id)
            if row is not None and self._judge(change, row):
                return
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(_WAIT_S)
        else:
            return
        if row is not None and row.settled:
            why = row.said or "the exchange did not change the order"
            self.not_made(change.order, change.replacement, why)
        else:
            self._deliver(unknown(self._account, cl_ord_id, "the change is taken, not made yet"))

    def row(self, row: Row) -> None:
        """Take a row of the socket: it may be the change that was asked for."""
        family = self._news.book.take(row)
        if family is None:
            return
        for change in list(self._pending.values()):
            if change.order.order_id == row.order_id:
                self._judge(change, row)
        self._news.tell([self._news.book.of(row.order_id) or family])

    def look(self, cl_ord_id: str, rows: Mapping[str, Row]) -> None:
        """See whether a change whose answer was lost has been made."""
        change = self._pending.get(cl_ord_id)
        if change is not None and change.order.order_id in rows:
            self._judge(change, rows[change.order.order_id])

    def _judge(self, change: _Change, row: Row) -> bool:
        """Say whether a change is decided, having told how."""
        if self._pending.get(change.replacement.cl_ord_id) is not change:
            return True
        if change.made(row):
            self._made(change)
            return True
        if row.status.terminal:
            why = row.said or "the order was over before it could be changed"
            self.not_made(change.order, change.replacement, why)
            return True
        return False

    def _made(self, change: _Change) -> None:
        order, replacement = change.order, change.replacement
        self.forget(replacement.cl_ord_id)
        family = self._news.book.succeed(order, replacement)
        for cl_ord_id, kind, status, replaces in (
            (order.cl_ord_id, ExecType.REPLACED, OrderStatus.REPLACED, ""),
            (replacement.cl_ord_id, ExecType.NEW, OrderStatus.NEW, order.order_id),
        ):
            self._deliver(
                ExecutionReport(
                    self._account, cl_ord_id, kind, status, order.order_id, replaces=replaces
                )
            )
        self._news.tell([family])

    def not_made(self, order: Order, replacement: Order, why: str) -> None:
        """Tell that the replacement never existed, and that the order it was for goes on."""
        self.forget(replacement.cl_ord_id)
        self._deliver(rejected(self._account, replacement.cl_ord_id, why))
        self._deliver(
            ExecutionReport(
                self._account,
                order.cl_ord_id,
                ExecType.CANCEL_REJECTED,
                text=f"not replaced: {why}",
            )
        )
