"""Which brokers there are. A new one is a package beside the others and a line here."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import Config
from engine.errors import ConfigError
from engine.ports import BrokerAdapter, TokenStore

if TYPE_CHECKING:
    from engine.brokers.paper.market import PaperMarket


@dataclass(frozen=True)
class Surroundings:
    """What adapters are made with: ``market`` prices practice orders, ``state_dir`` keeps practice accounts,
    ``tokens`` keeps the tokens of sessions that end (``None``: only for as long as the process lives).
    """

    config: Config
    market: PaperMarket
    state_dir: Path | None = None
    tokens: TokenStore | None = None

    def wire(self) -> dict[str, Any]:
        """Return what every adapter over the wire takes."""
        engine = self.config.engine
        return {
            "allow_simulated": engine.allow_simulated_venues,
            "reply_timeout_s": engine.reply_timeout_s,
            "tls": self._tls,
        }

    def _tls(self) -> ssl.SSLContext:
        from engine.brokers.http import tls_context
        from engine.brokers.simulated_ca import trust

        context = tls_context()
        engine = self.config.engine
        if engine.simulated_ca and engine.allow_simulated_venues:
            trust(context, engine.simulated_ca)
        return context


def _paper(around: Surroundings) -> BrokerAdapter:
    from engine.brokers.paper.adapter import PaperAdapter

    return PaperAdapter(around.market, around.state_dir)


def _alpaca(around: Surroundings) -> BrokerAdapter:
    from engine.brokers.alpaca.adapter import AlpacaAdapter

    return AlpacaAdapter(**around.wire())


def _binance(around: Surroundings) -> BrokerAdapter:
    from engine.brokers.binance.adapter import BinanceAdapter

    return BinanceAdapter(**around.wire())


def _oanda(around: Surroundings) -> BrokerAdapter:
    from engine.brokers.oanda.adapter import OandaAdapter

    return OandaAdapter(**around.wire())


def _kite(around: Surroundings) -> BrokerAdapter:
    from engine.brokers.kite.adapter import KiteAdapter

    return KiteAdapter(**around.wire(), tokens=around.tokens)


def _ccxt(around: Surroundings) -> BrokerAdapter:
    from engine.brokers.ccxt.adapter import CcxtAdapter

    return CcxtAdapter(**around.wire())


_FACTORIES: dict[str, Callable[[Surroundings], BrokerAdapter]] = {
    "paper": _paper,
    "alpaca": _alpaca,
    "binance": _binance,
    "oanda": _oanda,
    "kite": _kite,
    "ccxt": _ccxt,
}


def make_adapter(
    name: str,
    config: Config,
    market: PaperMarket,
    state_dir: Path | None = None,
    tokens: TokenStore | None = None,
) -> BrokerAdapter:
    """Make the adapter of a broker; its modules are imported only now.

    Raises:
        ConfigError: there is no such broker, or what it needs is not installed.
    """
    factory = _FACTORIES.get(name)
    if factory is None:
        raise ConfigError(f"broker {name!r} is none of {', '.join(sorted(_FACTORIES))}")
    return factory(Surroundings(config, market, state_dir, tokens))
