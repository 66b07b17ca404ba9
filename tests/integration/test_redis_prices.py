"""Prices from outside over a real server."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from engine.market.redis_prices import RedisPrices, parse_prices
from engine.model.enums import ConnectionState
from engine.stores.redis_client import open_redis
from tests.integration.test_redis_intake import until
from tests.servers import Valkey

CHANNEL = "volley:prices"


def test_exact_numbers() -> None:
    body = b'{"AAPL": "189.430000000001", "BTC/USD": 64000.10, "X": 7}'
    prices = parse_prices(body)
    assert prices == {
        "AAPL": Decimal("189.430000000001"),
        "BTC/USD": Decimal("64000.10"),
        "X": Decimal(7),
    }
    assert str(prices["BTC/USD"]) == "64000.10"
    assert parse_prices(b"{}") == {}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"1", b'"AAPL"', b"null", b'{"AAPL"', b'{"AAPL": null}', b'{"AAPL": true}',
        b'{"AAPL": {}}', b'{"AAPL": ["1"]}', b'{"AAPL": "0"}', b'{"AAPL": -1}', b'{"AAPL": "1e5"}',
        b'{"AAPL": 1e5}', b'{"AAPL": NaN}', b'{"AAPL": "NaN"}', b'{"AAPL": Infinity}',
        b'{"AAPL": "1_0"}', b'{"AAPL": " 1"}', b'{"aapl": "1"}', b'{"": "1"}',
        b'{"AAPL": "1", "AAPL": "2"}', b'\xff{"AAPL": "1"}', b"[" * 50_000, b'{"A":' * 10_000,
        b'{"AAPL": "1"}' + b" " * 70_000, b'{"AAPL": "\xd9\xa1"}', b'[["AAPL", "1"]]',
        b'{"A": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_prices(body)


async def test_prices_arrive_and_come_again_after_a_kill() -> None:
    seen: list[tuple[str, Decimal]] = []
    with Valkey() as server:
        client, producer = open_redis(server.url), open_redis(server.url)
        prices = RedisPrices(client, lambda symbol, price: seen.append((symbol, price)))
        await prices.start()
        await until(lambda: prices.status()[0] is ConnectionState.CONNECTED)
        await producer.publish(CHANNEL, '{"AAPL": "189.43", "MSFT": 400.5}')
        await producer.publish(CHANNEL, '{"AAPL": "190", "MSFT": "x"}')
        await producer.publish("volley:other", '{"AAPL": "1"}')
        await until(lambda: prices.refused == 1)
        assert seen == [("AAPL", Decimal("189.43")), ("MSFT", Decimal("400.5"))]
        assert "1 messages were refused" in prices.status()[1]
        await asyncio.to_thread(server.kill)
        await until(lambda: prices.status()[0] is ConnectionState.DISCONNECTED)
        await asyncio.to_thread(server.start)
        await until(lambda: prices.status()[0] is ConnectionState.CONNECTED)
        await producer.aclose()
        await producer.publish(CHANNEL, '{"AAPL": "191"}')
        await until(lambda: seen[-1] == ("AAPL", Decimal(191)))
        await prices.stop()
        await producer.aclose()
        await client.aclose()
