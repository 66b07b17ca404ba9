"""OANDA's v20 API as the venue speaks it: routes, orders and their transactions, exits on trades.

Its quirks: a 201 that is no fill (``INSUFFICIENT_MARGIN``, ``MARKET_HALTED`` for instruments in ``halted``), client
ids unique among pending orders only and looked up among those only, every fact a numbered transaction.
What OANDA does not document is done the plain way: an order that fills in parts keeps its id.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from engine.model.enums import Side
from engine.model.numbers import ZERO, parse_decimal, to_text
from engine.simbroker.config import SimConfig
from engine.simbroker.dialect import Facts, Reply
from engine.simbroker.http import Request
from engine.simbroker.oanda_desk import Desk
from engine.simbroker.oanda_ledger import SimLedger, SimOrder
from engine.simbroker.oanda_reads import Reads, reply
from engine.simbroker.oanda_requests import (
    SHOWN,
    Problem,
    Refusal,
    kind_of,
    read_body,
    read_exit,
    read_order,
)
from engine.simbroker.streams import Stream
from engine.simbroker.venue import Execution, NewOrder, Rules, Venue, VenueOrder

_NAME = re.compile(r"[A-Z0-9]{2,16}_[A-Z0-9]{2,8}", re.ASCII)
_ACCOUNTS = "/v3/accounts/"
HEARTBEAT_S = 5.0
MOST_CONNECTS = 2
"""New connections a second from one address."""


_UNAUTHORIZED = {"errorMessage": "Insufficient authorization to perform request."}


class OandaDialect:
    """Answers requests and tells the transaction streams in OANDA's words.

    ``halted``: instruments whose market is halted. ``config.rate_limit``: requests a second from the one
    address all clients here have (OANDA's is 120); two new connections a second go with it.
    ``heartbeat_s``: seconds between a stream's heartbeats.
    """

    name = "oanda"

    def __init__(self, venue: Venue, config: SimConfig) -> None:
        self._venue = venue
        venue.rules = Rules(client_ids="open_only")
        self._config = config
        self._ledgers: dict[str, SimLedger] = {}
        self._unknown = re.compile(config.unknown_symbols) if config.unknown_symbols else None
        self._window = (0, 0)
        self._heart: asyncio.TimerHandle | None = None
        self.desk = Desk(venue, self._ledgers)
        self.heartbeat_s = HEARTBEAT_S
        self._reads = Reads(venue, config, self.desk.halted, self._known)
        self._routes: dict[tuple[str, str], Callable[..., Reply]] = {
            ("POST", "orders"): self._post_order,
            ("GET", "transactions/stream"): self._stream,
            **self._reads.routes,
        }
        self._item_routes: dict[tuple[str, str], Callable[..., Reply]] = {
            ("PUT", "orders//"): self._put_order,
            ("PUT", "orders//cancel"): self._put_cancel,
            ("PUT", "positions//close"): self._put_close,
            **self._reads.item_routes,
        }

    @property
    def halted(self) -> set[str]:
        """Return the instruments whose market is halted; add to it to halt one."""
        return self.desk.halted

    def ledger(self, account_id: str) -> SimLedger:
        """Return an account's ledger, opened on first use."""
        ledger = self._ledgers.get(account_id)
        if ledger is None:
            account, cash = self._venue.accounts[account_id], self._config.cash
            ledger = self._ledgers[account_id] = SimLedger(account, self._venue.now(), cash)
        return ledger

    # The dialect's protocol

    def facts(self, request: Request, path: str, query: Mapping[str, str]) -> Facts:
        """Read who asks for what, before anything is checked."""
        account, _, rest = path.removeprefix(_ACCOUNTS).partition("/")
        client_id = rest.partition("@")[2].partition("/")[0]
        if not request.body:
            return Facts(account, client_id)
        try:
            order = orjson.loads(request.body)["order"]
            extensions = order.get("clientExtensions") or {}
            return Facts(
                account, str(extensions.get("id") or client_id), str(order.get("instrument") or "")
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return Facts(account, client_id)

    def handle(self, request: Request, path: str, query: Mapping[str, str]) -> Reply:
        """Answer one request; every error becomes its OANDA object."""
        try:
            return self._answer(request, path, query)
        except Problem as error:
            return reply(error.status, error.body)

    def failure(self, status: int, retry_after_s: float | None = None) -> Reply:
        """Return OANDA's words for a status."""
        retry = "" if retry_after_s is None else f"Retry-After: {retry_after_s:.0f}\r\n"
        message = "Rate limit exceeded" if status == 429 else "The request could not be served"
        return Reply(status, orjson.dumps({"errorMessage": message}), headers=retry)

    def accepts_stream(self, request: Request, path: str) -> bool:
        """Refuse WebSockets: OANDA has none."""
        return False

    def stream_opened(self, stream: Stream, request: Request) -> None:
        """Nothing: no WebSocket is ever opened."""

    def stream_message(self, stream: Stream, message: bytes) -> str:
        """Nothing: no WebSocket is ever opened."""
        return ""

    def stream_closed(self, stream: Stream) -> None:
        """Forget a listener."""
        ledger = stream.tag
        if isinstance(ledger, SimLedger) and stream in ledger.streams:
            ledger.streams.remove(stream)

    def streams(self) -> list[Stream]:
        """Return every listener."""
        return [stream for ledger in self._ledgers.values() for stream in ledger.streams]

    def told(self, event: str, order: VenueOrder, execution: Execution | None) -> None:
        """Write what the book did to an order into its account's ledger."""
        self.desk.told(event, order, execution)

    # Requests

    def _answer(self, request: Request, path: str, query: Mapping[str, str]) -> Reply:
        if not path.startswith(_ACCOUNTS):
            raise Problem(404, "The requested resource does not exist")
        account_id, _, rest = path.removeprefix(_ACCOUNTS).partition("/")
        token = request.headers.get(b"authorization", b"").decode("latin-1")
        account = self._venue.login(account_id, token.removeprefix("Bearer "))
        if account is None or not token.startswith("Bearer "):
            return reply(401, _UNAUTHORIZED)
        if self._throttled(request):
            return self.failure(429)
        ledger = self.ledger(account_id)
        route, item = self._routes.get((request.method, rest)), ""
        if route is None:
            first, _, tail = rest.partition("/")
            item, _, verb = tail.partition("/")
            route = self._item_routes.get((request.method, f"{first}//{verb}"))
        if route is None:
            known = any(key[1] == rest for key in self._routes)
            raise Problem(405 if known else 404, "The requested resource does not exist")
        if request.method == "GET":
            return route(ledger, query, item)
        try:
            return route(ledger, read_body(request.body), item)
        finally:
            ledger.tell()  # which may overtake the reply, as at OANDA

    def _throttled(self, request: Request) -> bool:
        """Say whether there are too many requests a second, or new connections."""
        limit = self._config.rate_limit
        if not limit:
            return False
        if request.rank >= MOST_CONNECTS:
            return True
        second, used = self._window
        now = int(self._venue.now().timestamp())
        self._window = (now, used + 1 if second == now else 1)
        return self._window[1] > limit

    # Orders

    def _post_order(self, ledger: SimLedger, body: dict[str, Any], item: str) -> Reply:
        fields = body.get("order")
        if not isinstance(fields, dict):
            raise Problem(400, "Invalid JSON: order is missing")
        first = len(ledger.transactions)
        kind = kind_of(fields)
        try:
            wanted = read_order(ledger, kind, fields, self._known)
            created = self.desk.create(ledger, kind, fields, wanted)
        except Refusal as refusal:
            return self._rejected(ledger, kind, fields, str(refusal))
        return reply(201, {"orderCreateTransaction": created, **_happened(ledger, first)})

    def _rejected(
        self, ledger: SimLedger, kind: str, fields: Mapping[str, Any], reason: str, **more: Any
    ) -> Reply:
        shown = {name: fields[name] for name in SHOWN if fields.get(name) is not None}
        rejected = ledger.add(
            f"{kind}_ORDER_REJECT",
            self._venue.now(),
            **shown,
            reason="CLIENT_ORDER",
            rejectReason=reason,
            **more,
        )
        message = f"The order was rejected: {reason}"
        body = {"orderRejectTransaction": rejected, "errorCode": reason, "errorMessage": message}
        body |= {"relatedTransactionIDs": [rejected["id"]], "lastTransactionID": ledger.last_id}
        return reply(404 if reason == "INSTRUMENT_UNKNOWN" else 400, body)

    def _known(self, symbol: str) -> bool:
        if not _NAME.fullmatch(symbol):
            return False
        return self._unknown is None or not self._unknown.fullmatch(symbol)

    def _put_cancel(self, ledger: SimLedger, body: dict[str, Any], item: str) -> Reply:
        order = ledger.find(item)
        if order is None or order.id not in ledger.pending:
            return self._cancel_rejected(ledger, item)
        first = len(ledger.transactions)
        self.desk.take_out(ledger, order)
        self.desk.end(ledger, order, "CLIENT_REQUEST")
        return reply(200, _happened(ledger, first))

    def _cancel_rejected(self, ledger: SimLedger, spec: str) -> Reply:
        named = {"clientOrderID": spec[1:]} if spec.startswith("@") else {"orderID": spec}
        reason = "ORDER_DOESNT_EXIST"
        rejected = ledger.add(
            "ORDER_CANCEL_REJECT", self._venue.now(), **named, rejectReason=reason
        )
        body = {"orderCancelRejectTransaction": rejected, "errorCode": reason}
        body |= {"errorMessage": "The Order specified does not exist"}
        body |= {"relatedTransactionIDs": [rejected["id"]], "lastTransactionID": ledger.last_id}
        return reply(404, body)

    def _put_order(self, ledger: SimLedger, body: dict[str, Any], item: str) -> Reply:
        """Replace: the old order is cancelled and the new one created, whatever then becomes of that."""
        old, fields = ledger.find(item), body.get("order")
        if old is None or old.id not in ledger.pending:
            return self._cancel_rejected(ledger, item)
        if not isinstance(fields, dict):
            raise Problem(400, "Invalid JSON: order is missing")
        first = len(ledger.transactions)
        more = {
            "reason": "REPLACEMENT",
            "replacesOrderID": old.id,
            "cancellingTransactionID": str(first + 1),
        }
        kind = old.kind if old.trade is not None else kind_of(fields)
        try:
            wanted = (
                None if old.trade is not None else self._read_successor(ledger, old, kind, fields)
            )
            price = read_exit(old, fields) if old.trade is not None else None
        except Refusal as refusal:
            return self._rejected(
                ledger, kind, fields, str(refusal), intendedReplacesOrderID=old.id
            )
        with ledger.batch():
            self.desk.take_out(ledger, old)
            self.desk.end(ledger, old, "CLIENT_REQUEST_REPLACED", replacedByOrderID=str(first + 2))
            if wanted is not None:
                created = self.desk.create(ledger, kind, fields, wanted, **more)
            else:
                assert price is not None
                created = self.desk.move_exit(ledger, old, price, fields, more)
        later = _happened(ledger, first + 1)
        if "orderCancelTransaction" in later:
            later["replacingOrderCancelTransaction"] = later.pop("orderCancelTransaction")
        told = {
            "orderCancelTransaction": ledger.transactions[first],
            "orderCreateTransaction": created,
        }
        later["relatedTransactionIDs"] = [t["id"] for t in ledger.transactions[first:]]
        return reply(201, told | later)

    def _read_successor(
        self, ledger: SimLedger, old: SimOrder, kind: str, fields: Mapping[str, Any]
    ) -> NewOrder:
        del ledger.pending[old.id]  # its client id may be given to the new one
        try:
            return read_order(ledger, kind, fields, self._known)
        finally:
            ledger.pending[old.id] = old

    def _put_close(self, ledger: SimLedger, body: dict[str, Any], item: str) -> Reply:
        told: dict[str, Any] = {}
        first = len(ledger.transactions)
        for name, side in (("long", Side.SELL), ("short", Side.BUY)):
            asked = str(body.get(f"{name}Units", "NONE"))
            there = sum((abs(t.units) for t in ledger.opposite(item, side)), ZERO)
            if asked == "NONE" or not there:
                continue
            units = there if asked == "ALL" else min(there, parse_decimal(asked))
            fields = {
                "instrument": item,
                "units": to_text(units * side.sign),
                "timeInForce": "FOK",
                "positionFill": "REDUCE_ONLY",
                "clientExtensions": body.get(f"{name}ClientExtensions"),
            }
            began = len(ledger.transactions)
            wanted = read_order(ledger, "MARKET", fields, self._known)
            created = self.desk.create(ledger, "MARKET", fields, wanted, reason="POSITION_CLOSEOUT")
            told[f"{name}OrderCreateTransaction"] = created
            for key, value in _happened(ledger, began).items():
                if key.endswith("Transaction"):
                    told[f"{name}O{key[1:]}"] = value
        if not told:
            raise Problem(
                400, "The Position requested does not exist", "CLOSEOUT_POSITION_DOESNT_EXIST"
            )
        related = [t["id"] for t in ledger.transactions[first:]]
        return reply(
            200, told | {"relatedTransactionIDs": related, "lastTransactionID": ledger.last_id}
        )

    def _stream(self, ledger: SimLedger, query: Mapping[str, str], item: str) -> Reply:
        def opened(stream: Stream) -> None:
            stream.tag = ledger
            ledger.streams.append(stream)
            stream.send(ledger.heartbeat(self._venue.now()))
            if self._heart is None:
                loop = asyncio.get_running_loop()
                self._heart = loop.call_later(self.heartbeat_s, self._beat)

        return Reply(200, headers="content-type: application/octet-stream\r\n", stream=opened)

    def _beat(self) -> None:
        """Send every stream its heartbeat; ends with the last stream."""
        self._heart = None
        streams = self.streams()
        for stream in streams:
            stream.send(stream.tag.heartbeat(self._venue.now()))
        if streams:
            self._heart = asyncio.get_running_loop().call_later(self.heartbeat_s, self._beat)


def _happened(ledger: SimLedger, first: int) -> dict[str, Any]:
    """Return what a reply tells of the transactions from position ``first`` on."""
    names = {"ORDER_FILL": "orderFillTransaction", "ORDER_CANCEL": "orderCancelTransaction"}
    body: dict[str, Any] = {}
    for told in ledger.transactions[first:]:
        name = names.get(told["type"])
        if name is not None:
            body.setdefault(name, told)
    related = [told["id"] for told in ledger.transactions[first:]]
    return body | {"relatedTransactionIDs": related, "lastTransactionID": ledger.last_id}
