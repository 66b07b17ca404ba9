from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from engine.errors import ConfigError
from engine.simbroker import SimBroker, SimConfig

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cret-of-the-tests"
ORDER = {"symbol": "AAPL", "qty": "10", "side": "buy", "type": "market", "time_in_force": "day"}

Client = Callable[..., httpx.AsyncClient]


@asynccontextmanager
async def venue(**settings: Any) -> AsyncIterator[tuple[SimBroker, Client]]:
    made = SimBroker(SimConfig(**({"walk": False, "tick_interval_s": 0.01} | settings)))
    port = await made.start()
    clients: list[httpx.AsyncClient] = []

    def client(key: str = "K1", secret: str = SECRET) -> httpx.AsyncClient:
        headers = {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}
        limits = httpx.Limits(max_connections=1)
        clients.append(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers=headers, limits=limits, trust_env=False
            )
        )
        return clients[-1]

    try:
        yield made, client
    finally:
        for opened in clients:
            await opened.aclose()
        await made.stop()


def listening(
    made: SimBroker, key: str = "K1", secret: str = SECRET
) -> AbstractAsyncContextManager[Any]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with websockets.connect(f"ws://127.0.0.1:{made.port}/stream", proxy=None) as stream:
            credentials = {"key_id": key, "secret_key": secret}
            await stream.send(json.dumps({"action": "authenticate", "data": credentials}))
            assert (await heard(stream))["data"]["status"] == "authorized"
            wanted = {"action": "listen", "data": {"streams": ["trade_updates"]}}
            await stream.send(json.dumps(wanted))
            answer = await heard(stream)
            assert answer == {"stream": "listening", "data": {"streams": ["trade_updates"]}}
            yield stream

    return opened()


async def heard(stream: Any) -> dict[str, Any]:
    async with asyncio.timeout(5):
        message = await stream.recv()
    assert isinstance(message, bytes)  # the practice environment sends binary frames
    return dict(json.loads(message))


async def events(stream: Any, count: int) -> list[dict[str, Any]]:
    return [(await heard(stream))["data"] for _ in range(count)]


async def place(http: httpx.AsyncClient, client_id: str = "a", **fields: Any) -> httpx.Response:
    return await http.post("/v2/orders", json={**ORDER, "client_order_id": client_id, **fields})


# The life of orders


async def test_an_order_and_its_stream() -> None:
    async with venue() as (made, client), listening(made) as stream:
        answer = await place(client())
        assert answer.status_code == 200
        order = answer.json()
        assert (order["status"], order["filled_qty"]) == ("accepted", "0")
        assert order["filled_avg_price"] is None
        new, fill = await events(stream, 2)
        assert (new["event"], new["order"]["status"]) == ("new", "new")
        assert (fill["event"], fill["price"], fill["qty"]) == ("fill", "189.4", "10")
        assert fill["position_qty"] == "10"
        assert fill["order"]["id"] == order["id"]
        assert fill["order"]["filled_avg_price"] == "189.4"
        assert fill["execution_id"]
        assert fill["timestamp"].endswith("Z")

        http = client()
        assert (await http.get(f"/v2/orders/{order['id']}")).json()["status"] == "filled"
        by_id = await http.get("/v2/orders:by_client_order_id", params={"client_order_id": "a"})
        assert by_id.json()["id"] == order["id"]
        [position] = (await http.get("/v2/positions")).json()
        assert (position["qty"], position["avg_entry_price"], position["side"]) == (
            "10",
            "189.4",
            "long",
        )
        [activity] = (await http.get("/v2/account/activities/FILL")).json()
        assert (activity["order_id"], activity["type"]) == (order["id"], "fill")
        account = (await http.get("/v2/account")).json()
        assert (account["cash"], account["equity"], account["multiplier"]) == (
            "98106",
            "100000",
            "4",
        )
        assert account["buying_power"] == "398106"


async def test_partial_fills_are_told_one_by_one() -> None:
    async with venue(max_fill_qty=Decimal(4)) as (made, client), listening(made) as stream:
        await place(client())
        told = await events(stream, 4)
        assert [e["event"] for e in told] == ["new", "partial_fill", "partial_fill", "fill"]
        assert [e.get("qty") for e in told] == [None, "4", "4", "2"]
        assert [e.get("position_qty") for e in told] == [None, "4", "8", "10"]
        assert [e["order"]["filled_qty"] for e in told] == ["0", "4", "8", "10"]
        assert len({e["execution_id"] for e in told}) == 4


