"""Every order we know, and the one road reports take: order → position → journal → feed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from engine.clock import Clock
from engine.errors import InvariantError
from engine.execution.conservation import Ledger
from engine.model.account_state import AccountState
from engine.model.enums import ExecType, OrderStatus, OrderType
from engine.model.identifiers import EXIT_LEGS, STOP_LEG, exit_leg_id
from engine.model.messages import ExecutionReport, Fill
from engine.model.numbers import to_text
from engine.model.order import Order

log = logging.getLogger(__name__)


MOST_DONE = 5_000
MOST_FILLS = 2_000


CONTRADICTED = "DUPLICATE_ID"
"""The code of an order whose id the broker has given to another."""
_UNPROVEN = frozenset({OrderStatus.PENDING_NEW, OrderStatus.UNKNOWN})
_PROVEN = frozenset({OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED, OrderStatus.FILLED})


class Book(Protocol):
    """Counts orders against the limits (engine.risk.pretrade)."""

    def added(self, order: Order) -> None:
        """Count a new order: it is reserved from now on."""
        ...

    def changed(self, order: Order) -> None:
        """Follow an order's change."""
        ...

    def taken_back(self, order: Order) -> None:
        """Forget an order whose plan did not become durable."""
        ...


class OrderManager:
    """Orders by ClOrdID and by the broker's id; the newest finished ones stay for the desk."""

    def __init__(
        self,
        clock: Clock,
        states: dict[str, AccountState],
        on_change: Callable[[Order, ExecutionReport | None], None],
        on_fill: Callable[[Fill, Order], None],
        on_broken: Callable[[str, str], None],
        on_repeat: Callable[[Order], None] | None = None,
    ) -> None:
        """``on_repeat``: the broker said again what was known, by its stream after its reply or the other way round;
        without it, ``on_change`` is told that, too.
        """
        self._clock = clock
        self._states = states
        self._on_change = on_change
        self._on_fill = on_fill
        self._on_broken = on_broken
        self._on_repeat = on_repeat
        self.book: Book | None = None
        self.ledger = Ledger()
        self.orders: dict[str, Order] = {}
        self._by_order_id: dict[tuple[str, str], str] = {}
        self._done: deque[str] = deque()
        self.fills: deque[Fill] = deque(maxlen=MOST_FILLS)

    def load(self, orders: Iterable[Order], fills: Iterable[Fill]) -> None:
        """Take orders and fills as they were before a restart."""
        for order in orders:
            self._keep(order)
            if order.status.terminal:
                self._done.append(order.cl_ord_id)
        self.fills.extend(fills)

    def add(self, order: Order) -> None:
        """Take a new order as soon as it is planned: from then on it counts against every limit.

        An id that is known already is left alone: a repeat of an old signal plans the same orders again.
        """
        if order.cl_ord_id not in self.orders:
            self._keep(order)
            if self.book is not None:
                self.book.added(order)

    def add_again(self, order: Order) -> None:
        """Take an order back among the working ones (proven absent, to be sent once more)."""
        self._keep(order)
        self.ledger.proven_absent(order)
        if self.book is not None:
            self.book.changed(order)
        if order.cl_ord_id in self._done:
            self._done.remove(order.cl_ord_id)

    def take_back(self, order: Order) -> None:
        """Forget an order whose plan did not become durable."""
        if self.orders.get(order.cl_ord_id) is not order:
            return
        del self.orders[order.cl_ord_id]
        self.ledger.forget(order.cl_ord_id)
        if self.book is not None:
            self.book.taken_back(order)
        state = self._states.get(order.account)
        if state is not None:
            state.working.pop(order.cl_ord_id, None)

    def adopt(self, state: AccountState) -> None:
        """Hand an account that has just become known its working orders."""
        for order in self.orders.values():
            if order.account == state.id and order.status.working:
                state.working[order.cl_ord_id] = order

    def _keep(self, order: Order) -> None:
        self.orders[order.cl_ord_id] = order
        self.ledger.planned(order)
        if order.order_id:
            self._by_order_id[order.account, order.order_id] = order.cl_ord_id
        if order.status.working and (state := self._states.get(order.account)):
            state.working[order.cl_ord_id] = order

    def find(self, report: ExecutionReport) -> Order | None:
        """Return the order a report speaks of.

        A bracket's exit that was replaced is another order at the broker, told as the same leg: its id decides.
        """
        ours = self._by_order_id.get((report.account, report.order_id)) if report.order_id else None
        if report.parent and ours:
            return self.orders.get(ours)
        order = self.orders.get(report.cl_ord_id)
        if order is None and ours:
            order = self.orders.get(ours)
        return order

    def apply(self, report: ExecutionReport) -> Order | None:
        """Take in one report; return its order, or ``None`` when it is not one of ours."""
        order = self.find(report) or self._leg(report)
        if order is None:
            return None
        if order.account != report.account:
            # Another account's data under this one (I14): never apply it.
            self._on_broken(
                report.account, f"a report for {order.account}'s order {order.cl_ord_id}"
            )
            return None
        if self._is_special(order, report):
            return order
        repeat = self._on_repeat
        if repeat is not None and _is_known(order, report):
            repeat(order)
            return order
        try:
            fill = order.apply(report, self._clock.now())
        except InvariantError as error:
            self._on_broken(order.account, str(error))
            return order
        if order.status is OrderStatus.UNKNOWN:
            order.code = order.code or "OUTCOME_UNKNOWN"
        elif order.code == "OUTCOME_UNKNOWN":  # proven: the doubt and its words are over
            order.code = ""
            order.text = report.text
        if order.order_id:
            self._by_order_id[order.account, order.order_id] = order.cl_ord_id
        if fill is not None:
            self.take_fill(fill, order)
        self._changed(order, report)
        return order

    def _is_special(self, order: Order, report: ExecutionReport) -> bool:
        """Take a report that is no step of the order's life; say whether it was one."""
        if report.exec_type is ExecType.UNSENT:
            self._on_change(order, report)
        elif order.status in _UNPROVEN and (text := contradiction(order, report)):
            self._contradicted(order, text)
        elif report.exec_type is ExecType.TRADE_CANCEL:
            self._bust(order, report)
        else:
            return False
        return True

    def _contradicted(self, order: Order, text: str) -> None:
        """Take nothing of another's order for ours; halt the account for it, once. What became of ours is not known."""
        if order.code == CONTRADICTED:
            return
        unknown = ExecutionReport(order.account, order.cl_ord_id, ExecType.UNKNOWN, text=text)
        order.apply(unknown, self._clock.now())
        order.code = CONTRADICTED
        self._on_broken(order.account, text)
        self._changed(order, unknown)

    def amended(self, order: Order) -> None:
        """Follow up a change that was made to an order's terms."""
        self._changed(order, None)

    def take_fill(self, fill: Fill, order: Order) -> None:
        """Book a fill: of an order's report, of its bust, or of an adopted position."""
        self.fills.append(fill)
        self._on_fill(fill, order)

    def _bust(self, order: Order, report: ExecutionReport) -> None:
        """Undo a fill; of one that is not told in full, what was told when it came."""
        quantity, price = report.last_qty, report.last_px
        known = (fill for fill in self.fills if fill.exec_id == report.busts)
        if not (quantity and price) and (fill := next(known, None)) is not None:
            quantity, price = fill.last_qty, fill.last_px
        undone = order.bust(report.exec_id or report.busts, quantity, price, self._clock.now())
        if undone is None:
            return
        order.text = report.text
        self.take_fill(undone, order)
        self._changed(order, report)

    def _leg(self, report: ExecutionReport) -> Order | None:
        """Take in an exit that the broker made along with an entry of ours, when it is first told."""
        entry = self.orders.get(report.parent) if report.parent else None
        if entry is None or report.leg not in EXIT_LEGS or entry.account != report.account:
            return None
        is_stop = report.leg == STOP_LEG
        order = Order(
            cl_ord_id=report.cl_ord_id or exit_leg_id(entry.cl_ord_id, report.leg),
            account=entry.account,
            symbol=entry.symbol,
            side=report.side or entry.side.opposite,
            order_qty=report.order_qty or entry.order_qty,
            order_type=report.order_type or (OrderType.STOP if is_stop else OrderType.LIMIT),
            time_in_force=report.time_in_force or entry.time_in_force,
            created_at=self._clock.now(),
            limit_price=report.limit_price or (None if is_stop else entry.take_profit),
            stop_price=report.stop_price or (entry.stop_loss if is_stop else None),
            source=entry.source,
            signal_id=entry.signal_id,
            strategy=entry.strategy,
            leg=report.leg,
            reducing=True,
            parent=entry.cl_ord_id,
        )
        order.order_id = report.order_id
        self._keep(order)
        return order

    def deny(self, order: Order, code: str, text: str) -> None:
        """Close an order that never left."""
        order.deny(code, text, self._clock.now())
        self._changed(order, None)

    def _changed(self, order: Order, report: ExecutionReport | None) -> None:
        if self.book is not None:
            self.book.changed(order)
        if order.status.terminal:
            state = self._states.get(order.account)
            if state is not None and state.working.pop(order.cl_ord_id, None) is not None:
                self._done.append(order.cl_ord_id)
                self._evict()
        self._on_change(order, report)

    def _evict(self) -> None:
        while len(self._done) > MOST_DONE:
            order = self.orders.pop(self._done.popleft(), None)
            if order is not None:
                self.ledger.forget(order.cl_ord_id)
                if order.order_id:
                    self._by_order_id.pop((order.account, order.order_id), None)

    def working(self) -> list[Order]:
        """Return every order that may still fill."""
        return [order for state in self._states.values() for order in state.working.values()]


