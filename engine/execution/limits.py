"""Every limit an order passes on its way out: its account's, its egress address's, the firm's."""

from __future__ import annotations

from collections.abc import Iterable

from engine.clock import Clock
from engine.execution.dispatcher import Dispatcher
from engine.execution.fair_queue import FairQueue
from engine.execution.rate_limit import RateLimit, TokenBucket, calendar_second
from engine.model.account import Account
from engine.ports import Capabilities

Address = tuple[str | None, ...]
_WINDOW_S = 60.0
"""How long a usage is believed when the broker does not say: the longest window of those that count requests."""


class Limits:
    """Keeps the limits, which outlive sessions: a reconnection gives no tokens back."""

    def __init__(self, clock: Clock, dispatcher: Dispatcher, per_second: int) -> None:
        self._clock = clock
        self._dispatcher = dispatcher
        self._firm = FairQueue(RateLimit(TokenBucket(per_second, 1.0)), clock)
        self._ways: dict[Address, FairQueue] = {}
        self._accounts: dict[str, tuple[str, RateLimit]] = {}  # with the broker they are of
        self._sent: list[tuple[int, str, Address]] = []  # by an earlier process, a moment ago

    def of(self, account: Account, broker: Capabilities) -> tuple[RateLimit, FairQueue]:
        """Return an account's own limit and its way out, as its document now says."""
        known = self._accounts.get(account.id)
        if known is None or known[0] != account.broker:
            limit = RateLimit(*_of_broker(broker))
            self._accounts[account.id] = (account.broker, limit)
        else:
            limit = known[1]
        rules = 1 + bool(broker.per_calendar_second)
        own = account.limits.max_orders_per_second
        before = limit.buckets[rules:]
        new = known is None
        if own is None:
            limit.buckets = limit.buckets[:rules]
        elif not before or before[0].limit != own:
            limit.buckets = (*limit.buckets[:rules], TokenBucket(own, 1.0))
        if new:
            for at_ns, account_id, _address_of in self._sent:
                if account_id == account.id:
                    limit.spend(at_ns)
        return limit, self._way(account, broker)

    def recall(self, sent: Iterable[tuple[Account, int]]) -> None:
        """Count what an earlier process has sent: each order's account, and how many nanoseconds ago.

        A restart gives no tokens back. The journal knows the orders; cancels of the last moments it does not.
        """
        now = self._clock.monotonic_ns()
        self._sent = sorted((now - ago, account.id, _address(account)) for account, ago in sent)
        for at_ns, _account_id, _address_of in self._sent:
            self._firm.limit.spend(at_ns)

    def _way(self, account: Account, broker: Capabilities) -> FairQueue:
        address = _address(account)
        way = self._ways.get(address)
        if way is None:
            rules = [TokenBucket(broker.per_address_second, 1.0)] * bool(broker.per_address_second)
            way = self._ways[address] = FairQueue(RateLimit(*rules), self._clock, self._firm)
            for at_ns, _account_id, address_of in self._sent:
                if address_of == address:
                    way.limit.spend(at_ns)
        return way

    def forget(self, account_id: str) -> None:
        """Drop a removed account's limit."""
        self._accounts.pop(account_id, None)

    def note(
        self,
        account_id: str,
        *,
        used: int | None = None,
        limit: int | None = None,
        resets_in_s: float | None = None,
        retry_after_s: float | None = None,
        address_wide: bool = False,
    ) -> None:
        """Take what a broker says of its limits (``ports.BrokerSink.on_limits``)."""
        lane = self._dispatcher.lanes.get(account_id)
        if lane is None:
            return
        now = self._clock.monotonic_ns()
        which = lane.way.limit if address_wide else lane.limit
        if used is not None and limit is not None:
            which.note_usage(used, limit, _WINDOW_S if resets_in_s is None else resets_in_s, now)
        if retry_after_s is not None:
            which.pause(max(retry_after_s, 0.0), now)
            for other in self._dispatcher.lanes.values():
                if other is lane or (address_wide and other.way is lane.way):
                    other.quieted()

    def close(self) -> None:
        """Leave no timer behind."""
        for queue in (self._firm, *self._ways.values()):
            queue.close()


def _of_broker(broker: Capabilities) -> list[TokenBucket]:
    """Return a broker's own rules per account; ``burst`` orders in the time its rate takes to give as many."""
    rules = [TokenBucket(broker.burst, broker.burst / broker.max_orders_per_second)]
    if broker.per_calendar_second:
        rules.append(calendar_second(broker.per_calendar_second))
    return rules


def _address(account: Account) -> Address:
    """Return what tells one egress address at one broker from another."""
    egress = account.egress
    host = account.base_url or account.environment
    exchange = account.options.get("exchange")  # ccxt is many brokers
    if egress is None:
        return (account.broker, host, exchange, None, None)
    return (account.broker, host, exchange, egress.local_address, egress.proxy)
