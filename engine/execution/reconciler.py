"""After a connection comes up, or an outcome is unknown: ask the broker what is true."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from engine import failpoints
from engine.clock import Clock
from engine.errors import BrokerError
from engine.execution.differences import ORDER, REPAIR, Finding, signed
from engine.model.account_state import AccountState
from engine.model.enums import ExecType, OrderStatus, TimeInForce
from engine.model.messages import ExecutionReport
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order
from engine.ports import BrokerSession

log = logging.getLogger(__name__)

LOOK_UP_AGAIN_S = 1.0
MOST_LOOK_UPS = 40
"""After so many look-ups without proof a person is told, and the broker is asked at a slower pace."""
LOOK_UP_SLOWLY_S = 10.0
MOST_UNKNOWN = 2
UNKNOWN_WITHIN_NS = 60_000_000_000
_UNTOUCHED = frozenset({OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED})
DOUBT_AFTER_NS = 2_000_000_000
"""An order counts as unknown for the account (control C21) once it has been asked for without proof for so long."""


@dataclass(slots=True)
class Looks:
    """How often an order of unknown outcome was looked up at its broker, when last, and what came of that."""

    count: int
    at: datetime
    said: str


@dataclass(slots=True)
class OrderCheck:
    """What one comparison of an account's orders found: working ones that are none of ours, and what differs."""

    foreign: list[ExecutionReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class Reconciler:
    """Resolves orders by asking. One look-up an order at a time, whoever asks (single flight)."""

    def __init__(
        self,
        clock: Clock,
        on_report: Callable[[ExecutionReport], None],
        on_absent: Callable[[Order], None],
        on_doubt: Callable[[str, str], None],
        on_stuck: Callable[[Order, str], None],
        ours: Callable[[ExecutionReport], Order | None] = lambda _report: None,
    ) -> None:
        """``ours`` returns the order of ours that a report speaks of, working or over."""
        self._ours = ours
        self._clock = clock
        self._on_report = on_report
        self._on_absent = on_absent
        self._on_doubt = on_doubt
        self._on_stuck = on_stuck
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._sessions: dict[str, BrokerSession] = {}  # whom each of them asks
        self.looks: dict[str, Looks] = {}
        """By ClOrdID; whoever shows them drops those of orders that are proven (engine.unknown_orders)."""
        self._asking: set[asyncio.Task[None]] = set()
        self._since: dict[str, tuple[str, int]] = {}  # unknown order → account, asked for since
        self._doubted: set[str] = set()  # accounts whose doubt was told
        self._gone_told: set[str] = (
            set()
        )  # orders a person was told of that the broker lists no more

    def resolve(self, order: Order, session: BrokerSession) -> None:
        """Find out what became of an order whose outcome is unknown; answers arrive as reports."""
        under_way = self._resolving.get(order.cl_ord_id)
        if under_way is not None:
            if self._sessions.get(order.cl_ord_id) is session:
                return
            under_way.cancel()  # it asks a session that was replaced
        self._sessions[order.cl_ord_id] = session
        task = asyncio.get_running_loop().create_task(
            self._resolve(order, session), name=f"resolve-{order.cl_ord_id}"
        )
        self._resolving[order.cl_ord_id] = task
        task.add_done_callback(lambda done: self._forget(order, done))

    async def look(self, order: Order, session: BrokerSession) -> ExecutionReport | None:
        """Ask a broker for an order of unknown outcome once, and note that it was asked.

        Raises:
            BrokerError: it could not be asked.
        """
        if failpoints.ARMED:
            failpoints.hit("K21.before")
        try:
            report = await session.find(order.cl_ord_id, order.symbol, order.order_id)
        except BrokerError as error:
            self._note_look(order, f"looking it up failed: {error}")
            raise
        if failpoints.ARMED:
            failpoints.hit("K21.after")
        self._note_look(order, "not found" if report is None else "found")
        return report

    def _note_look(self, order: Order, said: str) -> None:
        before = self.looks.get(order.cl_ord_id)
        count = before.count + 1 if before else 1
        self.looks[order.cl_ord_id] = Looks(count, self._clock.now(), said)

    def _absent(self, order: Order) -> None:
        if failpoints.ARMED:
            failpoints.hit("K22.before")
        self._forget(order, None)
        self._on_absent(order)
        if failpoints.ARMED:
            failpoints.hit("K22.after")

    def _forget(self, order: Order, task: asyncio.Task[None] | None) -> None:
        if task is None or self._resolving.get(order.cl_ord_id) is task:
            self._resolving.pop(order.cl_ord_id, None)
            self._sessions.pop(order.cl_ord_id, None)

    async def _resolve(self, order: Order, session: BrokerSession) -> None:
        asked_ns = self._clock.monotonic_ns()
        self._since.setdefault(order.cl_ord_id, (order.account, asked_ns))
        try:
            await self._ask_until_proven(order, session, asked_ns)
        finally:
            if order.status is not OrderStatus.UNKNOWN:
                self._proven(order)

    async def _ask_until_proven(self, order: Order, session: BrokerSession, asked_ns: int) -> None:
        settle_s = session.capabilities.settle_s
        proves_absence = session.capabilities.client_id != "label"
        absent = looks = 0
        sent_ns = order.first_byte_ns
        while order.status is OrderStatus.UNKNOWN:
            if (
                order.first_byte_ns != sent_ns
            ):  # sent once more meanwhile: what was seen before is of no account
                absent, asked_ns, sent_ns = 0, self._clock.monotonic_ns(), order.first_byte_ns
            pause = max(LOOK_UP_AGAIN_S, settle_s / 2)
            try:
                report = await self.look(order, session)
            except BrokerError as error:
                order.text = f"looking it up failed: {error}"
                pause = LOOK_UP_AGAIN_S
            else:
                if order.status is not OrderStatus.UNKNOWN or order.first_byte_ns != sent_ns:
                    continue  # proven, or sent once more, while we asked
                if report is not None:
                    self._forget(order, None)  # what follows may need a look-up of its own
                    self._on_report(report)
                    return
                # "Not found" counts once the broker has had its settling time since we began to ask, and twice.
                absent += 1
                settled = self._clock.monotonic_ns() - asked_ns >= int(settle_s * 1e9)
                if proves_absence and absent >= 2 and settled:
                    self._absent(order)
                    return
            looks += 1
            self._doubt(order.account, settle_s)
            if looks == MOST_LOOK_UPS:
                self._on_stuck(
                    order,
                    f"its outcome is unknown after {looks} look-ups: look at the broker, then say by hand whether "
                    "it exists (resolve_unknown)",
                )
            await asyncio.sleep(pause if looks < MOST_LOOK_UPS else LOOK_UP_SLOWLY_S)

    def _doubt(self, account: str, settle_s: float) -> None:
        """Say once that an account has too many orders without proof, or one for too long (control C21)."""
        now = self._clock.monotonic_ns()
        grace = max(DOUBT_AFTER_NS, int(settle_s * 1e9))
        ages = [now - since for owner, since in self._since.values() if owner == account]
        many = sum(age >= grace for age in ages)
        if account in self._doubted or not ages:
            return
        if many > MOST_UNKNOWN:
            text = f"{many} orders have no proven outcome, at most {MOST_UNKNOWN} may"
        elif max(ages) > UNKNOWN_WITHIN_NS:
            text = f"an order has had no proven outcome for {max(ages) / 1e9:.0f} s > {UNKNOWN_WITHIN_NS // 10**9} s"
        else:
            return
        self._doubted.add(account)
        self._on_doubt(account, text)

    def _proven(self, order: Order) -> None:
        self._since.pop(order.cl_ord_id, None)
        if all(account != order.account for account, _since in self._since.values()):
            self._doubted.discard(order.account)

    def ask(self, order: Order, session: BrokerSession) -> None:
        """Ask once what became of an order that ought to have ended; the answer arrives as a report."""
        task = asyncio.get_running_loop().create_task(
            self._ask(order, session), name=f"ask-{order.cl_ord_id}"
        )
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, order: Order, session: BrokerSession) -> None:
        try:
            report = await session.find(order.cl_ord_id, order.symbol, order.order_id)
        except BrokerError as error:
            order.text = f"looking it up failed: {error}"
            return
        if report is not None:
            self._on_report(report)

    async def compare(self, state: AccountState, session: BrokerSession) -> OrderCheck:
        """Bring an account's orders up to the broker's truth; return what differs all the same.

        Raises:
            BrokerError: the broker could not be asked.
        """
        ours = [
            order
            for order in state.working.values()
            if order.was_sent or order.status is not OrderStatus.PENDING_NEW
        ]
        reports = await session.open_orders()
        listed = {name: r for r in reports for name in (r.cl_ord_id, r.order_id) if name}
        check = OrderCheck()
        known = {name for order in ours for name in (order.cl_ord_id, order.order_id) if name}
        for report in reports:
            if known.isdisjoint({report.cl_ord_id, report.order_id}):
                self._unlisted_here(state.id, report, check)
        for order in ours:
            found = listed.get(order.order_id) or listed.get(order.cl_ord_id)
            if found is not None:
                self._on_report(found)
                self._cancel_lost(order, found)
                check.findings += _changed(order, found)
            elif order.status is OrderStatus.UNKNOWN:
                self.resolve(order, session)
            elif (
                order.status is not OrderStatus.PENDING_NEW
            ):  # that one is on its way: its reply tells
                check.findings += await self._gone(order, session)
        check.findings += _twins(state, reports)
        return check

    def _cancel_lost(self, order: Order, found: ExecutionReport) -> None:
        """Take an order back among those that work when no cancel of ours reached its broker: it was lost with its
        connection, or with the process. One that is still on its way is told once more when it arrives.
        """
        if order.status is OrderStatus.PENDING_CANCEL and found.status in _UNTOUCHED:
            text = "its broker lists it as working: the cancel did not reach it"
            self._on_report(
                ExecutionReport(order.account, order.cl_ord_id, ExecType.CANCEL_REJECTED, text=text)
            )

    def _unlisted_here(self, account: str, report: ExecutionReport, check: OrderCheck) -> None:
        """Take an order at the broker that is none of those that work here when it was asked."""
        order = self._ours(report)
        if order is None and report.parent:  # an exit of an entry's that we have not heard of yet
            self._on_report(report)
        elif order is None:
            check.foreign.append(report)
        elif order.status.terminal and not report.parent:
            self._on_report(report)  # one that was closed as absent is taken back by that
            check.findings.append(_still_works(account, order, report))

    async def _gone(self, order: Order, session: BrokerSession) -> list[Finding]:
        """Find out what became of an order that was proven once and is not listed any more."""
        found = await session.find(order.cl_ord_id, order.symbol, order.order_id)
        if found is not None:
            self._gone_told.discard(order.cl_ord_id)
            self._on_report(found)
            return []
        if order.status.terminal:
            return []  # its end came by the stream meanwhile
        if self._day_is_over(order, session):
            text = "the exchange's day is over and the broker's book has it no more"
            self._on_report(
                ExecutionReport(order.account, order.cl_ord_id, ExecType.EXPIRED, text=text)
            )
            return []
        # Nobody but a person can say what that means.
        text = "the broker no longer lists this order"
        self._on_report(
            ExecutionReport(
                account=order.account,
                cl_ord_id=order.cl_ord_id,
                exec_type=ExecType.STATUS,
                text=text,
            )
        )
        if order.rests and order.cl_ord_id not in self._gone_told:
            self._gone_told.add(order.cl_ord_id)
            self._on_stuck(order, f"{text}, and it protects a position: look at the broker")
        return [_missing(order)]

    def _day_is_over(self, order: Order, session: BrokerSession) -> bool:
        """Say whether an order for one day was of an earlier one, where the broker's book begins anew each day."""
        zone = session.capabilities.day_zone
        if not zone or order.time_in_force is TimeInForce.GTC:
            return False
        return day_in(zone, order.created_at) < day_in(zone, self._clock.now())

    async def stop(self) -> None:
        """End every look-up."""
        tasks = [*self._resolving.values(), *self._asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@lru_cache(maxsize=16)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def day_in(zone: str, moment: datetime) -> date:
    """Return the date of a moment in a zone."""
    return moment.astimezone(_zone(zone)).date()


def words_of(report: ExecutionReport) -> str:
    """Describe a broker's order in a few words."""
    side = report.side.value if report.side else "?"
    quantity = "?" if report.order_qty is None else to_text(report.order_qty)
    prices = [("at", report.limit_price), ("stop", report.stop_price)]
    told = [f"{word} {to_text(price)}" for word, price in prices if price is not None]
    return " ".join([side, quantity, report.symbol or "?", *told])


def _words(order: Order) -> str:
    return words_of(
        ExecutionReport(
            order.account,
            order.cl_ord_id,
            ExecType.STATUS,
            symbol=order.symbol,
            side=order.side,
            order_qty=order.order_qty,
            limit_price=order.limit_price,
            stop_price=order.stop_price,
        )
    )


def _changed(order: Order, found: ExecutionReport) -> list[Finding]:
    """Compare what an order of ours is with what the broker has under its name."""
    if order.parent or order.trail_percent is not None or order.status.terminal:
        return []  # prices of exits the broker made move without us
    pairs = (
        ("quantity", order.order_qty, found.order_qty),
        ("limit price", order.limit_price, found.limit_price),
        ("stop price", order.stop_price, found.stop_price),
    )
    differing = [
        (name, ours, theirs)
        for name, ours, theirs in pairs
        if ours is not None and theirs is not None and ours != theirs
    ]
    if not differing:
        return []
    name, ours, theirs = differing[0]
    return [
        Finding(
            order.account,
            ORDER,
            order.cl_ord_id,
            order.cl_ord_id,
            _words(order),
            words_of(found),
            f"{name} {signed(theirs - ours)}",
            f"order {order.cl_ord_id} expected {_words(order)}, broker has {words_of(found)}",
            report=found,
        )
    ]


def _missing(order: Order) -> Finding:
    return Finding(
        order.account,
        ORDER,
        order.cl_ord_id,
        order.cl_ord_id,
        f"{order.status.value} {_words(order)}",
        "absent",
        "missing",
        f"order {order.cl_ord_id} expected {order.status.value} {_words(order)}, broker has none",
    )


def _still_works(account: str, order: Order, report: ExecutionReport) -> Finding:
    return Finding(
        account,
        ORDER,
        order.cl_ord_id,
        order.cl_ord_id,
        order.status.value,
        f"working {words_of(report)}",
        "extra",
        f"order {order.cl_ord_id} is {order.status.value}, and works at the broker: {words_of(report)}",
        actions=(REPAIR,),
        report=report,
    )


def _twins(state: AccountState, reports: Iterable[ExecutionReport]) -> list[Finding]:
    """Find several orders at the broker under one ClOrdID of ours (F16): all but the one we know by its id."""
    known = {order.order_id: order for order in state.working.values() if order.order_id}
    named: dict[str, list[ExecutionReport]] = {}
    for report in reports:
        if report.cl_ord_id in state.working and not report.parent:
            named.setdefault(report.cl_ord_id, []).append(report)
    findings = []
    for cl_ord_id, group in named.items():
        extra = [report for report in group if report.order_id not in known]
        if len(group) < 2 or not extra:
            continue
        total = sum((report.order_qty or ZERO for report in group), ZERO)
        ordered = state.working[cl_ord_id].order_qty
        findings += [
            Finding(
                state.id,
                ORDER,
                f"{cl_ord_id}/{report.order_id}",
                cl_ord_id,
                f"one order of {to_text(ordered)}",
                f"{len(group)} orders of {to_text(total)} together",
                signed(total - ordered),
                f"order {cl_ord_id}: broker has {len(group)} orders under this id, {to_text(total)} together where "
                f"{to_text(ordered)} was ordered; one more: {words_of(report)} ({report.order_id})",
                actions=(REPAIR,),
                report=report,
            )
            for report in extra
        ]
    return findings
