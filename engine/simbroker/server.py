"""The simulated venue as a server: one dialect's host, with faults, latency and request log."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from random import Random
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qsl

import orjson

from engine.errors import ConfigError
from engine.simbroker.config import SimConfig
from engine.simbroker.dialect import Facts, Reply
from engine.simbroker.dialects import make_dialect
from engine.simbroker.faults import Faults, Struck
from engine.simbroker.http import Answer, Connection, Request, head
from engine.simbroker.mischief import HTML, Meddler, answer_of, quirks_of, spoil
from engine.simbroker.observer import Observer
from engine.simbroker.request_log import RequestLog
from engine.simbroker.streams import Held, Stream
from engine.simbroker.venue import Execution, Quirks, Venue, VenueOrder

_SECRETS = re.compile(
    r"((?:signature|access_token|refresh_token|request_token|checksum)=)[^&\s]*", re.IGNORECASE
)


class SimBroker:
    """One simulated venue on one port: a dialect's API, and ``/sim/…`` for the observer.

    Raises:
        ConfigError: there is no such dialect, or a fault cannot be read.
    """

    def __init__(self, config: SimConfig | None = None) -> None:
        self.config = config or SimConfig()
        self.venue = Venue(self.config, self._tell)
        self.dialect = make_dialect(self.config.dialect, self.venue, self.config)
        self.faults = Faults(self.config.faults)
        self.log = RequestLog(None, self.config.log_rows)
        self.port = 0
        self.held: Held | None = None
        self._meddler = Meddler(self)
        self._paused: asyncio.TimerHandle | None = None
        self._observer = Observer(self)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._opened = (0, 0)  # a second, and how many connections were opened in it
        self._idle = asyncio.Event()
        self._idle.set()
        self._jitter = Random(self.config.seed)  # noqa: S311 (a practice market)

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, *, ssl: SSLContext | None = None
    ) -> int:
        """Listen, with TLS if told so, and return the port.

        Raises:
            OSError: the address is taken or not ours.
            ConfigError: the prices file cannot be read.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self), host, port, backlog=2048, ssl=ssl, start_serving=False
        )
        try:
            await self.venue.market.start()
            self.log = RequestLog(self.config.log, self.config.log_rows)
            await server.start_serving()
        except BaseException:
            self.venue.market.stop()
            server.close()
            raise
        self._server = server
        self.port = int(server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self) -> None:
        """Close every connection and the log."""
        if self._paused is not None:
            self._paused.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        await self._idle.wait()
        self.venue.market.stop()
        self.log.close()

    def summary(self) -> dict[str, Any]:
        """Return the counts and every account's positions and cash."""
        return self._observer.summary()

    def disconnect(self, *, only_streams: bool = False) -> int:
        """Cut every connection, or the order streams only, and return how many."""
        cut = list(self.dialect.streams()) if only_streams else list(self._connections)
        for connection in cut:
            asyncio.get_running_loop().call_soon(connection.abort)
        return len(cut)

    def pause(self, seconds: float) -> None:
        """Answer nothing for a while, as a stopped process does: the system still takes bytes."""
        if self._paused is not None:
            self._paused.cancel()
        self._paused = asyncio.get_running_loop().call_later(seconds, self._resume)
        self.held = [] if self.held is None else self.held
        for connection in self._connections:
            connection.pause()

    def _resume(self) -> None:
        self._paused = None
        held, self.held = self.held or [], None
        self._meddler.deliver(held)
        for connection in list(self._connections):
            connection.resume()

    # The application behind the connections

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        self._connections.add(connection)
        self._idle.clear()
        second, before = self._opened
        now = int(time.time())
        connection.rank = before if second == now else 0
        self._opened = now, connection.rank + 1
        struck = self.faults.strike_connection()
        if struck is not None:
            self.log.add(time.monotonic_ns(), "", "CONNECT", "", fault=struck.action)
            connection.reset()
        elif self._paused is not None:
            connection.pause()

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if connection.stream is not None:
            self.dialect.stream_closed(connection.stream)
        if not self._connections:
            self._idle.set()

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        arrived_ns = time.monotonic_ns()
        path, query = _split(request.target)
        if path.startswith("/sim/"):
            return self._observer.answer(request.method, path, query, request.body)
        facts = self.dialect.facts(request, path, query)
        struck = self._strike(request.method, path, facts)
        if struck is None:
            reply = self.dialect.handle(request, path, query)
            answer = answer_of(reply, self._delay(), self.venue.skew_s)
        else:
            reply = self._struck(struck, facts, partial(self.dialect.handle, request, path, query))
            answer = spoil(struck, reply, self._delay(), self.venue.skew_s)
        self.log.add(
            arrived_ns,
            facts.account,
            request.method,
            _without_secrets(request.target) if query else request.target,
            client_order_id=facts.client_order_id,
            body=_loggable(request.body),
            status=0 if struck is not None and struck.silent else reply.status,
            fault=struck.action if struck is not None else "",
        )
        return answer

    def accepts_stream(self, request: Request) -> Answer | None:
        """Return the refusal of a WebSocket, ``None`` to open it."""
        path, query = _split(request.target)
        struck = self._strike("GET", path, self.dialect.facts(request, path, query))
        if struck is None:
            if self.dialect.accepts_stream(request, path):
                return None
            return Answer(head(403, 0), close="close")
        if struck.status:
            reply = self.dialect.failure(struck.status, struck.retry_after_s)
            return answer_of(reply, self._delay(), self.venue.skew_s)._replace(close="close")
        return Answer(None, close="hang" if struck.action == "hang" else "reset")

    def stream_opened(self, stream: Stream, request: Request) -> None:
        """Greet a new WebSocket."""
        self.dialect.stream_opened(stream, request)

    def stream_message(self, stream: Stream, message: bytes) -> None:
        """Take one message of an order stream."""
        arrived_ns = time.monotonic_ns()
        account = self.dialect.stream_message(stream, message)
        self.log.add(arrived_ns, account, "WS", stream.path)

    # Serving

    def _strike(self, method: str, path: str, facts: Facts) -> Struck | None:
        if not self.faults.for_requests:
            return None
        return self.faults.strike({"method": method, "path": path, **facts._asdict()})

    def _struck(self, struck: Struck, facts: Facts, handle: Callable[[], Reply]) -> Reply:
        """Carry a request out as far as its fault lets it, and return what is answered."""
        if struck.action == "expire_token":
            self._expire(facts.account, struck.delay_s)
            return handle()
        if struck.action == "fill_first":
            self.venue.fill_open(facts.account, facts.symbol)
        if struck.action == "late_accept":
            quirks = Quirks(skew_s=-struck.delay_s)  # judged by the time it came
            asyncio.get_running_loop().call_later(struck.delay_s, self._accept_late, quirks, handle)
        failed = Reply(200)
        if struck.status:
            failed = self.dialect.failure(struck.status, struck.retry_after_s)
        elif struck.action.endswith("html_200"):
            failed = HTML
        if not struck.accepts:
            return failed
        reply = self._with(quirks_of(struck), handle)
        if struck.status or struck.action.endswith("html_200"):
            return failed._replace(after=reply.after)
        return reply

    def _with(self, quirks: Quirks, handle: Callable[[], Reply]) -> Reply:
        self.venue.quirks = quirks
        try:
            return handle()
        finally:
            self.venue.quirks = Quirks()

    def _accept_late(self, quirks: Quirks, handle: Callable[[], Reply]) -> None:
        reply = self._with(quirks, handle)
        if reply.after is not None:
            reply.after()

    def _expire(self, account: str, seconds: float) -> None:
        self.venue.expire(account)
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.venue.renew, account)

    def _delay(self) -> float:
        milliseconds = self.config.latency_ms
        if self.config.latency_jitter_ms:
            milliseconds += self._jitter.uniform(0, self.config.latency_jitter_ms)
        return milliseconds / 1000

    def _tell(self, event: str, order: VenueOrder, execution: Execution | None) -> None:
        tell = partial(self.dialect.told, event, order, execution)
        account = order.account.key_id
        if not self.faults.for_events:
            self._meddler.tell(account, tell)
            return
        facts = {
            "event": event,
            "account": account,
            "client_order_id": order.client_order_id,
            "symbol": order.symbol,
        }
        struck = self.faults.strike_event(facts)
        if struck is None:
            self._meddler.tell(account, tell)
            return
        self.log.add(
            time.monotonic_ns(),
            account,
            "EVENT",
            event,
            client_order_id=order.client_order_id,
            fault=struck.action,
        )
        self._meddler.meddle(struck, account, tell)


def _split(target: str) -> tuple[str, Mapping[str, str]]:
    path, _, tail = target.partition("?")
    return path, dict(parse_qsl(tail, keep_blank_values=True)) if tail else {}


def _loggable(body: bytes) -> Any:
    if not body:
        return None
    try:
        return orjson.loads(body)
    except ValueError:
        return _without_secrets(body.decode("utf-8", "replace"))


def _without_secrets(text: str) -> str:
    return _SECRETS.sub(r"\1***", text)


def positive(value: Decimal, name: str) -> Decimal:
    """Return a setting that must be above zero.

    Raises:
        ConfigError: it is not.
    """
    if value <= 0:
        raise ConfigError(f"{name} must be above zero, not {value}")
    return value
