"""Binance's matching engine as the simulated venue plays it: orders, cancels, replacements, order lists."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from engine.model.enums import Side
from engine.model.identifiers import SYMBOL
from engine.model.numbers import ZERO
from engine.simbroker import binance_rows as rows
from engine.simbroker import binance_words as words
from engine.simbroker.binance_limits import Limits
from engine.simbroker.binance_rows import ApiError, OrderList, Row, Terms
from engine.simbroker.config import SimConfig
from engine.simbroker.venue import Execution, Refused, Rules, Venue, VenueAccount, VenueOrder


class BinanceOrders:
    """The trading half of the dialect; the other half authenticates, looks up and tells."""

    def __init__(self, venue: Venue, config: SimConfig) -> None:
        self._venue = venue
        venue.rules = Rules(client_ids="open_only")
        self._config = config
        self._unknown = re.compile(config.unknown_symbols) if config.unknown_symbols else None
        self._rows: dict[int, Row] = {}
        self._by_order: dict[str, Row] = {}
        self._by_client: dict[tuple[str, str], Row] = {}
        self._trade_ids: dict[str, int] = {}
        self._events = self._lists = 0
        self._limits = Limits(venue, config)

    def _now(self) -> int:
        return rows.milliseconds(self._venue.now())

    def _tell(self, account: VenueAccount, event: dict[str, Any]) -> None:
        """Tell the streams of an account."""
        raise NotImplementedError

    # Requests

    def _symbol(self, fields: Mapping[str, str]) -> str:
        symbol = fields.get("symbol", "")
        if not symbol:
            raise rows.mandatory("symbol")
        if not self._known(symbol):
            raise ApiError(-1121, "Invalid symbol.")
        return symbol

    def _known(self, symbol: str) -> bool:
        if not SYMBOL.fullmatch(symbol):
            return False
        return self._unknown is None or not self._unknown.fullmatch(symbol)

    def _last(self, symbol: str) -> Decimal:
        return self._venue.market.listing(symbol).price

    def _terms(
        self, fields: Mapping[str, str], *, prefix: str = "", side: str = "side", qty: str = ""
    ) -> Terms:
        symbol = self._symbol(fields)
        qty = qty or "quantity"
        if not fields.get(qty):
            raise rows.mandatory(qty)
        terms = Terms(fields, symbol, prefix, fields.get(side, ""), qty)
        hint = terms.wanted.limit_price or terms.wanted.stop_price
        terms.check_notional(self._venue.market.listing(symbol, hint).price)
        return terms

    def _row(self, account: VenueAccount, terms: Terms, in_list: OrderList | None = None) -> Row:
        """Number an order; its client id must not belong to an open one."""
        client_id = terms.wanted.client_order_id or secrets.token_urlsafe(16)[:22]
        terms.wanted = replace(terms.wanted, client_order_id=client_id)
        other = self._by_client.get((account.key_id, client_id))
        if other is not None and other.open:
            raise rows.rejected("Duplicate order sent.")
        row = Row(len(self._rows) + 1, account, terms, self._venue.now())
        row.in_list = in_list
        self._rows[row.order_id] = row
        self._by_client[account.key_id, client_id] = row
        return row

    def _enter(self, row: Row) -> None:
        """Put an order into the market and let it match."""
        account, wanted = row.account, row.wanted
        self._check_funds(row)
        account.by_client_id.pop(wanted.client_order_id, None)  # its order is over: taken again
        try:
            order = self._venue.place(account, wanted)
        except Refused as refused:
            if refused.placed is None:
                raise rows.rejected(rows.INSUFFICIENT) from None
            # A fault: it is placed, and refused as if its id belonged to an open order.
            row.order = refused.placed
            self._by_order[row.order.key] = row
            raise rows.rejected("Duplicate order sent.") from None
        row.order = order
        self._by_order[order.key] = row
        self._venue.activate(order)

    def _check_funds(self, row: Row) -> None:
        wanted = row.wanted
        if wanted.side is Side.BUY:
            price = wanted.limit_price or wanted.stop_price or self._last(wanted.symbol)
            power = self._balance(row.account, rows.assets_of(wanted.symbol)[1])[0]
            needed = wanted.order_qty * price
        else:
            power = self._balance(row.account, rows.assets_of(wanted.symbol)[0])[0]
            needed = wanted.order_qty
        pair = row.in_list.legs if row.in_list is not None else []
        locked = any(leg is not row and leg.order is not None for leg in pair)
        if needed > power and not locked:  # else the pair's other leg has locked it for both
            raise rows.rejected(rows.INSUFFICIENT)

    def _drop(self, row: Row) -> None:
        """Forget an order the matching engine refused."""
        if row.order is not None:
            return
        self._rows.pop(row.order_id, None)
        self._by_client.pop((row.account.key_id, row.wanted.client_order_id), None)

    def _place(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        terms = self._terms(fields)
        self._limits.order(account, 1)
        return 200, self._place_one(account, terms, fields)

    def _place_one(
        self, account: VenueAccount, terms: Terms, fields: Mapping[str, str]
    ) -> dict[str, Any]:
        terms.check_market(self._last(terms.wanted.symbol))
        row = self._row(account, terms)
        try:
            self._enter(row)
        except ApiError:
            self._drop(row)
            raise
        plain = "FULL" if row.kind in {"LIMIT", "MARKET"} else "ACK"
        return words.reply_object(row, fields.get("newOrderRespType", plain), self._trade_ids)

    def _find(
        self, account: VenueAccount, fields: Mapping[str, str], *, number: str, name: str
    ) -> Row | None:
        symbol = self._symbol(fields)
        if not fields.get(number) and not fields.get(name):
            raise ApiError(
                -1102, f"Param '{name}' or '{number}' must be sent, but both were empty/null!"
            )
        if fields.get(number):
            row = self._rows.get(int(fields[number])) if fields[number].isdigit() else None
        else:
            row = self._by_client.get((account.key_id, fields[name]))
        if row is None or row.account is not account or row.wanted.symbol != symbol:
            return None
        return row

    def _cancel(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        row = self._find(account, fields, number="orderId", name="origClientOrderId")
        return 200, self._cancel_row(row, rows.read_client_id(fields, "newClientOrderId"))

    def _cancel_row(self, row: Row | None, cancel_id: str) -> dict[str, Any]:
        if row is None or not row.open:
            raise ApiError(-2011, "Unknown order sent.")
        cancel_id = cancel_id or secrets.token_urlsafe(16)[:22]
        of = row.in_list
        members = [row] if of is None else [one for one in of.rows() if one.open]
        if of is not None:
            of.done = True  # one of its orders canceled is all of it canceled
        for one in members:
            self._end(one, "CANCELED", "NONE", cancel_id)
        told = [words.canceled_object(one, cancel_id) for one in members]
        if of is None:
            return told[0]
        self._tell(row.account, words.list_status(of, self._now()))
        return words.list_object(of, told, self._now())

    def _end(self, row: Row, status: str, reason: str, cancel_id: str = "") -> None:
        """Take an open order out and tell it."""
        row.ended, row.reason, row.updated = status, reason, self._now()
        if row.order is not None and row.order.open:
            self._venue.cancel(row.order)
        kind = "CANCELED" if status == "CANCELED" else "EXPIRED"
        self._report(row, kind, cancel_id=cancel_id)

    def _replace(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        mode = fields.get("cancelReplaceMode")
        if mode not in {"STOP_ON_FAILURE", "ALLOW_FAILURE"}:
            raise rows.mandatory("cancelReplaceMode")
        terms = self._terms(fields)
        self._limits.order(account, 1)
        old = self._find(account, fields, number="cancelOrderId", name="cancelOrigClientOrderId")
        outcome: dict[str, Any] = {"newOrderResult": "NOT_ATTEMPTED", "newOrderResponse": None}
        cancel_id = rows.read_client_id(fields, "cancelNewClientOrderId")
        outcome["cancelResult"], outcome["cancelResponse"] = _attempt(
            lambda: self._cancel_row(old, cancel_id)
        )
        if outcome["cancelResult"] == "SUCCESS" or mode == "ALLOW_FAILURE":
            outcome["newOrderResult"], outcome["newOrderResponse"] = _attempt(
                lambda: self._place_one(account, terms, fields)
            )
        well = {outcome["cancelResult"], outcome["newOrderResult"]}
        if well == {"SUCCESS"}:
            return 200, outcome
        if "SUCCESS" in well:
            raise ApiError(-2021, "Order cancel-replace partially failed.", 409, outcome)
        raise ApiError(-2022, "Order cancel-replace failed.", 400, outcome)

    # Order lists

    def _oto(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        return self._triggering(account, fields, ["pending"])

    def _otoco(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        return self._triggering(account, fields, ["pendingAbove", "pendingBelow"])

    def _triggering(
        self, account: VenueAccount, fields: Mapping[str, str], prefixes: list[str]
    ) -> tuple[int, Any]:
        if fields.get("workingType") not in {"LIMIT", "LIMIT_MAKER"}:
            raise ApiError(-1116, "Invalid orderType.")
        working = self._terms(fields, prefix="working", side="workingSide", qty="workingQuantity")
        legs = [
            self._terms(fields, prefix=prefix, side="pendingSide", qty="pendingQuantity")
            for prefix in prefixes
        ]
        if len(legs) == 2:
            _check_pair(*legs)
        self._limits.order(account, 1 + len(legs))
        working.check_market(self._last(working.wanted.symbol))
        made = self._new_list(fields, "OTO")
        made.working = self._row(account, working, made)
        try:
            made.legs = [self._row(account, leg, made) for leg in legs]
            for leg in made.legs:
                self._report(leg, "NEW")
            self._tell(account, words.list_status(made, self._now()))
            self._enter(made.working)
        except ApiError:
            for row in made.rows():
                self._drop(row)
            raise
        return 200, self._list_reply(made, fields)

    def _oco(self, account: VenueAccount, fields: Mapping[str, str]) -> tuple[int, Any]:
        legs = [self._terms(fields, prefix=prefix) for prefix in ("above", "below")]
        _check_pair(*legs)
        self._limits.order(account, 2)
        for leg in legs:
            leg.check_market(self._last(leg.wanted.symbol))
        made = self._new_list(fields, "OCO")
        pair = [self._row(account, leg, made) for leg in legs]
        self._tell(account, words.list_status(made, self._now()))
        for row in pair:
            self._enter(row)
            made.legs.append(row)
        return 200, self._list_reply(made, fields)

    def _new_list(self, fields: Mapping[str, str], contingency: str) -> OrderList:
        self._lists += 1
        client_id = rows.read_client_id(fields, "listClientOrderId")
        client_id = client_id or secrets.token_urlsafe(16)[:22]
        return OrderList(self._lists, client_id, contingency, self._symbol(fields))

    def _list_reply(self, made: OrderList, fields: Mapping[str, str]) -> dict[str, Any]:
        answer = fields.get("newOrderRespType", "RESULT")
        told = [words.reply_object(row, answer, self._trade_ids) for row in made.rows()]
        return words.list_object(made, told, self._now())

    def _advance(self, row: Row) -> None:
        """Do what an order's end or execution means for its list."""
        of = row.in_list
        if of is None or of.done:
            return
        if row is of.working:
            if row.status == "FILLED":
                self._trigger(of)
            elif not row.open:
                of.done = True
                for leg in of.legs:
                    self._end(leg, "EXPIRED", "OTO_PHASE_ONE_EXPIRED")
        elif row.cum_qty or not row.open:
            of.done = True
            for leg in of.legs:
                if leg is not row and leg.open:
                    self._end(leg, "EXPIRED", "OCO_TRIGGER")
            self._tell(row.account, words.list_status(of, self._now()))

    def _trigger(self, of: OrderList) -> None:
        for leg in of.legs:
            if not leg.open:
                continue
            try:
                leg.terms.check_market(self._last(of.symbol))
                self._enter(leg)
            except ApiError:
                self._end(leg, "EXPIRED", "REJECTED")
                self._advance(leg)

    # Balances

    def _balance(self, account: VenueAccount, asset: str) -> tuple[Decimal, Decimal]:
        """Return what of an asset is free and what working orders have locked."""
        locked, held = ZERO, ZERO
        if asset == "USDT":
            held = account.money.cash
        for symbol, position in account.money.positions.items():
            if rows.assets_of(symbol)[0] == asset:
                held += position.qty
        counted: set[int] = set()
        for order in (*account.open.values(), *account.hidden.values()):
            row = self._by_order.get(order.key)
            if row is None or (row.in_list is not None and row.in_list.id in counted):
                continue
            base, quote = rows.assets_of(order.symbol)
            left = order.order_qty - order.cum_qty
            if order.side is Side.SELL and base == asset:
                locked += left
            elif order.side is Side.BUY and quote == asset:
                price = order.limit_price or order.stop_price or self._last(order.symbol)
                locked += left * price
            else:
                continue
            if row.in_list is not None:
                counted.add(row.in_list.id)
        return held - locked, locked

    # What happens to orders

    def told(self, event: str, order: VenueOrder, execution: Execution | None) -> None:
        """Tell the order's account an event, and let its list go on."""
        row = self._by_order[order.key]
        row.updated = rows.milliseconds(self._venue.now())
        if execution is not None:
            self._trade_ids[execution.exec_id] = len(self._trade_ids) + 1
            self._report(row, "TRADE", execution)
            self._tell(row.account, self._position(row))
            if event == "fill":
                self._limits.filled(row.account)
        elif event == "new":
            self._report(row, "NEW")
        else:  # what an order could not fill at once, never a client's cancel
            row.ended = "EXPIRED"
            fok = row.terms.tif == "FOK"
            row.reason = f"UNFILLED_{'FOK_ORDER' if fok else 'IOC_QUANTITY'}_EXPIRED"
            self._report(row, "EXPIRED")
        self._advance(row)

    def _report(
        self, row: Row, kind: str, execution: Execution | None = None, cancel_id: str = ""
    ) -> None:
        self._events += 1
        fill = None if execution is None else (execution, self._trade_ids[execution.exec_id])
        at = rows.milliseconds(self._venue.now())
        told = words.execution_report(row, kind, at, self._events, fill, cancel_id)
        self._tell(row.account, told)

    def _position(self, row: Row) -> dict[str, Any]:
        balances = []
        for asset in rows.assets_of(row.wanted.symbol):
            free, locked = self._balance(row.account, asset)
            balances.append({"a": asset, "f": rows.fixed(free), "l": rows.fixed(locked)})
        now = self._now()
        return {"e": "outboundAccountPosition", "E": now, "u": now, "B": balances}


def _attempt(step: Callable[[], dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    try:
        return "SUCCESS", step()
    except ApiError as error:
        return "FAILURE", error.body


def _check_pair(above: Terms, below: Terms) -> None:
    """Check the price relation of a pair: the limit on the profit side, the stop on the other."""
    limits = [leg for leg in (above, below) if leg.kind == "LIMIT_MAKER"]
    if len(limits) == 2:
        raise ApiError(-1168, "At least one OCO order must be contingent.")
    top = above.wanted.limit_price or above.wanted.stop_price or ZERO
    bottom = below.wanted.limit_price or below.wanted.stop_price or ZERO
    if top <= bottom:
        raise rows.rejected("The relationship of the prices for the orders is not correct.")
    selling = above.wanted.side is Side.SELL
    if above.kind == "LIMIT_MAKER" and not selling:
        raise ApiError(-1165, "A limit order in a buy OCO must be below.")
    if below.kind == "LIMIT_MAKER" and selling:
        raise ApiError(-1166, "A limit order in a sell OCO must be above.")
