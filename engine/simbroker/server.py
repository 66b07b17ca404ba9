"""The simulated venue as a server: credentials, faults, latency, request log, observer's view."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from random import Random
from typing import Any
from urllib.parse import parse_qsl

import orjson

from engine.errors import ConfigError
from engine.model.numbers import parse_decimal, to_text
from engine.simbroker.alpaca import (
    FORBIDDEN,
    THROTTLED,
    UNAUTHORIZED,
    AlpacaDialect,
    Reply,
    order_object,
    to_json,
    update_object,
)
from engine.simbroker.config import SimConfig
from engine.simbroker.faults import PLACES, Faults
from engine.simbroker.http import Answer, Connection, Request, Stream, head
from engine.simbroker.request_log import RequestLog
from engine.simbroker.venue import Execution, Venue, VenueAccount, VenueOrder

_KEY, _SECRET = b"apca-api-key-id", b"apca-api-secret-key"
_GARBAGE = b"\x00\xff" * 32
_AUTHORIZED = b'{"stream":"authorization","data":{"status":"authorized","action":"authenticate"}}'


class SimBroker:
    """One simulated venue on one port.

    Beside the dialect it serves the observer, who needs no key: ``GET /sim/log?after=N`` (rows),
    ``/sim/orders``, ``/sim/accounts``, ``/sim/summary``; ``POST /sim/price`` ``{"AAPL": "190.1"}``
    puts and holds a price (``null`` lets it go); ``POST /sim/config``; ``POST /sim/faults``
    (a list); ``POST /sim/disconnect`` cuts every connection, or with ``{"streams": true}`` the
    order streams only.
    """

    def __init__(self, config: SimConfig | None = None) -> None:
        self.config = config or SimConfig()
        self.venue = Venue(self.config, self._tell)
        self.faults = Faults(self.config.faults)
        self.log = RequestLog(None, self.config.log_rows)
        self.port = 0
        self._dialect = AlpacaDialect(self.venue)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._streams: dict[str, list[Stream]] = {}
        self._windows: dict[str, tuple[int, int]] = {}
        self._jitter = Random(self.config.seed)  # noqa: S311 (a practice market)
        self._observer: dict[tuple[str, str], Callable[[Mapping[str, str], bytes], Any]] = {
            ("GET", "/sim/log"): self._see_log,
            ("GET", "/sim/orders"): self._see_orders,
            ("GET", "/sim/accounts"): self._see_accounts,
            ("GET", "/sim/summary"): lambda query, body: self.summary(),
            ("POST", "/sim/price"): self._set_price,
            ("POST", "/sim/config"): self._set_config,
            ("POST", "/sim/faults"): self._set_faults,
            ("POST", "/sim/disconnect"): self._disconnect,
        }

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen and return the port.

        Raises:
            OSError: the address is taken or not ours.
            ConfigError: the prices file cannot be read.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self), host, port, backlog=2048, start_serving=False
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

    # The application behind the connections

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        self._connections.add(connection)
        self._idle.clear()

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if connection.stream is not None:
            self._leave(connection.stream)
        if not self._connections:
            self._idle.set()

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        arrived_ns = time.monotonic_ns()
        path, _, tail = request.target.partition("?")
        query = dict(parse_qsl(tail)) if tail else {}
        if path.startswith("/sim/"):
            return self._observe(request.method, path, query, request.body)
        key_id = request.headers.get(_KEY, b"").decode("latin-1")
        facts = _facts(request, path, key_id)
        fault = self.faults.strike(facts) if self.faults else ""
        reply, headers = self._serve(request, path, query, key_id, fault)
        self.log.add(
            arrived_ns,
            key_id,
            request.method,
            request.target,
            client_order_id=facts["client_order_id"] or query.get("client_order_id", ""),
            body=_loggable(request.body),
            status=0 if _is_silent(fault) else reply.status,
            fault=fault,
        )
        return self._answer(reply, headers, fault)

    def accepts_stream(self, request: Request) -> bool:
        """Say whether a WebSocket may be opened here."""
        path = request.target.partition("?")[0]
        facts = {"method": "GET", "path": path}
        return path == "/stream" and not (self.faults and self.faults.strike(facts))

    def stream_message(self, stream: Stream, message: bytes) -> None:
        """Take one message of an order stream."""
        arrived_ns = time.monotonic_ns()
        try:
            asked = orjson.loads(message)
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            stream.send(b'{"stream":"error","data":{"error":"invalid syntax"}}')
            return
        action, data = asked.get("action"), asked.get("data")
        data = data if isinstance(data, dict) else asked
        key_id = str(data.get("key_id") or data.get("key") or "")
        if action in {"authenticate", "auth"}:
            secret = str(data.get("secret_key") or data.get("secret") or "")
            account = self.venue.login(key_id, secret)
            stream.tag = account
            self._leave(stream)
            stream.send(_AUTHORIZED if account else _unauthorized("authenticate"))
        elif action == "listen":
            self._listen(stream, data.get("streams"))
        known = key_id or (stream.tag.key_id if stream.tag else "")
        self.log.add(arrived_ns, known, "WS", "/stream", body={"action": str(action)[:40]})

    # Serving

    def _serve(
        self, request: Request, path: str, query: Mapping[str, str], key_id: str, fault: str
    ) -> tuple[Reply, str]:
        if fault and fault not in PLACES:
            status = int(fault[5:]) if fault.startswith("http_") else 0
            if status == 429:
                return THROTTLED, ""
            return Reply(status, b'{"code":50010000,"message":"internal server error"}'), ""
        if not key_id:
            return FORBIDDEN, ""
        secret = request.headers.get(_SECRET, b"").decode("latin-1")
        account = self.venue.login(key_id, secret)
        if account is None:
            return (UNAUTHORIZED if key_id in self.venue.accounts else FORBIDDEN), ""
        allowed, headers = self._allow(key_id) if self.config.rate_limit else (True, "")
        if not allowed:
            return THROTTLED, headers
        return self._dialect.handle(account, request.method, path, query, request.body), headers

    def _allow(self, key_id: str) -> tuple[bool, str]:
        """Count a request in this minute's window of its key."""
        limit = self.config.rate_limit
        minute = int(time.time()) // 60
        window, used = self._windows.get(key_id, (minute, 0))
        used = used + 1 if window == minute else 1
        self._windows[key_id] = (minute, used)
        headers = (
            f"X-RateLimit-Limit: {limit}\r\nX-RateLimit-Remaining: {max(0, limit - used)}\r\n"
            f"X-RateLimit-Reset: {(minute + 1) * 60}\r\n"
        )
        return used <= limit, headers

    def _answer(self, reply: Reply, headers: str, fault: str) -> Answer:
        delay = self._delay()
        if fault in {"hang", "drop"}:
            return Answer(None, delay, close="close" if fault == "drop" else "hang")
        payload = head(reply.status, len(reply.body), headers) + reply.body
        match fault:
            case "accept_then_hang":
                return Answer(None, delay, reply.after, "hang")
            case "accept_then_drop":
                return Answer(None, delay, reply.after, "close")
            case "reset_mid_reply":
                return Answer(payload[: len(payload) // 2], delay, reply.after, "reset")
            case "garbage":
                return Answer(_GARBAGE, delay, reply.after, "close")
            case _:
                return Answer(payload, delay, reply.after)

    def _delay(self) -> float:
        milliseconds = self.config.latency_ms
        if self.config.latency_jitter_ms:
            milliseconds += self._jitter.uniform(0, self.config.latency_jitter_ms)
        return milliseconds / 1000

    # The order stream

    def _listen(self, stream: Stream, streams: object) -> None:
        account = stream.tag
        if not isinstance(account, VenueAccount):
            stream.send(_unauthorized("listen"))
            return
        self._leave(stream)
        wanted = isinstance(streams, list) and "trade_updates" in streams
        if wanted:
            self._streams.setdefault(account.key_id, []).append(stream)
        heard = ["trade_updates"] if wanted else []
        stream.send(orjson.dumps({"stream": "listening", "data": {"streams": heard}}))

    def _leave(self, stream: Stream) -> None:
        for listeners in self._streams.values():
            if stream in listeners:
                listeners.remove(stream)

    def _tell(self, event: str, order: VenueOrder, execution: Execution | None) -> None:
        listeners = self._streams.get(order.account.key_id)
        if not listeners:
            return
        message = to_json(update_object(event, order, execution))
        for stream in list(listeners):
            if stream.closed:
                listeners.remove(stream)
            else:
                stream.send(message)

    # The observer

    def summary(self) -> dict[str, Any]:
        """Return the counts and every account's positions and cash."""
        accounts = self.venue.accounts.values()
        return {
            "requests": self.log.total,
            "orders": self.venue.order_count,
            "distinct_client_order_ids": sum(len(account.by_client_id) for account in accounts),
            "open_orders": sum(len(account.open) for account in accounts),
            "fills": self.venue.fill_count,
            "accounts": {account.key_id: self._money(account) for account in accounts},
        }

    def _money(self, account: VenueAccount) -> dict[str, Any]:
        money, price = account.money, self.venue.market.price
        return {
            "cash": to_text(money.cash),
            "equity": to_text(money.equity(price)),
            "buying_power": to_text(money.buying_power(price)),
            "orders": len(account.orders),
            "fills": len(account.fills),
            "positions": {
                symbol: {
                    "qty": to_text(position.qty),
                    "avg_entry_price": to_text(position.avg_px),
                    "realised": to_text(position.realised),
                }
                for symbol, position in sorted(money.positions.items())
            },
        }

    def _observe(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Answer:
        view = self._observer.get((method, path))
        status, answer = 200, None
        try:
            if view is None:
                status, answer = 404, {"message": f"no such view: {method} {path}"}
            else:
                answer = view(query, body)
        except (ConfigError, ValueError) as error:
            status, answer = 422, {"message": str(error)}
        payload = to_json(answer)
        return Answer(head(status, len(payload)) + payload)

    def _see_log(self, query: Mapping[str, str], body: bytes) -> Any:
        return [row.as_dict() for row in self.log.rows(int(query.get("after", "0")))]

    def _see_orders(self, query: Mapping[str, str], body: bytes) -> Any:
        return [
            {"key_id": account.key_id, **order_object(order)}
            for account in self.venue.accounts.values()
            for order in account.orders.values()
        ]

    def _see_accounts(self, query: Mapping[str, str], body: bytes) -> Any:
        accounts = self.venue.accounts.values()
        return [{"key_id": account.key_id, **self._money(account)} for account in accounts]

    def _set_price(self, query: Mapping[str, str], body: bytes) -> Any:
        given = _object(body)
        prices = {s: None if p is None else parse_decimal(str(p)) for s, p in given.items()}
        if any(price is not None and not price for price in prices.values()):
            raise ValueError("a price must be above zero")
        for symbol, price in prices.items():
            self.venue.market.pin(symbol, price)
        return {symbol: str(self.venue.market.price(symbol)) for symbol in prices}

    def _set_config(self, query: Mapping[str, str], body: bytes) -> Any:
        changes = {name: _setting(name, value) for name, value in _object(body).items()}
        for name, value in changes.items():
            if name == "max_fill_qty":
                self.venue.market.limit_fills(value)
            else:
                setattr(self.config, name, value)
        return {name: str(value) for name, value in changes.items()}

    def _set_faults(self, query: Mapping[str, str], body: bytes) -> Any:
        specs = orjson.loads(body)
        if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
            raise ValueError("expected a list of faults")
        self.faults.replace(specs)
        return {"faults": len(specs)}

    def _disconnect(self, query: Mapping[str, str], body: bytes) -> Any:
        streams = [stream for listeners in self._streams.values() for stream in listeners]
        if body and _object(body).get("streams"):
            cut: list[Stream] | list[Connection] = streams
        else:
            cut = list(self._connections)
        for connection in cut:
            asyncio.get_running_loop().call_soon(connection.abort)
        return {"disconnected": len(cut)}


_NUMBERS = frozenset({"latency_ms", "latency_jitter_ms", "fill_delay_ms", "volatility"})


def _setting(name: str, value: object) -> Any:
    """Read one setting of ``POST /sim/config``."""
    if name == "walk" and isinstance(value, bool):
        return value
    if name in _NUMBERS and isinstance(value, int | float) and value >= 0:
        return float(value)
    if name == "rate_limit" and isinstance(value, int) and value >= 0:
        return value
    if name == "follow_percent":
        return parse_decimal(str(value))
    if name == "max_fill_qty":
        quantity = None if value is None else parse_decimal(str(value))
        if quantity is None or quantity > 0:
            return quantity
    raise ValueError(f"{name}: {value!r} cannot be set")


def _object(body: bytes) -> dict[str, Any]:
    fields = orjson.loads(body)
    if not isinstance(fields, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 (a value from outside)
    return fields


def _facts(request: Request, path: str, key_id: str) -> dict[str, str]:
    """Return what a fault can match and the log names; a body that is no JSON has no names."""
    facts = {"method": request.method, "path": path, "account": key_id, "client_order_id": ""}
    if request.body:
        try:
            fields = orjson.loads(request.body)
        except ValueError:
            fields = None
        if isinstance(fields, dict):
            facts["client_order_id"] = str(fields.get("client_order_id") or "")
            facts["symbol"] = str(fields.get("symbol") or "")
    return facts


def _is_silent(fault: str) -> bool:
    return fault in {"hang", "drop", "accept_then_hang", "accept_then_drop", "garbage"}


def _loggable(body: bytes) -> Any:
    if not body:
        return None
    try:
        return orjson.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _unauthorized(action: str) -> bytes:
    data = {"status": "unauthorized", "action": action}
    return orjson.dumps({"stream": "authorization", "data": data})


def as_faults(text: bytes) -> list[Mapping[str, Any]]:
    """Read a faults file: a JSON list.

    Raises:
        ConfigError: it is none, or names no known fault.
    """
    try:
        specs = orjson.loads(text)
    except ValueError as error:
        raise ConfigError(f"the faults file is not JSON: {error}") from None
    if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
        raise ConfigError("the faults file must hold a list of objects")
    Faults(specs)
    return specs


def positive(value: Decimal, name: str) -> Decimal:
    """Return a setting that must be above zero.

    Raises:
        ConfigError: it is not.
    """
    if value <= 0:
        raise ConfigError(f"{name} must be above zero, not {value}")
    return value
