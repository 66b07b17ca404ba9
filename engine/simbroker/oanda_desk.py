"""How the venue's OANDA dialect carries orders out: into the book, and back as fills, trades and their exits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from engine.model.enums import OrderType, Side, TimeInForce
from engine.model.numbers import ZERO, parse_decimal, to_text
from engine.simbroker.oanda_ledger import (
    SimLedger,
    SimOrder,
    Trade,
    money_text,
    price_text,
    stamp,
)
from engine.simbroker.oanda_requests import EXITS, SHOWN, Refusal
from engine.simbroker.venue import Execution, NewOrder, Reason, Refused, Venue, VenueOrder

TRAIL_S = 0.02
"""How often trailing stops are drawn after the market."""


class Desk:
    """Works the orders of every account. ``halted``: instruments whose market is halted."""

    def __init__(self, venue: Venue, ledgers: Mapping[str, SimLedger]) -> None:
        self._venue = venue
        self._ledgers = ledgers
        self._trailing: asyncio.TimerHandle | None = None
        self.halted: set[str] = set()

    def told(self, event: str, order: VenueOrder, execution: Execution | None) -> None:
        """Write what the book did to an order into its account's ledger."""
        ledger = self._ledgers.get(order.account.key_id)
        known = ledger.by_key.get(order.key) if ledger is not None else None
        if ledger is None or known is None:
            return
        if execution is not None:
            self.fill(ledger, known, order, execution)
        elif event == "canceled":
            self.end(ledger, known, _why_unfilled(known, order))
        elif event == "expired":
            self.end(ledger, known, "TIME_IN_FORCE_EXPIRED")
        ledger.tell()

    def create(
        self,
        ledger: SimLedger,
        kind: str,
        fields: Mapping[str, Any],
        wanted: NewOrder,
        **more: Any,
    ) -> dict[str, Any]:
        """Write the order's transaction, then let it into the book, where it may fill at once: one batch."""
        with ledger.batch():
            return self._create(ledger, kind, fields, wanted, more)

    def _create(
        self,
        ledger: SimLedger,
        kind: str,
        fields: Mapping[str, Any],
        wanted: NewOrder,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        shown = {name: fields[name] for name in SHOWN if fields.get(name) is not None}
        if wanted.limit_price is not None and kind == "LIMIT":
            shown["price"] = price_text(wanted.symbol, wanted.limit_price)
        elif wanted.stop_price is not None:
            shown["price"] = price_text(wanted.symbol, wanted.stop_price)
        reason = {"reason": "CLIENT_ORDER", "triggerCondition": "DEFAULT", **more}
        now = self._venue.now()
        created = ledger.add(f"{kind}_ORDER", now, **shown, **reason)
        order = SimOrder(created["id"], kind, shown, now)
        if "replacesOrderID" in more:
            order.more["replacesOrderID"] = more["replacesOrderID"]
        ledger.orders[order.id] = ledger.pending[order.id] = order
        refusal = self._refusal(ledger, order, wanted)
        if not refusal:
            refusal = self._enter(ledger, order, self._capped(ledger, order, wanted))
        if refusal:
            self.end(ledger, order, refusal)
        return created

    def _refusal(self, ledger: SimLedger, order: SimOrder, wanted: NewOrder) -> str:
        """Say why an order that was just created ends at once."""
        if order.kind != "MARKET":
            return ""
        if wanted.symbol in self.halted:
            return "MARKET_HALTED"
        if order.asked.get("positionFill") == "REDUCE_ONLY":
            held = any(True for _ in ledger.opposite(wanted.symbol, wanted.side))
            return "" if held else "POSITION_CLOSEOUT_FAILED"
        trade_id = (order.asked.get("tradeClientExtensions") or {}).get("id")
        taken = any((trade.client or {}).get("id") == trade_id for trade in ledger.trades.values())
        return "CLIENT_TRADE_ID_ALREADY_EXISTS" if trade_id and taken else ""

    def _capped(self, ledger: SimLedger, order: SimOrder, wanted: NewOrder) -> NewOrder:
        """Return what a market order may fill: one that only reduces, no more than there is."""
        if order.kind != "MARKET" or order.asked.get("positionFill") != "REDUCE_ONLY":
            return wanted
        there = sum((abs(t.units) for t in ledger.opposite(wanted.symbol, wanted.side)), ZERO)
        return replace(wanted, order_qty=min(wanted.order_qty, there))

    def _enter(self, ledger: SimLedger, order: SimOrder, wanted: NewOrder) -> str:
        try:
            venue_order = self._venue.place(ledger.account, wanted)
        except Refused as refused:
            if refused.reason is not Reason.DUPLICATE:
                return "INSUFFICIENT_MARGIN"
            # A fault: it is placed, and refused as if it had been before.
            (*_, placed) = ledger.account.named(wanted.client_order_id)
            ledger.by_key[placed.key] = order
            order.venue_order = placed
            raise Refusal("CLIENT_ORDER_ID_ALREADY_EXISTS") from None
        order.venue_order = venue_order
        ledger.by_key[venue_order.key] = order
        self._venue.activate(venue_order)
        return ""

    def take_out(self, ledger: SimLedger, order: SimOrder) -> None:
        """Take a pending order out of the book; the book may be through with it already."""
        venue_order = order.venue_order
        if venue_order is not None:
            ledger.by_key.pop(venue_order.key, None)
            if venue_order.open:
                self._venue.cancel(venue_order)

    def end(self, ledger: SimLedger, order: SimOrder, reason: str, **more: str) -> None:
        """Write that a pending order is cancelled, and why."""
        now = self._venue.now()
        canceled = ledger.add(
            "ORDER_CANCEL",
            now,
            orderID=order.id,
            clientOrderID=order.client_id or None,
            reason=reason,
            **more,
        )
        order.state, order.ended_at = "CANCELLED", now
        order.more |= {
            "cancellingTransactionID": canceled["id"],
            "cancelledTime": stamp(now),
            **more,
        }
        ledger.pending.pop(order.id, None)

    def fill(
        self, ledger: SimLedger, order: SimOrder, venue_order: VenueOrder, execution: Execution
    ) -> None:
        """Write a fill, and do what it causes to trades and to the exits that hang on them."""
        with ledger.batch():
            self._fill(ledger, order, venue_order, execution)

    def _fill(
        self, ledger: SimLedger, order: SimOrder, venue_order: VenueOrder, execution: Execution
    ) -> None:
        symbol, side, price = venue_order.symbol, venue_order.side, execution.last_px
        trades = [order.trade] if order.trade is not None else ledger.opposite(symbol, side)
        left, closed, reduced = execution.last_qty, [], None
        pl = ZERO
        for trade in trades:
            part = min(left, abs(trade.units))
            if not part:
                continue
            left -= part
            gain = -side.sign * part * (price - trade.price)
            pl += gain
            told = {
                "tradeID": trade.id,
                "units": to_text(part * side.sign),
                "price": price_text(symbol, price),
                "realizedPL": money_text(gain),
                "financing": "0.0000",
            }
            trade.units += part * side.sign
            if trade.units:
                reduced = told
            else:
                closed.append((trade, told))
                del ledger.trades[trade.id]
        ledger.realised += pl
        opened = self._open(ledger, order, symbol, left * side.sign, price) if left else None
        filled = ledger.add(
            "ORDER_FILL",
            execution.at,
            orderID=order.id,
            clientOrderID=order.client_id or None,
            instrument=symbol,
            units=to_text(execution.last_qty * side.sign),
            price=price_text(symbol, price),
            fullVWAP=price_text(symbol, price),
            reason="MARKET_ORDER" if order.kind == "MARKET" else f"{order.kind}_ORDER",
            pl=money_text(pl),
            financing="0.0000",
            commission="0.0000",
            accountBalance=money_text(self._venue.config.cash + ledger.realised),
            tradeOpened=opened,
            tradesClosed=[told for _, told in closed] or None,
            tradeReduced=reduced,
        )
        order.more |= {"fillingTransactionID": filled["id"], "filledTime": stamp(execution.at)}
        if venue_order.cum_qty >= venue_order.order_qty:
            order.state, order.ended_at = "FILLED", execution.at
            ledger.pending.pop(order.id, None)
        self._follow_up(ledger, order, [trade for trade, _ in closed], reduced, filled["id"])

    def _open(
        self, ledger: SimLedger, order: SimOrder, symbol: str, units: Decimal, price: Decimal
    ) -> dict[str, Any]:
        client = order.asked.get("tradeClientExtensions")
        trade = Trade(ledger.next_id, symbol, units, price, self._venue.now(), client)
        ledger.trades[trade.id] = trade
        opened = {"tradeID": trade.id, "units": to_text(units), "price": price_text(symbol, price)}
        return opened | ({"clientExtensions": client} if client else {})

    def _follow_up(
        self,
        ledger: SimLedger,
        order: SimOrder,
        closed: list[Trade],
        reduced: Mapping[str, str] | None,
        fill_id: str,
    ) -> None:
        """Do what a fill causes: exits of closed trades end, those of reduced ones shrink, new ones begin."""
        for trade in closed:
            for exit_order in trade.exits.values():
                if exit_order.id in ledger.pending:
                    self.take_out(ledger, exit_order)
                    self.end(ledger, exit_order, "LINKED_TRADE_CLOSED")
        if reduced is not None:
            trade = ledger.trades[reduced["tradeID"]]
            for exit_order in trade.exits.values():
                if exit_order.id in ledger.pending and exit_order is not order:
                    self._work_exit(ledger, exit_order, trade)
        trade_opened = ledger.trades.get(fill_id)
        if trade_opened is not None:
            for name, kind in EXITS.items():
                details = order.asked.get(name)
                if details is not None and trade_opened.id in ledger.trades:
                    self._begin_exit(ledger, trade_opened, kind, details)

    def _begin_exit(
        self, ledger: SimLedger, trade: Trade, kind: str, details: Mapping[str, Any]
    ) -> None:
        trailing = kind == "TRAILING_STOP_LOSS"
        value = parse_decimal(str(details["distance" if trailing else "price"]))
        asked = {"distance" if trailing else "price": price_text(trade.instrument, value)}
        fill = {"reason": "ON_FILL", "orderFillTransactionID": trade.id}
        order = self._write_exit(ledger, trade, kind, asked, details, fill)
        if trailing:
            order.distance = value
            order.stop = trade.price - value if trade.units > 0 else trade.price + value
        self._work_exit(ledger, order, trade)
        if trailing and self._trailing is None:
            self._trailing = asyncio.get_running_loop().call_later(TRAIL_S, self._trail)

    def move_exit(
        self,
        ledger: SimLedger,
        old: SimOrder,
        price: Decimal,
        details: Mapping[str, Any],
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write and work the exit that takes the place of ``old``."""
        trade = old.trade
        assert trade is not None
        asked = {"price": price_text(trade.instrument, price)}
        order = self._write_exit(ledger, trade, old.kind, asked, details, more)
        order.more["replacesOrderID"] = old.id
        created = ledger.transactions[-1]
        self._work_exit(ledger, order, trade)
        return created

    def _write_exit(
        self,
        ledger: SimLedger,
        trade: Trade,
        kind: str,
        asked: Mapping[str, Any],
        details: Mapping[str, Any],
        more: Mapping[str, Any],
    ) -> SimOrder:
        shown = {"tradeID": trade.id, "timeInForce": details.get("timeInForce", "GTC"), **asked}
        if trade.client:
            shown["clientTradeID"] = trade.client.get("id")
        if details.get("clientExtensions"):
            shown["clientExtensions"] = details["clientExtensions"]
        now = self._venue.now()
        created = ledger.add(f"{kind}_ORDER", now, **shown, **more)
        order = SimOrder(created["id"], kind, shown, now)
        order.trade = trade
        ledger.orders[order.id] = ledger.pending[order.id] = trade.exits[kind] = order
        return order

    def _work_exit(self, ledger: SimLedger, order: SimOrder, trade: Trade) -> None:
        """Put an exit into the book for what is left of its trade, in the place of what was there."""
        self.take_out(ledger, order)
        price = order.stop or parse_decimal(order.asked["price"])
        target = order.kind == "TAKE_PROFIT"
        wanted = NewOrder(
            client_order_id=order.client_id,
            symbol=trade.instrument,
            side=Side.SELL if trade.units > 0 else Side.BUY,
            order_qty=abs(trade.units),
            order_type=OrderType.LIMIT if target else OrderType.STOP,
            time_in_force=TimeInForce.GTC,
            limit_price=price if target else None,
            stop_price=None if target else price,
        )
        refusal = self._enter(ledger, order, wanted)
        if refusal:
            self.end(ledger, order, refusal)

    def _trail(self) -> None:
        """Draw trailing stops after the market; ends with the last of them."""
        self._trailing = None
        again = False
        for ledger in self._ledgers.values():
            for order in list(ledger.pending.values()):
                trade = order.trade
                if order.distance is None or order.stop is None or trade is None:
                    continue
                again = True
                price = self._venue.market.listing(trade.instrument).price
                long = trade.units > 0
                stop = price - order.distance if long else price + order.distance
                if (stop > order.stop) if long else (stop < order.stop):
                    order.stop = stop
                    self._work_exit(ledger, order, trade)
        if again:
            self._trailing = asyncio.get_running_loop().call_later(TRAIL_S, self._trail)


def _why_unfilled(order: SimOrder, venue_order: VenueOrder) -> str:
    """Say why the book ended an order: it could not fill at once, or not within its bound."""
    if venue_order.order_type is OrderType.STOP_LIMIT:
        return "BOUNDS_VIOLATION"
    if order.kind == "MARKET" and not venue_order.cum_qty:
        return "INSUFFICIENT_LIQUIDITY"
    return "TIME_IN_FORCE_EXPIRED"
