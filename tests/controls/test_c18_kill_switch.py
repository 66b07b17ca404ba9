"""C18: the kill switch latches durably, sends nothing, cancels everything, chases what is accepted late."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio

from engine import kill
from engine.brokers.connection import Exchange
from engine.brokers.hub import WireHub
from engine.brokers.session import WireSession
from engine.brokers.wire import WirePool
from engine.cli.engine import loop_factory
from engine.kill_latch import FILE, FIRM, GENERATION, SECTOR, SECTORS, SIZE, KillLatch
from engine.model.enums import OrderStatus
from engine.simbroker import SimBroker
from tests.processes import ROOT
from tests.world import World, alpaca, eventually, venue, world

FAR = {"order_type": "limit", "limit_price": "185", "time_in_force": "gtc"}


@pytest_asyncio.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


async def rest(w: World, sim: SimBroker, number: int = 1) -> None:
    """Let orders rest at the venue, in every account."""
    before = sim.summary()["open_orders"]
    for n in range(number):
        await w.send(id=f"rest-{w.engine.clock.monotonic_ns()}-{n}", **FAR)
    accounts = len(w.engine.fleet.states)
    await eventually(lambda: sim.summary()["open_orders"] == before + number * accounts)


async def place_elsewhere(sim: SimBroker, w: World, name: str) -> None:
    """Place an order of another program."""
    keys = alpaca(1, url(sim))["credentials"]
    answer = await w.http.post(
        f"{url(sim)}/v2/orders",
        json={
            "symbol": "AAPL", "qty": "1", "side": "buy", "type": "limit", "time_in_force": "gtc",
            "limit_price": "150", "client_order_id": name,
        },
        headers={"APCA-API-KEY-ID": keys["key_id"], "APCA-API-SECRET-KEY": keys["secret"]},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text


async def kill_rows(w: World) -> dict[str, dict]:
    status = (await w.http.get("/v1/status")).json()
    return {row["account"]: row for row in status["kill"]}


async def cleared(w: World) -> dict[str, dict]:
    """Wait until every account is verified; return the rows."""
    run = next(reversed(w.engine.operator.kill_runs.values()))
    await eventually(lambda: all(run.row(account)["done"] for account in run.accounts()))
    return {account: run.row(account) for account in run.accounts()}


# ---- pass -----------------------------------------------------------------------------------------------------------


async def test_every_order_is_cancelled_and_the_broker_s_own_list_proves_it(tmp_path, sim) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        await rest(w, sim, 3)
        await place_elsewhere(sim, w, "by-another-program")
        said = await w.command("kill")
        assert (said["cancels"], said["result"]) == (6, "halted")
        assert 0 < said["latch_ms"] <= said["dispatched_ms"]
        rows = await cleared(w)
        assert [row["working"] for row in rows.values()] == [0, 0]
        assert [row["cancels_sent"] for row in rows.values()] == [4, 3]
        assert [row["cancels_confirmed"] for row in rows.values()] == [4, 3]
        assert all(row["verified_at"] >= row["at"][:10] for row in rows.values())
        assert sim.summary()["open_orders"] == 0


async def test_flatten_is_a_second_act(tmp_path, sim) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send(id="s-1")
        await eventually(lambda: w.position("A-001") == 1)
        await w.command("kill")
        assert (await cleared(w))["A-001"]["residual"] == {"AAPL": "1"}
        await w.command("kill", flatten=True)
        assert (await cleared(w))["A-001"]["residual"] == {}
        assert w.position("A-001") == 0


# ---- refuse ---------------------------------------------------------------------------------------------------------


async def test_nothing_leaves_under_the_latch_but_an_operator_s_exits(tmp_path, sim) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send(id="s-1")
        await eventually(lambda: w.position("A-001") == 1)
        await w.command("kill")
        count = sim.venue.order_count
        assert (await w.post(id="s-2")).json()["code"] == "HALTED"
        assert (await w.post(id="s-3", action="close")).json()["code"] == "HALTED"
        assert sim.venue.order_count == count
        await w.command("close_position", account="A-001", symbol="AAPL")
        await eventually(lambda: w.position("A-001") == 0)


async def test_a_press_outside_reaches_an_order_between_gate_and_wire(tmp_path, sim) -> None:
    """The gate has let it pass, then the switch was pressed: not a byte leaves."""
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        session = w.engine.fleet.sessions["A-001"]
        assert isinstance(session, WireSession)
        outside = KillLatch(w.path / FILE)
        send = session.submit

        def pressed_in_between(order) -> None:
            outside.halt(FIRM, "pressed in between", "test", "2026-01-01T00:00:00Z")
            outside.press()
            send(order)

        session.submit = pressed_in_between  # type: ignore[method-assign]
        answer = await w.post(id="s-1")
        order = w.engine.records[f"bot/{answer.json()['signal_id']}"].orders["A-001"]
        await eventually(lambda: order.status.terminal)
        assert (order.status, order.code) == (OrderStatus.DENIED, "HALTED")
        assert "pressed in between" in order.text
        assert sim.venue.order_count == 0
        outside.close()


async def test_cancels_pass_while_the_press_is_not_yet_seen(tmp_path, sim) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await rest(w, sim)
        order = w.engine.orders.working()[0]
        w.engine.shared.press()
        assert w.engine.shared.words[GENERATION] != w.engine.shared.seen
        w.engine.dispatcher.lanes["A-001"].cancel(order)  # before anybody has looked
        await eventually(lambda: order.status is OrderStatus.CANCELED)


def test_the_loop_keeps_no_order_back() -> None:
    """uvloop writes at the end of its turn: what is kept there leaves when a stopped process goes on."""

    async def kept() -> list[int]:
        hub = WireHub()
        async with venue() as sim:
            pool = WirePool(hub, "127.0.0.1", sim.port, tls=False)
            await pool.start()
            connections = [c for lane in pool._lanes for c in lane.open]
            pool.send(b"GET /sim/summary HTTP/1.1\r\nHost: x\r\n\r\n", _Read())
            sizes = [c.transport.get_write_buffer_size() for c in connections]
            await pool.stop()
            return sizes

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert set(runner.run(kept())) == {0}


class _Read(Exchange):
    """A request whose answer nobody needs."""

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Take no notice."""

    def on_failure(self, left: bool, reason: str) -> None:
        """Take no notice."""


