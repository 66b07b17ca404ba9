"""Requests that wait for their turn: strictly first in, first out, and none for longer than it may."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.brokers.connection import Exchange
    from engine.brokers.hub import WireHub

MAX_QUEUE = 10_000


class RequestQueue:
    """Requests of which not a byte has left.

    One is refused when its ``send_before_ns`` passes, and when it has waited as long as a reply may take;
    ``why`` then says what it waited for.
    """

    __slots__ = ("_hub", "_why", "entries")

    def __init__(self, hub: WireHub, why: Callable[[], str]) -> None:
        self._hub = hub
        self._why = why
        self.entries: deque[tuple[bytes, Exchange, int]] = deque()

    def put(self, request: bytes, exchange: Exchange) -> None:
        """Let a request wait."""
        hub = self._hub
        if len(self.entries) >= MAX_QUEUE:
            hub.refuse(exchange, "too many requests are waiting for a connection")
            return
        self.entries.append((request, exchange, monotonic_ns()))
        hub.queued[self] = None
        if hub.timer is None:
            hub.arm()

    def take(self) -> tuple[bytes, Exchange] | None:
        """Return the longest waiting request that may still leave; ``None``: there is none."""
        while self.entries:
            request, exchange, _ = self.entries.popleft()
            if not self.entries:
                self._hub.queued.pop(self, None)
            if 0 < exchange.send_before_ns < monotonic_ns():
                self._hub.refuse(exchange, "it was too old by the time it could be sent")
                continue
            if self._hub.barred(exchange):
                self._hub.refuse(exchange, "it may not leave any more")
                continue
            return request, exchange
        return None

    def refuse_barred(self) -> None:
        """Refuse what may not leave any more."""
        barred = [entry for entry in self.entries if self._hub.barred(entry[1])]
        for entry in barred:
            self.entries.remove(entry)
            self._hub.refuse(entry[1], "it may not leave any more")
        if not self.entries:
            self._hub.queued.pop(self, None)

    def withdraw(self, exchange: Exchange) -> bool:
        """Take a request out without telling anybody; say whether it was here."""
        for entry in self.entries:
            if entry[1] is exchange:
                self.entries.remove(entry)
                if not self.entries:
                    self._hub.queued.pop(self, None)
                return True
        return False

    def expire(self, now: int, late: int) -> None:
        """Refuse what waits since before ``late``, or may not be sent any more."""
        kept = deque(entry for entry in self.entries if _may_wait(entry, now, late))
        if len(kept) != len(self.entries):
            failed = [entry for entry in self.entries if not _may_wait(entry, now, late)]
            self.entries = kept
            for _, exchange, _ in failed:
                self._hub.refuse(exchange, self._why())
        if not self.entries:
            self._hub.queued.pop(self, None)

    def fail_all(self, reason: str) -> None:
        """Refuse everything."""
        waiting, self.entries = self.entries, deque()
        self._hub.queued.pop(self, None)
        for _, exchange, _ in waiting:
            self._hub.refuse(exchange, reason)


def _may_wait(entry: tuple[bytes, Exchange, int], now: int, late: int) -> bool:
    _, exchange, since = entry
    return since > late and not 0 < exchange.send_before_ns < now
