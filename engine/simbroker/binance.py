"""Binance Spot as the venue speaks it: signed REST requests, limits, order lists, the WebSocket API's user stream.

Source: github.com/binance/binance-spot-api-docs at a5e0bc3. Its quirks are kept: a client id is refused only while
its order is open, a resting request dies by ``recvWindow``, 429 grows into 418, and an order list's legs have no
number of their own until they are asked for. Sells need what they sell; ``SimConfig.rate_limit`` is the request
weight a minute of all clients together (0: counted, not enforced).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from engine.model.enums import Side
from engine.model.numbers import ZERO
from engine.simbroker import binance_rows as rows
from engine.simbroker import binance_words as words
from engine.simbroker.binance_limits import ORDERS_IN_10_S
from engine.simbroker.binance_orders import BinanceOrders
from engine.simbroker.binance_rows import ApiError, OrderList, Row
from engine.simbroker.config import SimConfig
from engine.simbroker.dialect import Facts, Reply
from engine.simbroker.http import Request
from engine.simbroker.streams import Stream
from engine.simbroker.venue import Execution, Venue, VenueAccount

NO_LIMIT = 1_000_000_000
"""The request weight a minute where none is enforced: clients that pace themselves are told so."""
MOST_SUBSCRIPTIONS = 1000
_KEY = b"x-mbx-apikey"
_UNVERIFIED = "unverified"  # of accounts opened on sight: nobody told the venue their secret
_CLIENT_IDS = (
    "newClientOrderId",
    "origClientOrderId",
    "workingClientOrderId",
    "aboveClientOrderId",
)
_BAD_KEY = "Invalid API-key, IP, or permissions for action."
_HTML = "content-type: text/html\r\n"
_TIMEOUT = (
    "Timeout waiting for response from backend server. "
    "Send status unknown; execution status unknown."
)


class BinanceDialect(BinanceOrders):
    """Answers requests and tells the user data stream in Binance's words."""

    name = "binance"

    def __init__(self, venue: Venue, config: SimConfig) -> None:
        super().__init__(venue, config)
        self._subscriptions: dict[str, list[tuple[Stream, int]]] = {}
        self._subscribed = -1
        self._routes: dict[tuple[str, str], tuple[int, Callable[..., Any]]] = {
            ("POST", "/api/v3/order"): (1, self._place),
            ("DELETE", "/api/v3/order"): (1, self._cancel),
            ("POST", "/api/v3/order/cancelReplace"): (1, self._replace),
            ("POST", "/api/v3/orderList/oto"): (1, self._oto),
            ("POST", "/api/v3/orderList/otoco"): (1, self._otoco),
            ("POST", "/api/v3/orderList/oco"): (1, self._oco),
            ("GET", "/api/v3/order"): (4, self._query),
            ("GET", "/api/v3/openOrders"): (80, self._open_orders),
            ("GET", "/api/v3/openOrderList"): (6, self._open_lists),
            ("GET", "/api/v3/allOrders"): (20, self._all_orders),
            ("GET", "/api/v3/myTrades"): (20, self._my_trades),
            ("GET", "/api/v3/account"): (20, self._account),
            ("GET", "/api/v3/rateLimit/order"): (40, self._order_count),
        }
        self._public: dict[str, tuple[int, Callable[[Mapping[str, str]], Any]]] = {
            "/api/v3/ping": (1, lambda query: {}),
            "/api/v3/time": (1, lambda query: {"serverTime": self._now()}),
            "/api/v3/exchangeInfo": (20, self._exchange_info),
            "/api/v3/ticker/price": (4, self._prices),
        }

    # HTTP

    def facts(self, request: Request, path: str, query: Mapping[str, str]) -> Facts:
        """Read who asks for what, before anything is checked."""
        fields = {**dict(parse_qsl(request.body.decode("latin-1"))), **query}
        client_id = next((fields[name] for name in _CLIENT_IDS if name in fields), "")
        key = request.headers.get(_KEY, b"").decode("latin-1")
        return Facts(key, client_id, fields.get("symbol", ""))

    def handle(self, request: Request, path: str, query: Mapping[str, str]) -> Reply:
        """Answer one request; as at Binance, what the stream tells of it may come before the answer."""
        status, answer, headers = self._answer(request, path, query)
        return Reply(status, orjson.dumps(answer), headers=headers)

    def _answer(
        self, request: Request, path: str, query: Mapping[str, str]
    ) -> tuple[int, Any, str]:
        public = self._public.get(path) if request.method == "GET" else None
        route = self._routes.get((request.method, path))
        if public is None and route is None:
            return 404, {"code": -1000, "msg": "no such endpoint"}, ""
        weight = (public or route or (0,))[0]
        if request.method == "GET" and "symbol" in query:
            weight = {80: 6, 4: 2 if public else 4}.get(weight, weight)
        if path.endswith("myTrades") and "orderId" in query:
            weight = 5
        account: VenueAccount | None = None
        try:
            self._limits.spend(weight)
            if public is not None:
                return 200, public[1](query), self._limits.headers(None)
            assert route is not None
            account, fields = self._authenticate(request)
            status, answer = route[1](account, fields)
            if request.method != "GET" and status == 200:
                self._limits.give_back(weight)
        except ApiError as error:
            headers = self._limits.headers(account)
            if error.status in {418, 429}:
                headers += f"Retry-After: {self._limits.retry_after()}\r\n"
            return error.status, error.body, headers
        return status, answer, self._limits.headers(account)

    def failure(self, status: int, retry_after_s: float | None = None) -> Reply:
        """Return Binance's words for a status a fault asked for."""
        headers = "" if retry_after_s is None else f"Retry-After: {retry_after_s:.0f}\r\n"
        if status == 403:
            return Reply(403, b"<html>blocked by a rule</html>", headers=headers + _HTML)
        code, msg = {
            418: (-1003, "Way too much request weight used; IP banned."),
            429: (-1003, "Too much request weight used."),
            503: (-1001, "Internal error; unable to process your request. Please try again."),
            504: (-1007, _TIMEOUT),
        }.get(status, (-1000, "An unknown error occurred while processing the request."))
        return Reply(status, orjson.dumps({"code": code, "msg": msg}), headers=headers)

    # Who asks

    def _authenticate(self, request: Request) -> tuple[VenueAccount, dict[str, str]]:
        key = request.headers.get(_KEY, b"").decode("latin-1")
        query = request.target.partition("?")[2]
        body = request.body.decode("latin-1")
        fields = {**dict(parse_qsl(body, True)), **dict(parse_qsl(query, True))}
        payload, mark, signature = (query + body).rpartition("signature=")
        if not mark or "&" in signature:
            raise rows.mandatory("signature")
        # Query and body are joined without a separator, so "&" is missing where one of them ends.
        return self._signed(key, payload.removesuffix("&"), unquote(signature), fields), fields

    def _signed(
        self, key: str, payload: str, signature: str, fields: Mapping[str, str]
    ) -> VenueAccount:
        if not key:
            raise ApiError(-2014, "API-key format invalid.", 401)
        allowed = self._config.accounts
        secret = _UNVERIFIED if allowed is None else allowed.get(key, "")
        account = self._venue.login(key, secret)
        if account is None:
            raise ApiError(-2015, _BAD_KEY, 401)
        if allowed is not None and not verifies(secret, payload, signature):
            raise ApiError(-1022, "Signature for this request is not valid.")
        self._check_time(fields)
        return account

    def _check_time(self, fields: Mapping[str, str]) -> None:
        stamp, window = fields.get("timestamp", ""), fields.get("recvWindow", "5000")
        if not stamp.isdigit():
            raise rows.mandatory("timestamp")
        if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", window) or float(window) > 60_000:
            raise ApiError(-1131, "recvWindow must be less than 60000")
        now, sent = self._now(), int(stamp)
        if sent >= now + 1000:
            raise ApiError(
                -1021, "Timestamp for this request was 1000ms ahead of the server's time."
            )
        if now - sent > float(window):
            raise ApiError(-1021, "Timestamp for this request is outside of the recvWindow.")

    # Look-ups

    def _query(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        row = self._find(account, fields, number="orderId", name="origClientOrderId")
        if row is None or row.hidden:
            raise ApiError(-2013, "Order does not exist.")
        return 200, words.query_object(row)

    def _of(self, account: VenueAccount, symbol: str) -> list[Row]:
        return [
            row
            for row in self._rows.values()
            if row.account is account
            and (not symbol or row.wanted.symbol == symbol)
            and not row.hidden
        ]

    def _open_orders(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        symbol = self._symbol(fields) if "symbol" in fields else ""
        return 200, [words.query_object(row) for row in self._of(account, symbol) if row.open]

    def _open_lists(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        found: dict[int, OrderList] = {}
        for row in self._of(account, ""):
            if row.open and row.in_list is not None:
                found[row.in_list.id] = row.in_list
        told = [words.list_object(one, [], self._now()) for one in found.values()]
        return 200, [{k: v for k, v in one.items() if k != "orderReports"} for one in told]

    def _all_orders(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        found = self._of(account, self._symbol(fields))
        first, limit = int(fields.get("orderId", 0)), int(fields.get("limit", 500))
        found = [row for row in found if row.order_id >= first]
        found = found[:limit] if "orderId" in fields else found[-limit:]
        return 200, [words.query_object(row) for row in found]

    def _my_trades(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        symbol = self._symbol(fields)
        told = [self._trade(fill) for fill in account.fills if fill.order.symbol == symbol]
        if "orderId" in fields:
            told = [trade for trade in told if str(trade["orderId"]) == fields["orderId"]]
        limit = int(fields.get("limit", 500))
        if "fromId" in fields:
            return 200, [trade for trade in told if trade["id"] >= int(fields["fromId"])][:limit]
        return 200, told[-limit:]

    def _trade(self, fill: Execution) -> dict[str, Any]:
        order = fill.order
        row = self._by_order[order.key]
        return {
            "symbol": order.symbol,
            "id": self._trade_ids[fill.exec_id],
            "orderId": row.order_id,
            "orderListId": -1 if row.in_list is None else row.in_list.id,
            "price": rows.fixed(fill.last_px),
            "qty": rows.fixed(fill.last_qty),
            "quoteQty": rows.fixed(fill.last_qty * fill.last_px),
            "commission": rows.fixed(ZERO),
            "commissionAsset": rows.assets_of(order.symbol)[1],
            "time": rows.milliseconds(fill.at),
            "isBuyer": order.side is Side.BUY,
            "isMaker": False,
            "isBestMatch": True,
        }

    def _account(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        assets = {"USDT", *(rows.assets_of(symbol)[0] for symbol in account.money.positions)}
        balances = []
        for asset in sorted(assets):
            free, locked = self._balance(account, asset)
            if free or locked or fields.get("omitZeroBalances") != "true":
                balances.append(
                    {"asset": asset, "free": rows.fixed(free), "locked": rows.fixed(locked)}
                )
        return 200, {
            "makerCommission": 0,
            "takerCommission": 0,
            "buyerCommission": 0,
            "sellerCommission": 0,
            "canTrade": True,
            "canWithdraw": False,
            "canDeposit": False,
            "brokered": False,
            "requireSelfTradePrevention": False,
            "preventSor": False,
            "updateTime": self._now(),
            "accountType": "SPOT",
            "balances": balances,
            "permissions": ["SPOT"],
            "uid": int(hashlib.sha256(account.key_id.encode()).hexdigest()[:7], 16),
        }

    def _order_count(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        count = self._limits.count(account)
        return 200, [_limit_object("ORDERS", "SECOND", 10, ORDERS_IN_10_S) | {"count": count}]

    # What everybody may ask

    def _exchange_info(self, query: Mapping[str, str]) -> Any:
        if "symbol" in query:
            symbols = [self._symbol(query)]
        elif "symbols" in query:
            symbols = self._named_symbols(query)
        else:
            symbols = sorted(self._venue.market.symbols())
        weight = self._config.rate_limit or NO_LIMIT
        return {
            "timezone": "UTC",
            "serverTime": self._now(),
            "rateLimits": [
                _limit_object("REQUEST_WEIGHT", "MINUTE", 1, weight),
                _limit_object("ORDERS", "SECOND", 10, ORDERS_IN_10_S),
                _limit_object("ORDERS", "DAY", 1, 160_000),
                _limit_object("RAW_REQUESTS", "MINUTE", 5, 300_000),
            ],
            "exchangeFilters": [],
            "symbols": [words.symbol_object(symbol) for symbol in symbols if self._known(symbol)],
        }

    def _named_symbols(self, query: Mapping[str, str]) -> list[str]:
        try:
            named = orjson.loads(query["symbols"])
        except ValueError:
            named = None
        if not isinstance(named, list) or not named:
            raise ApiError(-1100, "Illegal characters found in parameter 'symbols'.")
        return [self._symbol({"symbol": str(one)}) for one in named]

    def _prices(self, query: Mapping[str, str]) -> Any:
        if "symbol" in query:
            symbol = self._symbol(query)
            return {"symbol": symbol, "price": rows.fixed(self._last(symbol))}
        named = self._named_symbols(query) if "symbols" in query else self._venue.market.symbols()
        return [
            {"symbol": symbol, "price": rows.fixed(self._last(symbol))}
            for symbol in sorted(named)
            if self._known(symbol)
        ]

    # Streams

    def _tell(self, account: VenueAccount, event: dict[str, Any]) -> None:
        for stream, number in self._subscriptions.get(account.key_id, ()):
            stream.send_text(orjson.dumps({"subscriptionId": number, "event": event}))

    # The WebSocket API

    def accepts_stream(self, request: Request, path: str) -> bool:
        """Say whether a WebSocket may be opened here."""
        return path == "/ws-api/v3"

    def stream_opened(self, stream: Stream, request: Request) -> None:
        """Begin a session without subscriptions."""
        stream.tag = {}

    def stream_message(self, stream: Stream, message: bytes) -> str:
        """Answer one request of the WebSocket API."""
        try:
            asked = orjson.loads(message)
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            asked = {}
        params = asked.get("params")
        params = params if isinstance(params, dict) else {}
        answer: dict[str, Any] = {"id": asked.get("id")}
        try:
            self._limits.spend(2)
            answer |= {"status": 200, "result": self._called(stream, asked.get("method"), params)}
        except ApiError as error:
            answer |= {"status": error.status, "error": error.body}
            if error.status in {418, 429}:
                answer["error"]["data"] = {
                    "serverTime": self._now(),
                    "retryAfter": self._now() + self._limits.retry_after() * 1000,
                }
        stream.send_text(orjson.dumps(answer))
        return str(params.get("apiKey", ""))

    def _called(self, stream: Stream, method: object, params: Mapping[str, Any]) -> Any:
        if method == "userDataStream.subscribe.signature":
            return self._subscribe(stream, params)
        if method == "userDataStream.unsubscribe":
            self._unsubscribe(stream, params.get("subscriptionId"))
            return {}
        if method == "session.subscriptions":
            return [{"subscriptionId": number} for number in stream.tag]
        if method == "time":
            return {"serverTime": self._now()}
        if method == "ping":
            return {}
        raise ApiError(-1100, "Illegal method")

    def _subscribe(self, stream: Stream, params: Mapping[str, Any]) -> Any:
        signature = params.get("signature")
        if not isinstance(signature, str):
            raise rows.mandatory("signature")
        fields = {name: str(value) for name, value in params.items() if name != "signature"}
        payload = "&".join(f"{name}={fields[name]}" for name in sorted(fields))
        account = self._signed(fields.get("apiKey", ""), payload, signature, fields)
        if account.key_id in stream.tag.values():
            raise ApiError(-2035, "User Data Stream subscription already active.")
        if len(stream.tag) >= MOST_SUBSCRIPTIONS:
            raise ApiError(
                -1191,
                f"Too many subscriptions. Connection may create up to '{MOST_SUBSCRIPTIONS}' "
                "subscriptions at a time.",
            )
        self._subscribed += 1  # never used again, on no connection
        number = self._subscribed
        stream.tag[number] = account.key_id
        self._subscriptions.setdefault(account.key_id, []).append((stream, number))
        return {"subscriptionId": number}

    def _unsubscribe(self, stream: Stream, number: object) -> None:
        ended: list[Any] = list(stream.tag) if number is None else [number]
        for one in ended:
            key = stream.tag.pop(one, None)
            if key is None:
                raise ApiError(-2036, "User Data Stream subscription not active.")
            self._subscriptions[key].remove((stream, one))
            event = {"e": "eventStreamTerminated", "E": self._now()}
            stream.send_text(orjson.dumps({"subscriptionId": one, "event": event}))

    def end_subscription(self, key: str) -> None:
        """End an account's subscriptions, as the broker may do at any time."""
        for stream, number in list(self._subscriptions.get(key, ())):
            self._unsubscribe(stream, number)

    def shut_down(self) -> None:
        """Announce the end of every connection, as the broker does before it restarts a server."""
        for stream in self.streams():
            event = {"event": {"e": "serverShutdown", "E": self._now()}}
            stream.send_text(orjson.dumps(event))

    def stream_closed(self, stream: Stream) -> None:
        """Forget a WebSocket."""
        for number, key in (stream.tag or {}).items():
            self._subscriptions[key].remove((stream, number))
        stream.tag = {}

    def streams(self) -> list[Stream]:
        """Return every stream somebody is subscribed on."""
        found: dict[int, Stream] = {}
        for listeners in self._subscriptions.values():
            for stream, _ in listeners:
                found[id(stream)] = stream
        return list(found.values())


def verifies(secret: str, payload: str, signature: str) -> bool:
    """Say whether a signature fits: Ed25519 for a public key in PEM, else HMAC-SHA256 in hex of either case."""
    if "BEGIN PUBLIC KEY" not in secret:
        expected = hmac.new(secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
        return hmac.compare_digest(expected.encode(), signature.lower().encode())
    key = load_pem_public_key(secret.encode())
    if not isinstance(key, Ed25519PublicKey):
        return False
    try:
        key.verify(base64.b64decode(signature, validate=True), payload.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def _limit_object(kind: str, interval: str, count: int, limit: int) -> dict[str, Any]:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": count, "limit": limit}
