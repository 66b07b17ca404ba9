"""What Binance says of its market and of an account: symbols, limits, prices, balances. Pure functions, no I/O.

Sources: rest-api.md ("Exchange information", "Symbol price ticker", "Account information"), filters.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from engine.brokers.reading import number, object_of, text_of
from engine.brokers.reading import reading as guarded
from engine.model.instrument import Instrument
from engine.model.numbers import ZERO


def instrument(account: str, found: object) -> tuple[Instrument, str, str]:
    """Read one symbol of ``exchangeInfo``: the instrument, its base asset and its quote asset.

    The lot is the coarser of LOT_SIZE and MARKET_LOT_SIZE, so a quantity fits orders of every type. A rule Binance
    writes as 0 is switched off.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with guarded(account, "a symbol of exchangeInfo"):
        told = object_of(found)
        filters = {str(object_of(one)["filterType"]): one for one in told["filters"]}
        lots = [filters[name] for name in ("LOT_SIZE", "MARKET_LOT_SIZE") if name in filters]
        prices = filters.get("PRICE_FILTER", {})
        base_step = Decimal(1).scaleb(-int(told["baseAssetPrecision"]))
        quote_step = Decimal(1).scaleb(-int(told["quoteAssetPrecision"]))
        worth = filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or {}
        most = [number(one["maxQty"], "maxQty") for one in lots if "maxQty" in one]
        lot = max([number(one["stepSize"], "stepSize") for one in lots], default=ZERO) or base_step
        return (
            Instrument(
                text_of(told["symbol"], "symbol"),
                lot=lot,
                min_qty=max([number(one["minQty"], "minQty") for one in lots], default=ZERO) or lot,
                tick=number(prices.get("tickSize", "0"), "tickSize") or quote_step,
                tradable=told["status"] == "TRADING"
                and told.get("isSpotTradingAllowed") is not False,
                min_notional=number(worth.get("minNotional", "0"), "minNotional"),
                max_qty=min([one for one in most if one > 0], default=ZERO),
            ),
            text_of(told["baseAsset"], "baseAsset"),
            text_of(told["quoteAsset"], "quoteAsset"),
        )


def rate_limits(found: Mapping[str, Any]) -> dict[tuple[str, int], int]:
    """Read ``rateLimits`` of ``exchangeInfo``: (kind, seconds of the window) → limit; the unreadable is left out."""
    seconds = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400}
    limits: dict[tuple[str, int], int] = {}
    rows = found.get("rateLimits")
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict):
            continue
        unit, count, limit = (
            seconds.get(str(row.get("interval"))),
            row.get("intervalNum"),
            row.get("limit"),
        )
        if unit and type(count) is int and count > 0 and type(limit) is int and limit > 0:
            limits[str(row.get("rateLimitType")), unit * count] = limit
    return limits


def prices(found: object, symbols: Iterable[str] | None = None) -> dict[str, Decimal]:
    """Read ``ticker/price``; symbols without a price above zero are left out."""
    rows: Sequence[object] = found if isinstance(found, list) else [found]
    wanted = None if symbols is None else set(symbols)
    read: dict[str, Decimal] = {}
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("symbol"), str):
            continue
        if wanted is not None and row["symbol"] not in wanted:
            continue
        try:
            price = number(row.get("price"), "price")
        except (ValueError, TypeError):
            continue
        if price > 0:
            read[row["symbol"]] = price
    return read


def holdings(account: str, found: object) -> tuple[dict[str, tuple[Decimal, Decimal]], bool]:
    """Read ``GET /api/v3/account``: asset → (free, locked), and whether it may trade.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with guarded(account, "the account's balances"):
        told = object_of(found)
        held = {
            text_of(row["asset"], "asset"): (
                number(row["free"], "free"),
                number(row["locked"], "locked"),
            )
            for row in told["balances"]
        }
        return held, told.get("canTrade") is True
