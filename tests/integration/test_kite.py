"""Kite over real sockets: what its API does that others do not, and the day's login."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from engine.brokers.http import check_base_url
from engine.brokers.kite.adapter import KiteAdapter
from engine.brokers.kite.allowance import DAY_LIMIT, DAY_RESERVE
from engine.brokers.kite.login import RedirectListener, login_url, open_session, renew_session
from engine.brokers.kite.session import KiteSession
from engine.errors import BrokerAuthError, BrokerUnavailable, ConfigError
from engine.model.account import Account
from engine.model.enums import ConnectionState, ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import cl_ord_id
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.ports import SessionToken
from engine.simbroker.config import SimConfig
from engine.simbroker.kite import KiteDialect
from engine.simbroker.server import SimBroker
from engine.simbroker.venue import VenueOrder
from engine.stores.token_store import FileTokenStore
from engine.stores.vault import FileVault

SECRET = "canary-app-secret"
INFY = "NSE:INFY"
LIMIT = OrderType.LIMIT


EVENT_FAULTS = ("drop_stream", "duplicate_event", "reorder_events", "late_event")


async def until(fact: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "never became true"
        await asyncio.sleep(0.002)


class Desk:
    """Sessions at one simulated venue, their reports applied to the orders as the engine would."""

    def __init__(self, home: Path, **options: object) -> None:
        self.sim = SimBroker(
            SimConfig(dialect="kite", walk=False, follow_percent=Decimal(0), **options)  # type: ignore[arg-type]
        )
        self.store = FileTokenStore(home, FileVault(home, keyring=None))
        self.adapter = KiteAdapter(allow_simulated=True, reply_timeout_s=1.0, tokens=self.store)
        self.sessions: list[KiteSession] = []
        self.orders: dict[str, Order] = {}
        self.by_id: dict[tuple[str, str], Order] = {}
        self.reports: list[ExecutionReport] = []
        self.states: dict[str, list[tuple[ConnectionState, str]]] = {}
        self.made = 0

    @property
    def dialect(self) -> KiteDialect:
        assert isinstance(self.sim.dialect, KiteDialect)
        return self.sim.dialect

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.sim.port}"

    def on_report(self, report: ExecutionReport) -> None:
        self.reports.append(report)
        order = self.orders.get(report.cl_ord_id) or self.by_id.get(
            (report.account, report.order_id)
        )
        if order is not None:
            order.apply(report, datetime.now(UTC))
            self.by_id[report.account, order.order_id] = order

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        self.states.setdefault(account, []).append((state, text))

    def on_limits(self, account: str, **told: object) -> None:
        pass

    async def session(
        self, name: str = "A", *, token: str = SECRET, start: bool = True
    ) -> KiteSession:
        account = {
            "id": name,
            "broker": "kite",
            "base_url": self.url,
            "sizing": {"method": "signal"},
        }
        credentials = {"key_id": f"key{name}", "secret": SECRET}
        if token:
            credentials["access_token"] = token
        session = self.adapter.session(Account.model_validate(account), credentials, self)
        self.sessions.append(session)
        if start:
            await session.start()
            assert session.state is ConnectionState.CONNECTED, self.states
        return session

    def order(self, session: KiteSession, quantity: str = "10", **facts: object) -> Order:
        self.made += 1
        order = Order(
            **{
                "cl_ord_id": cl_ord_id("book", "kite", f"s-{self.made}", session.account_id),
                "account": session.account_id,
                "symbol": INFY,
                "side": Side.BUY,
                "order_qty": Decimal(quantity),
                "order_type": OrderType.MARKET,
                "time_in_force": TimeInForce.DAY,
                "created_at": datetime.now(UTC),
            }
            | facts
        )  # type: ignore[arg-type]
        self.orders[order.cl_ord_id] = order
        return order

    async def placed(self, session: KiteSession, quantity: str = "10", **facts: object) -> Order:
        order = self.order(session, quantity, **facts)
        session.submit(order)
        await until(lambda: order.status is not OrderStatus.PENDING_NEW)
        return order

    def of(self, order: Order, *kinds: ExecType) -> list[ExecutionReport]:
        return [
            report
            for report in self.reports
            if report.cl_ord_id == order.cl_ord_id and (not kinds or report.exec_type in kinds)
        ]

    def requests(self, method: str, path: str, key: str = "keyA") -> int:
        rows = [row.as_dict() for row in self.sim.log.rows(0)]
        return sum(
            row["method"] == method and str(row["path"]).startswith(path) and row["key_id"] == key
            for row in rows
        )

    async def close(self) -> None:
        for session in self.sessions:
            await session.stop()
        await self.adapter.close()
        await self.sim.stop()


@pytest.fixture
async def make_desk(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    desks: list[Desk] = []

    async def make(**options: object) -> Desk:
        accounts = {f"key{name}": SECRET for name in ("A", "B", *map(str, range(30)))}
        desk = Desk(tmp_path, **{"accounts": accounts} | options)
        desks.append(desk)
        await desk.sim.start()
        desk.sim.venue.market.pin(INFY, Decimal(100))
        return desk

    yield make
    for desk in desks:
        await desk.close()


@pytest.fixture
async def desk(make_desk) -> Desk:
    return await make_desk()


# What 200 means


async def test_an_order_that_was_taken_is_turned_down_later(desk: Desk):
    session = await desk.session()
    order = await desk.placed(session, "1000000")
    await until(lambda: order.status is OrderStatus.REJECTED)
    assert [r.status for r in desk.of(order)] == [OrderStatus.NEW, OrderStatus.REJECTED]
    assert order.text.startswith("Insufficient funds. Required margin is 100000000")
    assert order.order_id
    found = await session.find(order.cl_ord_id)
    assert found is not None
    assert found.status is OrderStatus.REJECTED


async def test_one_placement_several_orders(desk: Desk):
    session = await desk.session()
    desk.sim.venue.quirks.several_ids = True
    order = await desk.placed(session, "11", order_type=LIMIT, limit_price=Decimal(90))
    desk.sim.venue.quirks.several_ids = False
    await until(lambda: desk.of(order)[-1].order_qty == 11)
    assert [(r.cl_ord_id, r.order_qty) for r in await session.open_orders()] == [
        (order.cl_ord_id, 11)
    ]
    desk.sim.venue.market.pin(INFY, Decimal(90))
    await until(lambda: order.status is OrderStatus.FILLED)
    trades = desk.of(order, ExecType.TRADE)
    assert sorted(r.last_qty for r in trades) == [5, 6]
    assert len({r.exec_id for r in trades}) == 2
    assert len({r.order_id for r in trades}) == 2
    assert (order.cum_qty, order.avg_px) == (11, 90)


async def test_cancelling_a_sliced_order_cancels_every_slice(desk: Desk):
    session = await desk.session()
    desk.sim.venue.quirks.several_ids = True
    order = await desk.placed(session, order_type=LIMIT, limit_price=Decimal(90))
    desk.sim.venue.quirks.several_ids = False
    successor = desk.order(session, order_type=LIMIT, limit_price=Decimal(91))
    session.replace(order, successor)
    await until(lambda: successor.status is OrderStatus.REJECTED)
    assert "sliced" in successor.text
    session.cancel(order)
    await until(lambda: order.status is OrderStatus.CANCELED)
    await until(lambda: not desk.sim.venue.accounts["keyA"].open)


async def test_a_slice_without_margin_leaves_a_smaller_order(desk: Desk):
    session = await desk.session()
    desk.sim.venue.quirks.several_ids = True
    order = await desk.placed(session, "6000", order_type=LIMIT, limit_price=Decimal(100))
    await until(lambda: order.status.terminal)
    assert (order.status, order.cum_qty) == (OrderStatus.CANCELED, 3000)
    assert "only 3000 of 6000 was placed: Insufficient funds." in order.text


async def test_a_tag_is_a_label_and_two_orders_under_it_are_noticed(desk: Desk):
    session = await desk.session()
    order = await desk.placed(session, order_type=LIMIT, limit_price=Decimal(90))
    session.submit(order)  # what the engine never does
    await until(lambda: len(desk.sim.venue.accounts["keyA"].orders) == 2)
    found = await session.find(order.cl_ord_id)
    assert found is not None
    assert found.order_qty == 20
    assert found.text == "the broker has 20 where 10 was ordered"


async def test_executions_that_cannot_be_fetched_are_made_up_from_the_totals(desk: Desk):
    session = await desk.session()
    desk.sim.faults.replace([{"action": "http_503", "match": {"path": "/trades"}, "times": 0}])
    order = desk.order(session)
    desk.sim.faults.replace(
        [
            {"action": "http_503", "match": {"method": "GET", "path": "/orders/"}, "times": 0},
            {"action": "http_503", "match": {"path": "/trades"}, "times": 0},
        ]
    )
    session.submit(order)
    await until(lambda: order.status is OrderStatus.FILLED)
    assert (order.cum_qty, order.avg_px) == (10, 100)
    assert not desk.of(order, ExecType.TRADE)
    desk.sim.faults.replace([])
    await desk.placed(session)  # fetches the trades of that order
    await until(lambda: len(desk.of(order)) >= 2)
    assert order.cum_qty == 10


async def test_no_order_is_lost_or_doubled_among_faults_of_every_kind(desk: Desk):
    sessions = [await desk.session(str(n)) for n in range(8)]
    mix = {"action": "mix", "rate": 0.3, "seed": 7, "delay_s": 0.3}
    desk.sim.faults.replace(
        [mix, *({"action": a, "probability": 0.1, "times": 0} for a in EVENT_FAULTS)]
    )
    orders = [desk.order(s, quantity="4") for _ in range(25) for s in sessions]

    async def send(session: KiteSession) -> None:
        """Send an account's orders one by one; again only what never left, as the engine does."""
        for order in orders:
            while order.account == session.account_id and order.status == "pending_new":
                await until(session.ready, 20)
                told = len(desk.of(order))
                session.submit(order)
                await until(lambda: len(desk.of(order)) > told, 20)  # noqa: B023

    await asyncio.gather(*(send(session) for session in sessions))
    desk.sim.faults.replace([])
    late = [row for row in desk.sim.log.rows(0) if row.fault == "late_accept"]
    for row in late:  # what the settling time is for
        account = desk.sim.venue.accounts[row.key_id]
        await until(lambda: row.client_order_id in account.by_client_id)  # noqa: B023
    for session in sessions:
        await until(lambda: session.state is ConnectionState.CONNECTED, 20)  # noqa: B023
        await session.open_orders()  # as the engine does after a reconnection
    unproven = [order for order in orders if order.status is OrderStatus.UNKNOWN]
    assert unproven
    absent = []
    for order in unproven:
        found = await sessions[int(order.account)].find(order.cl_ord_id, order.symbol)
        if found is None:
            absent.append(order.cl_ord_id)
        else:
            desk.on_report(found)
    placed: dict[str, list[VenueOrder]] = {}
    for account in desk.sim.venue.accounts.values():
        for venue_order in account.orders.values():
            placed.setdefault(venue_order.client_order_id, []).append(venue_order)
    await until(lambda: all(o.status.terminal or o.cl_ord_id in absent for o in orders), 10)
    for order in orders:
        there = placed.get(order.cl_ord_id, [])
        assert sum(one.order_qty for one in there) == (0 if not there else 4)
        assert sum(one.cum_qty for one in there) == order.cum_qty
        assert bool(there) == (order.cl_ord_id not in absent and order.cum_qty == 4)
        assert not desk.of(order, ExecType.REJECTED) or not there


