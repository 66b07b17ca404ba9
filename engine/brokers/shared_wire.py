"""One pool of warm connections for many accounts, where a broker counts the new connections of an address.

Authentication goes with every request, so any connection serves any account: OANDA allows two new connections a
second, which would be minutes for hundreds of accounts with connections of their own. A reply belongs to the
request it answers on its connection, and that knows its account; nothing else tells accounts apart.

The requests of one account keep their order: on each lane its next one leaves when the one before was answered
or has failed. Accounts never wait for each other while a connection is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil
from typing import Protocol

from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl
from engine.brokers.request_queue import RequestQueue
from engine.brokers.wire import CONTROL, ORDERS, Exchange, Lane, Probe, WireHub, WirePool

ACCOUNTS_A_CONNECTION = 15
FEWEST, MOST = 2, 20
"""Order connections of a pool."""
CONTROL_SHARE = 5
"""One connection for cancels and replaces for so many order connections; free ones of those help out."""
_STOPPED = "the session was stopped"


class Wire(Protocol):
    """What a session sends over: its own ``WirePool``, or a member's part of one shared by many accounts."""

    probe: bytes

    @property
    def up(self) -> bool:
        """Say whether an order connection is open."""
        ...

    @property
    def warm(self) -> int:
        """Return how many order connections are open."""
        ...

    @property
    def wanted(self) -> int:
        """Return how many there should be."""
        ...

    @property
    def reason(self) -> str:
        """Return why orders cannot leave."""
        ...

    async def start(self) -> None:
        """Connect."""
        ...

    async def stop(self) -> None:
        """Leave; what waits has not left, what is in flight has an unknown outcome."""
        ...

    def ready(self) -> bool:
        """Say whether an order would be written at once."""
        ...

    def send(self, request: bytes, exchange: Exchange, lane: Lane = ORDERS) -> None:
        """Write a request at once or queue it; what becomes of it, ``exchange`` is told."""
        ...


class SharedWire:
    """The pool of all who reach one address by one way out. It opens with the first and closes with the last."""

    def __init__(
        self,
        hub: WireHub,
        base: BaseUrl,
        *,
        egress: Route | None = None,
        connects_per_second: float = 0.0,
        idle_s: float = 60.0,
        probe_s: float = 25.0,
    ) -> None:
        self.hub = hub
        self.pool: WirePool | None = None
        self.members: dict[Member, None] = {}
        self._base = base
        self._egress = egress
        self._connects_per_second = connects_per_second
        self._idle_s = idle_s
        self._probe_s = probe_s
        self._waiting: dict[Member, None] = {}  # for a free connection
        self._waking = False

    def member(
        self,
        *,
        on_change: Callable[[bool, str], None],
        on_probe: Callable[[Exchange, int, bytes, bytes], None],
        on_free: Callable[[], None],
    ) -> Member:
        """Return one account's part; it joins with ``start`` and leaves with ``stop``.

        ``on_free()`` is called when a connection is free after ``ready()`` has said no for want of one.
        """
        return Member(self, on_change, on_probe, on_free)

    def join(self, member: Member) -> WirePool:
        """Count a member in; open the pool, or more connections, as it needs them."""
        self.members[member] = None
        orders = min(MOST, max(FEWEST, ceil(len(self.members) / ACCOUNTS_A_CONNECTION)))
        control = ceil(orders / CONTROL_SHARE)
        if self.pool is not None:
            self.pool.grow(orders, control)
            return self.pool
        self.pool = WirePool(
            self.hub,
            self._base.host,
            self._base.port,
            tls=self._base.tls,
            orders=orders,
            control=control,
            idle_s=self._idle_s,
            egress=self._egress,
            connects_per_second=self._connects_per_second,
            probe=member.probe,
            probe_s=self._probe_s,
            on_probe=self._probed,
            on_change=self._changed,
            on_open=self.freed,
        )
        self.pool.open()
        return self.pool

    async def leave(self, member: Member) -> None:
        """Count a member out: what it has waiting has not left, what it has in flight has an unknown outcome."""
        if member not in self.members or self.pool is None:
            return
        pool = self.pool
        del self.members[member]
        self._waiting.pop(member, None)
        member.give_up(pool)
        if not self.members:
            self.pool = None
            await pool.stop()
        elif pool.probe is member.probe:
            pool.probe = next(iter(self.members)).probe
        await asyncio.sleep(0)  # refusals are told a turn of the loop later

    def wait(self, member: Member) -> None:
        """Note that a member wants to know when a connection is free."""
        self._waiting[member] = None

    def freed(self) -> None:
        """Note that a connection may be free: cancels that wait take it, else who waits is told."""
        if self.pool is not None:
            self.pool.relieve()
        if self._waiting and not self._waking:
            self._waking = True
            self.hub.loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        for _ in range(len(self._waiting)):
            if self.pool is None or not self.pool.ready():
                return
            member = next(iter(self._waiting), None)
            if member is None:
                return
            del self._waiting[member]
            member.on_free()

    def _changed(self, up: bool, reason: str) -> None:
        for member in list(self.members):
            member.on_change(up, reason)

    def _probed(self, exchange: Probe, status: int, raw: bytes, body: bytes) -> None:
        """Tell whose request it was, and ask in the next member's name the next time."""
        asked = next((m for m in self.members if m.probe == exchange.request), None)
        if asked is None or self.pool is None:
            return
        del self.members[asked]
        self.members[asked] = None
        self.pool.probe = next(iter(self.members)).probe
        asked.on_probe(exchange, status, raw, body)


