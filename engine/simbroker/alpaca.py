"""Alpaca's Trading API v2 as the venue speaks it: routes, order objects, error codes."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson

from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import SYMBOL
from engine.model.matching import practice_instrument
from engine.model.numbers import ZERO, floor_to, is_multiple, parse_decimal, to_text
from engine.model.position import Position
from engine.simbroker.venue import (
    Execution,
    NewOrder,
    Reason,
    Refused,
    Venue,
    VenueAccount,
    VenueOrder,
    new_id,
)

MAX_CLIENT_ID = 48
_CENT, _SUB_PENNY, _DOLLAR = Decimal("0.01"), Decimal("0.0001"), Decimal(1)
_FINEST_QTY = Decimal("1e-9")
_CRYPTO_TIF = frozenset({TimeInForce.GTC, TimeInForce.IOC})


class Reply(NamedTuple):
    """An answer; ``after`` runs once its bytes are written, so events never overtake it."""

    status: int
    body: bytes = b""
    after: Callable[[], None] | None = None


class _Digits(NamedTuple):
    value: Decimal


def _digits(value: object) -> orjson.Fragment:
    assert isinstance(value, _Digits)
    return orjson.Fragment(to_text(value.value))


def to_json(value: object) -> bytes:
    """Write JSON: stamps in UTC with ``Z``, prices of market data as numbers with exact digits."""
    return orjson.dumps(value, default=_digits, option=orjson.OPT_UTC_Z)


class ApiError(Exception):
    """An error object of Alpaca's."""

    def __init__(self, status: int, code: int, message: str, **more: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = to_json({"code": code, "message": message, **more})


def invalid(message: str) -> ApiError:
    """Return a validation error."""
    return ApiError(422, 42210000, message)


def not_found(message: str) -> ApiError:
    """Return a not-found error."""
    return ApiError(404, 40410000, message)


FORBIDDEN = Reply(403, b'{"message":"forbidden."}')
UNAUTHORIZED = Reply(401, b'{"code":40110000,"message":"request is not authorized"}')
THROTTLED = Reply(429, b'{"code":42910000,"message":"rate limit exceeded"}')


_BAD_BODY = ApiError(400, 40010000, "request body format is invalid")


def _refusal(refused: Refused) -> ApiError:
    facts = {
        name: to_text(round(value, 2)) if isinstance(value, Decimal) else value
        for name, value in refused.facts.items()
    }
    match refused.reason:
        case Reason.DUPLICATE:
            return ApiError(422, 40010001, "client_order_id must be unique")
        case Reason.FUNDS:
            return ApiError(403, 40310000, "insufficient buying power", **facts)
        case Reason.NOT_OPEN:
            return invalid(f'order is already in "{facts["status"]}" state')


def _text(value: Decimal | None) -> str | None:
    return None if value is None else to_text(value)


def _rounded(value: Decimal) -> str:
    """Write a quotient (an average, a share of a cost) with at most 12 decimals."""
    return to_text(round(value, 12))


def _is_crypto(symbol: str) -> bool:
    return "/" in symbol


def _asset_id(symbol: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, symbol))


def order_object(order: VenueOrder) -> dict[str, Any]:
    """Return an order as Alpaca writes it."""
    return {
        "id": order.key,
        "client_order_id": order.client_order_id,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
        "submitted_at": order.created_at,
        "filled_at": order.filled_at,
        "expired_at": order.expired_at,
        "canceled_at": order.canceled_at,
        "failed_at": None,
        "replaced_at": order.replaced_at,
        "replaced_by": order.replaced_by or None,
        "replaces": order.replaces or None,
        "asset_class": "crypto" if _is_crypto(order.symbol) else "us_equity",
        "symbol": order.symbol,
        "notional": None,
        "qty": to_text(order.order_qty),
        "filled_qty": to_text(order.cum_qty),
        "filled_avg_price": _rounded(order.avg_px) if order.cum_qty else None,
        "order_class": "",
        "order_type": order.order_type.value,
        "type": order.order_type.value,
        "side": order.side.value,
        "time_in_force": order.time_in_force.value,
        "limit_price": _text(order.limit_price),
        "stop_price": _text(order.stop_price),
        "status": "accepted" if order.status is None else order.status.value,
        "extended_hours": False,
        "legs": None,
        "trail_percent": None,
        "trail_price": None,
        "hwm": None,
    }


