"""One order and its life: the state machine every report goes through."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from engine.errors import InvariantError
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import ENTRY_LEG, EXIT_LEGS, PROTECTIVE
from engine.model.messages import ExecutionReport, Fill
from engine.model.numbers import ZERO, to_text
from engine.model.position import Levels

BUST = "bust:"
"""What the exec_id of a fill that undoes another begins with."""
_RANK = {
    OrderStatus.PENDING_NEW: 0,
    OrderStatus.UNKNOWN: 0,
    OrderStatus.NEW: 1,
    OrderStatus.PARTIALLY_FILLED: 2,
    OrderStatus.PENDING_CANCEL: 3,
}
_BY_EXEC_TYPE = {
    ExecType.NEW: OrderStatus.NEW,
    ExecType.CANCELED: OrderStatus.CANCELED,
    ExecType.REPLACED: OrderStatus.REPLACED,
    ExecType.REJECTED: OrderStatus.REJECTED,
    ExecType.EXPIRED: OrderStatus.EXPIRED,
    ExecType.PENDING_CANCEL: OrderStatus.PENDING_CANCEL,
    ExecType.UNKNOWN: OrderStatus.UNKNOWN,
}


class Order:
    """An order of ours. Quantities in units, prices in quote currency, ``*_ns`` monotonic."""

    __slots__ = (
        "account",
        "acked_ns",
        "alone",
        "cash",
        "cl_ord_id",
        "code",
        "created_at",
        "cum_qty",
        "derived_qty",
        "exec_ids",
        "first_byte_ns",
        "last_byte_ns",
        "leg",
        "limit_price",
        "order_id",
        "order_qty",
        "order_type",
        "parent",
        "planned_ns",
        "reducing",
        "send_before_ns",
        "side",
        "signal_id",
        "source",
        "status",
        "stop_loss",
        "stop_price",
        "strategy",
        "symbol",
        "take_profit",
        "text",
        "time_in_force",
        "trail_percent",
        "updated_at",
    )

    def __init__(  # noqa: PLR0913 (an order has this many facts)
        self,
        *,
        cl_ord_id: str,
        account: str,
        symbol: str,
        side: Side,
        order_qty: Decimal,
        order_type: OrderType,
        time_in_force: TimeInForce,
        created_at: datetime,
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
        source: str = "",
        signal_id: str = "",
        strategy: str = "",
        leg: str = ENTRY_LEG,
        reducing: bool = False,
        stop_loss: Decimal | None = None,
        take_profit: Decimal | None = None,
        trail_percent: Decimal | None = None,
        parent: str = "",
    ) -> None:
        self.cl_ord_id = cl_ord_id
        self.account = account
        self.symbol = symbol
        self.side = side
        self.order_qty = order_qty
        self.order_type = order_type
        self.time_in_force = time_in_force
        self.limit_price = limit_price
        self.stop_price = stop_price
        self.source = source
        self.signal_id = signal_id
        self.strategy = strategy
        self.leg = leg
        self.reducing = reducing
        # An entry's protective exits: sent along where the broker works them itself (native_exits).
        self.stop_loss = stop_loss
        self.take_profit = take_profit
        self.trail_percent = trail_percent
        self.alone = False  # sent without them: it works against an open position, which they would not protect
        self.parent = parent  # ClOrdID of the entry this exit was created with at the broker
        self.created_at = created_at
        self.updated_at = created_at
        self.order_id = ""
        self.status = OrderStatus.PENDING_NEW
        self.cum_qty = ZERO
        self.cash = ZERO  # Σ last_qty × last_px, exact
        self.exec_ids: set[str] = set()
        self.derived_qty = (
            ZERO  # up to this total a look-up has counted, whatever executions come late
        )
        self.code = ""
        self.text = ""
        self.planned_ns = 0
        self.send_before_ns = 0  # never sent later than this (0: no limit)
        self.first_byte_ns = 0
        self.last_byte_ns = 0
        self.acked_ns = 0

    @property
    def leaves_qty(self) -> Decimal:
        """Return what may still fill."""
        return ZERO if self.status.terminal else self.order_qty - self.cum_qty

    @property
    def protective(self) -> bool:
        """Say whether it protects a position: an exit of the engine's own, or one the broker works."""
        return self.source == PROTECTIVE or (self.leg in EXIT_LEGS and bool(self.parent))

    @property
    def levels(self) -> Levels:
        """Return the exits an entry carries."""
        return Levels(self.stop_loss, self.take_profit, self.trail_percent)

    @property
    def rests(self) -> bool:
        """Say whether it is an exit that waits for its price; a market exit is one under way."""
        return self.reducing and self.order_type is not OrderType.MARKET

    @property
    def avg_px(self) -> Decimal:
        """Return the average price of what filled, zero before the first fill."""
        return self.cash / self.cum_qty if self.cum_qty else ZERO

    @property
    def was_sent(self) -> bool:
        """Say whether a byte of it may have left."""
        return self.first_byte_ns > 0 or bool(self.order_id) or self.status is OrderStatus.REJECTED

    def reopen(self) -> None:
        """Make an order that never reached the broker, proven absent there, ready to be sent once more."""
        if (
            self.status not in {OrderStatus.UNKNOWN, OrderStatus.EXPIRED}
            or self.cum_qty
            or self.order_id
        ):
            raise InvariantError(f"{self.cl_ord_id} is {self.status} and cannot be sent again")
        self.status = OrderStatus.PENDING_NEW
        self.first_byte_ns = self.last_byte_ns = 0
        self.code = self.text = ""

    def deny(self, code: str, text: str, at: datetime) -> None:
        """Close an order that never left."""
        if self.status is not OrderStatus.PENDING_NEW or self.was_sent:
            raise InvariantError(f"{self.cl_ord_id} is {self.status} and cannot be denied")
        self.status = OrderStatus.DENIED
        self.code, self.text, self.updated_at = code, text, at

    def apply(self, report: ExecutionReport, at: datetime) -> Fill | None:
        """Take in one report; return the fill it proves, if any.

        Reports may be repeated, late and out of order. Terminal states stand (I6), each execution counts once
        (I11), and no report takes a status back: a late ``new`` does not undo a fill.

        Raises:
            InvariantError: the broker filled more than was ordered (I5).
        """
        if report.order_id and not self.order_id:
            self.order_id = report.order_id
        fill = self._fill(report, at)
        status = self._next_status(report)
        if status is not None and status is not self.status:
            self.status = status
            self.updated_at = at
        late = report.exec_type is ExecType.CANCEL_REJECTED and self.status.terminal
        if report.text and self.status is not OrderStatus.FILLED and not late:
            self.text = report.text
        if fill:
            self.updated_at = at
        return fill

    def _next_status(self, report: ExecutionReport) -> OrderStatus | None:
        if self.status.terminal:
            return None
        if self.cum_qty >= self.order_qty:
            return OrderStatus.FILLED
        status = report.status or _BY_EXEC_TYPE.get(report.exec_type)
        if report.exec_type is ExecType.CANCEL_REJECTED:
            if self.status is not OrderStatus.PENDING_CANCEL:
                return None  # says nothing about an order that was never proven
            # Still working: pending_cancel falls back to what the fills say.
            return OrderStatus.PARTIALLY_FILLED if self.cum_qty else OrderStatus.NEW
        if status is OrderStatus.FILLED:
            return None  # a claim without its executions: wait for them, or look up
        if status is OrderStatus.UNKNOWN and self.status is not OrderStatus.PENDING_NEW:
            return None  # proof arrived first, by the stream
        if status is OrderStatus.PENDING_CANCEL and not (self.order_id or _RANK[self.status]):
            return None  # that we asked to cancel it is no proof that the broker has it
        if self.cum_qty and status in {None, OrderStatus.NEW}:
            status = OrderStatus.PARTIALLY_FILLED
        if status is None or status.terminal:
            return status
        return status if _RANK[status] >= _RANK[self.status] else None

    def _fill(self, report: ExecutionReport, at: datetime) -> Fill | None:
        quantity, price, exec_id = report.last_qty, report.last_px, report.exec_id
        total = report.cum_qty
        if exec_id and exec_id in self.exec_ids:
            return None
        if quantity or total:
            self._check_exact(report)
        if quantity:
            if exec_id:
                self.exec_ids.add(exec_id)
            quantity = self._not_derived(quantity, total)
            if not exec_id:
                if total is not None and total <= self.cum_qty:
                    return None
                exec_id = self._derived_id(self.cum_qty + quantity)
        elif total and report.avg_px and total > self.cum_qty:
            # A look-up tells totals only: the difference is one execution under a derived, stable id.
            quantity = total - self.cum_qty
            price = (total * report.avg_px - self.cash) / quantity
            exec_id = self._derived_id(total)
            self.derived_qty = total
        if not quantity:
            return None
        if self.cum_qty + quantity > self.order_qty:
            raise InvariantError(
                f"{self.account}: broker filled {self.cum_qty + quantity} of {self.order_qty} on {self.cl_ord_id}"
            )
        self.exec_ids.add(exec_id)
        self.cum_qty += quantity
        self.cash += quantity * price
        return Fill(
            account=self.account,
            exec_id=exec_id,
            cl_ord_id=self.cl_ord_id,
            symbol=self.symbol,
            side=self.side,
            last_qty=quantity,
            last_px=price,
            at=report.transact_time or at,
            strategy=self.strategy,
            source=self.source,
            signal_id=self.signal_id,
            fee_qty=report.fee_qty if quantity == report.last_qty else ZERO,
        )

    def bust(self, exec_id: str, quantity: Decimal, price: Decimal, at: datetime) -> Fill | None:
        """Undo an execution that the broker has undone; ``exec_id`` is that of the bust, which counts once.

        What state the order has reached stands (I6); only what filled, and with it the position, is taken back.
        """
        exec_id = f"{BUST}{exec_id}"
        if exec_id in self.exec_ids or not 0 < quantity <= self.cum_qty:
            return None
        self.exec_ids.add(exec_id)
        self.cum_qty -= quantity
        self.cash -= quantity * price
        self.updated_at = at
        return Fill(
            account=self.account,
            exec_id=exec_id,
            cl_ord_id=self.cl_ord_id,
            symbol=self.symbol,
            side=self.side.opposite,
            last_qty=quantity,
            last_px=price,
            at=at,
            strategy=self.strategy,
            source=self.source,
            signal_id=self.signal_id,
        )

    def _check_exact(self, report: ExecutionReport) -> None:
        """Refuse an execution that is not told in numbers (F53): what it did to the position nobody knows."""
        total, average = report.cum_qty, report.avg_px
        if not (  # one by one: every fill is asked
            report.last_qty.is_finite()
            and report.last_qty >= 0
            and report.last_px.is_finite()
            and (total is None or total.is_finite())
            and (average is None or average.is_finite())
        ):
            raise InvariantError(
                f"{self.account}: the broker told an execution of {report.last_qty} at {report.last_px}, "
                f"{report.cum_qty} at {report.avg_px} in all, on {self.cl_ord_id}"
            )

    def _derived_id(self, total: Decimal) -> str:
        return f"{self.cl_ord_id}:{to_text(total)}"

    def _not_derived(self, quantity: Decimal, total: Decimal | None) -> Decimal:
        """Return how much of an execution ending at ``total`` a look-up has not counted already."""
        if not self.derived_qty or total is None:
            return quantity
        return max(ZERO, total - max(total - quantity, self.derived_qty))

    def restore_fills(self, exec_ids: Iterable[str]) -> None:
        """Take the ids of the fills applied before a restart."""
        prefix = f"{self.cl_ord_id}:"
        for exec_id in exec_ids:
            self.exec_ids.add(exec_id)
            if exec_id.startswith(prefix):
                self.derived_qty = max(self.derived_qty, Decimal(exec_id.removeprefix(prefix)))
