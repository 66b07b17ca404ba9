from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from cryptography import x509

from engine.errors import ConfigError
from engine.simbroker import SimBroker, SimConfig
from engine.simbroker.dialects import NAMES
from engine.simbroker.tls import make_certificate
from tests.venue_rig import ORDER, SECRET, events, heard, listening, place, raw_order, venue

ROOT = Path(__file__).resolve().parents[2]
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
        ({"type": "iceberg"}, 422, 40010001, "type"),
        ({"type": "trailing_stop"}, 422, 42210000, "require trail_percent"),
        ({"type": "trailing_stop", "trail_percent": "100"}, 422, 42210000, "below 100"),
        ({"time_in_force": "cls"}, 422, 42210000, "time_in_force"),
        ({"symbol": "BTC/USD", "qty": "1"}, 422, 42210000, "crypto time_in_force"),
        ({"type": "limit"}, 422, 42210000, "require limit_price"),
        ({"limit_price": "1"}, 422, 42210000, "must not have limit_price"),
        ({"type": "limit", "limit_price": "189.405"}, 422, 42210000, "sub-penny"),
        ({"type": "limit", "limit_price": "0.98765"}, 422, 42210000, "sub-penny"),
        ({"type": "stop", "stop_price": "1e2"}, 422, 42210000, "stop_price must be a number"),
        ({"order_class": "mleg"}, 422, 42210000, "order_class"),
        ({"order_class": "bracket"}, 422, 42210000, "order_class"),
        ({"order_class": "bracket", "stop_loss": {"stop_price": "1"}}, 422, 42210000, "require"),
        ({"order_class": "oto", "stop_loss": {"limit_price": "1"}}, 422, 42210000, "stop_price is"),
        ({"order_class": "oto", "stop_loss": "1"}, 422, 42210000, "must be an object"),
        (
            {"order_class": "oto", "stop_loss": {"stop_price": "190"}},
            422,
            42210000,
            "<= base_price",
        ),
        (
            {"order_class": "oto", "take_profit": {"limit_price": "189"}},
            422,
            42210000,
            ">= base_price",
        ),
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


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with start("--port", str(taken.getsockname()[1])) as process:
            out, err = process.communicate(timeout=10)
        assert (process.returncode, out, len(err.splitlines())) == (1, "", 1)
        assert "cannot listen on" in err


@pytest.mark.parametrize("dialect", NAMES)
def test_every_dialect_is_served(dialect: str) -> None:
    with start("--port", "0", "--lifeline", "--dialect", dialect) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"simulated venue ({dialect}) on http://127.0.0.1:")
        assert httpx.get(f"{line.split()[-1]}/sim/orders", trust_env=False).json() == []
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_dialect_nobody_speaks() -> None:
    with pytest.raises(ConfigError, match="alpaca, binance, oanda, kite"):
        SimBroker(SimConfig(dialect="fix"))


@pytest.mark.parametrize("named", [False, True])
def test_over_tls_with_an_authority_of_its_own(tmp_path: Path, named: bool) -> None:
    options = ["--tls", str(tmp_path / "ca.pem")] if named else ["--tls"]
    with start("--port", "0", "--lifeline", *options) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        authority = process.stdout.readline().strip().removeprefix("certificate authority: ")
        assert url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=authority)
        answer = httpx.get(f"{url}/sim/summary", verify=trusting, trust_env=False)
        assert answer.json()["requests"] == 0
        process.stdin.close()
        assert process.wait(10) == 0
    assert Path(authority).exists() is named  # the rest was only for this run


# TLS


async def test_only_who_trusts_the_authority_connects(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    broker = SimBroker(SimConfig(walk=False))
    port = await broker.start(ssl=made.server_context())
    try:
        trusting = ssl.create_default_context(cafile=str(made.authority))
        address = f"https://127.0.0.1:{port}"
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as http:
            assert (await http.get(f"{address}/sim/orders")).json() == []
            by_name = await http.get(f"https://localhost:{port}/sim/orders")
            assert by_name.status_code == 200
        doubting = ssl.create_default_context()
        async with httpx.AsyncClient(verify=doubting, trust_env=False) as http:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.get(f"{address}/sim/orders")
        elsewhere = ssl.create_default_context(cafile=str(made.authority))
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=elsewhere, server_hostname="api.example.com"
            )
        stream = await websockets.connect(
            f"wss://127.0.0.1:{port}/stream", ssl=trusting, proxy=None
        )
        await stream.send(b'{"action":"auth","key":"K1","secret":"s"}')
        assert (await heard(stream))["data"]["status"] == "authorized"
        await stream.close()
    finally:
        await broker.stop()


def test_the_authority_is_for_this_machine_only_and_its_key_is_gone(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "authority.pem",
        "venue.pem",
        "venue.key",
    }
    authority = x509.load_pem_x509_certificate(made.authority.read_bytes())
    constraints = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert [str(name.value) for name in constraints.value.permitted_subtrees or []] == [
        "localhost",
        "127.0.0.0/8",
        "::1/128",
    ]
    leaf = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    leaf.verify_directly_issued_by(authority)
    if sys.platform != "win32":
        assert made.key.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in made.authority.read_bytes() + made.certificate.read_bytes()
    again = make_certificate(tmp_path)  # over the old ones
    assert again.key.read_bytes() != b""


def test_bad_files_are_status_2(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('[{"action": "explode"}]')
    with start("--port", "0", "--faults", str(bad)) as process:
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert "explode" in err