def update_object(event: str, order: VenueOrder, execution: Execution | None) -> dict[str, Any]:
    """Return one message of the ``trade_updates`` stream."""
    data: dict[str, Any] = {"event": event, "order": order_object(order)}
    if execution is None:
        data["execution_id"] = new_id()
        data["timestamp"] = order.updated_at
    else:
        data["execution_id"] = execution.exec_id
        data["timestamp"] = execution.at
        data["price"] = to_text(execution.last_px)
        data["qty"] = to_text(execution.last_qty)
        data["position_qty"] = to_text(execution.position_qty)
    return {"stream": "trade_updates", "data": data}


def read_body(body: bytes) -> dict[str, Any]:
    """Read a request's JSON object; numbers outside quotes stay exact.

    Raises:
        ApiError: it is no JSON object.
    """
    try:
        fields = orjson.loads(body)
        if isinstance(fields, dict) and any(isinstance(v, float) for v in fields.values()):
            fields = json.loads(body, parse_float=Decimal)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise _BAD_BODY
    return fields


def _number(fields: Mapping[str, Any], name: str) -> Decimal | None:
    value = fields.get(name)
    if value is None:
        return None
    text = format(value, "f") if isinstance(value, Decimal) else value
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value)
    try:
        number = parse_decimal(text if isinstance(text, str) else "")
    except ValueError:
        raise invalid(f"{name} must be a number") from None
    if number <= 0:
        raise invalid(f"{name} must be > 0")
    return number


def _price(fields: Mapping[str, Any], name: str) -> Decimal | None:
    price = _number(fields, name)
    if price is not None and not is_multiple(price, _CENT if price >= _DOLLAR else _SUB_PENNY):
        raise invalid(
            f"invalid {name} {to_text(price)}. "
            "sub-penny increment does not fulfill minimum pricing criteria"
        )
    return price


