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


class Reconciler:
    """Resolves orders by asking. One look-up an order at a time, whoever asks (single flight)."""

    def __init__(
        self,
        clock: Clock,
        on_report: Callable[[ExecutionReport], None],
        on_absent: Callable[[Order], None],
    ) -> None:
        self._clock = clock
        self._on_report = on_report
        self._on_absent = on_absent
        self._resolving: dict[str, asyncio.Task[None]] = {}

    def resolve(self, order: Order, session: BrokerSession) -> None:
        """Find out what became of an order whose outcome is unknown; answers arrive as reports."""
        if order.cl_ord_id in self._resolving:
            return
        task = asyncio.get_running_loop().create_task(
            self._resolve(order, session), name=f"resolve-{order.cl_ord_id}"
        )
        self._resolving[order.cl_ord_id] = task
        task.add_done_callback(lambda done: self._forget(order, done))

    def _forget(self, order: Order, task: asyncio.Task[None] | None) -> None:
        if task is None or self._resolving.get(order.cl_ord_id) is task:
            self._resolving.pop(order.cl_ord_id, None)

    async def _resolve(self, order: Order, session: BrokerSession) -> None:
        asked_ns = self._clock.monotonic_ns()
        settle_ns = int(session.capabilities.settle_s * 1e9)
        absent = 0
        for _ in range(MOST_LOOK_UPS):
            if order.status not in {OrderStatus.UNKNOWN, OrderStatus.PENDING_NEW}:
                return  # the stream was faster
            try:
                report = await session.find(order.cl_ord_id)
            except BrokerError as error:
                order.text = f"looking it up failed: {error}"
                await asyncio.sleep(LOOK_UP_AGAIN_S)
                continue
            if order.status not in {OrderStatus.UNKNOWN, OrderStatus.PENDING_NEW}:
                return  # proven while we asked
            if report is not None:
                self._forget(order, None)  # what follows may need a look-up of its own
                self._on_report(report)
                return
            # "Not found" counts once the broker has had its settling time since we began to ask, and twice.
            absent += 1
            if absent >= 2 and self._clock.monotonic_ns() - asked_ns >= settle_ns:
                self._forget(order, None)
                self._on_absent(order)
                return
            await asyncio.sleep(max(LOOK_UP_AGAIN_S, session.capabilities.settle_s / 2))
        log.error(
            "order %s of %s stays unknown after %d look-ups",
            order.cl_ord_id,
            order.account,
            MOST_LOOK_UPS,
        )

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
        listed = {
            report.cl_ord_id or report.order_id: report for report in await session.open_orders()
        }
        external = len(listed)
        for order in ours:
            report = listed.get(order.cl_ord_id) or listed.get(order.order_id)
            if report is not None:
                external -= 1
                self._on_report(report)
            elif order.status in {OrderStatus.UNKNOWN, OrderStatus.PENDING_NEW}:
                self.resolve(order, session)
            else:
                found = await session.find(order.cl_ord_id)
                if found is not None:
                    self._on_report(found)
                else:
                    # It was proven once and is gone now: nobody but a person can say what that means.
                    self._on_report(
                        ExecutionReport(
                            account=order.account,
                            cl_ord_id=order.cl_ord_id,
                            exec_type=ExecType.STATUS,
                            text="the broker no longer lists this order",
                        )
                    )
        return max(0, external)

    async def stop(self) -> None:
        """End every look-up."""
        tasks = list(self._resolving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
