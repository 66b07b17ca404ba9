"""The whole way over TLS: orders, look-ups and order streams of every dialect, trusted by one named file."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.brokers.simulated_ca import trust
from engine.errors import ConfigError
from engine.loadtest.dialects import DIALECTS
from engine.model.enums import ConnectionState
from engine.simbroker import SimBroker, SimConfig
from engine.simbroker.tls import make_certificate
from tests.world import World, eventually, world


async def venue_over_tls(dialect: str, directory: Path) -> tuple[SimBroker, Path]:
    certificates = make_certificate(directory)
    sim = SimBroker(SimConfig(dialect=dialect, walk=False))
    await sim.start(ssl=certificates.server_context())
    return sim, certificates.authority


def document(dialect: str, sim: SimBroker) -> dict[str, object]:
    spoken = DIALECTS[dialect]
    return {
        "id": "T-1",
        "broker": dialect,
        "base_url": f"https://127.0.0.1:{sim.port}",
        "credentials": spoken.credentials("T", 1),
        "sizing": {"method": "fixed", "quantity": spoken.quantity},
    }


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
async def test_an_order_fills_over_tls(tmp_path: Path, dialect: str):
    spoken = DIALECTS[dialect]
    sim, authority = await venue_over_tls(dialect, tmp_path)
    sim.venue.market.pin(spoken.symbol, spoken.price)
    engine = {"simulated_ca": str(authority)}
    try:
        async with world(tmp_path, [document(dialect, sim)], engine=engine) as w:
            session = w.engine.fleet.sessions["T-1"]
            await eventually(lambda: session.state is ConnectionState.CONNECTED)
            detail = await w.send(symbol=spoken.symbol)
            order = w.order(detail, "T-1")
            await eventually(lambda: order.status.terminal)
            assert (order.status, order.avg_px) == ("filled", spoken.price)
            assert 0 < order.first_byte_ns <= order.last_byte_ns <= order.acked_ns
    finally:
        await sim.stop()


async def test_without_the_named_file_nothing_is_sent(tmp_path: Path):
    sim, _ = await venue_over_tls("alpaca", tmp_path)
    try:
        async with world(tmp_path, [document("alpaca", sim)], connected=0) as w:
            state = w.engine.fleet.states["T-1"]
            await eventually(lambda: "certificate" in _told(w))
            assert not state.usable
            assert sim.log.total == 0
    finally:
        await sim.stop()


def _told(w: World) -> str:
    state = w.engine.fleet.states["T-1"]
    return f"{state.connection_text} {state.last_error}"


def test_an_authority_that_could_vouch_for_others_is_refused(tmp_path: Path):
    from engine.brokers.http import tls_context

    certificates = make_certificate(tmp_path)
    trust(tls_context(), str(certificates.authority))  # the venue's own is taken
    with pytest.raises(ConfigError, match="simulated_ca"):
        trust(tls_context(), str(certificates.certificate))  # no authority, no constraints
    missing = tmp_path / "missing.pem"
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        trust(tls_context(), str(missing))
