"""An OANDA account as the venue keeps it: numbered transactions, orders, trades, and who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from engine.model.enums import Side
from engine.model.numbers import ZERO, to_text
from engine.simbroker.streams import Stream
from engine.simbroker.venue import VenueAccount, VenueOrder

_JPY, _USUAL = 3, 5
_DIGITS = {
    "XAU_USD": 3,
    "XAG_USD": 5,
    "BTC_USD": 1,
    "SPX500_USD": 1,
    "NAS100_USD": 1,
    "DE30_EUR": 1,
}
USER_ID = 1179508


def digits_of(instrument: str) -> int:
    """Return how many decimals an instrument's prices have."""
    known = _DIGITS.get(instrument)
    if known is not None:
        return known
    return _JPY if instrument.endswith("_JPY") else _USUAL


def price_text(instrument: str, price: Decimal) -> str:
    """Write a price with the instrument's decimals."""
    return format(price, f".{digits_of(instrument)}f")


def money_text(value: Decimal) -> str:
    """Write an amount in the account's currency, as OANDA does: four decimals."""
    return format(value, ".4f")


def stamp(moment: datetime) -> str:
    """Write a moment with nine decimals and ``Z``."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}000Z"


class SimOrder:
    """An order as OANDA shows it; ``venue_order`` is what the book works, ``None`` if it never got there."""

    __slots__ = (
        "asked",
        "created_at",
        "distance",
        "ended_at",
        "id",
        "kind",
        "more",
        "state",
        "stop",
        "trade",
        "venue_order",
    )

    def __init__(
        self, order_id: str, kind: str, asked: dict[str, Any], created_at: datetime
    ) -> None:
        self.id = order_id
        self.kind = kind  # MARKET, LIMIT, STOP, TAKE_PROFIT, STOP_LOSS, TRAILING_STOP_LOSS
        self.asked = asked  # the fields of the request that are shown again
        self.state = "PENDING"
        self.created_at = created_at
        self.ended_at: datetime | None = None
        self.venue_order: VenueOrder | None = None
        self.trade: Trade | None = None  # of an exit
        self.distance: Decimal | None = None
        self.stop: Decimal | None = None  # where a trailing stop is now
        self.more: dict[str, Any] = {}  # fields that come later: who filled, cancelled, replaced it

    @property
    def client_id(self) -> str:
        """Return the client's id, empty if it gave none."""
        return str((self.asked.get("clientExtensions") or {}).get("id") or "")

    def as_dict(self) -> dict[str, Any]:
        """Return the order object."""
        shown = {
            "id": self.id,
            "createTime": stamp(self.created_at),
            "state": self.state,
            "type": self.kind,
            **self.asked,
            **self.more,
        }
        if self.stop is not None and self.trade is not None:
            shown["trailingStopValue"] = price_text(self.trade.instrument, self.stop)
        return shown


class Trade:
    """One open trade; ``units`` signed, what is left of it."""

    __slots__ = ("client", "exits", "id", "initial", "instrument", "opened_at", "price", "units")

    def __init__(
        self,
        trade_id: str,
        instrument: str,
        units: Decimal,
        price: Decimal,
        opened_at: datetime,
        client: dict[str, Any] | None,
    ) -> None:
        self.id = trade_id
        self.instrument = instrument
        self.initial = self.units = units
        self.price = price
        self.opened_at = opened_at
        self.client = client
        self.exits: dict[str, SimOrder] = {}

    def as_dict(self, price: Decimal) -> dict[str, Any]:
        """Return the trade object at a market price."""
        shown: dict[str, Any] = {
            "id": self.id,
            "instrument": self.instrument,
            "price": price_text(self.instrument, self.price),
            "openTime": stamp(self.opened_at),
            "state": "OPEN",
            "initialUnits": to_text(self.initial),
            "currentUnits": to_text(self.units),
            "unrealizedPL": money_text(self.units * (price - self.price)),
        }
        if self.client:
            shown["clientExtensions"] = self.client
        names = {"TAKE_PROFIT": "takeProfitOrder", "STOP_LOSS": "stopLossOrder"}
        for kind, order in self.exits.items():
            shown[names.get(kind, "trailingStopLossOrder")] = order.as_dict()
        return shown