async def test_limit_stop_cancel_and_replace() -> None:
    async with venue() as (made, client), listening(made) as stream:
        http = client()
        await http.post("/sim/price", json={"AAPL": "189.40"})
        limit = (await place(http, "l", type="limit", limit_price="180")).json()
        stop = (await place(http, "s", side="sell", type="stop", stop_price="170.5")).json()
        assert [e["event"] for e in await events(stream, 2)] == ["new", "new"]
        listed = (await http.get("/v2/orders")).json()
        assert [o["id"] for o in listed] == [stop["id"], limit["id"]]

        patched = await http.patch(
            f"/v2/orders/{limit['id']}", json={"limit_price": "175", "client_order_id": "l2"}
        )
        successor = patched.json()
        assert successor["id"] != limit["id"]
        assert (successor["replaces"], successor["qty"]) == (limit["id"], "10")
        replaced, new = await events(stream, 2)
        assert (replaced["event"], replaced["order"]["replaced_by"]) == (
            "replaced",
            successor["id"],
        )
        assert (new["event"], new["order"]["limit_price"]) == ("new", "175")

        await http.post("/sim/price", json={"AAPL": "170"})
        filled, stopped = await events(stream, 2)
        assert (filled["order"]["id"], filled["price"]) == (successor["id"], "175")
        assert (stopped["order"]["id"], stopped["price"]) == (stop["id"], "170")
        assert (await http.get("/v2/positions")).json() == []
        assert (await http.get("/v2/account")).json()["cash"] == "99950"

        resting = (await place(http, "r", type="limit", limit_price="160")).json()
        gone = await http.delete(f"/v2/orders/{resting['id']}")
        assert (gone.status_code, gone.content) == (204, b"")
        assert [e["event"] for e in await events(stream, 2)] == ["new", "canceled"]
        again = await http.delete(f"/v2/orders/{resting['id']}")
        assert (again.status_code, again.json()["code"]) == (422, 42210000)

        for number in range(3):
            await place(http, f"all-{number}", type="limit", limit_price="160")
        everything = await http.delete("/v2/orders")
        assert everything.status_code == 207
        assert [row["status"] for row in everything.json()] == [200] * 3
        assert (await http.get("/v2/orders")).json() == []
        assert len((await http.get("/v2/orders?status=closed&limit=2")).json()) == 2
        oldest = (await http.get("/v2/orders?status=all&limit=1&direction=asc")).json()
        assert oldest[0]["id"] == limit["id"]


async def test_shorts_and_closing_a_position() -> None:
    async with venue() as (_, client):
        http = client()
        await place(http, side="sell")
        position = (await http.get("/v2/positions/AAPL")).json()
        assert (position["qty"], position["side"]) == ("-10", "short")
        closing = await http.delete("/v2/positions/AAPL")
        assert closing.json()["side"] == "buy"
        gone = await http.get("/v2/positions/AAPL")
        assert (gone.status_code, gone.json()["code"]) == (404, 40410000)


async def test_acknowledgement_comes_first_even_when_it_is_slow() -> None:
    async with (
        venue(latency_ms=30, latency_jitter_ms=20) as (made, client),
        listening(made) as stream,
    ):
        http = client()
        sent = asyncio.create_task(place(http))
        await heard(stream)
        assert sent.done() or (await sent).json()["status"] == "accepted"
        assert (await events(stream, 1))[0]["event"] == "fill"


async def test_an_order_whose_client_left_still_trades() -> None:
    async with venue(latency_ms=50) as (made, _), listening(made) as stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        body = json.dumps({**ORDER, "client_order_id": "left"}).encode()
        writer.write(raw_order(body))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert [e["event"] for e in await events(stream, 2)] == ["new", "fill"]
        assert reader.at_eof() or not await reader.read()


# Refusals


