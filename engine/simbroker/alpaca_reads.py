"""What Alpaca answers about the account, its positions, its fills and the market."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.model.matching import practice_instrument
from engine.model.numbers import ZERO, to_text
from engine.model.position import Position
from engine.simbroker.alpaca_words import (
    Digits,
    activity_object,
    asset_id,
    is_crypto,
    not_found,
    read_count,
    read_moment,
    rounded,
    to_json,
)
from engine.simbroker.dialect import Reply
from engine.simbroker.orders import VenueAccount
from engine.simbroker.venue import Venue


class AlpacaReads:
    """Answers every request that changes nothing and asks for no order."""

    def __init__(self, venue: Venue, known: Callable[[str], bool]) -> None:
        self._venue = venue
        self._known = known
        self.routes: dict[str, Callable[..., Reply]] = {
            "/v2/positions": self._positions,
            "/v2/account": self._account,
            "/v2/clock": self._clock,
            "/v2/account/activities": self._fills,
            "/v2/account/activities/FILL": self._fills,
            "/v2/stocks/quotes/latest": self._quotes,
            "/v2/stocks/trades/latest": self._trades,
        }
        self.item_routes: dict[str, Callable[..., Reply]] = {
            "/v2/positions/": self._position,
            "/v2/assets/": self._asset,
        }

    def _position_object(self, account: VenueAccount, position: Position) -> dict[str, Any]:
        price = self._venue.market.listing(position.symbol).price
        value, cost = position.qty * price, position.cost
        gain = value - cost
        available = account.available_qty(position.symbol)
        return {
            "asset_id": asset_id(position.symbol),
            "symbol": position.symbol,
            "exchange": "CRYPTO" if is_crypto(position.symbol) else "NASDAQ",
            "asset_class": "crypto" if is_crypto(position.symbol) else "us_equity",
            "asset_marginable": True,
            "avg_entry_price": rounded(position.avg_px),
            "qty": to_text(position.qty),
            "qty_available": to_text(_sign(position) * available),
            "side": "long" if position.qty > 0 else "short",
            "market_value": rounded(value),
            "cost_basis": rounded(cost),
            "unrealized_pl": rounded(gain),
            "unrealized_plpc": to_text(round(gain / abs(cost), 8)) if cost else "0",
            "current_price": to_text(price),
            "lastday_price": to_text(price),
            "change_today": "0",
        }

    def _positions(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        held = [p for p in account.money.positions.values() if p.qty]
        return Reply(200, to_json([self._position_object(account, p) for p in held]))

    def held(self, account: VenueAccount, symbol: str) -> Position:
        """Return an open position.

        Raises:
            ApiError: there is none.
        """
        position = account.money.positions.get(symbol)
        if position is None or not position.qty:
            raise not_found("position does not exist")
        return position

    def _position(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        position = self.held(account, item)
        return Reply(200, to_json(self._position_object(account, position)))

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
            "buying_power": rounded(money.buying_power(price)),
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
        now = self._venue.now()
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
        after, until = read_moment(query, "after"), read_moment(query, "until")
        fills = [f for f in account.fills if after is None or f.at > after]
        fills = [f for f in fills if until is None or f.at < until]
        if query.get("direction", "desc") == "desc":
            fills.reverse()
        activities = [activity_object(fill) for fill in fills]
        token = query.get("page_token")
        if token:
            ids = [activity["id"] for activity in activities]
            activities = activities[ids.index(token) + 1 :] if token in ids else []
        return Reply(200, to_json(activities[: read_count(query, "page_size", 100, 100)]))

    # What can be traded, and at what price

    def _asset(
        self, account: VenueAccount, item: str, query: Mapping[str, str], body: bytes
    ) -> Reply:
        if not self._known(item):
            raise not_found(f"asset not found for {item[:40]}")
        instrument = practice_instrument(item)
        crypto = is_crypto(item)
        answer = {
            "id": asset_id(item),
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
                bid, ask = Digits(listing.book.bid), Digits(listing.book.ask)
                quotes[symbol] = {"ap": ask, "as": 1, "bp": bid, "bs": 1, "t": stamp}
        return Reply(200, to_json({"quotes": quotes}))

    def _trades(self, account: VenueAccount, query: Mapping[str, str], body: bytes) -> Reply:
        stamp = datetime.now(UTC)
        trades = {}
        for symbol in query.get("symbols", "").split(","):
            listing = self._venue.market.find(symbol)
            if listing:
                trades[symbol] = {"p": Digits(listing.price), "s": 1, "t": stamp}
        return Reply(200, to_json({"trades": trades}))


def _sign(position: Position) -> int:
    return 1 if position.qty > 0 else -1
