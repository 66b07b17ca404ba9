"""Zerodha's Kite Connect v3 as the venue speaks it: sessions, orders, portfolio, the order socket.

Its quirks: tokens that end (each login ends the one before); 200 for orders that are turned down later for want
of margin; tags that nobody checks; one placement that becomes several orders (a fault's ``several_ids``); market
orders refused without market protection; 25 changes an order; with ``rate_limit`` set, 10 orders a calendar
second and that many requests a minute.

A practice convenience: an account's secret is taken as an access token, so that no login is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from hmac import compare_digest
from secrets import token_hex
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

from engine.simbroker.config import SimConfig
from engine.simbroker.dialect import Facts, Reply
from engine.simbroker.http import Request
from engine.simbroker.kite_orders import EXCHANGES, TICK, KiteOrders
from engine.simbroker.kite_words import (
    ApiError,
    Entry,
    failure,
    invalid,
    no_session,
    order_row,
    position_row,
    stamp,
    success,
    to_json,
    token_of,
    trade_row,
)
from engine.simbroker.streams import Stream
from engine.simbroker.venue import Execution, Rules, Venue, VenueAccount, VenueOrder

ORDERS_PER_SECOND = 10
_SLICES = 2
_TOKEN_S = 300.0  # a request token's life
_HOME = "http://127.0.0.1:8790/"
_LISTED = (
    *("INFY", "RELIANCE", "TCS", "HDFCBANK", "ICICIBANK", "SBIN", "AXISBANK", "ITC", "LT", "WIPRO"),
    *("TATASTEEL", "MARUTI", "BHARTIARTL", "KOTAKBANK", "HINDUNILVR", "SUNPHARMA", "TITAN", "NTPC"),
)
_COLUMNS = (
    "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,"
    "instrument_type,segment,exchange"
)
_CSV = "content-type: text/csv\r\n"


class KiteDialect:
    """Answers requests and tells the order socket in Kite's words."""

    name = "kite"

    def __init__(self, venue: Venue, config: SimConfig) -> None:
        venue.rules = Rules(client_ids="none")
        self.platform = False  # whether logins bring refresh tokens, as for apps Zerodha approved
        self._venue = venue
        self._config = config
        self._orders = KiteOrders(venue, config.unknown_symbols)
        self._requested: dict[str, tuple[str, float]] = {}  # request token → key, monotonic end
        self._sessions: dict[str, str] = {}  # key → the access token of its last login
        self._refresh: dict[str, str] = {}
        self._secrets: dict[str, str] = {}  # of accounts the venue opened by itself
        self._listeners: dict[str, list[Stream]] = {}
        self._seconds: dict[str, tuple[int, int]] = {}
        self._minutes: dict[str, tuple[int, int]] = {}
        self._routes: dict[tuple[str, str], Callable[[VenueAccount, Request], Reply]] = {
            ("GET", "/user/profile"): self._profile,
            ("GET", "/user/margins"): self._margins,
            ("GET", "/orders"): self._list,
            ("GET", "/trades"): self._trades,
            ("GET", "/portfolio/positions"): self._positions,
            ("GET", "/portfolio/holdings"): lambda account, request: Reply(200, success([])),
            ("GET", "/quote/ltp"): self._last_prices,
            ("DELETE", "/session/token"): self._log_out,
        }

    def facts(self, request: Request, path: str, query: Mapping[str, str]) -> Facts:
        """Read who asks for what, before anything is checked."""
        key = _credentials(request)[0] or query.get("api_key", "")
        form = _form(request)
        name = form.get("tradingsymbol", "")
        symbol = f"{form.get('exchange', '')}:{name}" if name else ""
        return Facts(key or form.get("api_key", ""), form.get("tag", ""), symbol)

    def handle(self, request: Request, path: str, query: Mapping[str, str]) -> Reply:
        """Answer one request; every error becomes Kite's."""
        try:
            if path == "/connect/login":
                return self._log_in(query)
            if request.method == "POST" and path in {"/session/token", "/session/refresh_token"}:
                return self._open_session(path, _form(request))
            account = self._account(request)
            self._limit(account, request.method, path)
            return self._route(account, request, path)
        except ApiError as error:
            return error.reply

    def failure(self, status: int, retry_after_s: float | None = None) -> Reply:
        """Return Kite's words for a status."""
        return failure(status, retry_after_s)

    # Sessions

    def _account(self, request: Request) -> VenueAccount:
        account = self._by_token(*_credentials(request))
        if account is None:
            raise no_session()
        return account

    def _by_token(self, key: str, token: str) -> VenueAccount | None:
        if not key or not token:
            return None
        if compare_digest(self._sessions.get(key, "").encode(), token.encode()):
            return self._venue.login(key, self._secret(key, token))
        return self._venue.login(key, token)

    def _secret(self, key: str, otherwise: str) -> str:
        accounts = self._config.accounts
        if accounts is None:
            return self._secrets.setdefault(key, otherwise)
        return accounts.get(key, "")

    def _log_in(self, query: Mapping[str, str]) -> Reply:
        """Send the browser back at once: on a practice venue everybody is who they say they are."""
        key = query.get("api_key", "")
        accounts = self._config.accounts
        if not key or (accounts is not None and key not in accounts):
            raise invalid("Invalid `api_key`.")
        back = query.get("redirect_url", _HOME)
        if urlsplit(back).hostname not in {"127.0.0.1", "localhost"}:
            raise invalid("The simulated venue sends browsers to this machine only.")
        answer = {"action": "login", "type": "login", "status": "cancelled"}
        if query.get("cancel") != "1":
            token = token_hex(16)
            self._requested[token] = (key, time.monotonic() + _TOKEN_S)
            answer |= {"status": "success", "request_token": token}
        answer |= dict(parse_qsl(query.get("redirect_params", "")))
        return Reply(302, headers=f"Location: {back}?{urlencode(answer)}\r\n")

    def _open_session(self, path: str, form: Mapping[str, str]) -> Reply:
        key = form.get("api_key", "")
        renewing = path.endswith("refresh_token")
        given = form.get("refresh_token" if renewing else "request_token", "")
        if renewing:
            good = bool(given) and self._refresh.get(key) == given
        else:
            owner, until = self._requested.pop(given, ("", 0.0))
            good = owner == key and time.monotonic() < until
        secret = self._secret(key, "")
        expected = sha256(f"{key}{given}{secret}".encode()).hexdigest()
        known = self._config.accounts is None and not secret
        if not good or not (known or compare_digest(expected, form.get("checksum", ""))):
            raise ApiError(403, "TokenException", "Token is invalid or has expired.")
        token = self._sessions[key] = token_hex(16)
        refresh = self._refresh[key] = token_hex(16) if self.platform else ""
        if known:
            self._secrets[key] = token
        self._venue.renew(key)
        self._cut(key)
        data = {
            "user_type": "individual",
            "user_id": key[:6].upper(),
            "user_name": key,
            "broker": "ZERODHA",
            "exchanges": EXCHANGES,
            "products": ("CNC", "NRML", "MIS", "MTF"),
            "order_types": ("MARKET", "LIMIT", "SL", "SL-M"),
            "api_key": key,
            "access_token": token,
            "public_token": token_hex(16),
            "refresh_token": refresh,
            "login_time": stamp(self._venue.now()),
            "meta": {"demat_consent": "physical"},
        }
        return Reply(200, success(data))

    def _log_out(self, account: VenueAccount, request: Request) -> Reply:
        self._sessions.pop(account.key_id, None)
        self._cut(account.key_id)
        return Reply(200, success(True))

    def _cut(self, key: str) -> None:
        for stream in self._listeners.pop(key, []):
            stream.close(1000, "logged out")

    # Limits

    def _limit(self, account: VenueAccount, method: str, path: str) -> None:
        limit = self._config.rate_limit
        if not limit:
            return
        second = int(self._venue.now().timestamp())
        over = not _allow(self._minutes, account.key_id, second // 60, limit)
        if method != "GET" and path.startswith("/orders/"):
            over |= not _allow(self._seconds, account.key_id, second, ORDERS_PER_SECOND)
        if over:
            raise ApiError(429, "NetworkException", "Too many requests")

    def _route(self, account: VenueAccount, request: Request, path: str) -> Reply:
        route = self._routes.get((request.method, path))
        if route is not None:
            return route(account, request)
        parts = [unquote(part) for part in path.strip("/").split("/")]
        match request.method, parts:
            case "POST", ["orders", variety]:
                return self._place(account, variety, _form(request))
            case "PUT", ["orders", _, order_id]:
                return self._change(account, order_id, _form(request))
            case "DELETE", ["orders", _, order_id]:
                return self._cancel(account, order_id)
            case "GET", ["orders", order_id]:
                row = order_row(self._orders.find(account, order_id))
                return Reply(200, success([row]))
            case "GET", ["orders", order_id, "trades"]:
                return self._trades_of(account, self._orders.find(account, order_id))
            case "GET", ["instruments", *exchange]:
                return self._instruments(exchange)
            case _:
                raise ApiError(404, "GeneralException", "Route not found")

    # Orders

    def _place(self, account: VenueAccount, variety: str, form: Mapping[str, str]) -> Reply:
        slices = _SLICES if self._venue.quirks.several_ids else 1
        found = self._orders.place(account, variety, form, slices)
        entries = [entry for entry in found if isinstance(entry, Entry)]
        if len(found) == 1:
            data: object = {"order_id": entries[0].order_id}
        else:
            data = {
                "order_id": str(int(token_hex(7), 16)),
                "children": [_child(entry) for entry in found],
            }

        def activate() -> None:
            for entry in entries:
                if entry.said:
                    self._orders.turn_down(entry)
                    self._tell(entry)
                else:
                    self._venue.activate(entry.order)

        return Reply(200, success(data), activate)

    def _change(self, account: VenueAccount, order_id: str, form: Mapping[str, str]) -> Reply:
        entry = self._orders.change(account, order_id, form)

        def tell() -> None:
            self._tell(entry, "UPDATE")
            self._venue.reenter(entry.order)

        return Reply(200, success({"order_id": order_id}), tell)

    def _cancel(self, account: VenueAccount, order_id: str) -> Reply:
        entry = self._orders.cancel(account, order_id)
        done = success({"order_id": order_id})
        return Reply(200, done, lambda: self._venue.announce("canceled", entry.order))

    def _list(self, account: VenueAccount, request: Request) -> Reply:
        return Reply(200, success([order_row(entry) for entry in self._orders.all(account)]))

    def _fills(self, account: VenueAccount) -> list[tuple[int, Execution, Entry]]:
        return [
            (number, fill, entry)
            for number, fill in enumerate(account.fills)
            if (entry := self._orders.of(fill.order)) is not None
        ]

    def _trades(self, account: VenueAccount, request: Request) -> Reply:
        return Reply(200, success([trade_row(*fill) for fill in self._fills(account)]))

    def _trades_of(self, account: VenueAccount, entry: Entry) -> Reply:
        found = [trade_row(*fill) for fill in self._fills(account) if fill[2] is entry]
        return Reply(200, success(found))

    # The account

    def _profile(self, account: VenueAccount, request: Request) -> Reply:
        data = {
            "user_id": account.key_id[:6].upper(),
            "user_type": "individual",
            "user_name": account.key_id,
            "broker": "ZERODHA",
            "exchanges": EXCHANGES,
            "products": ("CNC", "NRML", "MIS", "MTF"),
            "order_types": ("MARKET", "LIMIT", "SL", "SL-M"),
        }
        return Reply(200, success(data))

    def _margins(self, account: VenueAccount, request: Request) -> Reply:
        money = account.money
        net = round(money.buying_power(self._venue.market.price) / money.multiplier, 12)
        start = money.cash
        for fill in account.fills:
            start += fill.order.side.sign * fill.last_qty * fill.last_px
        segment = {
            "enabled": True,
            "net": net,
            "available": {
                "adhoc_margin": 0,
                "cash": start,
                "opening_balance": start,
                "live_balance": net,
                "collateral": 0,
                "intraday_payin": 0,
            },
            "utilised": {"debits": start - net, "m2m_realised": 0, "m2m_unrealised": 0},
        }
        return Reply(200, success({"equity": segment}))

    def _positions(self, account: VenueAccount, request: Request) -> Reply:
        groups: dict[tuple[str, str], list[Execution]] = {}
        for _, fill, entry in self._fills(account):
            groups.setdefault((fill.order.symbol, entry.product), []).append(fill)
        net = []
        for (symbol, product), fills in groups.items():
            row = position_row(symbol, product, fills, self._venue.market.listing(symbol).price)
            position = account.money.positions[symbol]
            if row["quantity"] == position.qty:
                row["average_price"] = round(position.avg_px, 12) if position.qty else 0
            else:  # held in several products
                row["average_price"] = row["buy_price"] or row["sell_price"]
            net.append(row)
        return Reply(200, success({"net": net, "day": net}))

    # What can be traded, and at what price

    def _instruments(self, exchange: list[str]) -> Reply:
        if len(exchange) > 1 or (exchange and exchange[0] not in EXCHANGES):
            raise invalid("Invalid `exchange`.")
        listed = {f"NSE:{name}" for name in _LISTED} | {f"BSE:{name}" for name in _LISTED}
        listed |= {symbol for symbol in self._venue.market.symbols() if ":" in symbol}
        lines = [_COLUMNS]
        for symbol in sorted(listed):
            place, _, name = symbol.partition(":")
            if self._orders.known(symbol) and (not exchange or place == exchange[0]):
                token = token_of(symbol)
                lines.append(
                    f"{token},{token >> 8},{name},{name},0.0,,0.0,{TICK},1,EQ,{place},{place}"
                )
        return Reply(200, ("\n".join(lines) + "\n").encode(), headers=_CSV)

    def _last_prices(self, account: VenueAccount, request: Request) -> Reply:
        asked = parse_qs(request.target.partition("?")[2]).get("i", [])
        data = {
            symbol: {
                "instrument_token": token_of(symbol),
                "last_price": self._venue.market.listing(symbol).price,
            }
            for symbol in asked
            if self._orders.known(symbol)
        }
        return Reply(200, success(data))

    # The order socket

    def accepts_stream(self, request: Request, path: str) -> bool:
        """Say whether the key and token in the address are good."""
        query = dict(parse_qsl(request.target.partition("?")[2]))
        if path not in {"/", "/stream"}:
            return False
        return self._by_token(query.get("api_key", ""), query.get("access_token", "")) is not None

    def stream_opened(self, stream: Stream, request: Request) -> None:
        """Send what is Kite's first message, a heartbeat of one byte, and listen."""
        query = dict(parse_qsl(request.target.partition("?")[2]))
        stream.tag = query.get("api_key", "")
        self._listeners.setdefault(stream.tag, []).append(stream)
        stream.send(b"\x00")

    def stream_message(self, stream: Stream, message: bytes) -> str:
        """Take a message: subscriptions to quotes, which this venue does not stream."""
        return str(stream.tag or "")

    def stream_closed(self, stream: Stream) -> None:
        """Forget a listener."""
        listeners = self._listeners.get(stream.tag, [])
        if stream in listeners:
            listeners.remove(stream)

    def told(self, event: str, order: VenueOrder, execution: Execution | None) -> None:
        """Tell the order's account an event; executions have no message of their own."""
        entry = self._orders.of(order)
        if entry is not None:
            self._tell(entry, "UPDATE" if event == "partial_fill" else "")

    def _tell(self, entry: Entry, word: str = "") -> None:
        listeners = self._listeners.get(entry.order.account.key_id)
        if listeners:
            message = to_json({"type": "order", "data": order_row(entry, word)})
            for stream in listeners:
                stream.send_text(message)

    def streams(self) -> list[Stream]:
        """Return every listener."""
        return [stream for listeners in self._listeners.values() for stream in listeners]


def _credentials(request: Request) -> tuple[str, str]:
    """Return key and token of ``Authorization: token key:token``."""
    kind, _, pair = request.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind != "token":
        return "", ""
    key, _, token = pair.partition(":")
    return key, token


def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))


def _child(entry: Entry | ApiError) -> dict[str, object]:
    if isinstance(entry, Entry):
        return {"order_id": entry.order_id}
    error = {"code": 400, "error_type": "MarginException", "message": str(entry), "data": None}
    return {"error": error}


def _allow(windows: dict[str, tuple[int, int]], key: str, window: int, limit: int) -> bool:
    """Count one more in a calendar window; say whether it is within the limit."""
    before, used = windows.get(key, (window, 0))
    used = used + 1 if before == window else 1
    windows[key] = (window, used)
    return used <= limit