class AlpacaDialect:
    """Answers requests of one account in Alpaca's words."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        unknown = venue.config.unknown_symbols
        self._unknown = re.compile(unknown) if unknown else None
        self._routes: dict[tuple[str, str], Callable[..., Reply]] = {
            ("POST", "/v2/orders"): self._place,
            ("GET", "/v2/orders"): self._list_orders,
            ("DELETE", "/v2/orders"): self._cancel_all,
            ("GET", "/v2/orders:by_client_order_id"): self._by_client_id,
            ("GET", "/v2/positions"): self._positions,
            ("GET", "/v2/account"): self._account,
            ("GET", "/v2/clock"): self._clock,
            ("GET", "/v2/account/activities"): self._fills,
            ("GET", "/v2/account/activities/FILL"): self._fills,
            ("GET", "/v2/stocks/quotes/latest"): self._quotes,
            ("GET", "/v2/stocks/trades/latest"): self._trades,
        }
        self._item_routes: dict[tuple[str, str], Callable[..., Reply]] = {
            ("GET", "/v2/orders/"): self._get_order,
            ("PATCH", "/v2/orders/"): self._replace,
            ("DELETE", "/v2/orders/"): self._cancel,
            ("GET", "/v2/positions/"): self._position,
            ("DELETE", "/v2/positions/"): self._close_position,
            ("GET", "/v2/assets/"): self._asset,
        }

    def handle(
        self,
        account: VenueAccount,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes,
    ) -> Reply:
        """Answer one request; every error becomes its Alpaca object."""
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
            answer = _refusal(refused)
            return Reply(answer.status, answer.body)

    # Orders

    def _place(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        order = self._venue.place(account, self._read_order(read_body(body)))
        answer = to_json(order_object(order))
        return Reply(200, answer, lambda: self._venue.activate(order))

    def _read_order(self, fields: Mapping[str, Any]) -> NewOrder:
        symbol = self._read_symbol(fields.get("symbol"))
        if fields.get("order_class") not in {None, "", "simple"}:
            raise invalid("the simulated venue takes order_class simple only")
        try:
            side = Side(str(fields.get("side")))
        except ValueError:
            raise ApiError(422, 40010001, "invalid side") from None
        try:
            order_type = OrderType(str(fields.get("type")))
        except ValueError:
            raise ApiError(422, 40010001, "invalid order type") from None
        time_in_force = _read_time_in_force(symbol, fields.get("time_in_force"))
        wanted = NewOrder(
            client_order_id=_read_client_id(fields),
            symbol=symbol,
            side=side,
            order_qty=_read_qty(symbol, fields),
            order_type=order_type,
            time_in_force=time_in_force,
            limit_price=_price(fields, "limit_price"),
            stop_price=_price(fields, "stop_price"),
        )
        _check_prices(wanted)
        return wanted

    def _read_symbol(self, symbol: object) -> str:
        if not isinstance(symbol, str) or not symbol:
            raise ApiError(422, 40010001, "symbol is required")
        if not self._known(symbol):
            raise ApiError(422, 40010001, f'could not find us_equity "{symbol[:40]}"')
        return symbol

    def _known(self, symbol: str) -> bool:
        if not SYMBOL.fullmatch(symbol):
            return False
        return self._unknown is None or not self._unknown.fullmatch(symbol)

    def _find(self, account: VenueAccount, order_id: str) -> VenueOrder:
        order = account.orders.get(order_id)
        if order is None:
            raise not_found(f"order not found for {order_id}")
        return order

    def _get_order(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        return Reply(200, to_json(order_object(self._find(account, item))))

    def _by_client_id(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        client_id = query.get("client_order_id", "")
        order = account.by_client_id.get(client_id)
        if order is None:
            raise not_found(f"order not found for {client_id}")
        return Reply(200, to_json(order_object(order)))

    def _list_orders(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        status = query.get("status", "open")
        if status not in {"open", "closed", "all"}:
            raise invalid(f"invalid status {status}")
        orders = account.open.values() if status == "open" else account.orders.values()
        chosen = [o for o in orders if status == "all" or o.open == (status == "open")]
        if "symbols" in query:
            symbols = set(query["symbols"].split(","))
            chosen = [o for o in chosen if o.symbol in symbols]
        after, until = _moment(query, "after"), _moment(query, "until")
        chosen = [o for o in chosen if after is None or o.created_at > after]
        chosen = [o for o in chosen if until is None or o.created_at < until]
        if query.get("direction", "desc") == "desc":
            chosen.reverse()
        limit = _count(query, "limit", 50, 500)
        return Reply(200, to_json([order_object(o) for o in chosen[:limit]]))

    def _cancel(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        order = self._find(account, item)
        self._venue.cancel(order)
        return Reply(204, b"", lambda: self._venue.announce("canceled", order))

    def _cancel_all(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        orders = list(account.open.values())
        for order in orders:
            self._venue.cancel(order)

        def announce() -> None:
            for order in orders:
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
            "limit_price": fields.get("limit_price") or _text(order.limit_price),
            "stop_price": fields.get("stop_price") or _text(order.stop_price),
            "client_order_id": fields.get("client_order_id"),
        }
        if not order.open:
            raise _refusal(Refused(Reason.NOT_OPEN, status=str(order.status)))
        successor = self._venue.replace(order, self._read_order(given))

        def announce() -> None:
            self._venue.announce("replaced", order)
            self._venue.activate(successor)

        return Reply(200, to_json(order_object(successor)), announce)

    # Positions and account

    def _position_object(self, account: VenueAccount, position: Position) -> dict[str, Any]:
        price = self._venue.market.listing(position.symbol).price
        value, cost = position.qty * price, position.cost
        gain = value - cost
        return {
            "asset_id": _asset_id(position.symbol),
            "symbol": position.symbol,
            "exchange": "CRYPTO" if _is_crypto(position.symbol) else "NASDAQ",
            "asset_class": "crypto" if _is_crypto(position.symbol) else "us_equity",
            "asset_marginable": True,
            "avg_entry_price": _rounded(position.avg_px),
            "qty": to_text(position.qty),
            "qty_available": to_text(position.qty),
            "side": "long" if position.qty > 0 else "short",
            "market_value": _rounded(value),
            "cost_basis": _rounded(cost),
            "unrealized_pl": _rounded(gain),
            "unrealized_plpc": to_text(round(gain / abs(cost), 8)) if cost else "0",
            "current_price": to_text(price),
            "lastday_price": to_text(price),
            "change_today": "0",
        }

    def _positions(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        held = [p for p in account.money.positions.values() if p.qty]
        return Reply(200, to_json([self._position_object(account, p) for p in held]))

    def _held(self, account: VenueAccount, symbol: str) -> Position:
        position = account.money.positions.get(symbol)
        if position is None or not position.qty:
            raise not_found("position does not exist")
        return position

    def _position(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        position = self._held(account, item)
        return Reply(200, to_json(self._position_object(account, position)))

    def _close_position(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        position = self._held(account, item)
        quantity = _number(query, "qty") or abs(position.qty)
        percentage = _number(query, "percentage")
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
            time_in_force=TimeInForce.GTC if _is_crypto(item) else TimeInForce.DAY,
        )
        order = self._venue.place(account, wanted)
        answer = to_json(order_object(order))
        return Reply(200, answer, lambda: self._venue.activate(order))

    def _account(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        money, price = account.money, self._venue.market.price
        equity = to_text(money.equity(price))
        values = [p.qty * (price(p.symbol) or p.avg_px) for p in money.positions.values()]
        answer = {
            "id": account.id,
            "account_number": f"PA{account.id[:8].upper()}",
            "status": "ACTIVE",
            "crypto_status": "ACTIVE",
            "currency": "USD",
            "cash": to_text(money.cash),
            "buying_power": _rounded(money.buying_power(price)),
            "equity": equity,
            "last_equity": to_text(self._venue.config.cash),
            "portfolio_value": equity,
            "long_market_value": to_text(sum((v for v in values if v > 0), ZERO)),
            "short_market_value": to_text(sum((v for v in values if v < 0), ZERO)),
            "multiplier": to_text(money.multiplier),
            "shorting_enabled": True,
            "trading_blocked": False,
            "transfers_blocked": False,
            "account_blocked": False,
            "trade_suspended_by_user": False,
            "created_at": account.since,
        }
        return Reply(200, to_json(answer))

    def _clock(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        now = datetime.now(UTC)
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return Reply(
            200,
            to_json(
                {
                    "timestamp": now,
                    "is_open": True,
                    "next_open": midnight,
                    "next_close": midnight,
                }
            ),
        )

    def _fills(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        after, until = _moment(query, "after"), _moment(query, "until")
        fills = [f for f in account.fills if after is None or f.at > after]
        fills = [f for f in fills if until is None or f.at < until]
        if query.get("direction", "desc") == "desc":
            fills.reverse()
        activities = [_activity(fill) for fill in fills]
        token = query.get("page_token")
        if token:
            ids = [activity["id"] for activity in activities]
            activities = activities[ids.index(token) + 1 :] if token in ids else []
        return Reply(200, to_json(activities[: _count(query, "page_size", 100, 100)]))

    # What can be traded, and at what price

    def _asset(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        if not self._known(item):
            raise not_found(f"asset not found for {item[:40]}")
        instrument = practice_instrument(item)
        crypto = _is_crypto(item)
        answer = {
            "id": _asset_id(item),
            "class": "crypto" if crypto else "us_equity",
            "exchange": "CRYPTO" if crypto else "NASDAQ",
            "symbol": item,
            "name": item,
            "status": "active",
            "tradable": True,
            "marginable": True,
            "shortable": True,
            "easy_to_borrow": True,
            "fractionable": instrument.lot < 1,
            "min_order_size": to_text(instrument.min_qty),
            "min_trade_increment": to_text(instrument.lot),
            "price_increment": to_text(instrument.tick),
        }
        return Reply(200, to_json(answer))

    def _quotes(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        stamp = datetime.now(UTC)
        quotes = {}
        for symbol in query.get("symbols", "").split(","):
            listing = self._venue.market.find(symbol)
            if listing and listing.book.bid is not None and listing.book.ask is not None:
                # Market data is written in JSON numbers; the digits are the exact ones.
                bid, ask = _Digits(listing.book.bid), _Digits(listing.book.ask)
                quotes[symbol] = {"ap": ask, "as": 1, "bp": bid, "bs": 1, "t": stamp}
        return Reply(200, to_json({"quotes": quotes}))

    def _trades(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        stamp = datetime.now(UTC)
        trades = {}
        for symbol in query.get("symbols", "").split(","):
            listing = self._venue.market.find(symbol)
            if listing:
                trades[symbol] = {"p": _Digits(listing.price), "s": 1, "t": stamp}
        return Reply(200, to_json({"trades": trades}))


def _activity(fill: Execution) -> dict[str, Any]:
    order = fill.order
    done = fill.cum_qty == order.order_qty
    return {
        "id": f"{fill.at:%Y%m%d%H%M%S}{fill.at.microsecond // 1000:03d}::{fill.exec_id}",
        "activity_type": "FILL",
        "transaction_time": fill.at,
        "type": "fill" if done else "partial_fill",
        "price": to_text(fill.last_px),
        "qty": to_text(fill.last_qty),
        "side": order.side.value,
        "symbol": order.symbol,
        "leaves_qty": to_text(order.order_qty - fill.cum_qty),
        "cum_qty": to_text(fill.cum_qty),
        "order_id": order.key,
        "order_status": OrderStatus.FILLED.value if done else OrderStatus.PARTIALLY_FILLED.value,
    }


def _read_client_id(fields: Mapping[str, Any]) -> str:
    client_id = fields.get("client_order_id")
    if client_id is None or client_id == "":
        return new_id()
    if not isinstance(client_id, str) or len(client_id) > MAX_CLIENT_ID:
        raise ApiError(
            422, 40010001, f"client_order_id must be no more than {MAX_CLIENT_ID} characters"
        )
    return client_id


def _read_time_in_force(symbol: str, value: object) -> TimeInForce:
    try:
        time_in_force = TimeInForce(str(value))
    except ValueError:
        raise invalid("invalid time_in_force") from None
    if _is_crypto(symbol) and time_in_force not in _CRYPTO_TIF:
        raise invalid("invalid crypto time_in_force")
    return time_in_force


def _read_qty(symbol: str, fields: Mapping[str, Any]) -> Decimal:
    quantity = _number(fields, "qty")
    if quantity is None:
        if fields.get("notional") is not None:
            raise invalid("the simulated venue takes qty, not notional")
        raise invalid("qty or notional is required")
    if not is_multiple(quantity, _FINEST_QTY):
        raise invalid("qty must be limited to 9 decimal places")
    lot = practice_instrument(symbol).lot
    if lot == 1 and not is_multiple(quantity, lot):
        raise ApiError(403, 40310000, f'asset "{symbol}" is not fractionable')
    if not is_multiple(quantity, lot):
        raise invalid(f"qty must be a multiple of {to_text(lot)}")
    return quantity


def _check_prices(wanted: NewOrder) -> None:
    kind = wanted.order_type
    for name, price, needed in (
        ("limit_price", wanted.limit_price, kind.needs_limit),
        ("stop_price", wanted.stop_price, kind.needs_stop),
    ):
        if needed and price is None:
            raise invalid(f"{kind} orders require {name}")
        if price is not None and not needed:
            raise invalid(f"{kind} orders must not have {name}")


def _moment(query: Mapping[str, str], name: str) -> datetime | None:
    text = query.get(name)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"invalid {name}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _count(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= most:
        raise invalid(f"{name} must be between 1 and {most}")
    return int(text)
