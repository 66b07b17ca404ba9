"""After a connection comes up, or an outcome is unknown: ask the broker what is true."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from engine.clock import Clock
from engine.errors import BrokerError
from engine.model.account_state import AccountState
from engine.model.enums import ExecType, OrderStatus
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerSession

log = logging.getLogger(__name__)

LOOK_UP_AGAIN_S = 1.0
MOST_LOOK_UPS = 40
"""After so many look-ups without proof a person is told, and the broker is asked at a slower pace."""
LOOK_UP_SLOWLY_S = 10.0
MOST_UNKNOWN = 2
UNKNOWN_WITHIN_NS = 60_000_000_000
DOUBT_AFTER_NS = 2_000_000_000
"""An order counts as unknown for the account (control C21) once it has been asked for without proof for so long."""


class Reconciler:
    """Resolves orders by asking. One look-up an order at a time, whoever asks (single flight)."""

    def __init__(
        self,
        clock: Clock,
        on_report: Callable[[ExecutionReport], None],
        on_absent: Callable[[Order], None],
        on_doubt: Callable[[str, str], None],
        on_stuck: Callable[[Order, str], None],
    ) -> None:
        self._clock = clock
        self._on_report = on_report
        self._on_absent = on_absent
        self._on_doubt = on_doubt
        self._on_stuck = on_stuck
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._sessions: dict[str, BrokerSession] = {}  # whom each of them asks
        self._asking: set[asyncio.Task[None]] = set()
        self._since: dict[str, tuple[str, int]] = {}  # unknown order → account, asked for since
        self._doubted: set[str] = set()  # accounts whose doubt was told

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
                report = await session.find(order.cl_ord_id, order.symbol, order.order_id)
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
                    self._forget(order, None)
                    self._on_absent(order)
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

    async def reconcile(self, state: AccountState, session: BrokerSession) -> int:
        """Bring an account's orders up to the broker's truth; return how many working orders are not ours.

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
        external = 0
        known = {name for order in ours for name in (order.cl_ord_id, order.order_id) if name}
        for report in reports:
            if known.isdisjoint({report.cl_ord_id, report.order_id}):
                if report.parent:  # an exit of an entry's that we have not heard of yet
                    self._on_report(report)
                else:
                    external += 1
        for order in ours:
            found = listed.get(order.cl_ord_id) or listed.get(order.order_id)
            if found is not None:
                self._on_report(found)
            elif order.status is OrderStatus.UNKNOWN:
                self.resolve(order, session)
            elif (
                order.status is not OrderStatus.PENDING_NEW
            ):  # that one is on its way: its reply tells
                await self._gone(order, session)
        return external

    async def _gone(self, order: Order, session: BrokerSession) -> None:
        """Find out what became of an order that was proven once and is not listed any more."""
        found = await session.find(order.cl_ord_id, order.symbol, order.order_id)
        if found is not None:
            self._on_report(found)
            return
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
        if order.rests:
            self._on_stuck(order, f"{text}, and it protects a position: look at the broker")

    async def stop(self) -> None:
        """End every look-up."""
        tasks = [*self._resolving.values(), *self._asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
