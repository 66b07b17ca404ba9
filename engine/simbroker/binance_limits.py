"""What Binance counts at the simulated venue: request weight of the address, unfilled orders of an account."""

from __future__ import annotations

from collections import deque

from engine.simbroker.binance_rows import ApiError
from engine.simbroker.config import SimConfig
from engine.simbroker.venue import Venue, VenueAccount

ORDERS_IN_10_S = 50
_PATIENCE = 5  # requests beyond the weight before the address is banned
_BAN_S = 120


class Limits:
    """Request weight of the one address all clients share, and unfilled orders of each account."""

    def __init__(self, venue: Venue, config: SimConfig) -> None:
        self._venue = venue
        self._config = config
        self._minute = self._used = self._beyond = 0
        self._banned_until = 0.0
        self._orders: dict[str, deque[float]] = {}

    def spend(self, weight: int) -> None:
        """Count a request; refuse it beyond the limit, and ban who goes on."""
        now = self._venue.now().timestamp()
        if int(now) // 60 != self._minute:
            self._minute, self._used, self._beyond = int(now) // 60, 0, 0
        limit = self._config.rate_limit
        if not limit:
            self._used += weight
            return
        if now < self._banned_until:
            until = int(self._banned_until * 1000)
            raise ApiError(
                -1003, f"Way too much request weight used; IP banned until {until}.", 418
            )
        self._used += weight
        if self._used > limit:
            self._beyond += 1
            if self._beyond > _PATIENCE:
                self._banned_until = now + _BAN_S
            raise ApiError(
                -1003,
                f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE.",
                429,
            )

    def give_back(self, weight: int) -> None:
        """Take back what a successful order or cancel cost (since 2026-04-02 nothing)."""
        self._used = max(0, self._used - weight)

    def retry_after(self) -> int:
        """Return the seconds to wait."""
        now = self._venue.now().timestamp()
        if now < self._banned_until:
            return int(self._banned_until - now) + 1
        return 60 - int(now) % 60

    def order(self, account: VenueAccount, count: int) -> None:
        """Count new orders, unfilled until they fill."""
        made = self._window(account)
        if self._config.rate_limit and len(made) + count > ORDERS_IN_10_S:
            raise ApiError(
                -1015,
                f"Too many new orders; current limit is {ORDERS_IN_10_S} orders per 10 SECOND.",
                429,
            )
        made.extend([self._venue.now().timestamp()] * count)

    def filled(self, account: VenueAccount) -> None:
        """Give the count of an order back that filled."""
        made = self._window(account)
        if made:
            made.popleft()

    def count(self, account: VenueAccount) -> int:
        """Return an account's unfilled orders of the last ten seconds."""
        return len(self._window(account))

    def _window(self, account: VenueAccount) -> deque[float]:
        made = self._orders.setdefault(account.key_id, deque())
        old = self._venue.now().timestamp() - 10
        while made and made[0] < old:
            made.popleft()
        return made

    def headers(self, account: VenueAccount | None) -> str:
        """Return what every answer tells of the limits."""
        told = f"X-MBX-USED-WEIGHT: {self._used}\r\nX-MBX-USED-WEIGHT-1M: {self._used}\r\n"
        if account is not None:
            told += f"X-MBX-ORDER-COUNT-10S: {self.count(account)}\r\n"
        return told
