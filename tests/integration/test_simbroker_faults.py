"""Every fault of the simulated venue, as a client's socket sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx
import pytest
import websockets

from engine.errors import ConfigError
from engine.simbroker import SimBroker
from engine.simbroker.faults import ACCEPTED, ON_CONNECT, ON_EVENT, REFUSED, Fault, Faults
from tests.venue_rig import ORDER, events, heard, listening, place, raw_order, venue
from tests.world import eventually

NOT_MIXED = {"date_skew", "expire_token", "fill_first", "placed_422"}
POST = {"method": "POST", "path": "/v2/orders"}


class Seen(NamedTuple):
    """What a raw socket got: the bytes, and how it ended (``open``, ``end`` or ``reset``)."""

    data: bytes
    end: str

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    def header(self, name: str) -> str | None:
        found = re.search(rb"(?im)^%s: (.*)\r$" % name.encode(), self.data)
        return found[1].decode() if found else None


async def send_order(
    made: SimBroker, client_id: str = "hit", key: str = "K1", wait_s: float = 0.25
) -> Seen:
    """Place an order over a socket of its own and read until it ends or nothing comes any more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
    body = json.dumps({**ORDER, "client_order_id": client_id}).encode()
    writer.write(raw_order(body, key))
    data, end = b"", "open"
    try:
        while True:
            async with asyncio.timeout(wait_s):
                piece = await reader.read(65536)
            if not piece:
                end = "end"
                break
            data += piece
    except TimeoutError:
        pass
    except ConnectionResetError:
        end = "reset"
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionResetError:
        end = "reset"
    return Seen(data, end)


def placed(made: SimBroker, client_id: str = "hit") -> bool:
    return any(client_id in account.by_client_id for account in made.venue.accounts.values())


# Requests

SILENT_END = [("drop", False, "end"), ("accept_then_drop", True, "end")]
SILENT_OPEN = [("hang", False, "open"), ("accept_then_hang", True, "open")]


@pytest.mark.parametrize(("action", "is_placed", "end"), SILENT_END + SILENT_OPEN)
async def test_no_answer_at_all(action: str, is_placed: bool, end: str) -> None:
    async with venue(faults=[{"match": POST, "action": action}]) as (made, _):
        seen = await send_order(made)
        assert (seen.data, seen.end) == (b"", end)
        assert placed(made) is is_placed
        [row] = made.log.rows()
        assert (row.fault, row.status, row.client_order_id) == (action, 0, "hit")
        after = await send_order(made, "after")  # once, unless told
        assert (after.status, placed(made, "after")) == (200, True)