async def test_a_press_inside_reaches_an_order_that_waits_for_a_connection(tmp_path, sim) -> None:
    """Its connection died as it was to leave, and no other opens: it is denied now, not when one does."""
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        session = w.engine.fleet.sessions["A-001"]
        assert isinstance(session, WireSession)
        assert isinstance(session.wire, WirePool)
        wire, send, never = session.wire, session.submit, asyncio.Event()

        def dies_under_it(order) -> None:
            for connection in list(wire._orders.idle):
                connection.transport.abort()
            send(order)

        async def connect(*_: object) -> None:
            await never.wait()

        session.submit = dies_under_it  # type: ignore[method-assign]
        wire.connect = connect  # type: ignore[assignment, method-assign]
        answer = await w.post(id="s-1")
        order = w.engine.records[f"bot/{answer.json()['signal_id']}"].orders["A-001"]
        await eventually(lambda: len(wire._orders.waiting.entries) == 1)
        await w.command("kill")
        assert (order.status, order.code) == (OrderStatus.DENIED, "HALTED")
        assert not wire._orders.waiting.entries
        assert sim.venue.order_count == 0


# ---- the cancel of all in one request -------------------------------------------------------------------------------


def _deletes(sim: SimBroker) -> list[str]:
    return [row.path for row in sim.log.rows(0) if row.method == "DELETE"]


async def test_one_request_cancels_an_account_and_what_it_did_not_reach_goes_by_itself(
    tmp_path, sim
) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await rest(w, sim, 3)
        await w.command("kill")
        assert (await cleared(w))["A-001"]["cancels_confirmed"] == 3
        assert _deletes(sim) == ["/v2/orders"]
        await w.command("rearm", reason="next")
        await rest(w, sim, 1)
        sim.faults.replace([{"action": "http_500", "match": {"method": "DELETE"}}])
        await w.command("kill")
        await cleared(w)
        assert [path.count("/") for path in _deletes(sim)] == [2, 2, 3]


async def test_an_exit_waits_until_the_cancel_of_all_is_answered(tmp_path, sim) -> None:
    """Or it would be cancelled with the rest."""
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send(id="held")
        await eventually(lambda: w.position("A-001") == 1)
        await rest(w, sim)
        slow = {"action": "delay", "delay_s": 0.5, "match": {"method": "DELETE"}}
        sim.faults.replace([slow])
        await w.command("kill")
        lane = w.engine.dispatcher.lanes["A-001"]
        assert lane.sweeping
        await w.command("close_position", account="A-001", symbol="AAPL")
        assert len(lane) == 1  # it waits here
        await eventually(lambda: w.position("A-001") == 0)
        assert not lane.sweeping
        log = [(row.method, row.status) for row in sim.log.rows(0) if row.method != "GET"]
        assert log[-2:] == [("DELETE", 207), ("POST", 200)]


