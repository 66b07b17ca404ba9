"""What is sent for an order, each with what its reply proves or its failure leaves open: the exchanges of a session.

The rule they keep for all brokers: no answer is never a rejection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, Literal

from engine import failpoints
from engine.brokers.connection import Exchange
from engine.model.enums import ExecType, OrderStatus
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.ports import Swept

if TYPE_CHECKING:
    from engine.brokers.session import WireSession

FRESH_NS: Final = 2_000_000_000
"""How long it may wait for a connection: later, somebody may have armed again, and it would cancel what is new."""


@dataclass(frozen=True, slots=True)
class CancelVerdict:
    """What the reply to a cancel proves.

    ``pending``: taken, the stream tells the end. ``done``: ``reports`` carry the end. ``unknown``: no proof,
    look the order up. ``refused``: the order stands (or was over before); ``text`` says why.
    """

    outcome: Literal["pending", "done", "unknown", "refused"]
    text: str = ""
    reports: Sequence[ExecutionReport] = ()


class Submission(Exchange):
    """A new order on its way."""

    __slots__ = ("order", "session")

    def __init__(self, session: WireSession, order: Order) -> None:
        # All of Exchange's slots, without its call: one of these is made for every order.
        self.first_byte_ns = self.last_byte_ns = self.reply_ns = 0
        self.send_before_ns = order.send_before_ns
        self.stamps = self.order = order
        self.session = session

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Pass on what the reply proves; nothing it may be leaves the order without news."""
        session, order = self.session, self.order
        session.waiting.pop(order.cl_ord_id, None)
        if not order.acked_ns:
            order.acked_ns = self.reply_ns
        try:
            session.heard(self, status, raw, body)
            reports = session.judge_new(order, status, raw, body)
        except Exception as error:  # noqa: BLE001 (whatever came, an order is never left without news)
            session.complain(error)
            session.unknown(order.cl_ord_id, f"HTTP {status}: the reply cannot be read")
            return
        for report in reports:
            session.deliver(report)

    def on_failure(self, left: bool, reason: str) -> None:
        """Report it unknown if a byte of it ``left``, unsent if none did."""
        session, order = self.session, self.order
        session.waiting.pop(order.cl_ord_id, None)
        if left:
            session.unknown(order.cl_ord_id, reason)
        else:
            session.report(order.cl_ord_id, ExecType.UNSENT, None, reason)


class Cancellation(Exchange):
    """A cancel on its way; the order's own stamps stay as they are."""

    __slots__ = ("order", "session")

    def __init__(self, session: WireSession, order: Order) -> None:
        super().__init__()
        self.session = session
        self.order = order

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Pass on what the reply proves; without proof, have the order looked up."""
        session, order = self.session, self.order
        if session.on_cancel_written is not None:
            session.on_cancel_written(order, self.first_byte_ns)
        if failpoints.ARMED:
            failpoints.hit("cancel.acked.before")
        try:
            session.heard(self, status, raw, body)
            verdict = session.judge_cancel(order, status, raw, body)
        except Exception as error:  # noqa: BLE001 (as above)
            session.complain(error)
            verdict = CancelVerdict("unknown", f"HTTP {status}: the reply cannot be read")
        match verdict.outcome:
            case "pending":
                self._pending(verdict.text)
            case "unknown":
                self._pending(f"the outcome of the cancel is unknown: {verdict.text}")
                session.look_up_later(order)
            case "refused":
                self._refused(verdict.text)
            case "done":
                pass
        for report in verdict.reports:
            session.deliver(report)
        if failpoints.ARMED:
            failpoints.hit("cancel.acked.after")

    def on_failure(self, left: bool, reason: str) -> None:
        """Have the order looked up if a byte of the cancel ``left``; else it was not asked for."""
        if left:
            if self.session.on_cancel_written is not None:
                self.session.on_cancel_written(self.order, self.first_byte_ns)
            self._pending(f"the outcome of the cancel is unknown: {reason}")
            self.session.look_up_later(self.order)
        else:
            self._refused(f"the cancel was not sent: {reason}")

    def _pending(self, text: str) -> None:
        self.session.report(
            self.order.cl_ord_id, ExecType.PENDING_CANCEL, OrderStatus.PENDING_CANCEL, text
        )

    def _refused(self, text: str) -> None:
        self.session.report(self.order.cl_ord_id, ExecType.CANCEL_REJECTED, None, text)


class Replacement(Exchange):
    """A replacement on its way. It is never told as unsent: it must not be sent as a new order."""

    __slots__ = ("order", "replacement", "session")

    def __init__(self, session: WireSession, order: Order, replacement: Order) -> None:
        super().__init__(replacement, replacement.send_before_ns)
        self.session = session
        self.order = order
        self.replacement = replacement

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Pass on what the reply proves of the replacement, and of the order it was for."""
        session, replacement = self.session, self.replacement
        if not replacement.acked_ns:
            replacement.acked_ns = self.reply_ns
        try:
            session.heard(self, status, raw, body)
            reports = session.judge_replace(self.order, replacement, status, raw, body)
        except Exception as error:  # noqa: BLE001 (as above)
            session.complain(error)
            session.unknown(replacement.cl_ord_id, f"HTTP {status}: the reply cannot be read")
            return
        for report in reports:
            if report.exec_type is ExecType.UNSENT:  # throttled: the order it was for goes on
                self._refused(f"not sent: {report.text}")
            elif (
                report.exec_type is ExecType.REJECTED and report.cl_ord_id == replacement.cl_ord_id
            ):
                self._refused(report.text)
            else:
                session.deliver(report)

    def on_failure(self, left: bool, reason: str) -> None:
        """Report it unknown if a byte of it ``left``, rejected if none did."""
        if left:
            self.session.unknown(self.replacement.cl_ord_id, reason)
        else:
            self._refused(f"not sent: {reason}")

    def _refused(self, text: str) -> None:
        """The replacement never existed, and the order it was for goes on."""
        session = self.session
        session.report(self.replacement.cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED, text)
        session.report(
            self.order.cl_ord_id, ExecType.CANCEL_REJECTED, None, f"not replaced: {text}"
        )


class CancelAll(Exchange):
    """It on its way; ``done`` is told once."""

    __slots__ = ("_done", "_session")

    def __init__(self, session: WireSession, done: Callable[[Swept], None]) -> None:
        super().__init__(send_before_ns=monotonic_ns() + FRESH_NS)
        self._session = session
        self._done = done

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Read which orders it was for; the stream, or the broker's list, tells their ends."""
        session = self._session
        asked: Sequence[str] | None = None
        try:
            session.heard(self, status, raw, body)
            asked = session.judge_cancel_all(status, body)
        except Exception as error:  # noqa: BLE001 (whatever came, whoever waits is told)
            session.complain(error)
        self._done(Swept(self.first_byte_ns, asked))

    def on_failure(self, left: bool, reason: str) -> None:
        """Say that nothing is proven."""
        del reason
        self._done(Swept(self.first_byte_ns if left else 0))
