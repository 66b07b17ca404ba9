"""What Kite tells of orders, made into reports: rows of the socket and the book, executions fetched for both.

A row says how much has filled in all, at an average that is rounded; the executions themselves, with their ids
and exact prices, have to be asked for. They are told first, then what the order has become.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from engine.brokers.kite import mapping
from engine.brokers.kite.book import DayBook, Family
from engine.brokers.kite.mapping import Row
from engine.errors import BrokerError
from engine.model.messages import ExecutionReport

_TRIES, _WAIT_S = 4, 0.25
_FEW = 3
"""Up to so many orders are asked for one by one; more cost less as the day's list of executions."""


class News:
    """One account's. ``read`` asks Kite for a path's JSON, ``trades_of`` for that of one order's executions.

    ``tell`` takes reports, ``hold`` runs work beside.
    """

    def __init__(
        self,
        account: str,
        read: Callable[[str], Awaitable[Any]],
        trades_of: Callable[[str], Awaitable[Any]],
        tell: Callable[[ExecutionReport], None],
        hold: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.book = DayBook(account)
        self._account = account
        self._read = read
        self._trades_of = trades_of
        self._tell = tell
        self._hold = hold
        self._owed: dict[int, Family] = {}  # filled, executions not told yet
        self._fetching = False

    async def read_book(self) -> dict[str, Row]:
        """Read the day's orders, by Kite's id; tell what they have that was not known.

        Raises:
            BrokerError: the book cannot be had or read.
        """
        found = mapping.rows(self._account, await self._read("/orders"))
        families = {id(f): f for f in map(self.book.take, found) if f is not None}
        self.tell(families.values())
        return {row.order_id: row for row in found}

    def tell(self, families: Iterable[Family]) -> None:
        """Tell what became of orders; where something filled, its executions first."""
        for family in families:
            if family.filled > family.counted:
                self._owed[id(family)] = family
            elif family.rows:
                self._tell(family.state(self._account))
        if self._owed and not self._fetching:
            self._fetching = True
            self._hold(self._pay())

    async def _pay(self) -> None:
        """Fetch the executions of what filled; where they do not come in time, the totals must do."""
        try:
            while self._owed:
                owed = list(self._owed.values())
                with contextlib.suppress(BrokerError):  # once more, then the totals
                    await self._fetch(owed)
                for family in owed:
                    self._settle(family)
                if self._owed:
                    await asyncio.sleep(_WAIT_S)
        finally:
            self._fetching = False

    def _settle(self, family: Family) -> None:
        family.asked += 1
        if family.filled <= family.counted:
            told = family.state(self._account)
        elif family.asked >= _TRIES:
            family.counted = family.filled
            told = family.report(self._account)
        else:
            return
        family.asked = 0
        del self._owed[id(family)]
        self._tell(told)

    async def _fetch(self, families: Sequence[Family]) -> None:
        ids = {order_id for family in families for order_id in family.rows}
        few = len(ids) <= _FEW
        told = [await self._trades_of(i) for i in ids] if few else [await self._read("/trades")]
        found = [trade for body in told for trade in mapping.trades(self._account, body)]
        for family in families:
            for execution in family.executions(self._account, found):
                self._tell(execution)
