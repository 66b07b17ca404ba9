"""What the whole engine needs of the machine and the market before it can trade: room on the disk, prices."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

from engine.config import Config
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.readiness import Need

MIB: Final = 1 << 20
LEAST_DISK: Final = 256 * MIB
"""Below this the journal, without which no order leaves, may fail today."""
LITTLE_DISK: Final = 2048 * MIB


class Surroundings:
    """Looks at them. ``path`` is the home; ``look`` reads the disk, ``needs`` tells without reading anything."""

    def __init__(
        self, path: Path, config: Config, marks: Marks, keeper: PositionKeeper, *, prices: bool
    ) -> None:
        """``prices``: whether there is a source of them beside ``POST /v1/prices``."""
        self._path = path
        self._required = config.limits.price_reference == "required"
        self._source = config.market.source
        self._prices = prices
        self._marks = marks
        self._keeper = keeper
        self._free: int | None = None

    async def look(self) -> None:
        """Ask how much room is left; beside the loop, for a disk may hang."""
        try:
            self._free = (await asyncio.to_thread(shutil.disk_usage, self._path)).free
        except OSError:
            self._free = None  # what fails on it is told by the journal

    def needs(self) -> list[Need]:
        """Return what a person must do, the worst first."""
        return [need for need in (self._disk(), self._no_prices(), self._unvalued()) if need]

    def _disk(self) -> Need | None:
        free = self._free
        if free is None or free >= LITTLE_DISK:
            return None
        when = "now: without a journal no order leaves" if free < LEAST_DISK else "before long"
        code = "DISK_FULL" if free < LEAST_DISK else "DISK_SPACE"
        return Need(code, f"{free // MIB} MiB free in {self._path}", f"make room {when}")

    def _no_prices(self) -> Need | None:
        if not self._required or self._prices or self._marks.symbols():
            return None
        return Need(
            "REF_MISSING",
            f"there is no price of anything and no source of prices (market.source = {self._source})",
            "give prices with POST /v1/prices, or set market.source; entries are refused without a reference",
        )

    def _unvalued(self) -> Need | None:
        held = {position.symbol for position in self._keeper if position.qty}
        lacking = sorted(symbol for symbol in held if self._marks.price(symbol) is None)
        if not lacking:
            return None
        more = f" and {len(lacking) - 5} more" if lacking[5:] else ""
        return Need(
            "REF_MISSING",
            f"no price of {', '.join(lacking[:5])}{more} is known: what is held of it has no value and no watched stop",
            "see whether its broker quotes it, or give a price with POST /v1/prices",
        )
