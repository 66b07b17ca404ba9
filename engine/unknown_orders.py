"""Orders without proof of their fate, and what is known of each: the rows of the table ``unknown`` (control C21).

The rows are made from the working orders twice a second, not on an order's way: an order stays unknown for seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from engine.clock import Clock, rfc3339
from engine.execution.reconciler import Looks
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus
from engine.model.order import Order
from engine.ports import BrokerSession
from engine.views import order_row

Row = dict[str, Any]
PROMISES: Final = {"durable": "D", "open_only": "T", "label": "N"}
"""What a broker promises of a client id, as reliability classes: D refuses a repeat for ever, T shows the id and no
more, N proves nothing."""
REPLACEMENT: Final = "replace"


class UnknownOrders:
    """The working orders whose outcome nobody can prove."""

    def __init__(
        self,
        clock: Clock,
        states: Mapping[str, AccountState],
        order_of: Callable[[str], Order | None],
        sessions: Mapping[str, BrokerSession],
        looks: dict[str, Looks],
    ) -> None:
        self._clock = clock
        self._states = states
        self._order_of = order_of
        self._sessions = sessions
        self._looks = looks
        self._shown: dict[str, tuple[int, str]] = {}

    def keys(self) -> list[str]:
        """Return the ClOrdIDs of the orders that are unknown now."""
        return [
            order.cl_ord_id
            for state in self._states.values()
            for order in state.working.values()
            if order.status is OrderStatus.UNKNOWN
        ]

    def changed(self) -> set[str]:
        """Return the keys whose row is another than at the last call: come, gone, or looked up once more."""
        now = {
            key: (looks.count, looks.said) if (looks := self._looks.get(key)) else (0, "")
            for key in self.keys()
        }
        for key in [key for key in self._looks if key not in now]:
            del self._looks[key]
        before, self._shown = self._shown, now
        return {key for key in now.keys() | before.keys() if now.get(key) != before.get(key)}

    def row(self, key: str) -> Row | None:
        """Return an unknown order's row, ``None`` once it is proven."""
        order = self._order_of(key)
        if order is None or order.status is not OrderStatus.UNKNOWN:
            return None
        state, session = self._states.get(order.account), self._sessions.get(order.account)
        looks = self._looks.get(key)
        return {
            **order_row(order, state.account.broker if state else ""),
            **_promise(order, session),
            "sent_at": self._sent_at(order),
            "sent": _sent(order),
            "looks": looks.count if looks else 0,
            "looked_at": rfc3339(looks.at) if looks else None,
            "said": looks.said if looks else "not asked yet" if session else "no broker session",
        }

    def _sent_at(self, order: Order) -> str | None:
        """Return when its first byte left, on the wall clock; ``None`` where an earlier process sent it."""
        if not order.first_byte_ns:
            return None
        ago = self._clock.monotonic_ns() - order.first_byte_ns
        return rfc3339(self._clock.now() - timedelta(microseconds=ago // 1000))


def _sent(order: Order) -> str:
    """Say how much of the order left this machine, as far as this process knows."""
    if order.last_byte_ns:
        return "all"
    return "part" if order.first_byte_ns else "not known"


def _promise(order: Order, session: BrokerSession | None) -> Row:
    """Return what the broker can prove of it, and what follows for sending it again."""
    if session is None:
        return {"promise": None, "settle_s": None, "may_resend": False}
    able = session.capabilities
    proves = able.client_id != "label" and order.leg != REPLACEMENT
    return {
        "promise": PROMISES.get(able.client_id, "N"),
        "settle_s": able.settle_s,
        "may_resend": proves,
    }
