"""The fan-out: one signal's orders to their lanes, fairly and a few at a time."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from engine.errors import InvariantError
from engine.execution.fair_queue import FairQueue
from engine.execution.lane import Denied, Lane
from engine.model.enums import OrderStatus
from engine.model.order import Order

CHUNK = 256
"""Orders per turn of the loop: about three milliseconds, after which replies, streams and commands get theirs. Handling
a reply costs more than sending an order, so a smaller turn makes the last order of a fan-out wait for replies."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """When a fan-out would be through, by the limits alone.

    ``cold``: accounts of it that have no free connection just now; what they wait for is not in ``seconds``.
    """

    seconds: float
    cold: int


class Dispatcher:
    """Hands orders to lanes. The account served first rotates from signal to signal, so nobody is always last."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.denied: Denied = _nobody
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Order] = deque()
        self._scheduled = False
        self._dispatched_at = float("-inf")
        self._turn = 0

    def dispatch(self, orders: list[Order]) -> None:
        """Send durable orders, each in its account's lane."""
        if not orders:
            return
        start = self._turn % len(orders)
        self._turn += 1
        self._waiting.extend(orders[start:])
        self._waiting.extend(orders[:start])
        if not self._scheduled:
            self._work()

    @property
    def busy(self) -> bool:
        """Say whether orders wait for the loop's next turn."""
        return self._scheduled

    def idle_s(self) -> float:
        """Return how many seconds ago orders were last handed to lanes."""
        return self._loop.time() - self._dispatched_at

    def _work(self) -> None:
        self._dispatched_at = self._loop.time()
        waiting, lanes = self._waiting, self.lanes
        try:
            for _ in range(min(CHUNK, len(waiting))):
                order = waiting.popleft()
                lane = lanes.get(order.account)
                if lane is not None:
                    lane.put(order)
                else:
                    self.denied(order, "NOT_CONNECTED", "the account has no broker session")
        finally:
            # Whatever one order's fate does, the others' turn comes.
            self._scheduled = bool(waiting)
            if waiting:
                self._loop.call_soon(self._work)

    def predict(self, accounts: Collection[str], now_ns: int, *, entry: bool = True) -> Prediction:
        """Say when the last of one more order for each of ``accounts`` would have left, behind what waits already."""
        chosen = set(accounts)
        ways, waiting = self._in_line()
        used: set[FairQueue] = set()
        last = ready = 0
        for account in chosen:
            lane = self.lanes.get(account)
            if lane is None:
                continue
            for stage in lane.way.stages:
                ways[stage] += 1
            used.update(lane.way.stages)
            ready += lane.session.ready()
            last = max(last, lane.limit.after(waiting[account] + 1, now_ns, entry))
        for stage in used:
            last = max(last, stage.limit.after(ways[stage], now_ns, entry))
        return Prediction(last / 1e9, len(chosen) - ready)

    def schedule(
        self, accounts: Sequence[str], now_ns: int, *, entry: bool = True
    ) -> Iterator[tuple[str, float]]:
        """Say of each of ``accounts`` when its order would have left, were one of each dispatched now, in seconds.

        The last of them is what ``predict`` says; an account without a broker session is left out. What is asked is
        the moment of the first step, however long the others are put off.
        """
        ways, waiting = self._in_line()
        start = self._turn % len(accounts) if accounts else 0
        ordered = [
            (account, lane)
            for account in (*accounts[start:], *accounts[:start])
            if (lane := self.lanes.get(account)) is not None
        ]
        added = Counter(stage for _, lane in ordered for stage in lane.way.stages)
        waits = {
            stage: iter(stage.limit.schedule(ways[stage] + count, now_ns, entry)[ways[stage] :])
            for stage, count in added.items()
        }
        for account, lane in ordered:
            own = lane.limit.after(waiting[account] + 1, now_ns, entry)
            yield account, max(own, *(next(waits[stage]) for stage in lane.way.stages)) / 1e9

    def _in_line(self) -> tuple[Counter[FairQueue], Counter[str]]:
        """Count the orders that wait already, by each limit on their way and by account."""
        waiting = Counter(order.account for order in self._waiting)
        ways: Counter[FairQueue] = Counter()
        for account, lane in self.lanes.items():
            count = waiting[account] = waiting[account] + len(lane)
            if count:
                for stage in lane.way.stages:
                    ways[stage] += count
        return ways, waiting

    def deny(self, order: Order, code: str, text: str) -> bool:
        """Deny an order that waits for its turn; say whether it was still here."""
        if order not in self._waiting:
            return False
        self._waiting.remove(order)
        if order.status is not OrderStatus.PENDING_NEW:
            return False  # sent once more, and its broker has told of the first after all
        self.denied(order, code, text)
        return True


def _nobody(order: Order, code: str, text: str) -> None:
    """Stand in until wiring says who takes denials."""
    raise InvariantError(f"{order.cl_ord_id} was denied with nobody to tell: {code} {text}")
