"""How an account hears of its orders: by a transaction stream, or by polling; both miss nothing.

OANDA allows 20 streams, 120 requests and 2 new connections a second from one address (best practices,
development guide). The first 20 accounts of an address have a stream; the others take turns polling, fewer while
orders flow, and move to a stream as soon as one is free. Accounts poll, too, while others connect before them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from time import monotonic

from engine.brokers.dial import Pacer, Route
from engine.brokers.http import BaseUrl, read_json
from engine.brokers.oanda.lines import LineStream
from engine.brokers.oanda.mapping import transaction_id
from engine.brokers.oanda.transactions import TransactionReader
from engine.brokers.reconnect import follow
from engine.errors import BrokerAuthError, BrokerProtocolError
from engine.model.messages import ExecutionReport

MOST_STREAMS = 20
QUIET_S = 15.0
"""A stream is dead after so long without a word: its heartbeats come every 5 s."""
POLLS = (40.0, 5.0)
"""Polls a second of one address: as a rule, and while orders flow."""
LOOK_UPS = (80.0, 30.0)
"""The same of everything that is read, polls among it; the rest of the 120 is for orders."""
POLL_EVERY_S = 0.25
"""One account is not polled more often, however few there are."""
_ORDERS_FLOW_S = 1.0
_GAP_TRIES = 8
"""How often a gap is looked for again: what the stream tells, reading may not show for half a second."""


class AddressBudget:
    """What the accounts of one address share: places for streams, turns to poll, and to read at all."""

    def __init__(self, most_streams: int = MOST_STREAMS) -> None:
        self._places = most_streams
        self._polls = self._look_ups = 0.0  # the next free moments
        self._ordered = -_ORDERS_FLOW_S

    def take_stream(self) -> bool:
        """Take a stream's place if one is free; ``give_stream`` gives it back."""
        if self._places <= 0:
            return False
        self._places -= 1
        return True

    def give_stream(self) -> None:
        """Give a stream's place back."""
        self._places += 1

    def ordered(self) -> None:
        """Note that an order leaves: reading makes way for a while."""
        self._ordered = monotonic()

    async def turn(self) -> None:
        """Wait for the next turn to poll: first come, first served, so all accounts poll equally often."""
        now = monotonic()
        mine = max(now, self._polls)
        self._polls = mine + self._step(POLLS, now)
        await _until(mine, now)

    async def look_up(self) -> None:
        """Wait until one more request for reading fits."""
        now = monotonic()
        mine = max(now, self._look_ups)
        self._look_ups = mine + self._step(LOOK_UPS, now)
        await _until(mine, now)

    def _step(self, rates: tuple[float, float], now: float) -> float:
        usual, among_orders = rates
        return 1 / (among_orders if now - self._ordered < _ORDERS_FLOW_S else usual)


async def _until(moment: float, now: float) -> None:
    if moment > now:
        await asyncio.sleep(moment - now)


class OrderFeed:
    """Follows one account's transactions until cancelled.

    ``fill_gap`` reads what came after the cursor; ``poll`` does so the way polling accounts do; both hand what
    they read to the reader. ``begin`` sets the reader's cursor where it has none.
    """

    def __init__(  # noqa: PLR0913 (what it needs, no more)
        self,
        account: str,
        base: BaseUrl,
        request: bytes,
        reader: TransactionReader,
        budget: AddressBudget,
        *,
        pacer: Pacer,
        context: Callable[[], ssl.SSLContext] | None,
        egress: Route | None,
        begin: Callable[[], Awaitable[None]],
        fill_gap: Callable[[], Awaitable[None]],
        poll: Callable[[], Awaitable[None]],
        on_report: Callable[[ExecutionReport], None],
        on_state: Callable[[bool, str], None],
        on_refused: Callable[[str], None],
    ) -> None:
        self._account = account
        self._base = base
        self._request = request
        self._reader = reader
        self._budget = budget
        self._pacer = pacer
        self._context = context
        self._egress = egress
        self._begin = begin
        self._fill_gap = fill_gap
        self._poll = poll
        self._on_report = on_report
        self._on_state = on_state
        self._on_refused = on_refused
        self._stream: LineStream | None = None
        self._behind: asyncio.Future[None] | None = None
        self._tries = 0
        self._failed = False  # to open a stream, the last time

    @property
    def streaming(self) -> bool:
        """Say whether what happens is told at once."""
        return self._stream is not None

    async def run(self) -> None:
        """Follow until cancelled, or until the credentials are refused."""
        try:
            await follow(self._session, self._on_state)
        except BrokerAuthError as error:
            self._on_refused(str(error))

    async def _session(self, up: Callable[[], None]) -> str:
        await self._begin()
        if not self._budget.take_stream():
            await self._take_turns(up, self._budget.take_stream)
        try:
            # Of a stream that could not be opened the last time nobody is told that it is up between tries.
            if self._pacer.crowded and not self._failed:
                await self._take_turns(up, lambda: not self._pacer.crowded)
            return await self._listen(up)
        finally:
            self._budget.give_stream()

    async def _take_turns(self, up: Callable[[], None], until: Callable[[], bool]) -> None:
        """Poll until a stream may be opened."""
        told = False
        while True:
            if told:  # the first comes before the next of those that are up
                await self._budget.turn()
            began = monotonic()
            await self._poll()
            if not told:
                up()
                told = True
            if until():
                return
            await asyncio.sleep(max(0.0, began + POLL_EVERY_S - monotonic()))

    async def _listen(self, up: Callable[[], None]) -> str:
        self._failed = True
        stream = await LineStream.open(
            self._base,
            self._request,
            account=self._account,
            pacer=self._pacer,
            quiet_s=QUIET_S,
            context=self._context() if self._context else None,
            egress=self._egress,
        )
        try:
            # The stream tells what happens from its beginning on, the gap is what happened before: read
            # after the stream is open, nothing falls between. What both tell counts once.
            await self._fill_gap()
            self._stream = stream
            self._failed = False
            up()
            while True:
                behind = self._behind = asyncio.get_running_loop().create_future()
                stream.listen(self._take)
                await asyncio.wait({stream.over, behind}, return_when=asyncio.FIRST_COMPLETED)
                if stream.over.done():
                    return stream.over.result()
                if self._tries > 1:
                    await asyncio.sleep(POLL_EVERY_S)
                await self._fill_gap()
        finally:
            self._stream = self._behind = None
            stream.close()

    def _take(self, line: bytes) -> None:
        try:
            told = read_json(line)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise BrokerProtocolError("a line that is no JSON object", account=self._account)
        heartbeat = told.get("type") == "HEARTBEAT"
        newest = transaction_id(told.get("lastTransactionID" if heartbeat else "id"))
        # An account's transactions are numbered without gaps: one that is missing was not told.
        behind = newest > self._reader.cursor + (0 if heartbeat else 1)
        if behind and self._tries < _GAP_TRIES:
            self._tries += 1
            self._fall_behind(line)
            return
        self._tries = 0
        if not heartbeat:
            for report in self._reader.read(told, in_order=True):
                self._on_report(report)

    def _fall_behind(self, line: bytes) -> None:
        """Fill the gap first; this line and what follows wait for it."""
        if self._stream is not None and self._behind is not None:
            self._stream.hold(line)
            if not self._behind.done():
                self._behind.set_result(None)