def contradiction(order: Order, report: ExecutionReport) -> str:
    """Say how an order at the broker under our ClOrdID is another than the one we sent (F15), empty if it is not.

    Only lists and look-ups tell contents; where a broker has placed less than was ordered, its report says so in words.
    """
    if report.parent or not report.symbol or report.side is None:
        return ""
    same = _letters(report.symbol) == _letters(order.symbol) and report.side is order.side
    quantity = report.order_qty
    less = quantity is not None and quantity < order.order_qty and bool(report.text)
    if same and (less or quantity in {None, order.order_qty}):
        return ""
    told = "?" if report.order_qty is None else to_text(report.order_qty)
    return (
        f"the broker's order under {order.cl_ord_id} is another: {report.side.value} {told} {report.symbol} "
        f"({report.order_id}), ours is {order.side.value} {to_text(order.order_qty)} {order.symbol}"
    )


def _letters(symbol: str) -> str:
    """Return a symbol without what brokers spell differently."""
    return "".join(filter(str.isalnum, symbol)).upper()


def _is_known(order: Order, report: ExecutionReport) -> bool:
    """Say whether a ``new`` tells nothing: most brokers say it twice, in the reply and by the stream."""
    return (
        report.exec_type is ExecType.NEW
        and order.status in _PROVEN
        and report.order_id == order.order_id
        and not report.text
        and not report.last_qty
        and not (report.cum_qty and report.cum_qty > order.cum_qty)
        and (report.status is OrderStatus.NEW or report.status is None)
        and not order.code
    )
