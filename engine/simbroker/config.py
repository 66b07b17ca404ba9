"""What can be set about the simulated venue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class SimConfig:
    """Settings of one simulated venue; times as named, money in US dollars.

    ``dialect``: whose API is spoken: alpaca, binance, oanda or kite.
    ``accounts``: key id → secret; ``None`` lets every key id open a practice account on first use.
    ``margin``: buying power per unit of equity. ``volatility``: standard deviation of one tick of
    the walk, as a fraction of the price. ``follow_percent``: how far from the market an arriving
    limit price must be for the walk to jump to it, 0 for never. ``rate_limit``: requests a minute
    and key, 0 for no limit (Alpaca's is 200). ``max_fill_qty``: most units of one order that fill
    at one tick. ``log_rows``: how many rows of the request log stay in memory (the file keeps all).
    """

    dialect: str = "alpaca"
    cash: Decimal = Decimal(100_000)
    margin: Decimal = Decimal(4)
    accounts: Mapping[str, str] | None = field(default=None, repr=False)
    unknown_symbols: str = ""
    seed: int = 1
    walk: bool = True
    volatility: float = 0.0002
    tick_interval_s: float = 0.25
    follow_percent: Decimal = Decimal(1)
    prices: Path | None = None
    prices_symbol: str = "BTCUSDT"
    prices_speed: float = 1.0
    fill_delay_ms: float = 0.0
    max_fill_qty: Decimal | None = None
    latency_ms: float = 0.0
    latency_jitter_ms: float = 0.0
    rate_limit: int = 0
    faults: Sequence[Mapping[str, Any]] = ()
    log: Path | None = None
    log_rows: int = 1_000_000
