"""What the contract suite must know of each broker to trade at it: names, words and promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.brokers.alpaca.adapter import AlpacaAdapter
from engine.brokers.binance.adapter import BinanceAdapter
from engine.brokers.kite.adapter import KiteAdapter
from engine.brokers.oanda.adapter import OandaAdapter
from engine.model.enums import TimeInForce
from engine.ports import BrokerAdapter

KEY_ID = "PKCONTRACT0000000001"
SECRET = "canary-secret-of-the-contract-suite"
ALL = (TimeInForce.DAY, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)


@dataclass(frozen=True)
class Kind:
    """One broker. ``place``, ``cancel`` and ``stream`` match its requests for a fault.

    ``adapter`` makes the adapter for a loopback venue, taking ``reply_timeout_s`` and ``idle_s``.
    ``throttled``: what a 429 to a new order proves (``unsent`` where documented, else ``unknown``).
    ``fresh_id``: whether a replacement has another order_id. ``short``: whether a sale may open a position.
    """

    name: str
    adapter: Callable[..., BrokerAdapter] | None = None  # None: paper
    symbol: str = "AAPL"
    other_symbol: str = "MSFT"
    unknown_symbol: str = "NOSUCH"
    key: str = KEY_ID  # the venue's name of the account
    secret: str = SECRET
    credentials: dict[str, str] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    market_tifs: tuple[TimeInForce, ...] = ALL
    limit_tifs: tuple[TimeInForce, ...] = ALL
    stop_tifs: tuple[TimeInForce, ...] = ALL
    stop_limit_tifs: tuple[TimeInForce, ...] = ALL
    rest: TimeInForce = TimeInForce.GTC  # of an order that shall rest
    place: dict[str, str] = field(default_factory=lambda: {"method": "POST"})
    cancel: dict[str, str] = field(default_factory=lambda: {"method": "DELETE"})
    stream: dict[str, str] = field(default_factory=lambda: {"path": "/stream"})
    client_id: str = "durable"
    throttled: str = "unknown"
    can_replace: bool = True
    fresh_id: bool = True
    short: bool = True
    unfilled: str = "canceled"  # what becomes of what an ioc or fok order cannot fill
    off_lot: str = "1.5"
    pays: bool = True  # whether a purchase spends cash, or only books what it gains when closed
    fills_in_reply: bool = False  # whether a reply tells what filled at once

    @property
    def wired(self) -> bool:
        return self.adapter is not None

    def __str__(self) -> str:
        return self.name


def _alpaca(**options: Any) -> BrokerAdapter:
    return AlpacaAdapter(allow_simulated=True, **options)


def _binance(**options: Any) -> BrokerAdapter:
    return BinanceAdapter(allow_simulated=True, settle_s=1.0, **options)


def _kite(**options: Any) -> BrokerAdapter:
    return KiteAdapter(allow_simulated=True, **options)


def _oanda(**options: Any) -> BrokerAdapter:
    return OandaAdapter(allow_simulated=True, connects_per_second=0, **options)


OANDA_ID = "101-004-1179508-001"
DAY_OR_IOC = (TimeInForce.DAY, TimeInForce.IOC)
KINDS = [
    Kind("paper"),
    Kind("alpaca", _alpaca, credentials={"key_id": KEY_ID, "secret": SECRET}),
    Kind(
        "binance",
        _binance,
        symbol="BTCUSDT",
        other_symbol="ETHUSDT",
        unknown_symbol="NOSUCHUSDT",
        credentials={"key_id": KEY_ID, "secret": SECRET},
        market_tifs=(TimeInForce.DAY, TimeInForce.GTC, TimeInForce.IOC),
        limit_tifs=(TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK),
        stop_tifs=(TimeInForce.GTC, TimeInForce.IOC),
        stop_limit_tifs=(TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK),
        stream={"path": "/ws-api/v3"},
        client_id="open_only",
        throttled="unsent",
        short=False,
        unfilled="expired",
        off_lot="1.000001",
        fills_in_reply=True,
    ),
    Kind(
        "kite",
        _kite,
        symbol="NSE:INFY",
        other_symbol="NSE:RELIANCE",
        unknown_symbol="NSE:NOSUCH",
        # The practice venue takes an account's secret as its token of the day.
        credentials={"key_id": KEY_ID, "secret": SECRET, "access_token": SECRET},
        market_tifs=DAY_OR_IOC,
        limit_tifs=DAY_OR_IOC,
        stop_tifs=DAY_OR_IOC,
        stop_limit_tifs=DAY_OR_IOC,
        rest=TimeInForce.DAY,
        place={"method": "POST", "path": "/orders/"},
        client_id="label",
        fresh_id=False,
    ),
    Kind(
        "oanda",
        _oanda,
        symbol="EUR_USD",
        other_symbol="USD_JPY",
        key=OANDA_ID,
        credentials={"token": SECRET, "account_id": OANDA_ID},
        # Touched past its bound a stop-limit order ends there, whatever its time in force.
        stop_limit_tifs=(TimeInForce.IOC, TimeInForce.FOK),
        cancel={"method": "PUT"},
        stream={"path": f"/v3/accounts/{OANDA_ID}/transactions/stream"},
        client_id="open_only",
        throttled="unsent",
        fills_in_reply=True,
        pays=False,
    ),
]
WIRED = [kind for kind in KINDS if kind.wired]