# Changes


async def test_a_changed_order_keeps_its_id_and_is_known_by_its_new_name(desk: Desk):
    session = await desk.session()
    order = await desk.placed(session, order_type=LIMIT, limit_price=Decimal(90))
    successor = desk.order(session, "12", order_type=LIMIT, limit_price=Decimal("90.50"))
    session.replace(order, successor)
    await until(lambda: successor.status is OrderStatus.NEW)
    assert order.status is OrderStatus.REPLACED
    assert successor.order_id == order.order_id
    # A new session, after a restart: the tag is the first order's, the engine has Kite's id.
    await session.stop()
    again = await desk.session()
    (listed,) = await again.open_orders()
    assert (listed.cl_ord_id, listed.order_id, listed.order_qty) == ("", order.order_id, 12)
    found = await again.find(successor.cl_ord_id, INFY, successor.order_id)
    assert found is not None
    assert (found.cl_ord_id, found.status) == (successor.cl_ord_id, OrderStatus.NEW)
    desk.sim.venue.market.pin(INFY, Decimal(90))
    await until(lambda: successor.status is OrderStatus.FILLED)
    assert (order.cum_qty, successor.cum_qty) == (0, 12)


async def test_the_twenty_sixth_change_is_not_sent(desk: Desk):
    session = await desk.session()
    order = await desk.placed(session, order_type=LIMIT, limit_price=Decimal(90))
    for step in range(25):
        successor = desk.order(session, order_type=LIMIT, limit_price=Decimal(50 + step))
        session.replace(order, successor)
        await until(lambda: successor.status is OrderStatus.NEW)  # noqa: B023
        order = successor
    last = desk.order(session, order_type=LIMIT, limit_price=Decimal(80))
    session.replace(order, last)
    await until(lambda: last.status is OrderStatus.REJECTED)
    assert "25 times" in last.text
    assert order.status is OrderStatus.NEW
    assert desk.requests("PUT", "/orders/") == 25