class SimLedger:
    """One account: what happened, numbered from 1, and what is open."""

    def __init__(self, account: VenueAccount, now: datetime, cash: Decimal) -> None:
        self.account = account
        self.transactions: list[dict[str, Any]] = []
        self.orders: dict[str, SimOrder] = {}
        self.pending: dict[str, SimOrder] = {}
        self.by_key: dict[str, SimOrder] = {}
        self.trades: dict[str, Trade] = {}
        self.streams: list[Stream] = []
        self.realised = ZERO
        self._batch = ""
        self._told = 0
        self.add("CREATE", now, homeCurrency="USD")
        self.add("TRANSFER_FUNDS", now, amount=money_text(cash), accountBalance=money_text(cash))

    @property
    def last_id(self) -> str:
        """Return the id of the newest transaction."""
        return str(len(self.transactions))

    @property
    def next_id(self) -> str:
        """Return the id the next transaction will have."""
        return str(len(self.transactions) + 1)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write what is added within as one batch, named after its first transaction."""
        outer = self._batch
        self._batch = outer or self.next_id
        try:
            yield
        finally:
            self._batch = outer

    def add(self, kind: str, now: datetime, **fields: Any) -> dict[str, Any]:
        """Write a transaction; fields that are ``None`` are left out."""
        number = self.next_id
        transaction: dict[str, Any] = {
            "id": number,
            "time": stamp(now),
            "userID": USER_ID,
            "accountID": self.account.key_id,
            "batchID": self._batch or number,
            "type": kind,
            **{name: value for name, value in fields.items() if value is not None},
        }
        self.transactions.append(transaction)
        return transaction

    # What look-ups see: a fault keeps new orders out of them for a while

    def hidden(self, order: SimOrder) -> bool:
        """Say whether look-ups do not see an order yet."""
        venue_order = order.venue_order
        return venue_order is not None and venue_order.key in self.account.hidden

    def seen(self, orders: dict[str, SimOrder]) -> list[SimOrder]:
        """Return those of ``orders`` that look-ups see, newest first."""
        found = reversed(orders.values())
        return [o for o in found if not self.hidden(o)] if self.account.hidden else list(found)

    @property
    def shown(self) -> int:
        """Return how many transactions look-ups see: those before the first hidden order's."""
        if not self.account.hidden:
            return len(self.transactions)
        hidden = [int(order.id) for order in self.orders.values() if self.hidden(order)]
        return min(hidden, default=len(self.transactions) + 1) - 1

    @property
    def shown_id(self) -> str:
        """Return the id of the newest transaction that look-ups see."""
        return str(self.shown)

    def since(self, number: int, most: int = 1000) -> list[dict[str, Any]]:
        """Return the transactions after ``number`` that look-ups see, at most so many."""
        return self.transactions[number : min(number + most, self.shown)]

    def find(self, spec: str, *, shown: bool = False) -> SimOrder | None:
        """Return an order by its id, or a pending one by ``@`` and its client id."""
        order = self.pending_with(spec[1:]) if spec.startswith("@") else self.orders.get(spec)
        return None if order is not None and shown and self.hidden(order) else order

    def opposite(self, instrument: str, side: Side) -> Iterator[Trade]:
        """Return the trades a fill of ``side`` reduces, oldest first."""
        for trade in list(self.trades.values()):
            if trade.instrument == instrument and trade.units * side.sign < 0:
                yield trade

    def pending_with(self, client_id: str) -> SimOrder | None:
        """Return the pending order of a client id."""
        found = (order for order in self.pending.values() if order.client_id == client_id)
        return next(found, None) if client_id else None

    # The stream

    def tell(self) -> None:
        """Send the transactions nobody was told of yet."""
        fresh, self._told = self.transactions[self._told :], len(self.transactions)
        if fresh and self.streams:
            lines = b"".join(orjson.dumps(told) + b"\n" for told in fresh)
            for stream in self.streams:
                stream.send(lines)

    def heartbeat(self, now: datetime) -> bytes:
        """Return a heartbeat's line."""
        told = {"type": "HEARTBEAT", "lastTransactionID": str(self._told), "time": stamp(now)}
        return orjson.dumps(told) + b"\n"
