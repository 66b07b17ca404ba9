"""What can be read of the venue's OANDA dialect: orders, trades, positions, money, prices, transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from engine.model.numbers import ZERO, to_text
from engine.simbroker.config import SimConfig
from engine.simbroker.dialect import Reply
from engine.simbroker.oanda_ledger import SimLedger, digits_of, money_text, price_text, stamp
from engine.simbroker.oanda_requests import MOST_UNITS, Problem, moment_of, number_of
from engine.simbroker.venue import Venue

_LISTED = (
    "EUR_USD", "GBP_USD", "USD_JPY", "USD_CHF", "AUD_USD", "USD_CAD", "NZD_USD", "EUR_GBP", "EUR_JPY",
    "XAU_USD", "SPX500_USD",
)  # fmt: skip
_PAGES_AT = "https://api-fxpractice.oanda.com/v3/accounts/"


def reply(status: int, body: Mapping[str, Any]) -> Reply:
    """Write a reply."""
    return Reply(status, orjson.dumps(body))


class Reads:
    """Answers every ``GET`` that ends; ``known`` says whether there is such an instrument."""

    def __init__(
        self, venue: Venue, config: SimConfig, halted: set[str], known: Callable[[str], bool]
    ) -> None:
        self._venue = venue
        self._config = config
        self._halted = halted
        self._known = known
        self.routes: dict[tuple[str, str], Callable[..., Reply]] = {
            ("GET", "orders"): self._list_orders,
            ("GET", "pendingOrders"): self._pending,
            ("GET", "openPositions"): self._open_positions,
            ("GET", "openTrades"): self._open_trades,
            ("GET", "summary"): self._summary,
            ("GET", "instruments"): self._instruments,
            ("GET", "pricing"): self._pricing,
            ("GET", "changes"): self._changes,
            ("GET", "transactions"): self._pages,
            ("GET", "transactions/sinceid"): self._since,
            ("GET", "transactions/idrange"): self._range,
        }
        self.item_routes: dict[tuple[str, str], Callable[..., Reply]] = {
            ("GET", "orders//"): self._get_order,
            ("GET", "transactions//"): self._get_transaction,
        }

    def _list_orders(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        state, count = query.get("state", "PENDING"), int(query.get("count", "50"))
        if not 0 < count <= 500:
            raise Problem(400, "Invalid value specified for 'count'")
        before = int(query.get("beforeID", str(ledger.shown + 1)))
        wanted = set(query["ids"].split(",")) if "ids" in query else None
        found = [
            order.as_dict()
            for order in ledger.seen(ledger.orders)
            if state in {"ALL", order.state}
            and int(order.id) <= before
            and (wanted is None or order.id in wanted)
            and query.get("instrument") in {None, order.asked.get("instrument")}
        ]
        return reply(200, {"orders": found[:count], "lastTransactionID": ledger.shown_id})

    def _pending(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        orders = [order.as_dict() for order in ledger.seen(ledger.pending)]
        return reply(200, {"orders": orders, "lastTransactionID": ledger.shown_id})

    def _open_trades(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        trades = [
            trade.as_dict(self._venue.market.listing(trade.instrument).price)
            for trade in reversed(ledger.trades.values())
        ]
        return reply(200, {"trades": trades, "lastTransactionID": ledger.shown_id})

    def _open_positions(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        names = dict.fromkeys(trade.instrument for trade in ledger.trades.values())
        positions = [self._position(ledger, name) for name in names]
        return reply(200, {"positions": positions, "lastTransactionID": ledger.shown_id})

    def _position(self, ledger: SimLedger, name: str) -> dict[str, Any]:
        price = self._venue.market.listing(name).price
        shown: dict[str, Any] = {"instrument": name}
        for side, sign in (("long", 1), ("short", -1)):
            trades = [
                t for t in ledger.trades.values() if t.instrument == name and t.units * sign > 0
            ]
            units = sum((trade.units for trade in trades), ZERO)
            told: dict[str, Any] = {"units": to_text(units), "unrealizedPL": "0.0000"}
            if units:
                cost = sum((trade.units * trade.price for trade in trades), ZERO)
                told["averagePrice"] = to_text(round(cost / units, 12))
                told["tradeIDs"] = [trade.id for trade in trades]
                told["unrealizedPL"] = money_text(units * price - cost)
            shown[side] = told
        return shown

    def _account(self, ledger: SimLedger) -> dict[str, Any]:
        unrealised = used = ZERO
        for trade in ledger.trades.values():
            price = self._venue.market.listing(trade.instrument).price
            unrealised += trade.units * (price - trade.price)
            used += abs(trade.units) * price / self._config.margin
        balance = self._config.cash + ledger.realised
        return {
            "unrealizedPL": money_text(unrealised),
            "NAV": money_text(balance + unrealised),
            "marginUsed": money_text(used),
            "marginAvailable": money_text(max(ZERO, balance + unrealised - used)),
            "balance": money_text(balance),
        }

    def _summary(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        account = {
            "id": ledger.account.key_id,
            "currency": "USD",
            "createdTime": stamp(ledger.account.since),
            "hedgingEnabled": False,
            "marginRate": to_text(round(1 / self._config.margin, 12)),
            "openTradeCount": len(ledger.trades),
            "pendingOrderCount": len(ledger.pending),
            "pl": money_text(ledger.realised),
            **self._account(ledger),
            "lastTransactionID": ledger.shown_id,
        }
        return reply(200, {"account": account, "lastTransactionID": ledger.shown_id})

    def _instruments(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        names = self._names(query) if "instruments" in query else list(_LISTED)
        shown = [
            {
                "name": name,
                "type": "CURRENCY",
                "displayName": name.replace("_", "/"),
                "pipLocation": 1 - digits_of(name),
                "displayPrecision": digits_of(name),
                "tradeUnitsPrecision": 0,
                "minimumTradeSize": "1",
                "maximumOrderUnits": to_text(MOST_UNITS),
                "marginRate": to_text(round(1 / self._config.margin, 12)),
            }
            for name in names
        ]
        return reply(200, {"instruments": shown, "lastTransactionID": ledger.shown_id})

    def _names(self, query: Mapping[str, str]) -> list[str]:
        names = [name for name in query.get("instruments", "").split(",") if name]
        if not names or not all(self._known(name) for name in names):
            raise Problem(400, "Invalid value specified for 'instruments'")
        return names

    def _pricing(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        now = stamp(self._venue.now())
        shown = []
        for name in self._names(query):
            book = self._venue.market.listing(name).book
            bid, ask = (price_text(name, p or ZERO) for p in (book.bid, book.ask))
            open_now = name not in self._halted
            shown.append(
                {
                    "type": "PRICE",
                    "instrument": name,
                    "time": now,
                    "tradeable": open_now,
                    "status": "tradeable" if open_now else "non-tradeable",
                    "bids": [{"price": bid, "liquidity": 10_000_000}],
                    "asks": [{"price": ask, "liquidity": 10_000_000}],
                    "closeoutBid": bid,
                    "closeoutAsk": ask,
                }
            )
        return reply(200, {"prices": shown, "time": now})

    def _get_transaction(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        number = number_of(item)
        if not 0 < number <= ledger.shown:
            raise Problem(404, "The transaction does not exist", "NO_SUCH_TRANSACTION")
        told = ledger.transactions[number - 1]
        return reply(200, {"transaction": told, "lastTransactionID": ledger.shown_id})

    def _start(self, ledger: SimLedger, text: str | None) -> int:
        number = number_of(text)
        if not 0 <= number <= ledger.shown:
            raise Problem(416, "The transaction ID is out of range", "INVALID_RANGE")
        return number

    def _since(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        told = ledger.since(self._start(ledger, query.get("id")))
        return reply(200, {"transactions": told, "lastTransactionID": ledger.shown_id})

    def _changes(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        start = self._start(ledger, query.get("sinceTransactionID"))
        told = ledger.transactions[start : ledger.shown]
        created = [ledger.orders[t["id"]].as_dict() for t in told if t["id"] in ledger.orders]
        changes = {"ordersCreated": created, "transactions": told}
        state = self._account(ledger)
        return reply(
            200, {"changes": changes, "state": state, "lastTransactionID": ledger.shown_id}
        )

    def _pages(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        size = int(query.get("pageSize", "100"))
        if not 0 < size <= 1000:
            raise Problem(400, "Invalid value specified for 'pageSize'")
        start = moment_of(query.get("from"))
        ids = [
            int(t["id"])
            for t in ledger.transactions[: ledger.shown]
            if start is None or datetime.fromisoformat(t["time"]) >= start
        ]
        kinds = f"&type={query['type']}" if query.get("type") else ""
        where = f"{_PAGES_AT}{ledger.account.key_id}/transactions"
        pages = [
            f"{where}/idrange?from={ids[n]}&to={ids[min(n + size, len(ids)) - 1]}{kinds}"
            for n in range(0, len(ids), size)
        ]
        body = {"count": len(ids), "pageSize": size, "pages": pages}
        return reply(200, body | {"lastTransactionID": ledger.shown_id})

    def _range(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        first, last = number_of(query.get("from")), number_of(query.get("to"))
        if not 0 < first <= last <= ledger.shown or last - first >= 1000:
            raise Problem(400, "Invalid value specified for 'from'")
        kinds = set(query["type"].split(",")) if query.get("type") else None
        told = [
            t for t in ledger.transactions[first - 1 : last] if kinds is None or t["type"] in kinds
        ]
        return reply(200, {"transactions": told, "lastTransactionID": ledger.shown_id})

    def _get_order(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        order = ledger.find(item, shown=True)
        if order is None:
            message = "The order ID specified does not exist"
            body = {"errorMessage": message, "errorCode": "NO_SUCH_ORDER"}
            return reply(404, body | {"lastTransactionID": ledger.shown_id})
        return reply(200, {"order": order.as_dict(), "lastTransactionID": ledger.shown_id})