async def test_an_order_changed_by_hand_elsewhere_is_still_found_by_its_tag(desk: Desk):
    session = await desk.session()
    order = await desk.placed(session, order_type=LIMIT, limit_price=Decimal(90))
    await session.stop()
    async with httpx.AsyncClient(base_url=desk.url, headers=headers()) as person:
        path = f"/orders/regular/{order.order_id}"
        assert (await person.put(path, data={"price": "91", "quantity": "8"})).status_code == 200
    again = await desk.session()
    found = await again.find(order.cl_ord_id, INFY)  # its id at Kite may never have been learnt
    assert found is not None
    assert (found.cl_ord_id, found.order_id) == (order.cl_ord_id, order.order_id)
    assert (found.order_qty, found.limit_price) == (8, 91)


@pytest.mark.parametrize("action", ["accept_then_drop", "drop"])
async def test_a_change_without_an_answer_is_unknown_until_looked_up(desk: Desk, action: str):
    session = await desk.session()
    order = await desk.placed(session, order_type=LIMIT, limit_price=Decimal(90))
    desk.sim.faults.replace([{"action": action, "match": {"method": "PUT"}, "times": 1}])
    successor = desk.order(session, order_type=LIMIT, limit_price=Decimal(91))
    session.replace(order, successor)
    await until(lambda: successor.status is not OrderStatus.PENDING_NEW)
    assert not desk.of(successor, ExecType.REJECTED, ExecType.UNSENT)
    found = await session.find(successor.cl_ord_id, INFY)
    if action == "drop":
        assert found is None
        assert order.status is OrderStatus.NEW
    else:
        assert found is not None
        assert found.limit_price == 91
        assert (order.status, successor.status) == (OrderStatus.REPLACED, OrderStatus.NEW)


