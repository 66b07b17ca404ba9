"""What OANDA says of an account and of instruments: money, positions, steps, prices; pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from engine.brokers.oanda.mapping import transaction_id
from engine.brokers.reading import number, object_of, optional_number, reading, text_of
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition
from engine.model.numbers import ZERO


def balances(account: str, body: object) -> tuple[Balances, int, bool]:
    """Read ``GET …/summary``: the money, the account's last transaction id, whether hedging is on.

    Buying power is the available margin at the account's own margin rate, where it has one; without one it
    is the margin itself, which is the careful side.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with reading(account, "the account's summary"):
        found = object_of(object_of(body).get("account"))
        margin, rate = number(found["marginAvailable"], "marginAvailable"), ZERO
        if found.get("marginRate"):
            rate = number(found["marginRate"], "marginRate")
        last = transaction_id(
            found.get("lastTransactionID") or object_of(body).get("lastTransactionID")
        )
        if not last:
            raise ValueError("lastTransactionID is missing")
        money = Balances(
            equity=number(found["NAV"], "NAV"),
            cash=number(found["balance"], "balance"),
            buying_power=round(margin / rate, 2) if 0 < rate <= 1 else margin,
            currency=text_of(found.get("currency"), "currency"),
            owner=str(found.get("id") or ""),
        )
        return money, last, found.get("hedgingEnabled") is True


def position(account: str, body: object) -> BrokerPosition | None:
    """Read one position: its long and its short side as one signed quantity, ``None`` when they cancel out.

    Where an account hedges, both sides may be open: the average price is then the larger side's.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with reading(account, "a position"):
        found = object_of(body)
        qty, larger, average = ZERO, ZERO, ZERO
        for side in ("long", "short"):
            told = object_of(found.get(side) or {})
            units = number(told.get("units", "0"), "units")
            qty += units
            if abs(units) > larger:
                larger, average = abs(units), number(told["averagePrice"], "averagePrice")
        if not qty:
            return None
        return BrokerPosition(text_of(found.get("instrument"), "instrument"), qty, average)


def instruments(account: str, body: object) -> dict[str, Instrument]:
    """Read ``GET …/instruments``: the tradeable instruments asked for, by name.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with reading(account, "the instruments"):
        found = {}
        for told in object_of(body)["instruments"]:
            name = text_of(object_of(told).get("name"), "name")
            lot = _step(told["tradeUnitsPrecision"])
            found[name] = Instrument(
                name,
                lot=lot,
                min_qty=optional_number(told, "minimumTradeSize") or lot,
                tick=_step(told["displayPrecision"]),
            )
        return found


def _step(digits: object) -> Decimal:
    if not isinstance(digits, int) or isinstance(digits, bool) or not 0 <= digits <= 12:
        raise ValueError("a precision that is none")
    return Decimal(1).scaleb(-digits)


def prices(body: object, symbols: Collection[str]) -> dict[str, tuple[Decimal, bool]]:
    """Read ``GET …/pricing``: symbol → (mid price, whether it trades now); what has no price is left out."""
    told = body.get("prices") if isinstance(body, dict) else None
    found: dict[str, tuple[Decimal, bool]] = {}
    for price in told if isinstance(told, list) else ():
        name = str(price.get("instrument")) if isinstance(price, dict) else ""
        if name not in symbols:
            continue
        try:
            mid = (_best(price, "bids", "closeoutBid") + _best(price, "asks", "closeoutAsk")) / 2
        except (ValueError, TypeError, KeyError, IndexError):
            continue
        if mid > 0:
            found[name] = mid, _tradeable(price)
    return found


def _best(price: Mapping[str, Any], side: str, closeout: str) -> Decimal:
    buckets = price.get(side)
    return number(buckets[0]["price"] if buckets else price[closeout], side)


def _tradeable(price: Mapping[str, Any]) -> bool:
    said = price.get("tradeable")
    return said if isinstance(said, bool) else price.get("status") == "tradeable"
