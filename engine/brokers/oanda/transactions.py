"""OANDA's ledger of one account, read once: every transaction becomes a report the first time it is seen.

Replies, the stream, polls and gap fills all bring the same numbered transactions; whichever is first counts.
Those that come in order (stream, polls, gap fills) move the cursor, from which the next gap is filled; those
of replies, which may be ahead, are only remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from engine.brokers.oanda.mapping import (
    IDS_TAKEN,
    TRADE_ID_TAKEN,
    client_id,
    order_facts,
    reason_text,
    refusal_text,
    side_of,
    transaction_id,
)
from engine.brokers.reading import moment, number, object_of, optional_number, reading, text_of
from engine.errors import BrokerProtocolError
from engine.model.enums import ExecType, OrderStatus, OrderType, TimeInForce
from engine.model.messages import ExecutionReport
from engine.model.numbers import ZERO

MOST_DONE = 2_000
"""Finished orders whose details stay in memory; of older ones only the id does."""
_AT_ONCE = frozenset({TimeInForce.IOC, TimeInForce.FOK})
# Ends that are nobody's refusal: the order worked, or could not be filled at once.
_ENDED = frozenset(
    {
        "CLIENT_REQUEST",
        "CLIENT_REQUEST_REPLACED",
        "TIME_IN_FORCE_EXPIRED",
        "INSUFFICIENT_LIQUIDITY",
        "BOUNDS_VIOLATION",
        "LINKED_TRADE_CLOSED",
        "MIGRATION",
    }
)
_PRICE_STEP = Decimal("0.000000000001")


class _Told:
    """What was told of one client id (or, without one, of one order)."""

    __slots__ = (
        "batch", "cash", "cum_qty", "facts", "fills", "kind", "last", "status", "text", "trade_id", "whole",
    )  # fmt: skip

    def __init__(self, facts: ExecutionReport, batch: str, *, whole: bool) -> None:
        self.facts = facts  # as created; status and totals are below
        self.batch = batch
        self.whole = whole  # seen from its creation on: the totals are complete
        self.cum_qty = ZERO
        self.cash = ZERO
        self.fills = 0
        self.last = ("", ZERO, ZERO)  # exec id, quantity, price of the last fill
        self.status = OrderStatus.NEW
        self.text = ""
        self.kind = ""  # OANDA's type, of an exit, and the trade it closes
        self.trade_id = ""


class _Trade:
    """An open trade, which exits hang on."""

    __slots__ = ("entry", "price", "symbol", "units")

    def __init__(self, symbol: str, units: Decimal, price: Decimal, entry: str) -> None:
        self.symbol, self.units, self.price, self.entry = symbol, units, price, entry


class TransactionReader:
    """Turns one account's transactions into reports; ``cursor`` is the last one seen in order, 0 for none yet."""

    def __init__(self, account: str, broker_account: str) -> None:
        self.cursor = 0
        self._account = account
        self._broker_account = broker_account
        self._ahead: set[int] = set()
        self._orders: dict[str, _Told] = {}
        self._by_order_id: dict[str, _Told] = {}
        self._trades: dict[str, _Trade] = {}
        self._done: deque[_Told] = deque()
        self._ids: dict[str, str] = {}

    def empty(self) -> TransactionReader:
        """Return a reader of the same account that has seen nothing."""
        return TransactionReader(self._account, self._broker_account)

    # What is known

    def begin(self, last_id: int) -> None:
        """Start after ``last_id``, unless there is a cursor already."""
        self.cursor = self.cursor or last_id

    def passed(self, last_id: int) -> None:
        """Note that everything up to ``last_id`` was taken."""
        self._advance(last_id, in_order=True)

    def skip(self, told: object) -> None:
        """Note a transaction of a reply that was dealt with, so that nobody tells it again."""
        number_ = transaction_id(told.get("id")) if isinstance(told, dict) else 0
        if number_ > self.cursor:
            self._ahead.add(number_)

    def find(self, cl_ord_id: str) -> ExecutionReport | None:
        """Return an order's state as of now, ``None`` if its details are not in memory."""
        told = self._orders.get(cl_ord_id)
        return _state(told) if told is not None and told.whole else None

    def order_id(self, cl_ord_id: str) -> str:
        """Return the order id a client id got since the cursor began, empty if none."""
        return self._ids.get(cl_ord_id, "")

    def exit_of(self, order_id: str) -> tuple[str, str]:
        """Return an exit's type at OANDA and the trade it closes, empty for what is none."""
        told = self._by_order_id.get(order_id)
        return (told.kind, told.trade_id) if told is not None else ("", "")

    def lacks_trade(self, order: object) -> bool:
        """Say whether a listed order is an exit of a trade that is not known."""
        trade_id = order.get("tradeID") if isinstance(order, dict) else None
        return trade_id is not None and str(trade_id) not in self._trades

    def note_trade(self, told: object) -> None:
        """Take an open trade from a list; raises ``BrokerProtocolError``."""
        with reading(self._account, "a trade"):
            trade = object_of(told)
            self._trades[text_of(trade.get("id"), "id")] = _Trade(
                text_of(trade.get("instrument"), "instrument"),
                number(trade["currentUnits"], "currentUnits"),
                number(trade["price"], "price"),
                client_id(trade),
            )

    def listed(self, order: object) -> ExecutionReport:
        """Take a pending order from a list and return its state; raises ``BrokerProtocolError``.

        One that is not known was created before the cursor began: it is kept, so that what follows fits it.
        """
        with reading(self._account, "an order"):
            told = object_of(order)
            facts = order_facts(self._account, told)
            known = self._by_order_id.get(facts.order_id)
            if known is None:
                known = _Told(facts, "", whole=False)
                self._complete_exit(known, told)
                self._keep(known)
            return _state(known)

    # Reading

    def read(self, told: object, *, in_order: bool) -> Sequence[ExecutionReport]:
        """Take one transaction; return the reports it makes, none if it was seen before.

        ``in_order``: everything before it was taken, too. An unreadable one then counts as seen: what
        follows the error (a reconnection, and with it a reconciliation) asks for the truth another way.

        Raises:
            BrokerProtocolError: it cannot be read, or is another account's.
        """
        number_ = transaction_id(told.get("id")) if isinstance(told, dict) else 0
        if not number_:
            raise BrokerProtocolError(
                f"account {self._account}: a transaction without a number", account=self._account
            )
        if number_ <= self.cursor or number_ in self._ahead:
            self._advance(number_, in_order)
            return ()
        try:
            with reading(self._account, f"transaction {number_}"):
                reports = self._read(object_of(told))
        except BrokerProtocolError:
            self._advance(number_, in_order)
            raise
        if not in_order:
            self._ahead.add(number_)
        self._advance(number_, in_order)
        return reports

    def _advance(self, number_: int, in_order: bool) -> None:
        if in_order and number_ > self.cursor:
            self.cursor = number_
            if self._ahead:
                self._ahead = {ahead for ahead in self._ahead if ahead > number_}

    def _read(self, transaction: Mapping[str, Any]) -> Sequence[ExecutionReport]:
        whose = transaction.get("accountID")
        if whose is not None and whose != self._broker_account:
            raise ValueError("it is another account's")
        kind = str(transaction.get("type"))
        if kind == "ORDER_FILL":
            return self._filled(transaction)
        if kind == "ORDER_CANCEL":
            return self._canceled(transaction)
        if kind.endswith("_ORDER_REJECT"):
            return self._refused(transaction)
        if kind.endswith("_ORDER"):
            return self._created(transaction)
        return ()

    def _created(self, transaction: Mapping[str, Any]) -> Sequence[ExecutionReport]:
        facts = order_facts(self._account, transaction)
        known = self._orders.get(facts.cl_ord_id) if facts.cl_ord_id else None
        if known is not None:
            # The rest of a partly filled order, issued anew, or the id used again: one order for us.
            self._by_order_id[facts.order_id] = known
            return ()
        told = _Told(facts, str(transaction.get("batchID") or ""), whole=True)
        self._complete_exit(told, transaction)
        self._keep(told)
        return (_report(told, ExecType.NEW, OrderStatus.NEW, facts.transact_time),)

    def _complete_exit(self, told: _Told, transaction: Mapping[str, Any]) -> None:
        """Say of an exit what only its trade tells: what it closes, and where a trailing stop begins."""
        facts = told.facts
        if facts.side is not None or "tradeID" not in transaction:
            return
        told.kind = str(transaction.get("type") or "").removesuffix("_ORDER")
        told.trade_id = str(transaction["tradeID"])
        trade = self._trades.get(told.trade_id)
        if trade is None:
            return
        facts.symbol = trade.symbol
        facts.side = side_of(-trade.units)
        facts.order_qty = abs(trade.units)
        distance = optional_number(transaction, "distance")
        if facts.stop_price is None and facts.order_type is OrderType.STOP and distance is not None:
            facts.stop_price = trade.price - distance if trade.units > 0 else trade.price + distance

    def _keep(self, told: _Told) -> None:
        facts = told.facts
        self._orders[facts.cl_ord_id or facts.order_id] = told
        self._by_order_id[facts.order_id] = told
        if facts.cl_ord_id:
            self._ids[facts.cl_ord_id] = facts.order_id

    def _of(self, transaction: Mapping[str, Any]) -> _Told:
        """Return the order a transaction speaks of; one created before the cursor began is met here first."""
        order_id = text_of(transaction.get("orderID"), "orderID")
        cl_ord_id = transaction.get("clientOrderID")
        cl_ord_id = cl_ord_id if isinstance(cl_ord_id, str) else ""
        told = self._by_order_id.get(order_id)
        if told is None and cl_ord_id:
            told = self._orders.get(cl_ord_id)
        if told is None:
            facts = ExecutionReport(
                self._account,
                cl_ord_id,
                ExecType.STATUS,
                OrderStatus.NEW,
                order_id,
                symbol=str(transaction.get("instrument") or ""),
            )
            told = _Told(facts, "", whole=False)
            self._keep(told)
        return told

    def _filled(self, transaction: Mapping[str, Any]) -> Sequence[ExecutionReport]:
        units = number(transaction["units"], "units")
        if not units:
            raise ValueError("a fill without units")
        price = _fill_price(transaction, units)
        told, exec_id = self._of(transaction), str(transaction["id"])
        facts = told.facts
        facts.side = facts.side or side_of(units)
        told.fills += 1
        told.last = exec_id, abs(units), price
        told.cum_qty += abs(units)
        told.cash += abs(units) * price
        filled = told.whole and facts.order_qty is not None and told.cum_qty >= facts.order_qty
        self._book(transaction, units, price, facts.cl_ord_id)
        trade = _report(
            told,
            ExecType.TRADE,
            OrderStatus.FILLED if filled else OrderStatus.PARTIALLY_FILLED,
            moment(transaction.get("time")),
            told.last,
        )
        if filled:
            self._end(told, OrderStatus.FILLED)
        elif told.whole and facts.time_in_force in _AT_ONCE and facts.order_qty is not None:
            # What an ioc order, or one that only reduces, did not fill at once it never will.
            self._end(told, OrderStatus.CANCELED)
            told.text = "the rest was not filled at once"
            return trade, _ended(told, ExecType.CANCELED, trade.transact_time)
        elif not told.status.terminal:
            told.status = OrderStatus.PARTIALLY_FILLED
        return (trade,)

    def _book(
        self, transaction: Mapping[str, Any], units: Decimal, price: Decimal, entry: str
    ) -> None:
        opened = transaction.get("tradeOpened")
        if isinstance(opened, dict):
            size = optional_number(opened, "units") or units
            symbol = str(transaction.get("instrument") or "")
            self._trades[str(opened.get("tradeID"))] = _Trade(symbol, size, price, entry)
        for closed in transaction.get("tradesClosed") or ():
            self._trades.pop(str(object_of(closed).get("tradeID")), None)
        reduced = transaction.get("tradeReduced")
        if isinstance(reduced, dict):
            trade = self._trades.get(str(reduced.get("tradeID")))
            if trade is not None:
                less = abs(optional_number(reduced, "units") or ZERO)
                trade.units -= less if trade.units > 0 else -less

    def _canceled(self, transaction: Mapping[str, Any]) -> Sequence[ExecutionReport]:
        reason = str(transaction.get("reason") or "")
        if reason == TRADE_ID_TAKEN:
            return ()  # a second try, ended because the first one filled: says nothing against that one
        told = self._of(transaction)
        at_creation = bool(told.batch) and told.batch == transaction.get("batchID")
        exec_type, status = _end_of(told, reason, at_creation)
        if told.status.terminal:
            return ()  # told before: what an order at once did not fill ends with its fill
        told.text = reason_text(reason)
        self._end(told, status)
        return (_ended(told, exec_type, moment(transaction.get("time"))),)

    def _refused(self, transaction: Mapping[str, Any]) -> Sequence[ExecutionReport]:
        cl_ord_id = client_id(transaction)
        second_try = transaction.get("rejectReason") in IDS_TAKEN or cl_ord_id in self._ids
        if not cl_ord_id or second_try:
            return ()  # says nothing against the order that has the id
        return (
            ExecutionReport(
                self._account,
                cl_ord_id,
                ExecType.REJECTED,
                OrderStatus.REJECTED,
                text=refusal_text(transaction),
                transact_time=moment(transaction.get("time")),
            ),
        )

    def _end(self, told: _Told, status: OrderStatus) -> None:
        told.status = status
        self._done.append(told)
        while len(self._done) > MOST_DONE:
            facts = self._done.popleft().facts
            self._orders.pop(facts.cl_ord_id or facts.order_id, None)
            self._by_order_id.pop(facts.order_id, None)