# Limits


async def test_the_days_orders_are_counted_and_some_are_kept_for_exits(desk: Desk):
    session = await desk.session()
    await desk.placed(session)
    assert (session.headroom().used, session.headroom().limit) == (1, DAY_LIMIT)
    session.allowance.at_least(DAY_LIMIT - DAY_RESERVE)
    entry = desk.order(session)
    session.submit(entry)
    await until(lambda: entry.status is OrderStatus.REJECTED)
    assert entry.text == "not sent: 4900 of the 5000 orders of the day are used up"
    assert desk.requests("POST", "/orders/") == 1
    leave = await desk.placed(session, side=Side.SELL, reducing=True)
    await until(lambda: leave.status is OrderStatus.FILLED)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"time_in_force": TimeInForce.GTC}, "Kite has no gtc orders"),
        ({"time_in_force": TimeInForce.FOK}, "Kite has no fok orders"),
        ({"symbol": "MCX:GOLD26DECFUT"}, "Kite does not tell what a contract of MCX is worth"),
    ],
)
async def test_orders_that_are_not_sent(desk: Desk, facts: dict[str, object], words: str):
    session = await desk.session()
    order = desk.order(session, **facts)
    session.submit(order)
    await until(lambda: order.status is OrderStatus.REJECTED)
    assert order.text == f"not sent: {words}"
    assert desk.requests("POST", "/orders/") == 0


