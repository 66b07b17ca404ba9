"""The day's orders as Kite tells them, under the names we know them by.

Kite's tag is a label and nothing more: one placement may become several orders (slices), two orders may carry
one tag, and a changed order keeps its id and its first tag. So orders are known by Kite's ids here, and each id
belongs to one of our orders, by the reply that named it or by its tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace as changed
from decimal import Decimal

from engine.brokers.kite.mapping import Row, Trade, report, told_as
from engine.model.enums import ExecType, OrderStatus
from engine.model.messages import ExecutionReport
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order

_OURS = re.compile(r"[A-Z2-7]{20}", re.ASCII)


def _exec_id(trade: Trade) -> str:
    """Return an execution's id: exchanges number trades anew every day, and an account's own two orders may meet."""
    return f"{trade.order_id}:{trade.trade_id}"


class Family:
    """Every order at Kite that stands for one order of ours."""

    __slots__ = (
        "asked",
        "before",
        "cancel_refused",
        "cl_ord_id",
        "counted",
        "ids",
        "refused",
        "rows",
        "symbol",
        "told",
        "wanted",
    )

    def __init__(self, cl_ord_id: str, symbol: str = "", wanted: Decimal | None = None) -> None:
        self.cl_ord_id = cl_ord_id
        self.symbol = symbol  # as we spell it
        self.wanted = wanted
        self.ids: set[str] = set()
        self.rows: dict[str, Row] = {}
        self.refused: list[str] = []  # what was said of slices that were not placed
        self.told: set[str] = set()  # exec ids
        self.cancel_refused = False  # the last news was: the exchange did not cancel it
        self.counted = ZERO  # of what filled, told as executions
        self.asked = 0  # how often for the executions of what filled last
        self.before: list[
            Order
        ] = []  # our orders this one took the place of: what filled then is theirs

    @property
    def filled(self) -> Decimal:
        """Return what filled of this order of ours."""
        return sum((row.filled for row in self.rows.values()), ZERO) - self.inherited

    @property
    def inherited(self) -> Decimal:
        """Return what had filled of the orders before, which are at the broker one with this."""
        return sum((order.cum_qty for order in self.before), ZERO)

    @property
    def over(self) -> bool:
        """Say whether everything of it that we know of is over."""
        return self.ids <= self.rows.keys() and all(
            row.status.terminal for row in self.rows.values()
        )

    def warning(self) -> str:
        """Return what does not add up, empty when all does."""
        if self.wanted is None or not self.ids <= self.rows.keys():
            return ""
        placed = sum((row.quantity for row in self.rows.values()), ZERO)
        if placed > self.wanted + self.inherited:
            return f"the broker has {to_text(placed)} where {to_text(self.wanted)} was ordered"
        if self.refused and placed < self.wanted:
            return f"only {to_text(placed)} of {to_text(self.wanted)} was placed: {self.refused[0]}"
        return ""

    def report(self, account: str) -> ExecutionReport:
        """Tell its state as of now, as a look-up does."""
        told = report(account, self.cl_ord_id, list(self.rows.values()), self.symbol)
        if not self.ids <= self.rows.keys():
            told = changed(told, order_qty=None)
        inherited = self.inherited
        if inherited and told.cum_qty is not None:
            told = self._without(told, told.cum_qty, inherited)
        if not self.ids <= self.rows.keys() and told.status is not None and told.status.terminal:
            told.status = OrderStatus.NEW  # of some slices we have not heard yet
        if (
            told.status is OrderStatus.FILLED
            and self.wanted is not None
            and told.cum_qty != self.wanted
        ):
            told.status = OrderStatus.CANCELED  # the rest was never placed, or had filled before
        warning = self.warning()
        return changed(told, text=" ".join(filter(None, (warning, told.text)))) if warning else told

    def _without(
        self, told: ExecutionReport, total: Decimal, inherited: Decimal
    ) -> ExecutionReport:
        paid = sum((order.cash for order in self.before), ZERO)
        own = total - inherited
        average = (total * (told.avg_px or ZERO) - paid) / own if own > 0 else None
        return changed(told, cum_qty=max(own, ZERO), avg_px=average)

    def state(self, account: str) -> ExecutionReport:
        """Tell its state as an event does: without totals, which executions of their own tell."""
        told = self.report(account)
        kind = ExecType.CANCEL_REJECTED if self.cancel_refused else told_as(told.status)
        return changed(told, exec_type=kind, cum_qty=None, avg_px=None)

    def executions(self, account: str, trades: Iterable[Trade]) -> list[ExecutionReport]:
        """Tell those of its trades that were not told yet; ``trades`` are all of its, oldest first."""
        found: list[ExecutionReport] = []
        earlier = set().union(*(order.exec_ids for order in self.before))
        total = ZERO
        for trade in trades:
            exec_id = _exec_id(trade)
            if trade.order_id not in self.rows or exec_id in earlier:
                continue
            total += trade.quantity
            if exec_id in self.told:
                continue
            self.told.add(exec_id)
            found.append(
                ExecutionReport(
                    account,
                    self.cl_ord_id,
                    ExecType.TRADE,
                    None,
                    trade.order_id,
                    exec_id,
                    trade.quantity,
                    trade.price,
                    total,
                    transact_time=trade.at,
                    symbol=self.symbol or self.rows[trade.order_id].symbol,
                    side=self.rows[trade.order_id].side,
                )
            )
        self.counted = max(self.counted, total)
        return found


class DayBook:
    """Kite's orders of the day by id, each with the order of ours it stands for."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._day = ""
        self._families: dict[str, Family] = {}
        self._by_id: dict[str, Family] = {}

    def begin_day(self, day: str) -> None:
        """Forget what was over before ``day``: Kite's book begins anew every day, and so does this one."""
        if day == self._day:
            return
        self._day = day
        self._by_id = {i: family for i, family in self._by_id.items() if not family.over}
        kept = {id(family) for family in self._by_id.values()}
        self._families = {
            name: family for name, family in self._families.items() if id(family) in kept
        }

    def sent(self, order: Order) -> None:
        """Note an order on its way."""
        if order.cl_ord_id not in self._families:
            self._families[order.cl_ord_id] = Family(order.cl_ord_id, order.symbol, order.order_qty)

    def placed(self, cl_ord_id: str, ids: Iterable[str], refused: Iterable[str] = ()) -> Family:
        """Note the ids a placement brought."""
        family = self._families.setdefault(cl_ord_id, Family(cl_ord_id))
        family.refused.extend(refused)
        for order_id in ids:
            self._join(family, order_id)
        return family

    def _join(self, family: Family, order_id: str) -> None:
        before = self._by_id.get(order_id)
        self._by_id[order_id] = family
        family.ids.add(order_id)
        if before is not None and before is not family:
            before.ids.discard(order_id)
            row = before.rows.pop(order_id, None)
            if row is not None:
                family.rows[order_id] = row

    def named(self, cl_ord_id: str) -> Family | None:
        """Return what stands for an order of ours, ``None`` if nothing was told of it."""
        family = self._families.get(cl_ord_id)
        return family if family is not None and family.rows else None

    def of(self, order_id: str) -> Family | None:
        """Return whose order an id of Kite's is."""
        return self._by_id.get(order_id)

    def succeed(self, order: Order, replacement: Order) -> Family:
        """Give the orders of ``order`` to its replacement: Kite changed them in place."""
        before = self._families.get(order.cl_ord_id) or Family(order.cl_ord_id, order.symbol)
        family = Family(replacement.cl_ord_id, replacement.symbol, replacement.order_qty)
        family.before = [*before.before, order]
        family.told = before.told
        self._families[family.cl_ord_id] = family
        for order_id in list(before.ids) or [order.order_id]:
            self._join(family, order_id)
        return family

    def claim(self, cl_ord_id: str, order_id: str) -> Family | None:
        """Give an order that was changed before a restart its name, as the engine remembers it.

        Only one without a name takes it: what a replacement goes by is not given back to the first order.
        """
        family = self._by_id.get(order_id)
        if family is not None and not family.cl_ord_id:
            family.cl_ord_id = cl_ord_id
            self._families[cl_ord_id] = family
        return family

    def take(self, row: Row) -> Family | None:
        """Take what Kite tells of an order; ``None``: old news."""
        family = self._by_id.get(row.order_id) or self._by_tag(row)
        known = family.rows.get(row.order_id)
        if known is not None and (
            known == row or row.filled < known.filled or known.status.terminal
        ):
            return None
        self._join(family, row.order_id)
        family.rows[row.order_id] = row
        pending = known is not None and known.word == "CANCEL PENDING"
        family.cancel_refused = pending and row.settled and row.status.working
        return family

    def _by_tag(self, row: Row) -> Family:
        for tag in row.tags:
            if tag in self._families:
                return self._families[tag]
        ours = next((tag for tag in row.tags if _OURS.fullmatch(tag)), "")
        if row.modified or not ours:
            # Not ours; or changed before we started, and its tag names an order that was replaced:
            # without a name the engine finds the one that replaced it by Kite's id.
            return Family("", row.symbol)
        return self._families.setdefault(ours, Family(ours))
