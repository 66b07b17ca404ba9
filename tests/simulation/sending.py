"""One new order between a session and its broker: what befalls the request, and what befalls the reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.model.enums import ExecType, OrderStatus
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from tests.simulation.venue import Request, VenueOrder
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.session import SimSession

REPLY_WITHIN_S = 10.0
# What may befall a new order on its way: fault, weight. Accepted or not, and what is told of it, is in ``Sending``.
_BY_WEIGHT = (
    ("order_refused", 6), ("connect_refused", 6), ("order_lost", 8), ("half_written", 4),
    ("accept_then_drop", 10), ("accept_then_hang", 6), ("reply_delayed", 8), ("late_accept", 8),
    ("accept_beyond_settling", 2), ("throttled", 5), ("throttled_and_accepted", 4),
    ("server_error", 5), ("server_error_and_accepted", 5), ("garbage_reply", 4), ("token_expired", 3),
)  # fmt: skip
ORDER_FAULTS = [name for name, _ in _BY_WEIGHT]
WEIGHTS = [weight for _, weight in _BY_WEIGHT]


class Sending:
    """One new order between the session and its broker."""

    def __init__(self, session: SimSession, order: Order, fault: str) -> None:
        self._session = session
        self._order = order
        self._fault = fault
        self._request = Request.of(order)
        self._world = session._world
        self._open = True
        session._numbers += 1
        self._number = session._numbers
        session._inflight[self._number] = self._broken
        self._world.after(session._latency_s() + self._underway_s(), self._arrive)
        self._world.after(REPLY_WITHIN_S, lambda: self._end_unknown("no reply within 10 s"))

    def _underway_s(self) -> float:
        """Return how much longer than usual the request takes to arrive."""
        chance = self._session._rng("underway")
        if self._fault == "late_accept":  # looks lost at once, arrives within the settling time
            self._world.after(0.01, lambda: self._end_unknown("connection reset"))
            return float(chance.uniform(0.1, self._session.settle_s * 0.8))
        if self._fault == "accept_beyond_settling":
            self._world.after(0.01, lambda: self._end_unknown("connection reset"))
            return float(chance.uniform(3, 30))
        return 0.0

    # ---- ends ------------------------------------------------------------------------------------------------

    def _end(self) -> bool:
        """Free the connection; say whether the engine still waits."""
        was_open, self._open = self._open, False
        self._session._inflight.pop(self._number, None)
        return was_open

    def _broken(self) -> None:
        self._end_unknown("the connection was lost")

    def _end_unknown(self, text: str) -> None:
        if self._end():
            self._session._unknown(self._request.cl_ord_id, text)

    def _reply(self, report: ExecutionReport, free: bool = True) -> None:
        if not self._open:
            return
        if free:
            self._end()
        if not self._order.acked_ns:
            self._order.acked_ns = self._session._life.clock.monotonic_ns()
        self._session._later(self._session._hand, report)

    # ---- at the broker ---------------------------------------------------------------------------------------

    def _arrive(self) -> None:
        session, fault, request = self._session, self._fault, self._request
        if fault in {"order_lost", "half_written"}:
            self._end_unknown("connection reset")
            return
        account = session._held
        refused = self._refused()
        if refused is not None:
            self._world.after(session._latency_s(), refused)
            return
        if session._venue.taken(account, request.cl_ord_id):
            self._world.fault("repeated_id_refused")
            self._world.after(
                session._latency_s(), lambda: self._end_unknown("client id must be unique")
            )
            return
        beyond = fault == "accept_beyond_settling"
        session._life.arrived(account, request, beyond=beyond)
        placed = session._venue.accept(account, request, lag_ns=self._lag_ns())
        placed.beyond = beyond
        self._answer(placed)

    def _lag_ns(self) -> int:
        """Return how long the order cannot be seen: with its way never longer than the settling time."""
        session = self._session
        if self._fault in {"late_accept", "accept_beyond_settling"} or not session._strikes("lag"):
            return 0
        self._world.fault("visibility_lag")
        return int(session._rng("lag").uniform(0.1, session.settle_s * 0.8) * SECOND)

    def _refused(self) -> Callable[[], None] | None:
        """Return what answers an order that is not taken."""
        session, request = self._session, self._request
        match self._fault:
            case "order_refused":
                report = ExecutionReport(
                    session.account_id, request.cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED,
                    text="insufficient buying power",
                )  # fmt: skip
                return lambda: self._reply(report)
            case "throttled":
                return self._throttled
            case "server_error":
                return lambda: self._end_unknown("HTTP 503")
            case "token_expired":
                return self._token_expired
        return None

    def _throttled(self) -> None:
        if self._end():
            session = self._session
            session.throttle(session._rng("throttle").choice([0.5, 1.0, 3.0]))
            text = "HTTP 429: not taken"
            session._report(self._request.cl_ord_id, ExecType.UNSENT, None, text)

    def _token_expired(self) -> None:
        if self._end():
            session = self._session
            text = "HTTP 401: not taken"
            session._report(self._request.cl_ord_id, ExecType.UNSENT, None, text)
            session.expire_token()

    def _answer(self, placed: VenueOrder) -> None:
        """Tell of an accepted order, as far as its fault lets it through."""
        session, world = self._session, self._world
        report = session._venue.report(placed, ExecType.NEW)
        later = session._latency_s()
        match self._fault:
            case "accept_then_drop":
                world.after(later, self._broken)
            case "accept_then_hang" | "late_accept" | "accept_beyond_settling":
                pass
            case "reply_delayed":
                world.fault("event_before_reply")
                world.after(session._rng("delay").uniform(0.5, 9), lambda: self._reply(report))
            case "throttled_and_accepted":
                world.after(later, lambda: self._end_unknown("HTTP 429"))
                session.throttle(1.0)
            case "server_error_and_accepted":
                world.after(later, lambda: self._end_unknown("HTTP 503"))
            case "garbage_reply":
                world.after(later, lambda: self._end_unknown("the reply cannot be read"))
            case _:
                world.after(later, lambda: self._reply(report))