def _end_of(told: _Told, reason: str, at_creation: bool) -> tuple[ExecType, OrderStatus]:
    """Say what a cancellation means: 201 is no acceptance when the order is ended in the same breath."""
    if reason == "CLIENT_REQUEST_REPLACED":
        return ExecType.REPLACED, OrderStatus.REPLACED
    if reason == "TIME_IN_FORCE_EXPIRED" and told.facts.time_in_force not in _AT_ONCE:
        return ExecType.EXPIRED, OrderStatus.EXPIRED
    # Not of a replacement: "rejected" would say that the order it was for goes on, and that one is gone.
    if reason not in _ENDED and at_creation and not told.cum_qty and not told.facts.replaces:
        return ExecType.REJECTED, OrderStatus.REJECTED
    return ExecType.CANCELED, OrderStatus.CANCELED


def _ended(told: _Told, exec_type: ExecType, at: datetime | None) -> ExecutionReport:
    return _report(told, exec_type, told.status, at, text=told.text)


_NO_FILL = ("", ZERO, ZERO)


def _report(
    told: _Told,
    exec_type: ExecType,
    status: OrderStatus,
    at: datetime | None,
    fill: tuple[str, Decimal, Decimal] = _NO_FILL,
    text: str = "",
) -> ExecutionReport:
    """Make a report of an order; its totals are said where they are complete and there are any."""
    facts = told.facts
    totals = told.whole and exec_type is not ExecType.NEW
    return ExecutionReport(
        facts.account,
        facts.cl_ord_id,
        exec_type,
        status,
        facts.order_id,
        *fill,
        told.cum_qty if totals else None,
        _average(told) if totals else None,
        text,
        at,
        facts.symbol,
        facts.side,
        facts.order_type,
        facts.time_in_force,
        facts.order_qty,
        facts.limit_price,
        facts.stop_price,
        facts.replaces,
        facts.parent,
        facts.leg,
    )