async def test_another_press_in_the_same_moment_asks_for_nothing_twice(
    tmp_path, sim, monkeypatch
) -> None:
    """The command presses by the latch first, then asks the engine, which has heard of it by then."""
    monkeypatch.setattr("engine.kill.CANCEL_AGAIN_S", 60.0)  # however slow: it is the same moment
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await rest(w, sim, 2)
        unseen = {"action": "http_500", "match": {"method": "GET", "path": "/v2/orders"}}
        sim.faults.replace([unseen])  # the first is not through before the second comes
        first = await w.command("kill")
        assert (await w.command("kill"))["cancels"] == first["cancels"] == 2
        sim.faults.replace([])
        await cleared(w)
        assert _deletes(sim) == ["/v2/orders"]
        again = await w.command("kill")  # the first is through: this one looks anew
        assert again["cancels"] == 0
        await cleared(w)
        await eventually(lambda: (w.engine.shared.of(FIRM) or {})["open"] is False)


# ---- boundary -------------------------------------------------------------------------------------------------------


async def test_a_scope_ends_where_it_ends(tmp_path, sim) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        await rest(w, sim)
        await w.command("kill", scope="account:A-001")
        assert list(await cleared(w)) == ["A-001"]
        assert sim.summary()["open_orders"] == 1
        detail = await w.send(id="s-2")
        by = {row["account"]: row["code"] for row in detail["accounts"]}
        assert by == {"A-001": "HALTED", "A-002": ""}


async def test_a_symbol_s_kill_leaves_others_orders_alone(tmp_path, sim) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await rest(w, sim)
        await place_elsewhere(sim, w, "not-ours")
        await w.command("kill", scope="symbol:AAPL")
        await cleared(w)
        assert [o["client_order_id"] for o in _open(sim)] == ["not-ours"]


async def test_what_is_accepted_late_is_chased(tmp_path, sim) -> None:
    """F38: the order was under way when the switch was pressed; the broker takes it a second later."""
    async with world(tmp_path, [alpaca(1, url(sim))], engine={"reply_timeout_s": 0.5}) as w:
        late = {"action": "late_accept", "delay_s": 1.0, "times": 1}
        sim.faults.replace([late | {"match": {"method": "POST", "path": "/v2/orders"}}])
        await w.post(id="late", **FAR)
        await w.command("kill")
        await eventually(lambda: sim.venue.order_count == 1)
        await cleared(w)
        assert sim.summary()["open_orders"] == 0


def _open(sim: SimBroker) -> list[dict]:
    from engine.simbroker.observer import order_row

    rows = [order_row(o) for a in sim.venue.accounts.values() for o in a.orders.values()]
    return [row for row in rows if row["status"] in {"new", "accepted", "partially_filled"}]


# ---- restart --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["journal", "latch", "neither"])
async def test_the_latch_outlives_a_restart_by_file_or_row(tmp_path, sim, lost: str) -> None:
    """F39: an older journal was restored, or the latch file is gone; only ``rearm`` lifts both."""
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.command("kill", reason="enough")
    if lost == "journal":
        for file in (tmp_path / "home").glob("journal.sqlite3*"):
            file.unlink()
    elif lost == "latch":
        (tmp_path / "home" / FILE).unlink()
    async with world(tmp_path) as w:
        answer = (await w.post()).json()
        assert answer["code"] == "HALTED"
        assert "enough" in answer["message"]
        await w.command("rearm", reason="seen to")
        await w.send(id="after")
    async with world(tmp_path) as w:
        assert (await w.send(id="again"))["signal"]["state"] == "accepted"


async def test_a_restart_goes_on_with_a_kill_that_was_cut_short(tmp_path, sim) -> None:
    """K27: latched, and killed before the cancels."""
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await rest(w, sim)
        w.engine.shared.halt(FIRM, "cut short", "operator", "2026-01-01T00:00:00Z", unfinished=True)
    async with world(tmp_path) as w:
        await eventually(lambda: sim.summary()["open_orders"] == 0)
        await cleared(w)
        await eventually(lambda: not (w.engine.shared.of(FIRM) or {}).get("open"))
        await place_elsewhere(sim, w, "by-hand-afterwards")
    async with world(tmp_path) as w:  # it is through: what a person places now is not touched
        assert (await w.post()).json()["code"] == "HALTED"
        assert len(_open(sim)) == 1
        assert not w.engine.operator.kill_runs


# ---- text -----------------------------------------------------------------------------------------------------------


async def test_what_is_not_clear_is_named(tmp_path, sim, monkeypatch) -> None:
    monkeypatch.setattr(kill, "GIVE_UP_S", 0.3)
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await rest(w, sim)
        sim.faults.replace([{"action": "http_500", "times": 9, "match": {"method": "DELETE"}}])
        await w.command("kill")
        alert = await eventually(
            lambda: next((a for a in w.engine.alerts if a["code"] == "KILL_INCOMPLETE"), None)
        )
        assert (alert["severity"], alert["account"]) == ("critical", "A-001")
        assert "all: not clear after 0.3 s: AAPL" in alert["text"]
        row = (await kill_rows(w))["A-001"]
        assert (row["done"], row["working"], row["verified_at"]) == (False, 1, None)
        sim.faults.replace([])  # the chase goes on after the give-up
        await cleared(w)


