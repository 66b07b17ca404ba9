"""What can be traded: each broker asked once a symbol, nobody kept waiting longer than a second."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from engine.errors import BrokerUnavailable
from engine.market import instruments as module
from engine.market.instruments import Instruments
from engine.model.instrument import Instrument
from tests.helpers import ScriptedSession, eventually

COIN = Instrument("BTCUSDT", lot=Decimal("0.001"), min_qty=Decimal("0.001"))


@pytest.fixture
def session() -> ScriptedSession:
    made = ScriptedSession()
    made.instruments = {"BTCUSDT": COIN}
    return made


@pytest.fixture
async def instruments(session):
    made = Instruments({"alpaca": session}.get)
    yield made
    await made.stop()


async def test_a_broker_is_asked_once(instruments, session):
    assert instruments.get("alpaca", "BTCUSDT") == Instrument(
        "BTCUSDT"
    )  # cautious until it is known
    assert not instruments.known("alpaca", "BTCUSDT")
    for _ in range(3):
        await instruments.ensure("alpaca", "BTCUSDT")
    assert instruments.get("alpaca", "BTCUSDT") is COIN
    assert instruments.known("alpaca", "BTCUSDT")
    assert session.asked_instruments == ["BTCUSDT"]
    assert not instruments.known("paper", "BTCUSDT")


async def test_many_signals_at_once_ask_once(instruments, session):
    session.hold.clear()
    waiting = [asyncio.create_task(instruments.ensure("alpaca", "BTCUSDT")) for _ in range(20)]
    await eventually(lambda: session.asked_instruments)
    session.hold.set()
    await asyncio.gather(*waiting)
    assert session.asked_instruments == ["BTCUSDT"]
    assert instruments.get("alpaca", "BTCUSDT") is COIN


async def test_a_symbol_the_broker_does_not_have_is_remembered_too(instruments, session):
    await instruments.ensure("alpaca", "NONE")
    await instruments.ensure("alpaca", "NONE")
    assert session.asked_instruments == ["NONE"]
    assert instruments.get("alpaca", "NONE") == Instrument("NONE")


async def test_a_slow_broker_is_not_waited_for_and_its_answer_still_counts(
    instruments, session, monkeypatch
):
    monkeypatch.setattr(module, "ASK_WITHIN_S", 0.01)
    session.hold.clear()
    await asyncio.wait_for(instruments.ensure("alpaca", "BTCUSDT"), 2)
    assert not instruments.known("alpaca", "BTCUSDT")
    session.hold.set()
    await eventually(lambda: instruments.known("alpaca", "BTCUSDT"))
    assert session.asked_instruments == ["BTCUSDT"]


async def test_a_broker_that_fails_is_left_alone_for_a_while(instruments, session, caplog):
    session.instruments = BrokerUnavailable("no route")
    for _ in range(5):  # no signal waits for the failing question again
        await instruments.ensure("alpaca", "BTCUSDT")
    assert session.asked_instruments == ["BTCUSDT"]
    assert instruments.known("alpaca", "BTCUSDT")
    assert instruments.get("alpaca", "BTCUSDT") == Instrument("BTCUSDT")
    assert not instruments.known("alpaca", "ETHUSDT")
    assert "instrument BTCUSDT at alpaca: no route" in caplog.text


async def test_a_broker_that_failed_is_asked_again_later(instruments, session, monkeypatch):
    monkeypatch.setattr(module, "ASK_AGAIN_S", 0.0)
    session.instruments = BrokerUnavailable("no route")
    await instruments.ensure("alpaca", "BTCUSDT")
    assert not instruments.known("alpaca", "BTCUSDT")
    session.instruments = {"BTCUSDT": COIN}
    await instruments.ensure("alpaca", "BTCUSDT")
    assert instruments.get("alpaca", "BTCUSDT") is COIN


async def test_without_a_session_nothing_is_known(instruments):
    await instruments.ensure("oanda", "EUR/USD")
    assert not instruments.known("oanda", "EUR/USD")


async def test_stopping_ends_questions_under_way(instruments, session):
    session.hold.clear()
    waiting = asyncio.create_task(instruments.ensure("alpaca", "BTCUSDT"))
    await eventually(lambda: session.asked_instruments)
    await instruments.stop()
    await asyncio.wait_for(waiting, 1)
    assert instruments._asking == {}
