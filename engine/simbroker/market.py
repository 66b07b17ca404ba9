"""The venue's prices: a seeded random walk per symbol, or a replayed file.

The practice market follows its participants, so that replays of recorded signals trade: a symbol
nobody knows opens at the first limit or stop price it is told (or 100), and when the limit price of
an arriving limit order is more than ``follow_percent`` away from a walk, the walk jumps to it.
Replayed and pinned symbols stay where they are.
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from random import Random
from typing import NamedTuple

from engine.errors import ConfigError
from engine.model.matching import Book, BookEvent, practice_instrument
from engine.model.numbers import parse_decimal
from engine.simbroker.config import SimConfig

_SEEDED = {
    "AAPL": "189.40",
    "MSFT": "415.20",
    "NVDA": "131.80",
    "TSLA": "248.50",
    "AMZN": "186.30",
    "GOOGL": "167.10",
    "META": "512.70",
    "SPY": "560.00",
    "QQQ": "480.00",
    "BTCUSDT": "46350.00",
    "BTC/USD": "46350.00",
    "ETHUSDT": "3105.00",
    "ETH/USD": "3105.00",
    "SOL/USD": "98.40",
    "EUR/USD": "1.09",
    "EUR_USD": "1.09000",
    "GBP_USD": "1.27000",
    "USD_JPY": "151.300",
    "USD_CHF": "0.88400",
    "AUD_USD": "0.65500",
    "USD_CAD": "1.36200",
    "NZD_USD": "0.60100",
    "EUR_GBP": "0.85800",
    "EUR_JPY": "164.900",
    "XAU_USD": "2380.100",
    "NSE:INFY": "1510.50",
    "NSE:RELIANCE": "1290.00",
}
_OPEN_AT, _PARITY = Decimal(100), Decimal(1)
_CENT, _SUB_PENNY = Decimal("0.01"), Decimal("0.0001")


class Tick(NamedTuple):
    """One replayed price, ``at`` seconds after the file's first."""

    at: float
    last: Decimal
    bid: Decimal
    ask: Decimal


def read_ticks(path: Path) -> list[Tick]:
    """Read candles (``time,open,high,low,close,…``) or quotes (``timestamp,bid,ask``) as ticks.

    A candle becomes four ticks, open, the two extremes, close, spread over its length.

    Raises:
        ConfigError: the file cannot be read or is neither.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            fields = set(rows.fieldnames or ())
            if {"timestamp", "bid", "ask"} <= fields:
                return list(_quotes(rows))
            if {"time", "open", "high", "low", "close"} <= fields:
                return list(_candles(list(rows)))
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"prices file {path} cannot be read: {error}") from None
    raise ConfigError(
        f"prices file {path} needs columns timestamp,bid,ask or time,open,high,low,close"
    )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _quotes(rows: csv.DictReader[str]) -> Iterator[Tick]:
    start: float | None = None
    for row in rows:
        at = _seconds(row["timestamp"])
        start = at if start is None else start
        bid, ask = parse_decimal(row["bid"]), parse_decimal(row["ask"])
        yield Tick(at - start, (bid + ask) / 2, bid, ask)


def _candles(rows: list[dict[str, str]]) -> Iterator[Tick]:
    times = [_seconds(row["time"]) for row in rows]
    for index, row in enumerate(rows):
        following = times[index + 1] if index + 1 < len(rows) else times[index] + 60
        names = ("open", "low", "high", "close")
        if parse_decimal(row["close"]) < parse_decimal(row["open"]):
            names = ("open", "high", "low", "close")
        for step, name in enumerate(names):
            at = times[index] - times[0] + (following - times[index]) * step / 4
            price = parse_decimal(row[name])
            yield Tick(at, price, price, price)


class Listing:
    """One symbol: its book, and where its price comes from."""

    __slots__ = ("_random", "book", "pinned", "replayed", "symbol")

    def __init__(self, symbol: str, book: Book, random: Random) -> None:
        self.symbol = symbol
        self.book = book
        self.pinned = False
        self.replayed = False
        self._random = random

    @property
    def price(self) -> Decimal:
        """Return the last price."""
        assert self.book.last is not None  # a listing opens with a price
        return self.book.last

    @property
    def walks(self) -> bool:
        """Say whether the price walks and follows orders."""
        return not (self.pinned or self.replayed)

    def next_step(self, volatility: float) -> Decimal:
        """Return the walk's next price: chance picks a whole number of ticks, the rest is exact."""
        tick = _CENT if self.price >= 1 else _SUB_PENNY
        if "_" in self.symbol:  # a currency pair
            tick = practice_instrument(self.symbol).tick
        ticks = round(self._random.gauss(0.0, volatility) * float(self.price / tick))
        return max(tick, self.price + ticks * tick)


