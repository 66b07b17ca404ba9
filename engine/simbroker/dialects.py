"""The dialects by name; a broker's module is loaded when its dialect is asked for."""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import ConfigError
from engine.simbroker.config import SimConfig
from engine.simbroker.dialect import Dialect
from engine.simbroker.venue import Venue


def _alpaca(venue: Venue, config: SimConfig) -> Dialect:
    from engine.simbroker.alpaca import AlpacaDialect

    return AlpacaDialect(venue, config)


def _binance(venue: Venue, config: SimConfig) -> Dialect:
    from engine.simbroker.binance import BinanceDialect

    return BinanceDialect(venue, config)


def _kite(venue: Venue, config: SimConfig) -> Dialect:
    from engine.simbroker.kite import KiteDialect

    return KiteDialect(venue, config)


def _oanda(venue: Venue, config: SimConfig) -> Dialect:
    from engine.simbroker.oanda import OandaDialect

    return OandaDialect(venue, config)


_MAKERS: dict[str, Callable[[Venue, SimConfig], Dialect]] = {
    "alpaca": _alpaca,
    "binance": _binance,
    "oanda": _oanda,
    "kite": _kite,
}
NAMES = tuple(_MAKERS)


def make_dialect(name: str, venue: Venue, config: SimConfig) -> Dialect:
    """Return a new dialect over ``venue``.

    Raises:
        ConfigError: there is no such dialect.
    """
    if name not in _MAKERS:
        raise ConfigError(f"dialect {name!r} is none of {', '.join(NAMES)}")
    try:
        return _MAKERS[name](venue, config)
    except ImportError as error:
        raise ConfigError(f"the {name} dialect cannot be loaded: {error}") from None