@pytest.mark.parametrize(
    ("fields", "status", "code", "text"),
    [
        ({"symbol": "NOPE"}, 422, 40010001, "could not find"),
        ({"symbol": "aapl"}, 422, 40010001, "could not find"),
        ({"symbol": None}, 422, 40010001, "symbol is required"),
        ({"qty": "10000"}, 403, 40310000, "insufficient buying power"),
        ({"qty": "1.5"}, 403, 40310000, "not fractionable"),
        ({"qty": "0"}, 422, 42210000, "qty must be > 0"),
        ({"qty": "-1"}, 422, 42210000, "qty must be a number"),
        ({"qty": True}, 422, 42210000, "qty must be a number"),
        ({"qty": None}, 422, 42210000, "required"),
        ({"qty": "0.0000000001", "symbol": "BTCUSDT"}, 422, 42210000, "9 decimal"),
        ({"side": "hold"}, 422, 40010001, "side"),
        ({"type": "trailing_stop"}, 422, 40010001, "type"),
        ({"time_in_force": "cls"}, 422, 42210000, "time_in_force"),
        ({"symbol": "BTC/USD", "qty": "1"}, 422, 42210000, "crypto time_in_force"),
        ({"type": "limit"}, 422, 42210000, "require limit_price"),
        ({"limit_price": "1"}, 422, 42210000, "must not have limit_price"),
        ({"type": "limit", "limit_price": "189.405"}, 422, 42210000, "sub-penny"),
        ({"type": "limit", "limit_price": "0.98765"}, 422, 42210000, "sub-penny"),
        ({"type": "stop", "stop_price": "1e2"}, 422, 42210000, "stop_price must be a number"),
        ({"order_class": "bracket"}, 422, 42210000, "order_class"),
        ({"client_order_id": "x" * 49}, 422, 40010001, "48"),
    ],
)
async def test_refused_orders(fields: dict[str, Any], status: int, code: int, text: str) -> None:
    async with venue(unknown_symbols="NO.*") as (made, client):
        answer = await place(client(), **fields)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert text in answer.json()["message"]
        assert made.venue.order_count == 0


async def test_funds_are_named_and_freed() -> None:
    async with venue(cash=Decimal(1000), margin=Decimal(2)) as (_, client):
        http = client()
        await http.post("/sim/price", json={"AAPL": "100"})
        resting = (await place(http, "r", qty="15", type="limit", limit_price="99")).json()
        refused = (await place(http, "f")).json()
        assert (refused["buying_power"], refused["cost_basis"]) == ("515", "1000")
        await http.delete(f"/v2/orders/{resting['id']}")
        assert (await place(http, "f2", qty="20")).status_code == 200
        assert (await place(http, "f3", qty="1")).status_code == 403
        assert (await place(http, "f4", side="sell", qty="20")).status_code == 200


async def test_a_client_id_is_used_up_for_ever() -> None:
    async with venue() as (made, client):
        http = client()
        await place(http, "filled")
        resting = (await place(http, "cancelled", type="limit", limit_price="188")).json()
        await http.delete(f"/v2/orders/{resting['id']}")
        for client_id in ("filled", "cancelled"):
            answer = await place(http, client_id)
            assert answer.status_code == 422
            assert answer.json() == {"code": 40010001, "message": "client_order_id must be unique"}
        assert (await place(client("K2"), "filled")).status_code == 200
        assert made.venue.order_count == 3


async def test_bodies_that_are_no_order() -> None:
    async with venue() as (_, client):
        http = client()
        for body in (b"", b"{", b"[]", b'"x"', b"\xff"):
            answer = await http.post("/v2/orders", content=body)
            assert (answer.status_code, answer.json()["code"]) == (400, 40010000)
        assert (await http.post("/v2/orders", content=b" " * 70_000)).status_code == 400
        bare = b'{"symbol":"AAPL","qty":10,"limit_price":189.41,'
        bare += b'"side":"buy","type":"limit","time_in_force":"day"}'
        exact = await http.post("/v2/orders", content=bare)
        assert exact.json()["limit_price"] == "189.41"


async def test_what_is_not_there() -> None:
    async with venue(unknown_symbols="NOPE") as (_, client):
        http = client()
        for path in (
            "/v2/orders/x",
            "/v2/orders:by_client_order_id?client_order_id=x",
            "/v2/positions/AAPL",
            "/v2/assets/NOPE",
            "/v2/nothing",
            "/v2/orders/",
        ):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, 40410000), path