class SimMarket:
    """All listings and the clockwork that moves them.

    ``on_events`` gets what a price move did to the orders, ``on_moved`` hears of it afterwards.
    """

    def __init__(
        self,
        config: SimConfig,
        on_events: Callable[[list[BookEvent]], None],
        on_moved: Callable[[Listing], None],
    ) -> None:
        self._config = config
        self._on_events = on_events
        self._on_moved = on_moved
        self._listings: dict[str, Listing] = {}
        self._ticks: list[Tick] = []
        self._next_tick = 0
        self._replay_began = 0.0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Read the prices file and start the clockwork."""
        if self._config.prices is not None:
            if self._config.prices_speed <= 0:
                raise ConfigError(f"speed must be above 0, not {self._config.prices_speed}")
            self._ticks = await asyncio.to_thread(read_ticks, self._config.prices)
            if not self._ticks:
                raise ConfigError(f"prices file {self._config.prices} has no rows")
            self._replay_began = asyncio.get_running_loop().time()
            self._replay()
        self._at(self._config.tick_interval_s, "walk", self._walk)
        self._arm_midnight()

    def stop(self) -> None:
        """Stop the clockwork."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def find(self, symbol: str) -> Listing | None:
        """Return a symbol that is known by name or was opened, ``None`` for others."""
        if symbol not in self._listings and symbol in _SEEDED:
            self._open(symbol, Decimal(_SEEDED[symbol]))
        return self._listings.get(symbol)

    def listing(self, symbol: str, hint: Decimal | None = None) -> Listing:
        """Return a symbol, opened at ``hint``, or 100 (a currency pair at 1), if nobody knew it."""
        at = _PARITY if "_" in symbol else _OPEN_AT
        return self.find(symbol) or self._open(symbol, at if hint is None else hint)

    def symbols(self) -> set[str]:
        """Return every symbol that is known by name or was opened."""
        return {*_SEEDED, *self._listings}

    def price(self, symbol: str) -> Decimal | None:
        """Return the last price of an opened symbol."""
        listing = self._listings.get(symbol)
        return listing.price if listing else None

    def follow(self, symbol: str, limit_price: Decimal) -> None:
        """Let the walk jump to an arriving limit price that is far away from it."""
        listing = self._listings[symbol]
        percent = self._config.follow_percent
        if not percent or not listing.walks:
            return
        if abs(limit_price - listing.price) * 100 > percent * listing.price:
            self._move(listing, limit_price)

    def pin(self, symbol: str, price: Decimal | None) -> None:
        """Put a price and hold it there; ``None`` lets the symbol walk again."""
        if price is None:
            self.listing(symbol).pinned = False
            return
        listing = self.listing(symbol, price)
        listing.pinned = True
        self._move(listing, price)

    def limit_fills(self, max_fill_qty: Decimal | None) -> None:
        """Set the most units of one order that fill at one tick, for every symbol."""
        self._config.max_fill_qty = max_fill_qty
        for listing in self._listings.values():
            listing.book.max_fill_qty = max_fill_qty

    def _move(
        self,
        listing: Listing,
        last: Decimal,
        bid: Decimal | None = None,
        ask: Decimal | None = None,
    ) -> None:
        self._on_events(listing.book.quote(last, bid, ask))
        self._on_moved(listing)

    def _open(self, symbol: str, price: Decimal) -> Listing:
        book = Book(self._config.max_fill_qty)
        book.quote(price)
        # A walk of its own per symbol: the order in which symbols open changes no price.
        random = Random(f"{self._config.seed}:{symbol}")  # noqa: S311 (a practice market)
        listing = self._listings[symbol] = Listing(symbol, book, random)
        return listing

    def _at(self, delay: float, name: str, callback: Callable[[], None]) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(delay, callback)

    def _walk(self) -> None:
        self._at(self._config.tick_interval_s, "walk", self._walk)
        for listing in list(self._listings.values()):
            book = listing.book
            if listing.walks and self._config.walk:
                self._move(listing, listing.next_step(self._config.volatility))
            elif len(book) and book.max_fill_qty is not None:
                # A market that stands still trades on: remainders of partial fills continue.
                self._move(listing, listing.price, book.bid, book.ask)

    def _replay(self) -> None:
        listing = self.listing(self._config.prices_symbol, self._ticks[0].last)
        listing.replayed = True
        loop = asyncio.get_running_loop()
        now = (loop.time() - self._replay_began) * self._config.prices_speed
        while self._next_tick < len(self._ticks) and self._ticks[self._next_tick].at <= now:
            tick = self._ticks[self._next_tick]
            self._next_tick += 1
            if not listing.pinned:
                self._move(listing, tick.last, tick.bid, tick.ask)
        if self._next_tick < len(self._ticks):
            wait = (self._ticks[self._next_tick].at - now) / self._config.prices_speed
            self._at(max(wait, 0.001), "replay", self._replay)

    def _arm_midnight(self) -> None:
        now = datetime.now(UTC)
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        self._at((midnight - now).total_seconds() + 0.1, "midnight", self._end_day)

    def _end_day(self) -> None:
        """Expire day orders: this venue's day ends at midnight UTC."""
        self._arm_midnight()
        books = [listing.book for listing in self._listings.values()]
        self._on_events(list(chain.from_iterable(book.expire_day() for book in books)))
