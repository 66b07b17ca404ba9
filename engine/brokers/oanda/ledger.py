"""Reading an account's ledger of transactions beside the stream: gaps, polls, one order's life, the past.

What became of an order is always in the account's transactions, which are numbered and kept for ever. While
a session lives, its cursor has passed every one of them; so an order sent in its time that is neither there
nor known to OANDA by its client id was never taken. The cursor need not survive a restart: a new session
starts at the account's newest transaction, and an order from before is looked up by its client id, and where
OANDA finds only pending orders by that, in the transactions of the last 30 days, read once. Every order the
journal holds as working is looked up so at a restart, by its own id; nothing rests on where a cursor was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from engine.brokers.http import Reply
from engine.brokers.oanda.mapping import client_id, transaction_id
from engine.brokers.oanda.transactions import TransactionReader
from engine.brokers.reading import object_of, reading
from engine.model.messages import ExecutionReport

LOOK_BACK = timedelta(days=30)
PAGE = 1000
"""Transactions in a page of the past, OANDA's most."""
_CREATED = (
    "MARKET_ORDER,LIMIT_ORDER,STOP_ORDER,TAKE_PROFIT_ORDER,STOP_LOSS_ORDER,TRAILING_STOP_LOSS_ORDER"
)
Get = Callable[[str, Mapping[str, str]], Awaitable[Reply]]


class Ledger:
    """One account's ledger; ``get`` reads a path below the account. All raise ``BrokerError``."""

    def __init__(
        self,
        account: str,
        reader: TransactionReader,
        get: Get,
        on_report: Callable[[ExecutionReport], None],
    ) -> None:
        self._account = account
        self._reader = reader
        self._get = get
        self._on_report = on_report
        self._reading = asyncio.Lock()
        self._read_began = 0.0
        self._looking_back = asyncio.Lock()
        self._past: dict[str, str] | None = None

    async def catch_up(self) -> None:
        """Read every transaction after the cursor; whoever waited while another read has what that one read."""
        asked = time.monotonic()
        async with self._reading:
            if self._read_began > asked:
                return
            began = time.monotonic()
            while not await self._read_on(
                "/transactions/sinceid", {"id": str(self._reader.cursor)}, lambda body: body
            ):
                pass
            self._read_began = began  # of the last that succeeded

    async def poll(self) -> None:
        """Read what changed, as accounts without a stream do."""
        async with self._reading:
            complete = await self._read_on(
                "/changes",
                {"sinceTransactionID": str(self._reader.cursor)},
                lambda body: object_of(body["changes"]),
            )
        if not complete:
            await self.catch_up()

    async def _read_on(
        self,
        path: str,
        params: Mapping[str, str],
        inside: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> bool:
        """Read a page of transactions into the reader; say whether it reached the newest."""
        reply = await self._get(path, params)
        with reading(self._account, "the transactions"):
            body = object_of(reply.body)
            told = inside(body)["transactions"]
            last = transaction_id(body["lastTransactionID"])
        for transaction in told:
            for report in self._reader.read(transaction, in_order=True):
                self._on_report(report)
        if told and self._reader.cursor < last:
            return False
        self._reader.passed(last)
        return True

    async def replay(self, cl_ord_id: str, order_id: str) -> ExecutionReport | None:
        """Read the ledger from an order's creation to its end, apart from the cursor."""
        scratch = self._reader.empty()
        scratch.begin(transaction_id(order_id) - 1)
        while True:
            reply = await self._get("/transactions/sinceid", {"id": str(scratch.cursor)})
            with reading(self._account, "the transactions"):
                told = object_of(reply.body)["transactions"]
                last = transaction_id(reply.body["lastTransactionID"])
            for transaction in told:
                scratch.read(transaction, in_order=True)
            found = scratch.find(cl_ord_id)
            ended = found is not None and found.status is not None and found.status.terminal
            if ended or not told or scratch.cursor >= last:
                return found

    async def look_back(self) -> dict[str, str]:
        """Return client id → order id of the orders of the last 30 days; read once a session."""
        async with self._looking_back:
            if self._past is None:
                start = datetime.now(UTC) - LOOK_BACK
                when = {"from": start.strftime("%Y-%m-%dT%H:%M:%SZ"), "pageSize": str(PAGE)}
                reply = await self._get("/transactions", {**when, "type": _CREATED})
                with reading(self._account, "the pages of transactions"):
                    pages = [_page(url) for url in object_of(reply.body)["pages"]]
                past: dict[str, str] = {}
                for page in pages:
                    reply = await self._get("/transactions/idrange", {**page, "type": _CREATED})
                    with reading(self._account, "the transactions"):
                        for told in object_of(reply.body)["transactions"]:
                            past.setdefault(client_id(told), str(told["id"]))
                self._past = past
            return self._past


def _page(url: object) -> dict[str, str]:
    """Read from and to of a page's address; its host is not looked at."""
    query = parse_qs(urlsplit(str(url)).query)
    bounds = {name: query[name][0] for name in ("from", "to")}
    if not all(transaction_id(bound) for bound in bounds.values()):
        raise ValueError("a page without numbers")
    return bounds
