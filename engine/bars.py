"""Price bars of every symbol that trades here: five seconds and a minute wide, from the prices the engine gets anyway.

They are for looking at, never for deciding: kept in memory only, a bounded ring a symbol, gone with the process. A
stretch without a price has no bar.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from engine.clock import Clock, rfc3339
from engine.errors import CommandRefused
from engine.model import commands as c
from engine.model.numbers import to_text

FAST_S: Final = 5
SLOW_S: Final = 60
KEPT: Final = 1_000
"""Finished bars a symbol and width: 83 minutes of the narrow ones, 16 hours of the wide ones."""
MOST_SYMBOLS: Final = 200
"""Beyond these, only symbols that are held or asked for get bars: about 0.1 kB a bar, 40 MB when all are full."""
MOST_ASKED: Final = 200
"""Symbols watched at a time: with one more, the one asked for the longest ago is watched no longer."""
WATCHED_NS: Final = 150_000_000_000
"""How long after being asked for a symbol's live bars are told in the feed."""

Row = dict[str, Any]


class _Ring:
    """The bars of one symbol and width; finished ones are kept as text, which takes a quarter of the memory."""

    __slots__ = ("at", "close", "finished", "high", "low", "opened", "prices")

    def __init__(self) -> None:
        self.finished: deque[str] = deque(maxlen=KEPT)
        self.at = 0  # seconds since 1970; 0: none yet
        self.opened = self.high = self.low = self.close = Decimal(0)
        self.prices = 0

    def take(self, at: int, price: Decimal) -> None:
        """Add a price to the bar that began at ``at``; a wall clock set back goes on with the bar it was at."""
        if at > self.at:
            if self.at:
                self.finished.append(self._text())
            self.at, self.prices = at, 1
            self.opened = self.high = self.low = self.close = price
            return
        self.close = price
        self.prices += 1
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price

    def _text(self) -> str:
        figures = map(to_text, (self.opened, self.high, self.low, self.close))
        return " ".join((str(self.at), *figures, str(self.prices)))

    def all(self) -> list[list[str]]:
        """Return every bar, oldest first: start, open, high, low, close, how many prices."""
        texts = [*self.finished, self._text()] if self.at else []
        return [text.split(" ") for text in texts]


class Bars:
    """Makes the bars; ``held`` says which accounts have or had a symbol."""

    def __init__(self, clock: Clock, held: Callable[[str], object]) -> None:
        self._clock = clock
        self._held = held
        self._rings: dict[str, tuple[_Ring, _Ring]] = {}
        self._fast_at = self._slow_at = 0
        self._edge_ns = 0  # when the next narrow bar begins
        self._asked: dict[str, int] = {}  # the newest last
        self._moved: set[str] = set()

    def on_price(self, symbol: str, price: Decimal) -> None:
        """Take a price that has just come."""
        if self._clock.monotonic_ns() >= self._edge_ns:
            self._next_bar()
        rings = self._rings.get(symbol) or self._begin(symbol)
        if rings is not None:
            rings[0].take(self._fast_at, price)
            rings[1].take(self._slow_at, price)
            if symbol in self._asked:
                self._moved.add(symbol)

    def _next_bar(self) -> None:
        now = self._clock.now().timestamp()
        self._fast_at = int(now // FAST_S) * FAST_S
        self._slow_at = int(now // SLOW_S) * SLOW_S
        left = self._fast_at + FAST_S - now
        self._edge_ns = self._clock.monotonic_ns() + int(left * 1e9)

    def _begin(self, symbol: str) -> tuple[_Ring, _Ring] | None:
        if len(self._rings) >= MOST_SYMBOLS:
            if symbol in self._asked:
                self._make_room()
            elif not self._held(symbol):
                return None
        rings = self._rings[symbol] = (_Ring(), _Ring())
        return rings

    def _make_room(self) -> None:
        """Forget the oldest bars that nobody holds or has asked for, if there are any."""
        for symbol in self._rings:
            if symbol not in self._asked and not self._held(symbol):
                del self._rings[symbol]
                return

    # ---- reading ------------------------------------------------------------------------------------------------

    async def bars(self, command: c.Bars) -> Row:
        """Return a symbol's bars, oldest first; the last may still be moving. It is watched for a while from now on.

        Raises:
            CommandRefused: no price of the symbol has come since the engine started.
        """
        self._asked.pop(command.symbol, None)
        self._asked[command.symbol] = self._clock.monotonic_ns()
        if len(self._asked) > MOST_ASKED:
            del self._asked[next(iter(self._asked))]
        rings = self._rings.get(command.symbol)
        if rings is None:
            raise CommandRefused(
                "NO_PRICE", f"no price of {command.symbol} has come since the start", 404
            )
        width = command.interval_s
        found = rings[0].all() if width < SLOW_S else wider(rings[1].all(), width)
        return {
            "symbol": command.symbol,
            "interval_s": width,
            "bars": [_row(bar) for bar in found[-command.limit :]],
        }

    def keys(self) -> list[str]:
        """Return the keys of the feed's table: both widths of every symbol that is watched."""
        since = self._clock.monotonic_ns() - WATCHED_NS
        self._asked = {symbol: at for symbol, at in self._asked.items() if at > since}
        known = [symbol for symbol in self._asked if symbol in self._rings]
        return [f"{symbol}@{width}" for symbol in known for width in (FAST_S, SLOW_S)]

    def row(self, key: str) -> Row | None:
        """Return a live bar of the feed's table."""
        symbol, _, width = key.rpartition("@")
        rings = self._rings.get(symbol)
        if rings is None or symbol not in self._asked:
            return None
        ring = rings[0] if width == str(FAST_S) else rings[1]
        return {
            "key": key,
            "symbol": symbol,
            "interval_s": int(width),
            "at": _stamp(ring.at),
            "open": to_text(ring.opened),
            "high": to_text(ring.high),
            "low": to_text(ring.low),
            "close": to_text(ring.close),
            "prices": ring.prices,
        }

    def changed(self) -> list[str]:
        """Return the keys whose live bars moved since the last call."""
        moved, self._moved = self._moved, set()
        if not moved:
            return []
        return [key for key in self.keys() if key.rpartition("@")[0] in moved]


def wider(bars: list[list[str]], width: int) -> list[list[str]]:
    """Return bars ``width`` seconds wide made of narrower ones, oldest first."""
    made: list[list[str]] = []
    for at, opened, high, low, close, prices in bars:
        start = str(int(at) // width * width)
        if made and made[-1][0] == start:
            bar = made[-1]
            bar[2] = max(bar[2], high, key=Decimal)
            bar[3] = min(bar[3], low, key=Decimal)
            bar[4] = close
            bar[5] = str(int(bar[5]) + int(prices))
        else:
            made.append([start, opened, high, low, close, prices])
    return made


def _stamp(at: int) -> str:
    return rfc3339(datetime.fromtimestamp(at, UTC))


def _row(bar: list[str]) -> Row:
    at, opened, high, low, close, prices = bar
    return {
        "at": _stamp(int(at)),
        "open": opened,
        "high": high,
        "low": low,
        "close": close,
        "prices": int(prices),
    }