async def test_arming_wants_limits_for_real_money(tmp_path, sim) -> None:
    account = alpaca(1, url(sim), environment="live")
    async with world(tmp_path, [account]) as w:
        await w.command("disarm")
        answer = await w.try_command("rearm", reason="go")
        assert (answer.status_code, answer.json()["code"]) == (409, "LIMITS_UNSET")
        assert "A-001" in answer.json()["message"]


# ---- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def latch(tmp_path: Path) -> Iterator[KillLatch]:
    made = KillLatch(tmp_path / FILE)
    yield made
    made.close()


def test_a_halt_is_seen_by_every_process_at_once(latch: KillLatch) -> None:
    other = KillLatch(latch.path)
    latch.halt("account:A", "why", "me", "then", unfinished=True)
    latch.press()
    assert other.words[GENERATION] == latch.words[GENERATION] != 0
    assert other.of("account:A") == latch.of("account:A")
    latch.halt("account:A", "again", "me", "later")
    record = other.of("account:A")
    assert record is not None
    assert (record["at"], record["open"], record["reason"]) == ("then", True, "again")
    other.finish("account:A")
    other.lift("account:B")
    assert [r["open"] for r in latch.halts()] == [False]
    assert (other.stands("account:A"), other.stands("account:B")) == (True, False)
    latch.lift("account:A")
    assert other.halts() == []
    latch.halt(FIRM, "all", "me", "then")
    assert other.stands("account:B")
    other.close()


@pytest.mark.parametrize("at", [2 * SECTOR, 2 * SECTOR + 4, 3 * SECTOR + 20, SIZE - SECTOR])
def test_a_damaged_record_halts_everything(tmp_path: Path, at: int) -> None:
    latch = KillLatch(tmp_path / FILE)
    latch.halt(FIRM, "x", "me", "then")
    for number in range(SECTORS - 3):
        latch.halt(f"account:A{number}", "x", "me", "then")
    latch.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[at] ^= 0x40
    (tmp_path / FILE).write_bytes(content)
    latch = KillLatch(tmp_path / FILE)
    assert FIRM in {record["scope"] for record in latch.halts()}
    latch.close()


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * SIZE, b"\0" * (SIZE + 1)])
def test_a_file_that_is_none_halts_everything(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    for _ in range(2):  # and stays so
        latch = KillLatch(tmp_path / FILE)
        assert [record["scope"] for record in latch.halts()] == [FIRM]
        latch.close()


def test_one_scope_too_many_halts_everything(latch: KillLatch) -> None:
    most = SECTORS - 3
    for number in range(most):
        latch.halt(f"account:A{number}", "x", "me", "then")
    assert latch.of(FIRM) is None
    latch.halt("account:one-more", "x", "me", "then")
    assert latch.of(FIRM) is not None


def test_a_long_reason_is_cut_and_the_halt_stands(latch: KillLatch) -> None:
    latch.halt("strategy:" + "s" * 64, "ü" * 256, "me", "then")
    record = latch.of("strategy:" + "s" * 64)
    assert record is not None
    assert set(record["reason"]) == {"ü"}


PRESS = """
import sys
from pathlib import Path
from engine.kill_latch import KillLatch
path, name = Path(sys.argv[1]), sys.argv[2]
sys.stdin.read()
for number in range(12):
    mine = KillLatch(path)
    mine.halt(f"account:{name}-{number}", "x", "me", "then")
    mine.press()
    mine.close()
"""


def test_many_presses_at_once_are_all_kept(tmp_path: Path) -> None:
    """Four processes press for different scopes at the same moment: each finds a place of its own."""
    for number in range(5):
        path = tmp_path / f"latch-{number}"
        latch = KillLatch(path)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PRESS, str(path), name], stdin=subprocess.PIPE, cwd=ROOT
            )
            for name in "ABCD"
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()  # off they go
        assert [process.wait(60) for process in processes] == [0] * 4
        wanted = {f"account:{name}-{scope}" for name in "ABCD" for scope in range(12)}
        assert {record["scope"] for record in latch.halts()} == wanted
        latch.close()


async def test_positions_closed_outside_are_not_closed_again(tmp_path, sim) -> None:
    """The engine's book does not know what another process closed: its exits would open the other side."""
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send(id="s-1")
        await eventually(lambda: w.position("A-001") == Decimal(1))
        await w.command("kill")
        w.engine.shared.flattened(FIRM, "2026-01-01T00:00:00Z")
        assert (await w.command("kill", flatten=True))["flatten"] is False
        await cleared_orders(w)
        assert w.position("A-001") == 1


async def cleared_orders(w: World) -> None:
    run = next(reversed(w.engine.operator.kill_runs.values()))
    await eventually(lambda: all(run.row(account)["verified_at"] for account in run.accounts()))