async def test_the_day_begins_with_what_the_book_holds(desk: Desk):
    session = await desk.session()
    for _ in range(3):
        await desk.placed(session)
    await session.stop()
    again = await desk.session()
    await again.open_orders()
    assert again.headroom().used == 3


async def test_the_venue_refuses_the_eleventh_order_of_a_second(make_desk):
    desk = await make_desk(rate_limit=400)
    form = {
        "exchange": "NSE", "tradingsymbol": "INFY", "transaction_type": "BUY", "quantity": "1",
        "product": "MIS", "order_type": "MARKET", "market_protection": "-1", "validity": "DAY",
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=desk.url, headers=headers()) as client:
        began = int(time.time())
        replies = [await client.post("/orders/regular", data=form) for _ in range(60)]
        seconds = int(time.time()) - began + 1  # calendar seconds touched
    statuses = [reply.status_code for reply in replies]
    assert 10 <= statuses.count(200) <= 10 * seconds
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.json()["error_type"] == "NetworkException"


def headers(key: str = "keyA", token: str = SECRET) -> dict[str, str]:
    return {"Authorization": f"token {key}:{token}", "X-Kite-Version": "3"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"market_protection": "0"}, "market_protection"),
        ({"market_protection": ""}, "market_protection"),
        ({"tag": "with-dash"}, "tag"),
        ({"tag": "A" * 21}, "tag"),
        ({"product": "BO"}, "product"),
        ({"quantity": "0"}, "quantity"),
        ({"tradingsymbol": ""}, "tradingsymbol"),
        ({"order_type": "SL"}, "trigger_price"),
    ],
)
async def test_forms_the_venue_refuses(desk: Desk, changes: dict[str, str], words: str):
    form = {
        "exchange": "NSE", "tradingsymbol": "INFY", "transaction_type": "BUY", "quantity": "1",
        "product": "MIS", "order_type": "MARKET", "market_protection": "-1", "validity": "DAY",
        "tag": "A1",
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=desk.url, headers=headers()) as client:
        reply = await client.post("/orders/regular", data=form | changes)
    assert reply.status_code == 400
    assert reply.json()["error_type"] == "InputException"
    assert words in reply.json()["message"]


# Tokens that end


async def test_a_token_that_dies_in_mid_fan_out_costs_its_own_account_only(desk: Desk):
    sessions = [await desk.session(str(n)) for n in range(20)]
    for k in (0, 7, 19):
        dead = sessions[k]
        if dead.state is ConnectionState.CONNECTED:
            desk.sim.venue.expire(f"key{k}")
        orders = []
        for session in sessions:
            order = desk.order(session)
            session.submit(order)
            orders.append(order)
        await until(lambda: all(order.status.terminal or desk.of(order) for order in orders))  # noqa: B023
        await until(lambda: dead.state is ConnectionState.ERROR)  # noqa: B023
        for number, order in enumerate(orders):
            if number in {0, 7, 19} and number <= k:
                kinds = {r.exec_type for r in desk.of(order)}
                assert kinds & {ExecType.REJECTED, ExecType.UNSENT}
                assert order.cum_qty == 0
            else:
                await until(lambda order=order: order.status is OrderStatus.FILLED)
        todo = dead.headroom().todo
        assert "credentials" in todo
        assert f"volley accounts login {k}" in todo
    asked = len(list(desk.sim.log.rows(0)))
    before = desk.requests("GET", "/", "key0")
    await asyncio.wait_for(sessions[1].balances(), 5)
    assert desk.requests("GET", "/", "key0") == before  # no loop of attempts
    assert len(list(desk.sim.log.rows(0))) - asked <= 4