async def test_credentials() -> None:
    async with venue() as (made, client):
        assert (await client().get("/v2/account")).status_code == 200
        wrong = await client(secret="other").get("/v2/account")
        assert (wrong.status_code, wrong.json()["code"]) == (401, 40110000)
        for key, secret in (("", SECRET), ("K9", "")):
            answer = await client(key, secret).get("/v2/account")
            assert (answer.status_code, answer.json()) == (403, {"message": "forbidden."})
        async with websockets.connect(f"ws://127.0.0.1:{made.port}/stream", proxy=None) as stream:
            bad = {"action": "authenticate", "data": {"key_id": "K1", "secret_key": "other"}}
            for message in (bad, {"action": "listen", "data": {"streams": ["trade_updates"]}}):
                await stream.send(json.dumps(message))
                assert (await heard(stream))["data"]["status"] == "unauthorized"
    async with venue(accounts={"K1": SECRET}) as (_, client):
        assert (await client().get("/v2/account")).status_code == 200
        assert (await client("K2").get("/v2/account")).status_code == 403


async def test_rate_limit() -> None:
    async with venue(rate_limit=3) as (_, client):
        http = client()
        answers = [await http.get("/v2/clock") for _ in range(7)]  # two windows at most
        throttled = [answer for answer in answers if answer.status_code == 429]
        assert throttled
        assert throttled[0].json()["code"] == 42910000
        assert throttled[0].headers["X-RateLimit-Limit"] == "3"
        assert throttled[0].headers["X-RateLimit-Remaining"] == "0"
        assert int(throttled[0].headers["X-RateLimit-Reset"]) % 60 == 0


# Prices


async def test_assets_and_quotes() -> None:
    async with venue() as (_, client):
        http = client()
        share = (await http.get("/v2/assets/AAPL")).json()
        assert (share["fractionable"], share["min_trade_increment"]) == (False, "1")
        coin = (await http.get("/v2/assets/BTC/USD")).json()
        assert (coin["fractionable"], coin["min_order_size"]) == (True, "0.00000001")
        assert coin["price_increment"] == "0.01"
        quotes = (await http.get("/v2/stocks/quotes/latest?symbols=AAPL,QZX")).json()["quotes"]
        assert {s: (q["ap"], q["bp"]) for s, q in quotes.items()} == {"AAPL": (189.4, 189.4)}
        await place(http, symbol="QZX", type="limit", limit_price="12.34")
        trades = (await http.get("/v2/stocks/trades/latest?symbols=QZX")).json()["trades"]
        assert trades["QZX"]["p"] == 12.34
        assert (await http.get("/v2/clock")).json()["is_open"] is True


async def test_the_market_follows_far_limits_unless_held() -> None:
    async with venue() as (_, client):
        http = client()
        far = (await place(http, "far", type="limit", limit_price="150")).json()
        assert (await http.get(f"/v2/orders/{far['id']}")).json()["filled_avg_price"] == "150"
        near = (await place(http, "near", type="limit", limit_price="149")).json()
        assert (await http.get(f"/v2/orders/{near['id']}")).json()["status"] == "new"
        await http.post("/sim/price", json={"AAPL": "160"})
        held = (await place(http, "held", type="limit", limit_price="100")).json()
        assert (await http.get(f"/v2/orders/{held['id']}")).json()["status"] == "new"


async def test_walks_are_a_function_of_the_seed() -> None:
    async def walk(seed: int) -> list[str]:
        async with venue(seed=seed, walk=True, tick_interval_s=0.001) as (made, _):
            listing = made.venue.market.listing("AAPL")
            steps = []
            for _ in range(20):
                listing.book.quote(listing.next_step(0.001))
                steps.append(str(listing.price))
            return steps

    first, again, other = await walk(1), await walk(1), await walk(2)
    assert first == again != other
    assert all(Decimal(step) % Decimal("0.01") == 0 for step in first)


@pytest.mark.parametrize(
    ("rows", "last"),
    [
        (
            [
                "time,open,high,low,close,volume",
                "2021-12-31T23:01:00Z,46319.0,46385.0,46300.5,46377.0,1",
                "2021-12-31T23:02:00Z,46377.0,46411.0,46370.0,46371.0,2",
            ],
            "46371",
        ),
        (["timestamp,bid,ask", "2013-01-01T22:00:00.295Z,86.655,86.728"], "86.6915"),
    ],
)
async def test_replayed_prices(tmp_path: Path, rows: list[str], last: str) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("\n".join(rows) + "\n")
    settings = {"prices": file, "prices_symbol": "ABCUSDT", "prices_speed": 100_000.0}
    async with venue(**settings) as (made, client):
        async with asyncio.timeout(5):
            while made.venue.market.price("ABCUSDT") != Decimal(last):
                await client().get("/v2/clock")
        await place(client(), symbol="ABCUSDT", qty="0.5", type="limit", limit_price="10")
        assert made.venue.market.price("ABCUSDT") == Decimal(last)


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "timestamp,bid,ask\nx,1,2\n", "timestamp,bid,ask\n"]
)
async def test_a_bad_prices_file_is_a_configuration_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prices.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match="prices"):
        await SimBroker(SimConfig(prices=file)).start()