@pytest.mark.parametrize("status", [400, 403, 418, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("accepts", [False, True])
async def test_any_error_status_with_and_without_an_order(status: int, accepts: bool) -> None:
    action = f"{'accept_then_' if accepts else ''}http_{status}"
    fault = {"match": POST, "action": action, "retry_after_s": 7}
    async with venue(faults=[fault]) as (made, _), listening(made) as stream:
        seen = await send_order(made)
        assert (seen.status, seen.header("Retry-After"), seen.end) == (status, "7", "open")
        assert isinstance(json.loads(seen.body)["code"], int)
        assert placed(made) is accepts
        assert [(row.fault, row.status) for row in made.log.rows() if row.fault] == [
            (action, status)
        ]
        if accepts:  # it trades like any other
            assert [e["event"] for e in await events(stream, 2)] == ["new", "fill"]


async def test_retry_after_is_unsaid_unless_told() -> None:
    async with venue(faults=[{"action": "http_429"}]) as (made, _):
        seen = await send_order(made)
        assert (seen.status, seen.header("Retry-After")) == (429, None)
        assert json.loads(seen.body)["code"] == 42910000


async def test_half_a_reply_then_a_reset() -> None:
    async with venue(faults=[{"action": "reset_mid_reply"}]) as (made, _):
        seen = await send_order(made)
        assert (seen.status, seen.end) == (200, "reset")
        length = int(seen.header("content-length") or 0)
        assert 0 <= len(seen.body) < length
        assert placed(made)


async def test_json_cut_in_two_within_its_length() -> None:
    async with venue(faults=[{"action": "truncated_json"}]) as (made, _):
        seen = await send_order(made)
        assert (seen.status, seen.end, placed(made)) == (200, "open", True)
        assert len(seen.body) == int(seen.header("content-length") or 0) > 0
        with pytest.raises(json.JSONDecodeError):
            json.loads(seen.body)


async def test_a_length_that_is_too_large() -> None:
    async with venue(faults=[{"action": "wrong_length"}]) as (made, _):
        seen = await send_order(made)
        assert (seen.status, seen.end, placed(made)) == (200, "open", True)
        assert json.loads(seen.body)["client_order_id"] == "hit"
        assert int(seen.header("content-length") or 0) > len(seen.body)


@pytest.mark.parametrize(
    ("action", "is_placed"), [("html_200", False), ("accept_then_html_200", True)]
)
async def test_a_page_instead_of_json(action: str, is_placed: bool) -> None:
    async with venue(faults=[{"action": action}]) as (made, _):
        seen = await send_order(made)
        assert (seen.status, seen.header("content-type")) == (200, "text/html")
        assert seen.body.startswith(b"<!DOCTYPE html>")
        assert len(seen.body) == int(seen.header("content-length") or 0)
        assert placed(made) is is_placed


async def test_bytes_that_are_no_http() -> None:
    async with venue(faults=[{"action": "garbage"}]) as (made, _):
        seen = await send_order(made)
        assert seen.data
        assert not seen.data.startswith(b"HTTP/")
        assert (seen.end, placed(made)) == ("end", True)


async def test_a_late_answer_which_events_overtake() -> None:
    fault = {"match": POST, "action": "delay", "delay_s": 0.4}
    async with venue(faults=[fault]) as (made, client), listening(made) as stream:
        began = time.monotonic()
        waiting = asyncio.create_task(place(client(), "hit"))
        assert [e["event"] for e in await events(stream, 2)] == ["new", "fill"]
        assert not waiting.done()
        assert (await waiting).json()["client_order_id"] == "hit"
        assert time.monotonic() - began >= 0.4


async def test_an_order_that_is_taken_in_after_the_client_gave_up() -> None:
    fault = {"match": POST, "action": "late_accept", "delay_s": 0.3}
    async with venue(faults=[fault]) as (made, client), listening(made) as stream:
        seen = await send_order(made, wait_s=0.05)
        assert (seen.data, placed(made)) == (b"", False)
        found = await client().get("/v2/orders:by_client_order_id?client_order_id=hit")
        assert found.status_code == 404
        assert [e["event"] for e in await events(stream, 2)] == ["new", "fill"]
        assert placed(made)


async def test_a_reply_byte_by_byte() -> None:
    fault = {"match": POST, "action": "slow_loris", "delay_s": 0.3}
    async with venue(faults=[fault]) as (made, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        for client_id in ("hit", "next"):  # what is behind waits for its turn
            body = json.dumps({**ORDER, "client_order_id": client_id}).encode()
            writer.write(raw_order(body))
        pieces = []
        async with asyncio.timeout(5):
            while b"".join(pieces).count(b'"client_order_id":') < 2:
                pieces.append(await reader.read(65536))
        assert len(pieces) > 20
        assert len(pieces[0]) < 20
        ids = re.findall(rb'"client_order_id":"(\w+)"', b"".join(pieces))
        assert ids == [b"hit", b"next"]
        writer.close()
        await writer.wait_closed()


async def test_a_slow_reply_to_nobody_still_trades() -> None:
    fault = {"match": POST, "action": "slow_loris", "delay_s": 300}
    async with venue(faults=[fault]) as (made, _), listening(made) as stream:
        await send_order(made, wait_s=0.05)
        assert [e["event"] for e in await events(stream, 2)] == ["new", "fill"]


async def test_a_duplicate_id_reply_to_an_order_that_was_placed() -> None:
    async with venue(faults=[{"match": POST, "action": "duplicate_id_reply"}]) as (made, _):
        async with listening(made) as stream:
            seen = await send_order(made)
            assert seen.status == 422
            assert json.loads(seen.body)["message"] == "client_order_id must be unique"
            assert [e["event"] for e in await events(stream, 2)] == ["new", "fill"]
        assert made.venue.order_count == 1


async def test_a_new_order_that_look_ups_do_not_see_yet() -> None:
    fault = {"match": POST, "action": "visibility_lag", "delay_s": 0.3}
    async with venue(faults=[fault]) as (made, client):
        http = client()
        order = (await place(http, "hit", type="limit", limit_price="188")).json()
        paths = [
            f"/v2/orders/{order['id']}",
            "/v2/orders:by_client_order_id?client_order_id=hit",
        ]
        assert [(await http.get(path)).status_code for path in paths] == [404, 404]
        assert (await http.get("/v2/orders")).json() == []
        assert (await http.delete(paths[0])).status_code == 404
        assert (await place(http, "hit")).json()["message"] == "client_order_id must be unique"
        assert [row["id"] for row in (await http.get("/sim/orders")).json()] == [order["id"]]
        await eventually(lambda: placed(made))
        assert [(await http.get(path)).status_code for path in paths] == [200, 200]
        assert [o["id"] for o in (await http.get("/v2/orders")).json()] == [order["id"]]


async def test_a_clock_that_is_off() -> None:
    fault = {"match": {"path": "/v2/clock"}, "action": "date_skew", "delay_s": -90}
    async with venue(faults=[fault]) as (_, client):
        http = client()
        for off in (90, 0):
            answer = await http.get("/v2/clock")
            now = datetime.now(UTC)
            for stamp in (
                datetime.fromisoformat(answer.json()["timestamp"]),
                parsedate_to_datetime(answer.headers["Date"]),
            ):
                assert off - 1 <= (now - stamp).total_seconds() <= off + 4


async def test_credentials_end_after_some_requests() -> None:
    forever = {"match": {"account": "K1"}, "action": "expire_token", "after": 2}
    soon_well = {"match": {"account": "K2"}, "action": "expire_token", "delay_s": 0.2}
    async with venue(faults=[forever, soon_well]) as (made, client):
        http, other = client("K1"), client("K2")
        assert [(await http.get("/v2/clock")).status_code for _ in range(5)] == [200, 200] + [
            401
        ] * 3
        assert (await other.get("/v2/clock")).status_code in {401, 403}
        async with websockets.connect(f"ws://127.0.0.1:{made.port}/stream", proxy=None) as stream:
            login = {"action": "auth", "key": "K1", "secret": "s3cret-of-the-tests"}
            await stream.send(json.dumps(login))
            assert (await heard(stream))["data"]["status"] == "unauthorized"
        async with asyncio.timeout(5):
            while (await other.get("/v2/clock")).status_code != 200:
                pass
        made.venue.renew("K1")
        assert (await http.get("/v2/clock")).status_code == 200


async def test_an_order_fills_while_its_cancel_is_on_the_way() -> None:
    fault = {"match": {"method": "DELETE"}, "action": "fill_first"}
    async with venue(faults=[fault]) as (made, client), listening(made) as stream:
        http = client()
        order = (await place(http, "a", type="limit", limit_price="188")).json()
        late = await http.delete(f"/v2/orders/{order['id']}")
        assert (late.status_code, late.json()["message"]) == (
            422,
            'order is already in "filled" state',
        )
        new, fill = await events(stream, 2)
        assert (new["event"], fill["event"], fill["price"], fill["qty"]) == (
            "new",
            "fill",
            "188",
            "10",
        )
        assert made.venue.accounts["K1"].money.reserved == 0


async def test_an_error_whose_body_is_the_placed_order() -> None:
    async with venue(faults=[{"match": POST, "action": "placed_422"}]) as (made, _):
        seen = await send_order(made)
        assert (seen.status, json.loads(seen.body)["client_order_id"]) == (422, "hit")
        assert placed(made)


async def test_several_ids_change_nothing_for_a_broker_that_has_one() -> None:
    async with venue(faults=[{"action": "array_of_ids"}]) as (made, _):
        assert (await send_order(made)).status == 200
        assert made.log.rows()[0].fault == "array_of_ids"


# Connections


async def test_a_connection_reset_at_accept() -> None:
    async with venue(faults=[{"action": "refuse", "times": 2}]) as (made, client):
        for _ in range(2):
            assert (await send_order(made)).end == "reset"
        assert (await place(client(), "after")).status_code == 200
        assert [(row.method, row.fault) for row in made.log.rows()][:2] == [
            ("CONNECT", "refuse")
        ] * 2
        assert not placed(made)


async def test_a_stopped_venue_takes_bytes_and_answers_later() -> None:
    async with venue() as (made, client), listening(made) as stream:
        http = client()
        open_order = (await place(http, "open", type="limit", limit_price="188")).json()
        assert [e["event"] for e in await events(stream, 1)] == ["new"]
        assert (await http.post("/sim/pause", json={"seconds": 0})).status_code == 422
        began = time.monotonic()
        assert (await http.post("/sim/pause", json={"seconds": 0.3})).status_code == 200
        seen = await send_order(made, wait_s=0.1)  # a new connection: the system takes it
        assert (seen.data, seen.end, made.venue.order_count) == (b"", "open", 1)
        answer = await http.get(f"/v2/orders/{open_order['id']}")
        assert answer.status_code == 200
        assert time.monotonic() - began >= 0.25
        await eventually(lambda: placed(made))  # what was sent meanwhile is served
        assert [e["event"] for e in await events(stream, 2)] == ["new", "fill"]


async def test_events_wait_while_the_venue_is_stopped() -> None:
    async with venue() as (made, client), listening(made) as stream:
        await place(client(), "a", type="limit", limit_price="188")
        assert [e["event"] for e in await events(stream, 1)] == ["new"]
        began = time.monotonic()
        made.pause(0.2)
        made.pause(0.3)
        made.venue.market.pin("AAPL", made.venue.market.listing("AAPL").price - 5)
        assert [e["event"] for e in await events(stream, 1)] == ["fill"]
        assert time.monotonic() - began >= 0.28


# Streams


async def test_a_stream_cut_instead_of_an_event() -> None:
    fault = {"match": {"event": "fill"}, "action": "drop_stream"}
    async with venue(faults=[fault]) as (made, client), listening(made) as stream:
        await place(client(), "a")
        assert [e["event"] for e in await events(stream, 1)] == ["new"]
        async with asyncio.timeout(5):
            with pytest.raises(websockets.ConnectionClosed):
                await stream.recv()
        row = made.log.rows()[-1]
        assert (row.method, row.path, row.client_order_id, row.fault) == (
            "EVENT",
            "fill",
            "a",
            "drop_stream",
        )
        assert made.dialect.streams() == []


async def test_an_event_told_twice() -> None:
    fault = {"match": {"event": "fill", "account": "K1"}, "action": "duplicate_event"}
    async with venue(faults=[fault]) as (made, client), listening(made) as stream:
        await place(client(), "a")
        new, fill, again = await events(stream, 3)
        assert (new["event"], fill["event"]) == ("new", "fill")
        assert again == fill  # to the last byte: the same execution


@pytest.mark.parametrize("action", ["reorder_events", "late_event"])
async def test_events_out_of_order(action: str) -> None:
    fault = {"match": {"event": "new"}, "action": action, "delay_s": 0.1}
    async with venue(faults=[fault]) as (made, client), listening(made) as stream:
        await place(client(), "a")
        told = await events(stream, 2)
        assert [e["event"] for e in told] == ["fill", "new"]
        assert told[1]["order"]["status"] == "new"  # as it was, not as it is


async def test_a_reordered_event_with_nothing_after_it_is_told_in_the_end() -> None:
    fault = {"match": {"event": "new"}, "action": "reorder_events", "delay_s": 0.05}
    async with venue(faults=[fault]) as (made, client), listening(made) as stream:
        await place(client(), "a", type="limit", limit_price="188")
        assert [e["event"] for e in await events(stream, 1)] == ["new"]


@pytest.mark.parametrize(
    ("action", "refusal"),
    [("drop", websockets.InvalidMessage), ("http_503", websockets.InvalidStatus)],
)
async def test_a_stream_that_cannot_be_opened(action: str, refusal: type[Exception]) -> None:
    fault = {"match": {"path": "/stream"}, "action": action}
    async with venue(faults=[fault]) as (made, _):
        address = f"ws://127.0.0.1:{made.port}"
        with pytest.raises((refusal, ConnectionResetError)):
            await websockets.connect(f"{address}/stream", proxy=None)
        with pytest.raises(websockets.InvalidStatus):  # 403: there is none here
            await websockets.connect(f"{address}/elsewhere", proxy=None)
        async with listening(made):
            pass


OANDA = {"dialect": "oanda", "accounts": {"101-1": "token"}}
EURO = {"type": "MARKET", "instrument": "EUR_USD", "units": "10", "timeInForce": "FOK"}


@contextlib.asynccontextmanager
async def transactions(made: SimBroker) -> AsyncIterator[asyncio.StreamReader]:
    """Open OANDA's endless reply; what is read begins behind its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
    writer.write(
        b"GET /v3/accounts/101-1/transactions/stream HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer token\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"transfer-encoding: chunked\r\n" in head
    assert b"content-length" not in head
    yield reader
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def chunk(reader: asyncio.StreamReader) -> list[dict[str, Any]]:
    """Read one chunk: whole lines of JSON."""
    async with asyncio.timeout(5):
        size = int(await reader.readuntil(b"\r\n"), 16)
        data = await reader.readexactly(size + 2)
    assert data.endswith(b"\n\r\n")
    return [json.loads(line) for line in data.splitlines() if line]


async def fills(reader: asyncio.StreamReader, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        found += [line["id"] for line in await chunk(reader) if line["type"] == "ORDER_FILL"]
    return found


async def order_euros(made: SimBroker) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(
            f"http://127.0.0.1:{made.port}/v3/accounts/101-1/orders",
            json={"order": EURO},
            headers={"Authorization": "Bearer token"},
        )
    assert answer.status_code == 201


async def test_a_reply_that_never_ends_and_its_faults() -> None:
    faults = [
        {"match": {"event": "fill"}, "action": "duplicate_event"},
        {"match": {"event": "fill"}, "action": "drop_stream"},
    ]
    async with venue(**OANDA, faults=faults) as (made, _), transactions(made) as reader:
        await order_euros(made)
        first, again = await fills(reader, 2)
        assert first == again
        await order_euros(made)
        with pytest.raises(asyncio.IncompleteReadError):
            await fills(reader, 1)
        assert list(made.dialect.streams()) == []
        async with transactions(made) as other:
            assert made.disconnect(only_streams=True) == 1
            with pytest.raises(asyncio.IncompleteReadError):
                await fills(other, 1)


async def test_an_endless_reply_can_be_kept_from_beginning() -> None:
    fault = {"match": {"path": "/v3/accounts/101-1/transactions/stream"}, "action": "http_503"}
    async with venue(**OANDA, faults=[fault]) as (made, _):
        async with httpx.AsyncClient(trust_env=False) as http:
            address = f"http://127.0.0.1:{made.port}/v3/accounts/101-1/transactions/stream"
            assert (await http.get(address)).status_code == 503
        async with transactions(made) as reader:
            await order_euros(made)
            assert await fills(reader, 1)


# Which and how often


async def test_matches_times_and_what_passes_first() -> None:
    faults = [
        {"match": {"account": "K2", "symbol": "AAPL"}, "action": "http_500", "times": 0},
        {"match": {"client_order_id": "b"}, "action": "http_503", "after": 1, "times": 2},
    ]
    async with venue(faults=faults) as (_, client):
        http = client("K1")
        assert (await place(http)).status_code == 200
        assert [(await place(client("K2"), str(i))).status_code for i in range(3)] == [500] * 3
        assert [(await place(http, "b")).status_code for _ in range(4)] == [200, 503, 503, 422]


def test_chance_is_a_function_of_the_seed() -> None:
    def struck(seed: int) -> list[bool]:
        fault = Fault({"action": "drop", "times": 0, "probability": 0.3, "seed": seed})
        return [fault.meets({}) is not None for _ in range(1000)]

    assert struck(1) == struck(1) != struck(2)
    assert 240 < sum(struck(1)) < 360


async def test_a_mix_strikes_orders_with_every_fault_of_requests() -> None:
    mix = Faults([{"action": "mix", "rate": 0.2, "seed": 5}])
    order = {"method": "POST", "path": "/v2/orders"}
    told = [mix.strike(order) for _ in range(20_000)]
    actions = Counter(struck.action for struck in told if struck)
    assert 3_700 < actions.total() < 4_300
    assert not set(actions) & NOT_MIXED
    assert set(actions) >= (ACCEPTED | REFUSED) - NOT_MIXED
    assert {"http_418", "http_429", "http_503", "accept_then_http_503"} <= set(actions)
    for other in ({"method": "GET", "path": "/v2/orders"}, {"method": "POST", "path": "/token"}):
        assert not any(mix.strike(other) for _ in range(100))
    only = {"action": "mix", "rate": 1, "only": ["http_503", "drop"]}
    async with venue(faults=[only]) as (made, _):
        for number in range(12):
            await send_order(made, str(number), wait_s=0.1)
        assert {row.fault for row in made.log.rows()} == {"http_503", "drop"}
        assert made.venue.order_count == 0


def test_every_action_of_requests_is_one_kind() -> None:
    assert not ACCEPTED & REFUSED
    assert not (ACCEPTED | REFUSED) & (ON_CONNECT | ON_EVENT)


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"action": "explode"},
        {"action": "http_200"},
        {"action": "http_600"},
        {"action": "accept_then_hop"},
        {"action": "drop", "match": {"x": 1}},
        {"action": "drop", "match": []},
        {"action": "drop", "times": -1},
        {"action": "drop", "after": True},
        {"action": "drop", "probability": 2},
        {"action": "drop", "probability": "1"},
        {"action": "drop", "rate": 0.1},
        {"action": "delay", "delay_s": -1},
        {"action": "http_429", "retry_after_s": -1},
        {"action": "mix", "only": ["refuse"]},
        {"action": "mix", "only": []},
        {"action": "mix", "probability": 0.1},
    ],
)
def test_faults_that_cannot_be_read(fault: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="fault"):
        Faults([fault])


async def test_bad_faults_change_nothing_at_run_time() -> None:
    async with venue(faults=[{"action": "http_503"}]) as (_, client):
        http = client()
        for bad in ({}, ["x"], [{"action": "explode"}]):
            assert (await http.post("/sim/faults", json=bad)).status_code == 422
        assert (await place(http, "a")).status_code == 503


@pytest.mark.parametrize("action", ["hang", "accept_then_hang", "drop", "late_accept"])
async def test_nothing_behind_a_lost_answer_is_answered_in_its_place(action: str) -> None:
    """Or a pipelining client would take the second answer for the first."""
    async with venue(faults=[{"action": action, "delay_s": 0.01}]) as (made, client):
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


async def test_an_ordinary_client_survives_every_kind() -> None:
    """No fault leaves the venue unable to serve the next client."""
    async with venue() as (made, client):
        observer = client()
        for action in sorted((ACCEPTED | REFUSED) - {"expire_token"}):
            fault = {"match": POST, "action": action, "delay_s": 0.02}
            assert (await observer.post("/sim/faults", json=[fault])).status_code == 200
            http = client()
            http.timeout = httpx.Timeout(0.15)
            with contextlib.suppress(httpx.HTTPError):
                await place(http, f"{action}-struck")
            assert (await place(client(), f"{action}-next")).status_code == 200, action
        await eventually(lambda: placed(made, "late_accept-struck"))