async def log_in(desk: Desk, name: str = "A", **more: str) -> SessionToken:
    """Log in at the venue as a browser would, and keep the session as the command does."""
    base = check_base_url(name, desk.url, (), allow_simulated=True)
    listener = RedirectListener("state-1")
    await listener.start(0)
    try:
        url = login_url(base, f"key{name}", "state-1", listener.port)
        async with httpx.AsyncClient(follow_redirects=True) as browser:
            page = await browser.get(url + "".join(f"&{k}={v}" for k, v in more.items()))
        assert page.status_code == 200, page.text
        request_token = await listener.request_token(2)
    finally:
        await listener.stop()
    token, user = await open_session(base, name, f"key{name}", SECRET, request_token)
    assert user == f"KEY{name}"
    desk.store.save(name, token)
    return token


async def test_a_login_wakes_the_waiting_session(desk: Desk, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    session = await desk.session(token="", start=False)
    await session.start()
    assert session.state is ConnectionState.ERROR
    assert session.headroom().todo == (
        "nobody has logged in to Kite today: log in with `volley accounts login A`"
    )
    assert desk.requests("GET", "/") == 0
    order = desk.order(session)
    session.submit(order)
    await until(lambda: desk.of(order, ExecType.UNSENT))
    token = await log_in(desk)
    await until(lambda: session.state is ConnectionState.CONNECTED)
    assert session.headroom().todo == ""
    assert session.headroom().expires_at == token.expires_at
    assert datetime.now(UTC) < token.expires_at
    filled = await desk.placed(session)
    await until(lambda: filled.status is OrderStatus.FILLED)
    # The venue's side of the socket logs what it is sent; ours must not.
    logged = " ".join(r.getMessage() for r in caplog.records if r.name != "websockets.server")
    shown = logged + repr(desk.states) + repr(desk.reports) + repr(token) + repr(session)
    shown += repr([row.as_dict() for row in desk.sim.log.rows(0)])
    assert token.token not in shown
    assert SECRET not in shown
    # The next login ends this session; a running engine takes the new one up by itself.
    second = await log_in(desk)
    await until(
        lambda: session.headroom().expires_at is not None and session._token == second.token
    )
    await until(lambda: session.state is ConnectionState.CONNECTED)
    filled = await desk.placed(session)
    await until(lambda: filled.status is OrderStatus.FILLED)


async def test_the_desk_begins_a_login_and_opens_the_address(desk: Desk):
    session = await desk.session(token="", start=False)
    await session.start()
    async with httpx.AsyncClient(follow_redirects=True) as browser:
        first = await session.log_in(0)
        await browser.get(await session.log_in(0) + "&cancel=1")
        await until(lambda: "cancelled in the browser" in session.headroom().todo)
        with pytest.raises(httpx.ConnectError):
            await browser.get(first)  # the second call took its place
        page = await browser.get(await session.log_in(0))
    assert "Logged in" in page.text
    await until(lambda: session.state is ConnectionState.CONNECTED)
    kept = desk.store.load("A")
    assert kept is not None
    assert kept.expires_at == session.headroom().expires_at
    await session.log_in(0)
    await session.stop()  # leaves no listener behind


async def test_a_token_the_broker_calls_over_is_not_used_again(desk: Desk):
    token = await log_in(desk)
    session = await desk.session(token="")
    desk.sim.venue.expire("keyA")
    with pytest.raises(BrokerAuthError, match="accounts login A"):
        await session.balances()
    assert session.state is ConnectionState.ERROR
    await session.stop()
    await session.start()
    assert session.state is ConnectionState.ERROR  # and asks nobody for a password
    assert desk.store.load("A") == token
    await log_in(desk)
    await until(lambda: session.state is ConnectionState.CONNECTED)


async def test_the_session_ends_at_its_hour(desk: Desk):
    token = await log_in(desk)
    soon = datetime.fromtimestamp(time.time() + 0.6, UTC)
    desk.store.save("A", SessionToken(token.token, soon, token.owner))
    session = await desk.session(token="")
    await until(lambda: session.state is ConnectionState.ERROR)
    assert "the day's login has ended" in session.headroom().todo


async def test_an_approved_platform_renews_its_sessions(desk: Desk):
    desk.dialect.platform = True
    token = await log_in(desk)
    assert token.refresh
    base = check_base_url("A", desk.url, (), allow_simulated=True)
    renewed = await renew_session(base, "A", "keyA", SECRET, token)
    assert renewed.token != token.token
    with pytest.raises(BrokerAuthError):
        await renew_session(base, "A", "keyA", SECRET, token)  # works once


async def test_the_socket_refuses_a_dead_token_and_the_account_waits_for_a_login(desk: Desk):
    session = await desk.session()
    desk.sim.venue.expire("keyA")
    desk.sim.disconnect(only_streams=True)
    await until(lambda: session.state is ConnectionState.ERROR)
    assert "accounts login A" in session.headroom().todo


# The login itself


async def test_what_can_go_wrong_with_a_login(desk: Desk):
    base = check_base_url("A", desk.url, (), allow_simulated=True)
    with pytest.raises(BrokerAuthError, match="cancelled"):
        await log_in(desk, cancel="1")
    with pytest.raises(BrokerAuthError, match="minutes"):
        await open_session(base, "A", "keyA", SECRET, "neverissued")
    async with httpx.AsyncClient() as browser:
        reply = await browser.get(f"{desk.url}/connect/login?v=3&api_key=keyA")
    assert reply.status_code == 302
    request_token = parse_qs(urlsplit(reply.headers["location"]).query)["request_token"][0]
    with pytest.raises(BrokerAuthError, match="secret") as caught:
        await open_session(base, "A", "keyA", "another-apps-secret", request_token)
    assert request_token not in str(caught.value)
    assert "another-apps-secret" not in str(caught.value)
    with pytest.raises(BrokerAuthError):  # it was used up by the attempt
        await open_session(base, "A", "keyA", SECRET, request_token)
    await desk.sim.stop()
    with pytest.raises(BrokerUnavailable):
        await open_session(base, "A", "keyA", SECRET, request_token)


async def test_the_listener_takes_only_the_login_it_asked_for():
    listener = RedirectListener("right")
    await listener.start(0)
    home = f"http://127.0.0.1:{listener.port}"
    try:
        async with httpx.AsyncClient(base_url=home) as browser:
            assert (await browser.get("/favicon.ico")).status_code == 404
            wrong = "/?status=success&request_token=abc&state=wrong"
            assert (await browser.get(wrong)).status_code == 400
            assert (await browser.get("/?status=success&request_token=abc")).status_code == 400
            assert (await browser.post("/?status=success&request_token=abc")).status_code == 404
            odd = "/?status=success&request_token=%3Cscript%3E&state=right"
            assert (await browser.get(odd)).status_code == 400
            good = "/?action=login&status=success&request_token=abc123&state=right"
            page = await browser.get(good)
            assert page.status_code == 200
            assert "abc123" not in page.text
            assert page.headers["referrer-policy"] == "no-referrer"
        assert await listener.request_token(1) == "abc123"
        another = RedirectListener("x")
        with pytest.raises(ConfigError, match=f"port {listener.port}"):
            await another.start(listener.port)
        await another.stop()
    finally:
        await listener.stop()


async def test_nobody_comes():
    listener = RedirectListener("s")
    await listener.start(0)
    try:
        with pytest.raises(BrokerAuthError, match="redirect address"):
            await listener.request_token(0.05)
    finally:
        await listener.stop()
