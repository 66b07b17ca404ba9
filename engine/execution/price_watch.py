"""Says aloud that exits cannot fire: a symbol they are needed for has had no price for a while."""

from __future__ import annotations

from collections.abc import Iterable

from engine.clock import Clock
from engine.execution.exits_host import ExitsHost
from engine.model.messages import Quote

TELL_AGAIN_NS = 600_000_000_000
"""What lasts is told at most every ten minutes (control C29)."""


class PriceWatch:
    """Knows which prices are fresh, and since when a symbol has had none."""

    def __init__(self, clock: Clock, host: ExitsHost, fresh_ns: int) -> None:
        self._clock = clock
        self._host = host
        self._fresh_ns = fresh_ns
        self._since: dict[str, int] = {}  # symbol → when it was first found without a fresh price
        self._told: dict[str, int] = {}

    def fresh(self, symbol: str) -> Quote | None:
        """Return the newest price if it may be acted on."""
        quote = self._host.quote(symbol)
        if quote is None or self._clock.monotonic_ns() - quote.at_ns > self._fresh_ns:
            return None
        return quote

    def check(self, symbol: str, accounts: Iterable[str]) -> None:
        """Look at the price of a symbol whose exits of ``accounts`` hang on it."""
        if self.fresh(symbol) is not None:
            self._since.pop(symbol, None)
            return
        now = self._clock.monotonic_ns()
        if now - self._since.setdefault(symbol, now) < self._fresh_ns:
            return  # it has only just been asked for
        told = self._told.get(symbol)
        if told is not None and now - told < TELL_AGAIN_NS:
            return
        trading = sum(self._trades_now(account) for account in accounts)
        if not trading:
            return
        self._told[symbol] = now
        self._host.follow(symbol)
        quote = self._host.quote(symbol)
        old = "no price is known"
        if quote is not None:
            old = f"its price is {(now - quote.at_ns) / 1e9:.0f} s old"
        self._host.alert(
            "critical",
            "REF_STALE",
            "",
            f"{symbol}: {old}, so the exits Volley watches for {trading} accounts cannot fire",
        )

    def _trades_now(self, account: str) -> bool:
        state = self._host.state(account)
        return state is None or state.hours is None or state.hours.allows(self._clock.now())