def _fill_price(transaction: Mapping[str, Any], units: Decimal) -> Decimal:
    """Return the price of a fill: of the trades it opened, reduced and closed, where each names its own.

    The fill's own ``price`` is deprecated by OANDA, and all there is in its older samples.
    """
    parts = [transaction.get("tradeOpened"), transaction.get("tradeReduced")]
    parts += transaction.get("tradesClosed") or ()
    told = [part for part in parts if isinstance(part, dict)]
    if len(told) == 1 and "price" in told[0]:
        return _positive(number(told[0]["price"], "price"))
    if told and all("price" in part and "units" in part for part in told):
        sizes = [abs(number(part["units"], "units")) for part in told]
        costs = [
            size * number(part["price"], "price") for size, part in zip(sizes, told, strict=True)
        ]
        if sum(sizes) == abs(units):
            return _positive((sum(costs, ZERO) / abs(units)).quantize(_PRICE_STEP).normalize())
    return _positive(number(transaction.get("price") or transaction["fullVWAP"], "price"))


def _positive(price: Decimal) -> Decimal:
    if price <= 0:
        raise ValueError("a fill without a price")
    return price


def _average(told: _Told) -> Decimal | None:
    if told.fills == 1:
        return told.last[2]
    return told.cash / told.cum_qty if told.cum_qty else None


def _state(told: _Told) -> ExecutionReport:
    """Return an order's state; a single fill with its own id, so that it counts once however it is told."""
    fill = told.last if told.fills == 1 else _NO_FILL
    report = _report(told, ExecType.STATUS, told.status, told.facts.transact_time, fill, told.text)
    report.cum_qty, report.avg_px = told.cum_qty, _average(told)
    return report
