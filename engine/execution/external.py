"""Working orders at brokers that are none of ours (F56): shown, counted as exposure, never touched but by ``kill``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from engine.execution.reconciler import words_of
from engine.model.enums import OrderType, TimeInForce
from engine.model.messages import ExecutionReport
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order

Price = Callable[[str], Decimal | None]
_CENT = Decimal("0.01")
FACT = "external"


@dataclass(slots=True)
class ExternalOrder:
    """One of them: what the broker last told, since when it is known, when it last changed."""

    report: ExecutionReport
    since: str
    at: str

    @property
    def key(self) -> str:
        """Return the key of its row in the table ``external``."""
        return key_of(self.report)

    @property
    def leaves(self) -> Decimal:
        """Return what may still fill."""
        report = self.report
        return max(ZERO, (report.order_qty or ZERO) - (report.cum_qty or ZERO))


def key_of(report: ExecutionReport) -> str:
    """Return the key of an order that is none of ours."""
    return f"{report.account}/{report.order_id or report.cl_ord_id}"


class ExternalOrders:
    """All of them by key. ``keep`` writes into the journal which were told, so that a restart tells none again."""

    def __init__(self, keep: Callable[[str, str, dict[str, Any] | None], None]) -> None:
        self._keep = keep
        self._known: dict[str, dict[str, str]] = {}  # account → key → since
        self._orders: dict[str, dict[str, ExternalOrder]] = {}

    def load(self, facts: dict[str, dict[str, Any]]) -> None:
        """Take which were told before a restart; what they are the broker tells again."""
        for key, fact in facts.items():
            self._known.setdefault(_account(key), {})[key] = fact["since"]

    def listed(
        self, account: str, reports: Iterable[ExecutionReport], now: str
    ) -> tuple[list[ExternalOrder], set[str]]:
        """Take an account's whole list; return those never told before, and the keys whose rows changed."""
        before, known_since = self._orders.get(account, {}), self._known.setdefault(account, {})
        found: dict[str, ExternalOrder] = {}
        new, changed = [], set()
        for report in reports:
            key = key_of(report)
            known = before.get(key)
            if known is not None:
                if known.report != report:
                    known.report, known.at = report, now
                    changed.add(key)
                found[key] = known
                continue
            since = known_since.get(key)
            found[key] = ExternalOrder(report, since or now, now)
            changed.add(key)
            if since is None:
                known_since[key] = now
                self._keep(FACT, key, {"since": now})
                new.append(found[key])
        self._orders[account] = found
        for key in known_since.keys() - found.keys():
            del known_since[key]
            self._keep(FACT, key, None)
            changed.add(key)
        return new, changed

    def of(self, account: str) -> list[ExternalOrder]:
        """Return an account's."""
        return list(self._orders.get(account, {}).values())

    def get(self, key: str) -> ExternalOrder | None:
        """Return one by its key."""
        return self._orders.get(_account(key), {}).get(key)

    def keys(self) -> list[str]:
        """Return all keys."""
        return [key for orders in self._orders.values() for key in orders]


def _account(key: str) -> str:
    """Return whose order a key names; accounts' ids have no slash."""
    return key.partition("/")[0]


def value_of(order: ExternalOrder, price: Price) -> Decimal | None:
    """Return what is left of an order at its own price, or the market's."""
    report = order.report
    about = report.limit_price or report.stop_price or price(report.symbol)
    return None if about is None else order.leaves * about


def row_of(order: ExternalOrder, broker: str, price: Price) -> dict[str, Any]:
    """Return a row of the table ``external``."""
    report, value = order.report, value_of(order, price)
    return {
        "key": order.key,
        "account": report.account,
        "broker": broker,
        "order_id": report.order_id,
        "cl_ord_id": report.cl_ord_id,
        "symbol": report.symbol,
        "side": report.side.value if report.side else None,
        "order_type": report.order_type.value if report.order_type else None,
        "order_qty": _text(report.order_qty),
        "leaves_qty": to_text(order.leaves),
        "limit_price": _text(report.limit_price),
        "stop_price": _text(report.stop_price),
        "status": report.status.value if report.status else None,
        "value": None if value is None else format(value.quantize(_CENT), "f"),
        "since": order.since,
        "at": order.at,
    }


def sentence(order: ExternalOrder, exits: Iterable[str] = ()) -> str:
    """Describe it for the operator; ``exits``: ClOrdIDs of exits sent by our own kill switch beside the engine."""
    name = order.report.order_id or order.report.cl_ord_id
    if order.report.cl_ord_id in exits:
        return (
            f"{words_of(order.report)} ({name}) is an exit of main.py kill --flatten: not touched"
        )
    return f"{words_of(order.report)} ({name}) works at the broker and is none of ours: counted, not touched"


def _text(value: Decimal | None) -> str | None:
    return None if value is None else to_text(value)


def as_order(report: ExecutionReport, at: datetime) -> Order | None:
    """Return what a session needs to cancel an order that is none of ours, ``None`` where too little is told."""
    if report.side is None or report.order_qty is None:
        return None
    order = Order(
        cl_ord_id=report.cl_ord_id,
        account=report.account,
        symbol=report.symbol,
        side=report.side,
        order_qty=report.order_qty,
        order_type=report.order_type or OrderType.MARKET,
        time_in_force=report.time_in_force or TimeInForce.DAY,
        created_at=at,
    )
    order.order_id = report.order_id
    return order
