"""Alpaca's Trading API v2 as the venue speaks it: credentials, orders, the order stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import unquote

import orjson

from engine.model.enums import OrderType, Side, TimeInForce
from engine.model.matching import practice_instrument
from engine.model.numbers import floor_to, to_text
from engine.simbroker.alpaca_orders import OrderReader
from engine.simbroker.alpaca_reads import AlpacaReads
from engine.simbroker.alpaca_words import (
    FORBIDDEN,
    THROTTLED,
    UNAUTHORIZED,
    ApiError,
    invalid,
    is_crypto,
    not_found,
    order_object,
    read_body,
    read_count,
    read_moment,
    read_number,
    refusal,
    text_of,
    to_json,
    update_object,
)
from engine.simbroker.config import SimConfig
from engine.simbroker.dialect import Facts, Reply
from engine.simbroker.http import Request
from engine.simbroker.orders import (
    Execution,
    NewOrder,
    Reason,
    Refused,
    VenueAccount,
    VenueOrder,
    new_id,
)
from engine.simbroker.streams import Stream
from engine.simbroker.venue import Rules, Venue

_KEY, _SECRET = b"apca-api-key-id", b"apca-api-secret-key"
_AUTHORIZED = b'{"stream":"authorization","data":{"status":"authorized","action":"authenticate"}}'


def _unauthorized(action: str) -> bytes:
    return orjson.dumps(
        {"stream": "authorization", "data": {"status": "unauthorized", "action": action}}
    )


class AlpacaDialect:
    """Answers requests and tells the ``trade_updates`` stream in Alpaca's words."""

    name = "alpaca"

    def __init__(self, venue: Venue, config: SimConfig) -> None:
        self._venue = venue
        self._config = config
        self._listeners: dict[str, list[Stream]] = {}
        self._windows: dict[str, tuple[int, int]] = {}
        self._reader = OrderReader(venue, config.unknown_symbols)
        self._reads = AlpacaReads(venue, self._reader.known)
        venue.rules = Rules(client_ids="durable", holds_positions=True)
        self._routes: dict[tuple[str, str], Callable[..., Reply]] = {
            ("POST", "/v2/orders"): self._place,
            ("GET", "/v2/orders"): self._list_orders,
            ("DELETE", "/v2/orders"): self._cancel_all,
            ("GET", "/v2/orders:by_client_order_id"): self._by_client_id,
        }
        self._item_routes: dict[tuple[str, str], Callable[..., Reply]] = {
            ("GET", "/v2/orders/"): self._get_order,
            ("PATCH", "/v2/orders/"): self._replace,
            ("DELETE", "/v2/orders/"): self._cancel,
            ("DELETE", "/v2/positions/"): self._close_position,
        }
        for path, route in self._reads.routes.items():
            self._routes["GET", path] = route
        for path, route in self._reads.item_routes.items():
            self._item_routes["GET", path] = route

    def facts(self, request: Request, path: str, query: Mapping[str, str]) -> Facts:
        """Read who asks for what, before anything is checked."""
        key_id = request.headers.get(_KEY, b"").decode("latin-1")
        client_id = query.get("client_order_id", "")
        if not request.body:
            return Facts(key_id, client_id)
        try:
            fields = orjson.loads(request.body)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            return Facts(key_id, client_id)
        client_id = str(fields.get("client_order_id") or client_id)
        return Facts(key_id, client_id, str(fields.get("symbol") or ""))

    def handle(self, request: Request, path: str, query: Mapping[str, str]) -> Reply:
        """Answer one request; every error becomes its Alpaca object."""
        key_id = request.headers.get(_KEY, b"").decode("latin-1")
        secret = request.headers.get(_SECRET, b"").decode("latin-1")
        account = self._venue.login(key_id, secret)
        if account is None:
            return UNAUTHORIZED if key_id in self._venue.accounts else FORBIDDEN
        if not self._config.rate_limit:
            return self._route(account, request.method, path, query, request.body)
        allowed, headers = self._allow(key_id)
        if not allowed:
            return THROTTLED._replace(headers=headers)
        reply = self._route(account, request.method, path, query, request.body)
        return reply._replace(headers=headers)

    def failure(self, status: int, retry_after_s: float | None = None) -> Reply:
        """Return Alpaca's words for a status."""
        retry = "" if retry_after_s is None else f"Retry-After: {retry_after_s:.0f}\r\n"
        if status == 429:
            return THROTTLED._replace(headers=retry)
        body = b'{"code":50010000,"message":"internal server error"}'
        if status < 500:
            body = to_json({"code": status * 100_000, "message": "request refused"})
        return Reply(status, body, headers=retry)

    def _allow(self, key_id: str) -> tuple[bool, str]:
        """Count a request in this minute's window of its key."""
        limit = self._config.rate_limit
        minute = int(self._venue.now().timestamp()) // 60
        window, used = self._windows.get(key_id, (minute, 0))
        used = used + 1 if window == minute else 1
        self._windows[key_id] = (minute, used)
        headers = (
            f"X-RateLimit-Limit: {limit}\r\nX-RateLimit-Remaining: {max(0, limit - used)}\r\n"
            f"X-RateLimit-Reset: {(minute + 1) * 60}\r\n"
        )
        return used <= limit, headers

    def _route(
        self,
        account: VenueAccount,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes,
    ) -> Reply:
        try:
            route = self._routes.get((method, path))
            if route is not None:
                return route(account, query, body)
            start = path.find("/", 4) + 1  # "/v2/orders/…"
            item_route = self._item_routes.get((method, path[:start]))
            if item_route is None or start == len(path):
                raise not_found("endpoint not found.")
            return item_route(account, unquote(path[start:]), query, body)
        except ApiError as error:
            return Reply(error.status, error.body)
        except Refused as refused:
            answer = refusal(refused)
            return Reply(answer.status, answer.body)

    # The order stream

    def accepts_stream(self, request: Request, path: str) -> bool:
        """Say whether a WebSocket may be opened here."""
        return path == "/stream"

    def stream_opened(self, stream: Stream, request: Request) -> None:
        """Wait for the client's credentials."""

    def stream_message(self, stream: Stream, message: bytes) -> str:
        """Take ``authenticate`` or ``listen``."""
        try:
            asked = orjson.loads(message)
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            stream.send(b'{"stream":"error","data":{"error":"invalid syntax"}}')
            return ""
        action, data = asked.get("action"), asked.get("data")
        data = data if isinstance(data, dict) else asked
        key_id = str(data.get("key_id") or data.get("key") or "")
        if action in {"authenticate", "auth"}:
            secret = str(data.get("secret_key") or data.get("secret") or "")
            account = self._venue.login(key_id, secret)
            self.stream_closed(stream)
            stream.tag = account
            stream.send(_AUTHORIZED if account else _unauthorized("authenticate"))
        elif action == "listen":
            self._listen(stream, data.get("streams"))
        return key_id or (stream.tag.key_id if stream.tag else "")

    def _listen(self, stream: Stream, streams: object) -> None:
        account = stream.tag
        if not isinstance(account, VenueAccount):
            stream.send(_unauthorized("listen"))
            return
        self.stream_closed(stream)
        wanted = isinstance(streams, list) and "trade_updates" in streams
        if wanted:
            self._listeners.setdefault(account.key_id, []).append(stream)
        heard = ["trade_updates"] if wanted else []
        stream.send(orjson.dumps({"stream": "listening", "data": {"streams": heard}}))

    def stream_closed(self, stream: Stream) -> None:
        """Forget a listener."""
        if isinstance(stream.tag, VenueAccount):
            listeners = self._listeners.get(stream.tag.key_id, [])
            if stream in listeners:
                listeners.remove(stream)

    def told(self, event: str, order: VenueOrder, execution: Execution | None) -> None:
        """Tell the order's account an event."""
        listeners = self._listeners.get(order.account.key_id)
        if listeners:
            message = to_json(update_object(event, order, execution))
            for stream in listeners:
                stream.send(message)

    def streams(self) -> list[Stream]:
        """Return every listener."""
        return [stream for listeners in self._listeners.values() for stream in listeners]

    # Orders

    def _place(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        order = self._venue.place(account, self._reader.read(read_body(body)))
        answer = to_json(order_object(order, nested=True))
        return Reply(200, answer, lambda: self._venue.activate(order))

    def _find(self, account: VenueAccount, order_id: str) -> VenueOrder:
        order = account.orders.get(order_id)
        if order is None:
            raise not_found(f"order not found for {order_id}")
        return order

    def _get_order(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        order = self._find(account, item)
        return Reply(200, to_json(order_object(order, nested=query.get("nested") == "true")))

    def _by_client_id(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        client_id = query.get("client_order_id", "")
        order = account.by_client_id.get(client_id)
        if order is None:
            raise not_found(f"order not found for {client_id}")
        return Reply(200, to_json(order_object(order, nested=query.get("nested") == "true")))

    def _list_orders(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        status = query.get("status", "open")
        if status not in {"open", "closed", "all"}:
            raise invalid(f"invalid status {status}")
        orders = account.open.values() if status == "open" else account.orders.values()
        chosen = [o for o in orders if status == "all" or o.open == (status == "open")]
        if "symbols" in query:
            symbols = set(query["symbols"].split(","))
            chosen = [o for o in chosen if o.symbol in symbols]
        after, until = read_moment(query, "after"), read_moment(query, "until")
        chosen = [o for o in chosen if after is None or o.created_at > after]
        chosen = [o for o in chosen if until is None or o.created_at < until]
        if query.get("direction", "desc") == "desc":
            chosen.reverse()
        nested = query.get("nested") == "true"
        if nested:  # legs are within their entries, as long as these are listed
            listed = {o.key for o in chosen}
            chosen = [o for o in chosen if o.parent is None or o.parent.key not in listed]
        limit = read_count(query, "limit", 50, 500)
        return Reply(200, to_json([order_object(o, nested=nested) for o in chosen[:limit]]))

    def _cancel(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        order = self._find(account, item)
        self._venue.cancel(order)
        return Reply(204, b"", lambda: self._venue.announce("canceled", order))

    def _cancel_all(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        orders = list(account.open.values())
        asked = []
        for order in orders:
            if order.open:  # or a linked one's cancel ended it
                self._venue.cancel(order)
                asked.append(order)

        def announce() -> None:
            for order in asked:
                self._venue.announce("canceled", order)

        return Reply(207, to_json([{"id": o.key, "status": 200} for o in orders]), announce)

    def _replace(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        order = self._find(account, item)
        fields = read_body(body)
        given = {
            "symbol": order.symbol,
            "side": order.side.value,
            "type": order.order_type.value,
            "time_in_force": fields.get("time_in_force") or order.time_in_force.value,
            "qty": fields.get("qty") or to_text(order.order_qty - order.cum_qty),
            "limit_price": fields.get("limit_price") or text_of(order.limit_price),
            "stop_price": fields.get("stop_price") or text_of(order.stop_price),
            "client_order_id": fields.get("client_order_id"),
        }
        if order.trail_percent is not None:
            given |= {
                "type": "trailing_stop",
                "trail_percent": fields.get("trail") or to_text(order.trail_percent),
                "stop_price": fields.get("stop_price"),
            }
        if not order.open:
            raise refusal(Refused(Reason.NOT_OPEN, status=str(order.status)))
        successor = self._venue.replace(order, self._reader.read(given))

        def announce() -> None:
            self._venue.announce("replaced", order)
            self._venue.activate(successor)

        return Reply(200, to_json(order_object(successor)), announce)

    def _close_position(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        position = self._reads.held(account, item)
        quantity = read_number(query, "qty") or abs(position.qty)
        percentage = read_number(query, "percentage")
        if percentage is not None:
            lot = practice_instrument(item).lot
            quantity = floor_to(abs(position.qty) * percentage / 100, lot)
        if quantity > abs(position.qty) or not quantity:
            raise ApiError(403, 40310000, "insufficient qty available for order")
        wanted = NewOrder(
            client_order_id=new_id(),
            symbol=item,
            side=Side.SELL if position.qty > 0 else Side.BUY,
            order_qty=quantity,
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.GTC if is_crypto(item) else TimeInForce.DAY,
        )
        order = self._venue.place(account, wanted)
        answer = to_json(order_object(order))
        return Reply(200, answer, lambda: self._venue.activate(order))
