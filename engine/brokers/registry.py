"""Which brokers there are. A new one is a package beside the others and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import Config
from engine.errors import ConfigError
from engine.ports import BrokerAdapter

if TYPE_CHECKING:
    from engine.brokers.paper.market import PaperMarket

_LATER = frozenset({"binance", "oanda", "kite"})


def _paper(config: Config, market: PaperMarket, state_dir: Path | None) -> BrokerAdapter:
    from engine.brokers.paper.adapter import PaperAdapter

    del config
    return PaperAdapter(market, state_dir)


def _alpaca(config: Config, market: PaperMarket, state_dir: Path | None) -> BrokerAdapter:
    from engine.brokers.alpaca.adapter import AlpacaAdapter

    del market, state_dir
    return AlpacaAdapter(allow_simulated=config.engine.allow_simulated_venues)


_FACTORIES: dict[str, Callable[[Config, PaperMarket, Path | None], BrokerAdapter]] = {
    "paper": _paper,
    "alpaca": _alpaca,
}


def make_adapter(
    name: str, config: Config, market: PaperMarket, state_dir: Path | None = None
) -> BrokerAdapter:
    """Make the adapter of a broker; its modules are imported only now.

    ``market`` prices practice orders; ``state_dir`` is where practice accounts are kept.

    Raises:
        ConfigError: there is no such broker, or not yet.
    """
    factory = _FACTORIES.get(name)
    if factory is not None:
        return factory(config, market, state_dir)
    if name in _LATER:
        raise ConfigError(
            f"the {name} adapter comes with a later version; accounts with it stay disconnected"
        )
    known = ", ".join(sorted({*_FACTORIES, *_LATER}))
    raise ConfigError(f"broker {name!r} is none of {known}")
