"""Control C23: rejections in a row, or too large a share of the last twenty, take the entries off.

An account is counted by its orders. A strategy is counted by its signals: one bad signal over fifty accounts is one
rejection for the strategy, not fifty. It counts as rejected when no account's broker took its order, as taken when at
least one did; one of which an order is unknown counts as neither.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from engine.model.enums import OrderStatus
from engine.model.order import Order

FACT: Final = "rejects"
LAST: Final = 20
_MOST_COUNTED: Final = 20_000
_UNPROVEN: Final = frozenset({OrderStatus.PENDING_NEW, OrderStatus.UNKNOWN, OrderStatus.DENIED})
Keep = Callable[[str, str, dict[str, Any] | None], None]


class _Run:
    __slots__ = ("last", "row")

    def __init__(self) -> None:
        self.row = 0
        self.last: deque[bool] = deque(maxlen=LAST)

    def fact(self) -> dict[str, Any]:
        return {"row": self.row, "last": "".join("1" if bad else "0" for bad in self.last)}


class Rejects:
    """Counts what brokers take and refuse; ``trip`` is called with the scope and a sentence."""

    def __init__(
        self, in_a_row: int, percent: int, trip: Callable[[str, str], None], keep: Keep
    ) -> None:
        self._in_a_row = in_a_row
        self._percent = percent
        self._trip = trip
        self._keep = keep
        self._runs: dict[str, _Run] = {}
        self._counted: OrderedDict[str, None] = OrderedDict()

    def load(self, facts: Mapping[str, dict[str, Any]]) -> None:
        """Go on after a restart."""
        for scope, fact in facts.items():
            run = self._runs[scope] = _Run()
            run.row = fact["row"]
            run.last.extend(letter == "1" for letter in fact["last"])

    def order(self, order: Order) -> None:
        """Take an order's news; its first proven answer counts."""
        status = order.status
        if status in _UNPROVEN or not (order.order_id or status is OrderStatus.REJECTED):
            return  # proof of neither; or it never was at the broker
        if order.cl_ord_id in self._counted or order.parent:
            return
        self._counted[order.cl_ord_id] = None
        if len(self._counted) > _MOST_COUNTED:
            self._counted.popitem(last=False)
        self._count(f"account:{order.account}", status is OrderStatus.REJECTED, order.text)

    def signal(self, strategy: str, orders: Mapping[str, Order]) -> None:
        """Take a signal all of whose orders have been answered."""
        statuses = [order.status for order in orders.values() if order.was_sent]
        if not statuses or OrderStatus.UNKNOWN in statuses:
            return
        bad = all(status is OrderStatus.REJECTED for status in statuses)
        text = next((order.text for order in orders.values() if order.text), "") if bad else ""
        self._count(f"strategy:{strategy}", bad, text)

    def reset(self, scope: str) -> None:
        """Begin anew: a person lifted the trip."""
        if self._runs.pop(scope, None) is not None:
            self._keep(FACT, scope, None)

    def _count(self, scope: str, bad: bool, text: str) -> None:
        run = self._runs.get(scope)
        if run is None:
            run = self._runs[scope] = _Run()
        before = run.row
        run.row = run.row + 1 if bad else 0
        run.last.append(bad)
        if bad or before:
            self._keep(FACT, scope, run.fact())
        if not bad:
            return
        share = sum(run.last) * 100 / LAST if len(run.last) == LAST else 0.0
        if self._in_a_row and run.row >= self._in_a_row:
            self._trip(
                scope, f"{run.row} rejections in a row, the limit is {self._in_a_row}; {text}"
            )
        elif self._percent and share >= self._percent:
            words = f"{share:g} % of the last {LAST} rejected, the limit is {self._percent} %"
            self._trip(scope, f"{words}; {text}")