# The log


def raw_order(body: bytes, key: str = "K1") -> bytes:
    head = (
        f"POST /v2/orders HTTP/1.1\r\nHost: x\r\nAPCA-API-KEY-ID: {key}\r\n"
        f"APCA-API-SECRET-KEY: {SECRET}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def test_two_thousand_orders_over_twenty_connections_are_logged_once(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    async with venue(log=file) as (made, client):

        async def fan(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
            for index in range(100):
                side = "sell" if index % 2 else "buy"
                body = json.dumps({**ORDER, "side": side, "client_order_id": f"{number}-{index}"})
                writer.write(raw_order(body.encode(), f"K{number}"))
                if index % 10 == 9:  # ten in the pipeline at a time
                    for at in range(index - 9, index + 1):
                        head = await reader.readuntil(b"\r\n\r\n")
                        assert head.startswith(b"HTTP/1.1 200 OK")
                        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                        answer = json.loads(await reader.readexactly(length))
                        assert answer["client_order_id"] == f"{number}-{at}"
            writer.close()
            await writer.wait_closed()

        async with asyncio.timeout(30):
            await asyncio.gather(*(fan(number) for number in range(20)))
        http = client()
        summary = (await http.get("/sim/summary")).json()
        counts = [summary[n] for n in ("requests", "orders", "distinct_client_order_ids", "fills")]
        assert counts == [2000] * 4
        assert {a["cash"] for a in summary["accounts"].values()} == {"100000"}
        assert all(a["positions"]["AAPL"]["qty"] == "0" for a in summary["accounts"].values())
        rows = (await http.get("/sim/log?after=500")).json()
        assert [row["n"] for row in rows] == list(range(501, 2001))
        assert len((await http.get("/sim/orders")).json()) == 2000
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["n"] for row in written] == list(range(1, 2001))
    assert Counter(row["client_order_id"] for row in written) == Counter(
        f"{number}-{index}" for number in range(20) for index in range(100)
    )
    assert {(row["method"], row["path"], row["status"]) for row in written} == {
        ("POST", "/v2/orders", 200)
    }
    assert all(row["body"]["symbol"] == "AAPL" and row["monotonic_ns"] > 0 for row in written)
    assert [row["monotonic_ns"] for row in written] == sorted(r["monotonic_ns"] for r in written)


async def test_the_log_names_refusals_look_ups_and_streams_but_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    async with venue(log=file) as (made, client), listening(made):
        http = client()
        await place(http, "one")
        await place(http, "one")
        await http.post("/v2/orders", content=b"{bad")
        await http.get("/v2/orders:by_client_order_id?client_order_id=one")
        await http.get("/sim/summary")  # the observer leaves no trace
        rows = (await http.get("/sim/log")).json()
    assert [(r["method"], r["status"], r["client_order_id"]) for r in rows] == [
        ("WS", 0, ""),
        ("WS", 0, ""),
        ("POST", 200, "one"),
        ("POST", 422, "one"),
        ("POST", 400, ""),
        ("GET", 200, "one"),
    ]
    assert rows[4]["body"] == "{bad"
    assert {row["key_id"] for row in rows} == {"K1"}
    assert SECRET not in file.read_text()
    assert SECRET not in json.dumps(rows)
    assert SECRET not in repr(made.config)


# Faults


@pytest.mark.parametrize(
    ("action", "outcome", "placed"),
    [
        ("drop", httpx.RemoteProtocolError, 0),
        ("hang", httpx.ReadTimeout, 0),
        ("http_429", 429, 0),
        ("http_500", 500, 0),
        ("http_503", 503, 0),
        ("accept_then_drop", httpx.RemoteProtocolError, 1),
        ("accept_then_hang", httpx.ReadTimeout, 1),
        ("reset_mid_reply", httpx.HTTPError, 1),
        ("garbage", httpx.RemoteProtocolError, 1),
    ],
)
async def test_faults(action: str, outcome: int | type[Exception], placed: int) -> None:
    fault = {"match": {"method": "POST", "path": "/v2/orders"}, "action": action, "after": 1}
    async with venue() as (made, client):
        http = client()
        await http.post("/sim/faults", json=[fault])
        assert (await place(http, "before")).status_code == 200
        http.timeout = httpx.Timeout(0.3)
        if isinstance(outcome, int):
            assert (await place(http, "hit")).status_code == outcome
        else:
            with pytest.raises(outcome):
                await place(http, "hit")
        other = client()
        found = await other.get("/v2/orders:by_client_order_id?client_order_id=hit")
        assert found.status_code == (200 if placed else 404)
        assert (await place(other, "after")).status_code == 200
        rows = [row for row in made.log.rows() if row.client_order_id == "hit"]
        assert (rows[0].fault, made.venue.order_count) == (action, 2 + placed)


async def test_faults_match_and_bad_ones_are_refused() -> None:
    fault = {"match": {"account": "K2", "symbol": "AAPL"}, "action": "http_500", "times": 0}
    async with venue(faults=[fault]) as (_, client):
        assert (await place(client("K1"))).status_code == 200
        assert [(await place(client("K2"), str(i))).status_code for i in range(3)] == [500] * 3
        for bad in (
            {},
            [{"action": "explode"}],
            [{"action": "drop", "match": {"x": 1}}],
            [{"action": "drop", "times": -1}],
        ):
            assert (await client().post("/sim/faults", json=bad)).status_code == 422


async def test_settings_and_disconnects() -> None:
    async with venue() as (made, client), listening(made) as stream:
        http = client()
        settings = {"latency_ms": 1, "max_fill_qty": "3", "walk": False, "follow_percent": "0"}
        assert (await http.post("/sim/config", json=settings)).status_code == 200
        for bad in ({"port": 1}, {"latency_ms": -1}, {"max_fill_qty": "0"}, [], {"walk": 1}):
            assert (await http.post("/sim/config", json=bad)).status_code == 422
        assert (made.config.latency_ms, made.config.max_fill_qty) == (1.0, Decimal(3))
        assert (await http.post("/sim/price", json={"AAPL": "0"})).status_code == 422
        assert (await http.get("/sim/nothing")).status_code == 404
        cut = await http.post("/sim/disconnect", json={"streams": True})
        assert cut.json() == {"disconnected": 1}
        async with asyncio.timeout(5):
            with pytest.raises(websockets.ConnectionClosed):
                await stream.recv()


@pytest.mark.parametrize("action", ["hang", "accept_then_hang", "drop"])
async def test_nothing_behind_a_lost_answer_is_answered_in_its_place(action: str) -> None:
    """Or a pipelining client would take the second answer for the first."""
    async with venue(faults=[{"action": action}]) as (made, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        for client_id in ("first", "second"):
            body = json.dumps({**ORDER, "client_order_id": client_id}).encode()
            writer.write(raw_order(body))
        await writer.drain()
        async with asyncio.timeout(5):
            while not made.log.total:
                await client().get("/sim/summary")
        assert [row.client_order_id for row in made.log.rows()] == ["first"]
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""


# The command line


def start(*arguments: str) -> subprocess.Popen[str]:
    program = (
        "import argparse, sys; from engine.cli import simbroker; p = argparse.ArgumentParser();"
        "simbroker.add_arguments(p); sys.exit(simbroker.run(p.parse_args()))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


ENDS = [("lifeline", 0)]
if sys.platform != "win32":  # which has no signals to send
    ENDS += [("SIGTERM", 0), ("SIGINT", 130)]


@pytest.mark.parametrize(("how", "status"), ENDS)
def test_the_server_starts_says_where_and_ends(how: str, status: int) -> None:
    with start("--port", "0", "--lifeline") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        assert line.startswith("simulated venue (alpaca) on http://127.0.0.1:")
        url = line.split()[-1]
        assert httpx.get(f"{url}/sim/summary", trust_env=False).json()["requests"] == 0
        if how == "lifeline":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, how))
        assert process.wait(10) == status


def test_a_taken_port_and_later_dialects_are_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, text in (
            (("--port", port), "cannot listen on"),
            (("--dialect", "kite"), "the kite dialect comes with a later version"),
        ):
            with start(*arguments) as process:
                out, err = process.communicate(timeout=10)
            assert (process.returncode, out, len(err.splitlines())) == (1, "", 1)
            assert text in err


def test_bad_files_are_status_2(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('[{"action": "explode"}]')
    with start("--port", "0", "--faults", str(bad)) as process:
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert "explode" in err
