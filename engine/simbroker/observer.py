"""The observer's view of the simulated venue: ``/sim/…``, no key needed, whatever the dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from engine.errors import ConfigError
from engine.model.numbers import parse_decimal, to_text
from engine.simbroker.http import Answer, head
from engine.simbroker.venue import VenueAccount, VenueOrder

if TYPE_CHECKING:
    from engine.simbroker.server import SimBroker

_NUMBERS = frozenset({"latency_ms", "latency_jitter_ms", "fill_delay_ms", "volatility"})


class Observer:
    """Answers the observer.

    ``GET /sim/log?after=N`` (rows), ``/sim/orders``, ``/sim/accounts``, ``/sim/summary``;
    ``POST /sim/price`` ``{"AAPL": "190.1"}`` puts and holds a price (``null`` lets it go);
    ``POST /sim/config``; ``POST /sim/faults`` (a list); ``POST /sim/disconnect`` cuts every
    connection, or with ``{"streams": true}`` the order streams only; ``POST /sim/pause``
    ``{"seconds": 2}`` takes bytes and answers nothing meanwhile, nobody, this observer included.
    """

    def __init__(self, broker: SimBroker) -> None:
        self._broker = broker
        self._views: dict[tuple[str, str], Callable[[Mapping[str, str], bytes], Any]] = {
            ("GET", "/sim/log"): self._log,
            ("GET", "/sim/orders"): self._orders,
            ("GET", "/sim/accounts"): self._accounts,
            ("GET", "/sim/summary"): lambda query, body: self.summary(),
            ("POST", "/sim/price"): self._price,
            ("POST", "/sim/config"): self._config,
            ("POST", "/sim/faults"): self._faults,
            ("POST", "/sim/disconnect"): self._disconnect,
            ("POST", "/sim/pause"): self._pause,
        }

    def answer(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Answer:
        """Answer one request; what cannot be read is a 422."""
        view = self._views.get((method, path))
        status, answer = 200, None
        try:
            if view is None:
                status, answer = 404, {"message": f"no such view: {method} {path}"}
            else:
                answer = view(query, body)
        except (ConfigError, ValueError) as error:
            status, answer = 422, {"message": str(error)}
        payload = orjson.dumps(answer, option=orjson.OPT_UTC_Z)
        return Answer(head(status, len(payload)) + payload)

    def summary(self) -> dict[str, Any]:
        """Return the counts and every account's positions and cash."""
        broker = self._broker
        accounts = broker.venue.accounts.values()
        return {
            "requests": broker.log.total,
            "orders": broker.venue.order_count,
            "distinct_client_order_ids": sum(len(account.by_client_id) for account in accounts),
            "open_orders": sum(len(account.open) for account in accounts),
            "fills": broker.venue.fill_count,
            "accounts": {account.key_id: self._money(account) for account in accounts},
        }

    def _money(self, account: VenueAccount) -> dict[str, Any]:
        money, price = account.money, self._broker.venue.market.price
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

    def _log(self, query: Mapping[str, str], body: bytes) -> Any:
        return [row.as_dict() for row in self._broker.log.rows(int(query.get("after", "0")))]

    def _orders(self, query: Mapping[str, str], body: bytes) -> Any:
        return [
            order_row(order)
            for account in self._broker.venue.accounts.values()
            for order in (*account.orders.values(), *account.hidden.values())
        ]

    def _accounts(self, query: Mapping[str, str], body: bytes) -> Any:
        accounts = self._broker.venue.accounts.values()
        return [{"key_id": account.key_id, **self._money(account)} for account in accounts]

    def _price(self, query: Mapping[str, str], body: bytes) -> Any:
        market = self._broker.venue.market
        given = _object(body)
        prices = {s: None if p is None else parse_decimal(str(p)) for s, p in given.items()}
        if any(price is not None and not price for price in prices.values()):
            raise ValueError("a price must be above zero")
        for symbol, price in prices.items():
            market.pin(symbol, price)
        return {symbol: str(market.price(symbol)) for symbol in prices}

    def _config(self, query: Mapping[str, str], body: bytes) -> Any:
        changes = {name: _setting(name, value) for name, value in _object(body).items()}
        for name, value in changes.items():
            if name == "max_fill_qty":
                self._broker.venue.market.limit_fills(value)
            else:
                setattr(self._broker.config, name, value)
        return {name: str(value) for name, value in changes.items()}

    def _faults(self, query: Mapping[str, str], body: bytes) -> Any:
        specs = orjson.loads(body)
        if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
            raise ValueError("expected a list of faults")
        self._broker.faults.replace(specs)
        return {"faults": len(specs)}

    def _disconnect(self, query: Mapping[str, str], body: bytes) -> Any:
        only_streams = bool(body) and bool(_object(body).get("streams"))
        return {"disconnected": self._broker.disconnect(only_streams=only_streams)}

    def _pause(self, query: Mapping[str, str], body: bytes) -> Any:
        seconds = _object(body).get("seconds")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds <= 0:
            raise ValueError("seconds must be a number above zero")
        # Once this answer is away.
        asyncio.get_running_loop().call_soon(self._broker.pause, float(seconds))
        return {"paused_s": seconds}


def order_row(order: VenueOrder) -> dict[str, Any]:
    """Return an order as the observer sees it, the same for every dialect."""
    return {
        "key_id": order.account.key_id,
        "id": order.key,
        "client_order_id": order.client_order_id,
        "symbol": order.symbol,
        "side": order.side.value,
        "type": order.order_type.value,
        "order_type": order.order_type.value,
        "time_in_force": order.time_in_force.value,
        "qty": to_text(order.order_qty),
        "filled_qty": to_text(order.cum_qty),
        "filled_avg_price": _text(round(order.avg_px, 12)) if order.cum_qty else None,
        "limit_price": _text(order.limit_price),
        "stop_price": _text(order.stop_price),
        "trail_percent": _text(order.trail_percent),
        "status": order_status(order),
        "leg": order.leg or None,
        "parent": order.parent.key if order.parent else None,
        "replaces": order.replaces or None,
        "replaced_by": order.replaced_by or None,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
        "filled_at": order.filled_at,
        "canceled_at": order.canceled_at,
        "expired_at": order.expired_at,
        "replaced_at": order.replaced_at,
    }


def order_status(order: VenueOrder) -> str:
    """Return a status in FIX's words, plus ``accepted`` (not yet told) and ``held`` (an exit)."""
    if order.status is not None:
        return order.status.value
    return "held" if order.held else "accepted"


def _text(value: Decimal | None) -> str | None:
    return None if value is None else to_text(value)


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