class Member:
    """One account's part of a shared pool; a ``Wire``. ``probe`` is set before ``start``."""

    def __init__(
        self,
        shared: SharedWire,
        on_change: Callable[[bool, str], None],
        on_probe: Callable[[Exchange, int, bytes, bytes], None],
        on_free: Callable[[], None],
    ) -> None:
        self.probe = b""
        self.on_change = on_change
        self.on_probe = on_probe
        self.on_free = on_free
        self._shared = shared
        self._pool: WirePool | None = None  # while it is a member
        self._out: dict[Lane, _Passing | None] = {ORDERS: None, CONTROL: None}
        self._held = {lane: RequestQueue(shared.hub, _unanswered) for lane in self._out}

    async def start(self) -> None:
        """Join; returns once a connection is open, or opening the first one has failed."""
        self._pool = self._shared.join(self)
        if not self._pool.up:
            await self._pool.first_tried()

    async def stop(self) -> None:
        """Leave; what others have waiting or in flight goes on."""
        self._pool = None
        await self._shared.leave(self)

    @property
    def up(self) -> bool:
        """Say whether an order connection is open."""
        return self._pool is not None and self._pool.up

    @property
    def warm(self) -> int:
        """Return how many order connections the pool has open."""
        return self._pool.warm if self._pool is not None else 0

    @property
    def wanted(self) -> int:
        """Return how many the pool should have."""
        return self._pool.wanted if self._pool is not None else 0

    @property
    def reason(self) -> str:
        """Return why orders cannot leave, as of the last failure."""
        return self._pool.reason if self._pool is not None else "not connected yet"

    def ready(self) -> bool:
        """Say whether an order would be written at once; if only a connection is missing, ``on_free`` follows."""
        if self._pool is None or self._out[ORDERS] is not None:
            return False
        if self._pool.ready():
            return True
        self._shared.wait(self)
        return False

    def send(self, request: bytes, exchange: Exchange, lane: Lane = ORDERS) -> None:
        """Write a request at once if this account has none out on the lane and a connection is idle, else queue it."""
        if self._pool is None:
            self._shared.hub.refuse(exchange, "the session is not running")
        elif self._out[lane] is not None:
            self._held[lane].put(request, exchange)
        else:
            self._pass_on(self._pool, request, exchange, lane)

    def _pass_on(self, pool: WirePool, request: bytes, exchange: Exchange, lane: Lane) -> None:
        self._out[lane] = passing = _Passing(self, exchange, lane)
        if lane is CONTROL and not pool.free(CONTROL) and pool.free(ORDERS):
            lane = ORDERS  # a cancel waits for nobody's answer while any connection is free
        pool.send(request, passing, lane)

    def over(self, passing: _Passing) -> None:
        """Take the news that a request was answered or has failed: the account's next one leaves."""
        if self._out[passing.lane] is passing:
            self._out[passing.lane] = None
            entry = self._held[passing.lane].take()
            if entry is not None and self._pool is not None:
                self._pass_on(self._pool, *entry, passing.lane)
        self._shared.freed()

    def give_up(self, pool: WirePool) -> None:
        """Fail what this account has under way."""
        for lane, passing in self._out.items():
            self._held[lane].fail_all(_STOPPED)
            if passing is None:
                continue
            if pool.withdraw(passing):
                self._out[lane] = None
                self._shared.hub.refuse(passing.inner, _STOPPED)
            elif pool.carries(passing):
                self._out[lane] = None
                passing.abandon(f"{_STOPPED} before the reply came")
            # else it was refused, and is about to be told so


class _Passing(Exchange):
    """An account's request on its way through a pool that others use, too."""

    __slots__ = ("_abandoned", "inner", "lane", "member")

    def __init__(self, member: Member, inner: Exchange, lane: Lane) -> None:
        super().__init__(inner.stamps, inner.send_before_ns)
        self.member = member
        self.inner = inner
        self.lane = lane
        self._abandoned = False

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        self.member.over(self)
        if not self._abandoned:
            self.inner.reply_ns = self.reply_ns
            self.inner.on_reply(status, raw, body)

    def on_failure(self, left: bool, reason: str) -> None:
        self.member.over(self)
        if not self._abandoned:
            self.inner.on_failure(left, reason)

    def abandon(self, reason: str) -> None:
        """Stop waiting: the reply will be nobody's."""
        self._abandoned = True
        self.inner.on_failure(True, reason)


def _unanswered() -> str:
    return "the account's request before it was not answered in time"
