"""Every row of the HTTP table, over real sockets, with a stand-in engine behind it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import stat

import httpx
import pytest

from engine.api.server import ApiServer
from engine.config import load_config
from engine.errors import ConfigError, StoreError
from engine.home import Home, hook_secret
from tests.integration.stand_in_engine import TOKEN, StandInEngine, serving

BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def _no_token_variable(monkeypatch):
    monkeypatch.delenv("VOLLEY_TOKEN", raising=False)


@pytest.fixture
async def served(tmp_path):
    async with (
        serving(tmp_path) as (engine, url, home),
        httpx.AsyncClient(base_url=url, headers=BEARER, trust_env=False) as client,
    ):
        yield engine, client, home


@pytest.fixture
def engine(served) -> StandInEngine:
    return served[0]


@pytest.fixture
def client(served) -> httpx.AsyncClient:
    return served[1]


def signal(number: int = 1, **more: object) -> bytes:
    return json.dumps({"id": f"s-{number}", "source": "bot", **more}).encode()


def is_error(response: httpx.Response, status: int, code: str) -> bool:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    assert body["message"]
    return True


# ---- signals


async def test_a_signal_is_taken_repeated_and_contradicted(client, engine):
    first = await client.post("/v1/signals", content=signal())
    assert first.status_code == 202
    assert first.json() == {"signal_id": "s-1", "source": "bot", "state": "accepted"}
    assert isinstance(engine.stamps[0], int)
    again = await client.post("/v1/signals", content=signal())
    assert (again.status_code, again.json()) == (200, first.json())
    other = await client.post("/v1/signals", content=signal(quantity="2"))
    assert is_error(other, 409, "DUPLICATE")
    assert other.json()["state"] == "accepted"


async def test_an_invalid_signal_names_the_field(client):
    response = await client.post("/v1/signals", content=b"{")
    assert is_error(response, 400, "INVALID")
    assert response.json()["field"] == "id"


async def test_a_large_signal_is_refused_whether_or_not_it_says_so(client, engine):
    large = signal(meta="x" * 8192)
    assert is_error(await client.post("/v1/signals", content=large), 413, "TOO_LARGE")

    async def chunks():
        for _ in range(9):
            yield b"x" * 1024

    assert is_error(await client.post("/v1/signals", content=chunks()), 413, "TOO_LARGE")
    assert not engine.bodies
    assert (await client.post("/v1/signals", content=signal())).status_code == 202


async def test_exactly_8_kib_passes(client):
    body = signal(note="")
    body = body.replace(b'"note": ""', b'"note": "' + b"x" * (8192 - len(body)) + b'"')
    assert len(body) == 8192
    assert (await client.post("/v1/signals", content=body)).status_code == 202


async def test_a_full_intake_says_when_to_come_back(client, engine, monkeypatch):
    monkeypatch.setattr("engine.api.routes.IN_FLIGHT", 3)
    engine.gate.clear()
    waiting = [asyncio.create_task(client.post("/v1/signals", content=signal(n))) for n in range(3)]
    await engine.has_waiting(3)
    refused = await client.post("/v1/signals", content=signal(9))
    assert is_error(refused, 429, "BUSY")
    assert int(refused.headers["retry-after"]) >= 1
    engine.gate.set()
    assert [(await task).status_code for task in waiting] == [202] * 3
    assert (await client.post("/v1/signals", content=signal(9))).status_code == 202


async def test_what_is_not_durable_is_not_taken(client, engine):
    engine.failure = StoreError("disk full")
    response = await client.post("/v1/signals", content=signal())
    assert is_error(response, 503, "NOT_DURABLE")
    assert "disk full" not in response.text


async def test_an_unexpected_error_is_a_plain_500_and_in_the_log(client, engine, caplog):
    engine.failure = ZeroDivisionError("inner secret")
    response = await client.post("/v1/signals", content=signal())
    assert is_error(response, 500, "INTERNAL")
    assert "inner secret" not in response.text
    assert "Traceback" not in response.text
    assert "ZeroDivisionError" in caplog.text
    engine.failure = None
    assert (await client.post("/v1/signals", content=signal())).status_code == 202


async def test_a_signal_can_be_read(client):
    await client.post("/v1/signals", content=signal())
    found = await client.get("/v1/signals/bot/s-1")
    assert found.json() == {"signal": {"key": "bot/s-1"}, "accounts": [], "trace": {}}
    assert is_error(await client.get("/v1/signals/bot/none"), 404, "NOT_FOUND")


# ---- hooks


async def test_a_hook_needs_no_header_and_takes_the_source_from_its_path(served):
    engine, client, home = served
    secret = hook_secret(home, "tv")
    async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as stranger:
        good = await stranger.post(f"/v1/hooks/tv/{secret}", content=b'{"id": "7"}')
        assert (good.status_code, good.json()["source"]) == (202, "tv")
        wrong = await stranger.post(f"/v1/hooks/tv/{secret[:-1]}x", content=b'{"id": "8"}')
        unknown = await stranger.post(f"/v1/hooks/nobody/{secret}", content=b'{"id": "8"}')
        strange = await stranger.post(f"/v1/hooks/%00*/{secret}", content=b'{"id": "8"}')
        large = await stranger.post(f"/v1/hooks/tv/{secret}", content=b"x" * 8193)
    assert is_error(wrong, 404, "NOT_FOUND")
    assert wrong.json() == unknown.json() == strange.json()
    assert [*wrong.headers] == [*unknown.headers]
    assert is_error(large, 413, "TOO_LARGE")
    assert list(engine.bodies) == ["tv/7"]


async def test_the_first_hook_secret_is_there_from_the_start(served):
    _, client, home = served
    secret = json.loads(home.hooks_file.read_text())["tradingview"]
    assert len(secret) >= 22
    if os.name == "posix":
        assert stat.S_IMODE(home.hooks_file.stat().st_mode) == 0o600
    response = await client.post(f"/v1/hooks/tradingview/{secret}", content=b'{"id": "1"}')
    assert response.status_code == 202


# ---- who may call

GUARDED = [
    ("POST", "/v1/signals"),
    ("GET", "/v1/signals"),
    ("GET", "/v1/signals/bot/s-1"),
    ("GET", "/v1/orders"),
    ("GET", "/v1/fills"),
    ("GET", "/v1/positions"),
    ("GET", "/v1/accounts"),
    ("GET", "/v1/latency"),
    ("GET", "/v1/status"),
    ("POST", "/v1/prices"),
    ("POST", "/v1/commands"),
    ("GET", "/v1/feed"),
    ("GET", "/no/such/path"),
]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \u00fc".encode(),
    ],
)
async def test_everything_needs_the_token(client, engine, header):
    headers = {} if header is None else {"authorization": header}
    async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as stranger:
        for method, path in GUARDED:
            response = await stranger.request(method, path, headers=headers, content=b"x" * 9000)
            assert is_error(response, 401, "UNAUTHORIZED"), path
            assert response.headers["www-authenticate"].startswith("Bearer")
    assert not engine.bodies


async def test_two_authorization_headers_are_none(client):
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as stranger:
        assert (await stranger.get("/v1/orders", headers=headers)).status_code == 401


async def test_health_and_documentation_need_none(client, engine):
    async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as stranger:
        assert (await stranger.get("/healthz")).json() == {"status": "ok"}
        assert (await stranger.get("/readyz")).json() == {"ready": True, "reasons": []}
        engine.reasons = ["account A-1 is not connected"]
        busy = await stranger.get("/readyz")
        assert busy.status_code == 503
        assert busy.json() == {"ready": False, "reasons": ["account A-1 is not connected"]}
        metrics = await stranger.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "volley_signals_total 1" in metrics.text
        docs = await stranger.get("/docs")
        schema = (await stranger.get("/openapi.json")).json()
    assert schema["info"]["title"] == "Volley"
    assert docs.status_code == 200
    for path in schema["paths"]:
        assert f"<code>{path}</code>" in docs.text
    assert "<script" not in docs.text
    assert "://" not in docs.text  # it works, and tells nobody, without a network
    for _, path in GUARDED[:-1]:
        known = path.replace("/bot/s-1", "/{source}/{signal_id}")
        assert known in schema["paths"], known
    assert schema["paths"]["/v1/orders"]["get"]["security"]
    assert "security" not in schema["paths"]["/v1/hooks/{source}/{secret}"]["post"]
    for reference in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(schema)):
        assert reference in schema["components"]["schemas"]
    assert '"#/$defs' not in json.dumps(schema)
    body = schema["paths"]["/v1/signals"]["post"]["requestBody"]["content"]["application/json"]
    assert "issued_at" in body["schema"]["required"]


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("localhost", True),
        ("LOCALHOST:99", True),
        ("127.0.0.1:1", True),
        ("[::1]:8787", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.1.4", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
async def test_other_names_for_us_are_refused(client, host, good):
    for path in ("/v1/orders", "/metrics", "/healthz"):
        response = await client.get(path, headers={"host": host})
        assert good == (response.status_code == 200), path
        if not good:
            assert is_error(response, 403, "HOST_NOT_ALLOWED")


async def test_a_head_is_told_what_a_get_is_without_its_body(client):
    for path in ("/healthz", "/readyz", "/metrics", "/v1/orders"):
        asked, told = await client.get(path), await client.head(path)
        assert (told.status_code, told.content) == (asked.status_code, b"")
        assert told.headers["content-type"] == asked.headers["content-type"]
        assert int(told.headers["content-length"]) == len(asked.content)
    assert (await client.head("/v1/commands")).status_code == 405
    del client.headers["authorization"]
    assert (await client.head("/v1/orders")).status_code == 401


async def test_no_other_origin_is_ever_allowed(client):
    response = await client.options(
        "/v1/signals",
        headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
    )
    assert not [name for name in response.headers if name.startswith("access-control")]


# ---- lists, prices, latency, commands


async def test_lists_take_filters_and_refuse_what_is_none(client, engine):
    engine.put("orders", cl_ord_id="A" * 20, status="new")
    page = await client.get(
        "/v1/orders",
        params={"account": "A-1", "symbol": "BTC/USD", "status": "new", "limit": 5, "after": "x"},
    )
    assert page.json() == {"items": [{"cl_ord_id": "A" * 20, "status": "new"}], "next": None}
    assert engine.listed == [
        {
            "table": "orders",
            "account": "A-1",
            "symbol": "BTC/USD",
            "status": "new",
            "limit": 5,
            "after": "x",
        }
    ]
    for name in ("signals", "fills", "positions", "accounts"):
        assert (await client.get(f"/v1/{name}")).json()["items"] == []
    assert engine.listed[-1]["limit"] == 100


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=1e2",
        "account=a%20b",
        "symbol=aapl",
        "status=nonsense",
        "acount=A-1",
        "after=",
    ],
)
async def test_a_wrong_query_is_refused(client, engine, query):
    response = await client.get(f"/v1/orders?{query}")
    assert is_error(response, 422, "INVALID_QUERY")
    assert response.json()["field"] == query.partition("=")[0]
    assert not engine.listed


async def test_prices_are_exact_and_all_or_none(client, engine):
    body = b'{"AAPL": "189.43", "BTC/USD": 46430.100000000001}'
    response = await client.post("/v1/prices", content=body)
    assert (response.status_code, response.json()) == (200, {"accepted": 2})
    assert {name: str(price) for name, price in engine.prices.items()} == {
        "AAPL": "189.43",
        "BTC/USD": "46430.100000000001",
    }
    engine.prices.clear()
    for bad in (
        b'{"AAPL": "1", "aapl": "2"}',
        b'{"AAPL": "1", "AAPL": "2"}',
        b'{"AAPL": 1e3}',
        b'{"AAPL": NaN}',
        b'{"AAPL": true}',
        b'{"AAPL": "0"}',
        b'{"AAPL": -1}',
        b"[1]",
        b"\xff",
        b"[" * 60_000,
    ):
        refused = await client.post("/v1/prices", content=bad)
        assert refused.status_code == 400, bad
        assert refused.json()["code"]
        assert refused.json()["message"]
    assert not engine.prices
    assert is_error(await client.post("/v1/prices", content=b"x" * 65_537), 413, "TOO_LARGE")


async def test_latency_and_status(client, engine):
    assert (await client.get("/v1/latency")).json()["stages"]["durable"]["total"] == {"count": 1}
    engine.put("engine", key="engine", trading="active")
    engine.put("halts", scope="all", state="halted")
    engine.needs = [{"account": "A-1", "code": "SESSION_ENDS", "text": "ends", "todo": "log in"}]
    assert (await client.get("/v1/status")).json() == {
        "engine": {"key": "engine", "trading": "active"},
        "halts": [{"scope": "all", "state": "halted"}],
        "kill": [],
        "readiness": engine.needs,
    }


async def test_commands_answer_with_result_or_code(client, engine):
    order = "A" * 20
    done = await client.post("/v1/commands", content=b'{"id": "1", "command": "kill"}')
    assert (done.status_code, done.json()) == (200, {"id": "1", "done": "kill"})
    cases = [
        ({"id": "2", "command": "cancel_order", "cl_ord_id": order}, 404, "NO_SUCH_ORDER"),
        ({"id": "3", "command": "resend", "cl_ord_id": order}, 409, "NOT_ABSENT"),
        ({"id": "4", "command": "resend", "cl_ord_id": "short"}, 422, "INVALID_COMMAND"),
        ({"id": "5", "command": "nonsense"}, 422, "INVALID_COMMAND"),
        ({"command": "kill"}, 422, "INVALID_COMMAND"),
    ]
    for document, status, code in cases:
        assert is_error(await client.post("/v1/commands", json=document), status, code)
    twice = b'{"id": "6", "command": "kill", "scope": "all", "scope": "account:A"}'
    assert (await client.post("/v1/commands", content=twice)).status_code == 400
    assert (await client.post("/v1/commands", content=b"nonsense")).status_code == 400
    too_large = await client.post("/v1/commands", content=b"x" * 65_537)
    assert is_error(too_large, 413, "TOO_LARGE")
    fraction = (
        b'{"id": "7", "command": "close_position", "account": "A", "symbol": "X", "fraction": %s}'
    )
    assert (await client.post("/v1/commands", content=fraction % b"0.5")).status_code == 200
    for bad in (b"1e400", b"1e999999999", b"NaN", b"true"):
        assert (await client.post("/v1/commands", content=fraction % bad)).status_code == 422


async def test_other_paths_and_methods_have_codes_too(client):
    assert is_error(await client.get("/v1/none"), 404, "NOT_FOUND")
    wrong = await client.delete("/v1/orders")
    assert is_error(wrong, 405, "METHOD_NOT_ALLOWED")
    assert "GET" in wrong.headers["allow"]
    assert is_error(await client.get("/v1/feed"), 426, "UPGRADE_REQUIRED")


# ---- the server


async def test_the_token_is_made_once_and_private(tmp_path):
    home = Home(tmp_path)
    config = load_config(home.path, None, {"VOLLEY_ENGINE__LISTEN": "127.0.0.1:0"})
    for _ in range(2):
        server = ApiServer(StandInEngine(), home, config)
        url = await server.start()
        headers = {"authorization": f"Bearer {home.token_file.read_text().strip()}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
            assert (await client.get("/v1/orders")).status_code == 200
        await server.stop()
        await server.stop()
    if os.name == "posix":
        assert stat.S_IMODE(home.token_file.stat().st_mode) == 0o600


async def test_a_port_in_use_is_one_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"engine.listen = {listen}"):
            async with serving(tmp_path, listen=listen):
                raise AssertionError


async def test_listening_to_the_world_is_warned_about(tmp_path, caplog):
    async with serving(tmp_path, listen="0.0.0.0:0") as (_, url, _home):
        port = url.rpartition(":")[2]
        local = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=local, headers=BEARER, trust_env=False) as client:
            assert (await client.get("/v1/orders")).status_code == 200
            by_address = await client.get("/v1/orders", headers={"host": "10.1.2.3:8787"})
            assert by_address.status_code == 200
            by_name = await client.get("/v1/orders", headers={"host": "evil.example"})
            assert is_error(by_name, 403, "HOST_NOT_ALLOWED")
    assert "beyond this machine" in caplog.text


async def test_answers_do_not_wait_for_delayed_acknowledgements(client):
    """An answer in two segments without TCP_NODELAY takes 40 ms on a warm connection."""
    loop = asyncio.get_running_loop()
    await client.post("/v1/signals", content=signal(0))
    times = []
    for number in range(1, 12):
        began = loop.time()
        await client.post("/v1/signals", content=signal(number))
        times.append(loop.time() - began)
    assert sorted(times)[5] < 0.03


async def test_stopping_cuts_idle_connections(tmp_path):
    async with serving(tmp_path) as (_, url, _home):
        client = httpx.AsyncClient(base_url=url, headers=BEARER, trust_env=False)
        await client.get("/healthz")
    with pytest.raises(httpx.TransportError):
        await client.get("/healthz")
    await client.aclose()
