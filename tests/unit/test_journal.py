"""The journal: what it acknowledged is there after a restart, and a failing disk stops everything loudly."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.execution.order_manager import OrderManager
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.messages import Fill
from engine.model.order import Order
from engine.model.position import Levels, Position
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.stores import journal_thread
from engine.stores.journal import Journal
from engine.stores.journal_opening import open_file
from engine.stores.journal_rows import SignalEntry
from engine.stores.journal_schema import MIGRATIONS, MOVES, SCHEMA_VERSION
from engine.stores.reserve import RESERVE_BYTES
from tests.helpers import (
    MONDAY,
    HandClock,
    eventually,
    make_order,
    make_report,
    make_state,
    make_trade,
)

ROOT = Path(__file__).parents[2]
STAMP = "2026-11-23T15:00:00.000000Z"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "journal.sqlite3"


@asynccontextmanager
async def opened(path: Path, journal: Journal | None = None):
    journal = journal or Journal(path)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


def entry(signal_id: str = "s-1", **fields) -> SignalEntry:
    made = SignalEntry(
        source="bot",
        id=signal_id,
        body_hash="hash",
        body=b'{"symbol":"AAPL"}',
        origin="api",
        received_at=STAMP,
        state="accepted",
        code="",
        message="",
        plan={"first": "accepted", "orders": []},
    )
    return replace(made, **fields)


def facts(order: Order) -> dict[str, object]:
    """Return everything of an order that a restart must keep."""
    kept = set(Order.__slots__) - {
        "planned_ns", "send_before_ns", "first_byte_ns", "last_byte_ns", "acked_ns", "reference",
    }  # fmt: skip
    return {name: getattr(order, name) for name in kept}


# Restart.


async def test_a_restart_keeps_signals(path):
    first = entry(plan={"first": "held", "held": ["A"], "n": "0.1"}, state="held")
    second = entry(
        "s-2", code="NO_ACCOUNTS", message="no account may act", state="refused", settled=True
    )
    async with opened(path) as journal:
        assert await journal.commit_signal(first) is None
        assert await journal.commit_signal(second) is None
        assert (first.seq, second.seq) == (1, 2)
        first.state, first.code, first.plan = (
            "accepted",
            "X",
            {"first": "held", "orders": [["O-1"]]},
        )
        await journal.commit_plan(first)
        journal.note_trace(1, {"durable": 5})
        second.state, second.code, second.message = "expired", "STALE", "too late"
        await journal.commit_plan(second)
        journal.note_settled(1)
    first = replace(first, trace={"durable": 5}, settled=True)
    async with opened(path) as journal:
        loaded = await journal.load()
        assert loaded.signals == [first, second]
        assert loaded.counts == {"signals": 2, "orders": 0, "fills": 0}
        assert await journal.signal("bot", "s-1") == first
        assert await journal.signal("bot", "s-9") is None
        assert await journal.signal("else", "s-1") is None


async def test_a_restart_keeps_orders_fills_and_positions_to_the_last_digit(path):
    keeper = PositionKeeper(Marks(HandClock()))
    working = make_order(
        "W",
        "sell",
        "0.3",
        order_type=OrderType.STOP_LIMIT,
        time_in_force=TimeInForce.GTC,
        limit_price=Decimal("101.250"),
        stop_price=Decimal("0.00000001"),
        stop_loss=Decimal("99.5"),
        take_profit=Decimal("110.25"),
        trail_percent=Decimal("0.5"),
        parent="E",
        source="bot",
        signal_id="s-1",
        strategy="breakout",
        leg="close:AAPL",
        reducing=True,
    )
    done = make_order("D", "buy", "3", created_at=MONDAY + timedelta(microseconds=1))
    async with opened(path) as journal:
        await journal.commit_orders([done])
        acknowledged = make_report(working, ExecType.NEW, order_id="b-1")
        for order, reports in (
            (working, [acknowledged, make_trade(working, "x1", "0.1", "1.123456789012")]),
            (done, [make_trade(done, "x2", "1", "3.1"), make_trade(done, "x3", "2", "3.2")]),
        ):
            for report in reports:
                fill = order.apply(report, MONDAY)
                journal.note_order(order)
                if fill:
                    journal.note_fill(fill, keeper.apply(fill))
        position = keeper.get("A-1", "AAPL")
        position.stop_loss, position.take_profit = Decimal("1.5"), None
        journal.note_position(position)
    async with opened(path) as journal:
        loaded = await journal.load()
        assert {o.cl_ord_id: facts(o) for o in loaded.orders if o.status.working} == {
            "W": facts(working)
        }
        (restored,) = (o for o in loaded.orders if o.cl_ord_id == "D")
        assert facts(restored) | {"exec_ids": set()} == facts(done) | {"exec_ids": set()}
        assert facts(await journal.order("D")) == facts(done)
        assert await journal.order("nobody") is None
        assert [fill.exec_id for fill in sorted(loaded.fills, key=lambda f: f.exec_id)] == [
            "x1",
            "x2",
            "x3",
        ]
        assert all(isinstance(fill, Fill) and fill.at == MONDAY for fill in loaded.fills)
        (kept,) = loaded.positions
        for name in ("account", "symbol", "qty", "cash", "cost", "stop_loss", "take_profit"):
            assert getattr(kept, name) == getattr(position, name), name
        assert [o.cl_ord_id for o in await journal.orders_of("bot", "s-1")] == ["W"]
        assert loaded.counts == {"signals": 0, "orders": 2, "fills": 3}


async def test_the_same_execution_is_kept_once(path):
    order, keeper = make_order(), PositionKeeper(Marks(HandClock()))
    fill = order.apply(make_trade(order, "x1", "4"), MONDAY)
    async with opened(path) as journal:
        for _ in range(3):
            journal.note_fill(fill, keeper.apply(fill))
            await journal.flushed()
        assert len((await journal.load()).fills) == 1


async def test_an_execution_told_again_after_a_restart_counts_once(path):
    order, keeper = make_order(), PositionKeeper(Marks(HandClock()))
    told = make_trade(order, "x1", "4")
    async with opened(path) as journal:
        fill = order.apply(told, MONDAY)
        order.apply(make_report(order, ExecType.CANCELED), MONDAY)
        journal.note_order(order)
        journal.note_fill(fill, keeper.apply(fill))
    async with opened(path) as journal:
        loaded = await journal.load()
    fills, broken = [], []
    manager = OrderManager(
        HandClock(),
        {"A-1": make_state()},
        lambda *_changed: None,
        lambda again, _order: fills.append(again),
        lambda *problem: broken.append(problem),
    )
    manager.load(loaded.orders, loaded.fills)
    assert manager.apply(told).cum_qty == 4
    assert (fills, broken) == ([], [])


async def test_a_restart_keeps_latches_days_and_commands(path):
    async with opened(path) as journal:
        await journal.commit_halt("all", "halted", "kill switch", STAMP, "operator")
        await journal.commit_halt("account:A", "reducing", "", STAMP, "operator")
        await journal.commit_halt("account:A", "halted", "loss", STAMP, "engine")
        await journal.commit_halt("symbol:X", "halted", "", STAMP, "operator")
        await journal.clear_halt("symbol:X")
        await journal.clear_halt("never latched")
        for day, baseline in (("2026-11-22", "1"), ("2026-11-23", "-0.10"), ("2026-11-23", "99")):
            journal.note_day("A", day, Decimal(baseline))
        assert await journal.commit_command("c-1", STAMP, {"command": "kill"}) is None
        journal.note_result("c-1", {"result": "halted", "cancels": 3})
        assert await journal.commit_command("c-2", STAMP, {"command": "rearm"}) is None
        book = journal.book
    async with opened(path) as journal:
        assert journal.book == book
        assert len(book) == 16
        loaded = await journal.load()
        assert {halt["scope"]: (halt["state"], halt["reason"], halt["by"]) for halt in loaded.halts} == {
            "all": ("halted", "kill switch", "operator"),
            "account:A": ("halted", "loss", "engine"),
        }  # fmt: skip
        assert loaded.days == [
            ("A", "2026-11-23", Decimal("-0.10"))
        ]  # a day's first baseline stands
        earlier = await journal.commit_command("c-1", STAMP, {"command": "something else"})
        assert earlier == {
            "body": {"command": "kill"},
            "result": {"result": "halted", "cancels": 3},
            "interrupted": False,
        }
        unfinished = await journal.commit_command("c-2", STAMP, {"command": "rearm"})
        assert (unfinished["interrupted"], unfinished["result"]["status"]) == (True, 409)


async def test_two_homes_are_two_books(tmp_path):
    async with opened(tmp_path / "a") as first, opened(tmp_path / "b") as second:
        assert first.book != second.book


async def test_the_same_key_again_gets_the_first_entry(path):
    first = entry(body_hash="one", plan={"orders": [["O-1"]]})
    async with opened(path) as journal:
        assert await journal.commit_signal(first) is None
        assert await journal.commit_signal(entry(body_hash="two", state="refused")) == first
        assert await journal.commit_signal(entry("s-2")) is None
        assert await journal.commit_signal(entry(source="else")) is None
    async with opened(path) as journal:
        assert await journal.commit_signal(entry(body_hash="three")) == first
        assert len((await journal.load()).signals) == 3


async def test_of_the_same_key_at_once_one_wins(path):
    async with opened(path) as journal:
        answers = await asyncio.gather(
            *(journal.commit_signal(entry(body_hash=str(number))) for number in range(50))
        )
        assert [answer.body_hash if answer else None for answer in answers] == [None] + ["0"] * 49


async def test_a_plan_may_be_as_large_as_a_fan_out(path):
    plan = {"orders": [[f"O-{number}", f"A-{number}", "0.1"] for number in range(5000)]}
    async with opened(path) as journal:
        await journal.commit_signal(entry(plan=plan))
    async with opened(path) as journal:
        assert (await journal.signal("bot", "s-1")).plan == plan


async def test_open_signals_are_loaded_however_old(path):
    async with opened(path) as journal:
        await journal.commit_signal(entry("old-open"))
        await journal.commit_signal(entry("old-held", state="held", settled=True))
        await journal.commit_signal(entry("old-done", settled=True))
        commits = (journal.commit_signal(entry(f"s{n}", settled=True)) for n in range(2001))
        await asyncio.gather(*commits)
        loaded = await journal.load()
        assert [signal.id for signal in loaded.signals[:3]] == ["old-open", "old-held", "s1"]
        assert len(loaded.signals) == 2002
        assert loaded.counts["signals"] == 2004


# How it writes.


class Watched(Journal):
    """Counts commits; its connection can be told how many pages the file may have."""

    def __init__(self, path: Path, pages: int | None = None) -> None:
        super().__init__(path, opener=self._open_file)
        self.statements: list[str] = []
        self._pages = pages

    def _open_file(self, path: Path) -> sqlite3.Connection:
        connection = open_file(path)
        connection.set_trace_callback(self.statements.append)
        if self._pages:
            connection.execute(f"PRAGMA max_page_count={self._pages}")
        return connection

    def commits(self) -> int:
        return self.statements.count("COMMIT")


async def test_commits_that_come_together_share_a_transaction(path):
    journal = Watched(path)
    async with opened(path, journal):
        before = journal.commits()
        await asyncio.gather(*(journal.commit_signal(entry(f"s{n}")) for n in range(300)))
        assert journal.commits() - before <= 30
        assert len((await journal.load()).signals) == 300


async def test_what_is_durable_is_in_the_file_when_the_call_returns(path):
    async with opened(path) as journal:
        await journal.commit_signal(entry())
        await journal.commit_halt("all", "halted", "", STAMP, "operator")
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT count(*) FROM signals").fetchone() == (1,)
            assert other.execute("SELECT scope FROM halts").fetchone() == ("all",)
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_every_change_of_an_order_costs_one_row(path):
    journal, order = Watched(path), make_order(quantity="1000")
    async with opened(path, journal):
        before = journal.commits()
        for number in range(500):
            order.apply(make_trade(order, f"x{number}", "1"), MONDAY)
            journal.note_order(order)
        await journal.flushed()
        assert journal.commits() - before <= 2
        assert (await journal.order("O-1")).cum_qty == 500


async def test_what_was_noted_is_written_by_itself_soon(path):
    order = make_order()
    journal = Watched(path)
    async with opened(path, journal):
        before = journal.commits()
        journal.note_order(order)
        await eventually(lambda: journal.commits() > before)
        assert await journal.order("O-1") is not None


async def test_a_row_is_as_it_was_when_noted_last(path):
    """The writing thread never sees an order that changes under it."""
    order = make_order()
    async with opened(path) as journal:
        journal.note_order(order)
        flushed = asyncio.create_task(journal.flushed())
        await asyncio.sleep(0)
        order.status = OrderStatus.CANCELED  # not noted
        await flushed
        assert (await journal.order("O-1")).status is OrderStatus.PENDING_NEW


# Pages.


async def pages(journal: Journal, table: str, size: int, **where: str) -> list[list[dict]]:
    found, after = [], None
    while page := await journal.page(table, where, size, after):
        found.append(page)
        after = page[-1]["cursor"]
    return found


@pytest.fixture
async def full(path):
    """25 signals, orders and fills: three share each stamp, accounts and symbols alternate."""
    keeper = PositionKeeper(Marks(HandClock()))
    async with opened(path) as journal:
        for number in range(25):
            symbol = "AAPL" if number % 2 else "MSFT"
            at = MONDAY + timedelta(seconds=number // 3)
            state = "accepted" if number % 5 else "refused"
            body = json.dumps({"symbol": symbol}).encode()
            await journal.commit_signal(entry(f"s{number}", state=state, body=body))
            order = make_order(
                f"O-{number:02}", account=f"A-{number % 3}", symbol=symbol, created_at=at
            )
            fill = order.apply(make_trade(order, f"x|{number}", "10"), at)
            journal.note_order(order)
            journal.note_fill(fill, keeper.apply(fill))
        await journal.flushed()
        yield journal


@pytest.mark.parametrize("table", ["signals", "orders", "fills"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 25, 100])
async def test_pages_hold_every_row_once_newest_first(full, table, size):
    key, order = {
        "signals": ("seq", "seq"),
        "orders": ("cl_ord_id", "created_at"),
        "fills": ("exec_id", "at"),
    }[table]
    found = await pages(full, table, size)
    rows = [row for page in found for row in page]
    assert [len(page) for page in found[:-1]] == [size] * (len(found) - 1)
    assert len({row[key] for row in rows}) == len(rows) == 25
    assert [row[order] for row in rows] == sorted((row[order] for row in rows), reverse=True)


@pytest.mark.parametrize(
    ("table", "where", "count"),
    [
        ("signals", {"status": "refused"}, 5),
        ("signals", {"symbol": "AAPL"}, 12),
        ("signals", {"symbol": "AAPL", "status": "refused"}, 2),
        ("orders", {"account": "A-0"}, 9),
        ("orders", {"account": "A-0", "symbol": "MSFT"}, 5),
        ("orders", {"status": "filled"}, 25),
        ("orders", {"status": "new"}, 0),
        ("fills", {"symbol": "AAPL"}, 12),
        ("fills", {"account": "A-9"}, 0),
        ("fills", {"account": "' OR 1=1 --"}, 0),
    ],
)
async def test_pages_of_some(full, table, where, count):
    assert sum(len(page) for page in await pages(full, table, 4, **where)) == count


async def test_pages_of_fills_hold_every_account_s(path):
    """An execution's id is unique in its account only."""
    names = [f"A-{number}" for number in range(6)]
    async with opened(path) as journal:
        for name in names:
            fill = Fill(name, "1", f"O-{name}", "AAPL", Side.BUY, Decimal(1), Decimal(1), MONDAY)
            journal.note_fill(fill, Position(name, "AAPL"))
        await journal.flushed()
        for size in (1, 2, 4, 6):
            found = [row["account"] for page in await pages(journal, "fills", size) for row in page]
            assert sorted(found) == names


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("signals", "{source}/{id}"),
        ("orders", "{cl_ord_id}"),
        ("fills", "{account}/{exec_id}"),
    ],
)
async def test_a_page_begins_behind_a_row_s_own_key_too(full, table, key):
    found = await full.page(table, {}, 100, None)
    for place, row in enumerate(found):
        behind = await full.page(table, {}, 100, key.format(**row))
        assert behind == found[place + 1 :]
    assert await full.page(table, {}, 100, "nobody/nothing") == []


async def test_new_rows_do_not_move_the_pages_after(full):
    first = await full.page("signals", {}, 5, None)
    await full.commit_signal(entry("newer"))
    second = await full.page("signals", {}, 5, first[-1]["cursor"])
    assert [row["seq"] for row in first + second] == list(range(25, 15, -1))


@pytest.mark.parametrize(
    "cursor", ["x", "|", "²|1", "-1|-1", "9" * 20, "9" * 5000, "'; DROP TABLE signals"]
)
@pytest.mark.parametrize("table", ["signals", "orders", "fills"])
async def test_a_cursor_of_somebody_s_own_making_harms_nothing(full, table, cursor):
    with suppress(StoreError):
        assert isinstance(await full.page(table, {}, 5, cursor), list)
    assert full.failed == ""
    assert len(await full.page(table, {}, 100, None)) == 25


@pytest.mark.parametrize("limit", [0, -1, 10**20])
@pytest.mark.parametrize("table", ["signals", "orders", "fills"])
async def test_a_limit_no_query_takes_harms_nothing(full, table, limit):
    with suppress(StoreError):
        assert isinstance(await full.page(table, {}, limit, None), list)
    assert full.failed == ""
    assert len(await full.page(table, {}, 100, None)) == 25


# Failures.


async def test_a_query_that_fails_says_nothing_about_the_writes(path):
    async with opened(path) as journal:
        await journal.commit_signal(entry())
        change(path, "UPDATE signals SET plan = 'no JSON'")
        with pytest.raises(StoreError):
            await journal.signal("bot", "s-1")
        assert journal.failed == ""
        assert await journal.commit_signal(entry("s-2")) is None


async def test_a_row_that_cannot_be_read_is_its_asker_s_trouble_alone(path):
    async with opened(path) as journal:
        await journal.commit_orders([make_order()])
        change(path, "UPDATE orders SET order_qty = 'abc'")
        with pytest.raises(StoreError):
            await journal.order("O-1")
        assert journal.failed == ""
        assert await journal.commit_signal(entry()) is None


async def test_a_connection_that_breaks_leaves_nobody_waiting(path):
    journal = Journal(path)
    told: list[str] = []
    journal.on_failure = told.append
    async with opened(path, journal):
        journal._put(lambda connection: connection.close())
        with pytest.raises(StoreError):
            await asyncio.wait_for(journal.commit_signal(entry()), 10)
        await eventually(lambda: journal.failed)
        assert told == [journal.failed]


async def test_a_full_disk_stops_the_journal_once_and_loses_nothing_acknowledged(path):
    journal = Watched(path)
    told: list[str] = []
    journal.on_failure = told.append
    acknowledged = []
    async with opened(path, journal):
        await journal.commit_signal(entry("s-0", body=b"x" * 4000))
        acknowledged.append("s-0")
        await journal._do(
            lambda connection: connection.execute("PRAGMA max_page_count=60") and None
        )
        answers = await asyncio.gather(
            *(journal.commit_signal(entry(f"s-{n}", body=b"x" * 4000)) for n in range(1, 200)),
            return_exceptions=True,
        )
        acknowledged += [f"s-{n}" for n, answer in enumerate(answers, start=1) if answer is None]
        refused = [answer for answer in answers if answer is not None]
        assert refused
        assert all(isinstance(answer, StoreError) for answer in refused)
        assert "full" in journal.failed
        assert told == [journal.failed]
        # No order may follow any more; what became of those that left still finds room in the reserve.
        assert not (path.parent / "reserve").exists()
        for later in (
            journal.commit_signal(entry("later")),
            journal.commit_orders([make_order("later")]),
            journal.commit_command("c", STAMP, {"command": "flatten"}),
        ):
            with pytest.raises(StoreError, match="full"):
                await later
        journal.note_order(make_order())
        await journal.commit_halt("all", "halted", "", STAMP, "operator")
        await journal.flushed()
        assert len(told) == 1
    async with opened(path) as journal:
        assert (path.parent / "reserve").stat().st_size == RESERVE_BYTES
        loaded = await journal.load()
        kept = {signal.id for signal in loaded.signals}
        assert set(acknowledged) <= kept
        assert "later" not in kept
        assert [halt["state"] for halt in loaded.halts] == ["halted"]
        assert [order.cl_ord_id for order in loaded.orders] == ["O-1"]
        assert await journal.commit_signal(entry("after the repair")) is None


async def test_a_disk_that_stays_full_ends_the_closing_records_too(path):
    journal = Watched(path)
    async with opened(path, journal):
        await journal._do(lambda connection: connection.execute("PRAGMA max_page_count=1") and None)
        big = entry(body=b"x" * 100_000)
        for attempt in (
            journal.commit_signal(big),
            journal.commit_fact("k", "v", {"x": "y" * 99_999}),
        ):
            with pytest.raises(StoreError, match="full"):
                await attempt
        with pytest.raises(StoreError, match="full"):
            await journal.flushed()
    async with opened(path) as journal:
        loaded = await journal.load()
        assert (loaded.signals, loaded.facts) == ([], {})


CHILD = """
import asyncio, resource, sys
from pathlib import Path
from engine.errors import StoreError
from engine.stores.journal import Journal
from tests.unit.test_journal import entry

async def main():
    journal = Journal(Path(sys.argv[1]))
    told = []
    journal.on_failure = told.append
    await journal.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    number = 0
    while number < 1000:
        try:
            await asyncio.wait_for(journal.commit_signal(entry(f"s-{number}", body=b"x" * 4000)), 10)
        except StoreError as error:
            print("failed", error, flush=True)
            break
        print("durable", f"s-{number}", flush=True)
        number += 1
    try:
        await asyncio.wait_for(journal.commit_signal(entry("later")), 10)
    except StoreError:
        print("refused later", len(told), flush=True)
    await asyncio.wait_for(journal.close(), 20)
    print("closed", flush=True)

asyncio.run(main())
"""


if sys.platform != "win32":

    async def test_a_file_that_may_not_grow_loses_nothing_acknowledged(path):
        child = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", CHILD, str(path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = child.stdout.splitlines()
        acknowledged = {line.split()[1] for line in lines if line.startswith("durable")}
        assert 5 < len(acknowledged) < 1000, child.stderr
        assert [line.split(" journal:")[0] for line in lines[len(acknowledged) :]] == [
            "failed",
            "refused later 1",
            "closed",
        ], child.stdout[-500:] + child.stderr
        async with opened(path) as journal:
            kept = {signal.id for signal in (await journal.load()).signals}
            assert acknowledged <= kept
            assert "later" not in kept


def change(path: Path, *statements: str) -> None:
    """Change the file behind the journal's back."""
    with closing(sqlite3.connect(path)) as other:
        for statement in statements:
            other.execute(statement)
        other.commit()


async def refused(path: Path) -> str:
    journal = Journal(path)
    with pytest.raises(StoreError) as caught:
        async with asyncio.timeout(10):
            await journal.open()
    await journal.close()
    assert str(path) in str(caught.value)
    return str(caught.value)


async def test_a_directory_that_cannot_be_written(tmp_path):
    assert "unable to open" in await refused(tmp_path / "not there" / "journal.sqlite3")


@pytest.mark.parametrize("version", [str(SCHEMA_VERSION + 1), "two"])
async def test_a_file_of_another_version_is_refused_and_left_as_it_is(path, version):
    async with opened(path) as journal:
        await journal.commit_signal(entry())
    change(path, f"UPDATE meta SET value = '{version}' WHERE key = 'schema'", "DROP TABLE days")
    assert (
        f"its schema is version {version}, this build reads version {SCHEMA_VERSION}"
        in await refused(path)
    )
    with closing(sqlite3.connect(path)) as other:
        tables = {name for (name,) in other.execute("SELECT name FROM sqlite_master")}
    assert "signals" in tables
    assert "days" not in tables


async def test_a_closed_journal_can_be_closed_again(path):
    journal = Journal(path)
    await journal.close()  # never opened
    await journal.open()
    await journal.close()
    await journal.close()


async def test_a_closed_journal_takes_nothing_and_keeps_nobody_waiting(path):
    async with opened(path) as journal:
        pass
    for late in (journal.commit_signal(entry()), journal.flushed(), journal.load()):
        with pytest.raises(StoreError, match="closed"):
            await asyncio.wait_for(late, 10)


# A file of version 1.


def version_1(path: Path) -> None:
    """Write a file as version 1 did, with one order, one position and one signal."""
    with closing(sqlite3.connect(path)) as old:
        old.executescript(VERSION_1)
        old.execute("INSERT INTO meta VALUES ('schema', '1'), ('book', 'old-book')")
        old.execute(
            "INSERT INTO orders VALUES ('W', 'A-1', 'AAPL', 'buy', 'limit', 'day', '3', '101.25', NULL, 'new', 1, '0', "
            "'0', 'b-1', '', '', 'breakout', 'bot', 's-1', 'entry', 0, ?, ?, NULL, NULL)",
            (STAMP, STAMP),
        )
        old.execute(
            "INSERT INTO fills VALUES ('A-1', 'x-1', 'W', 'AAPL', 'buy', '1', '100', ?, 'breakout', 'bot', 's-1')",
            (STAMP,),
        )
        old.execute(
            "INSERT INTO positions VALUES ('A-1', 'AAPL', '3', '-300', '300', '95', NULL, ?)",
            (STAMP,),
        )
        old.execute(
            "INSERT INTO signals VALUES (1, 'bot', 's-1', 'hash', '{}', 'api', ?, 'accepted', '', '', '{}', NULL, 0)",
            (STAMP,),
        )
        old.commit()


VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE signals (
    seq INTEGER PRIMARY KEY, source TEXT NOT NULL, id TEXT NOT NULL, body_hash TEXT NOT NULL, body BLOB NOT NULL,
    origin TEXT NOT NULL, received_at TEXT NOT NULL, state TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
    plan BLOB NOT NULL, trace BLOB, settled INTEGER NOT NULL DEFAULT 0, UNIQUE (source, id));
CREATE INDEX signals_open ON signals (settled) WHERE settled = 0;
CREATE TABLE orders (
    cl_ord_id TEXT PRIMARY KEY, account TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL,
    order_type TEXT NOT NULL, time_in_force TEXT NOT NULL, order_qty TEXT NOT NULL, limit_price TEXT,
    stop_price TEXT, status TEXT NOT NULL, working INTEGER NOT NULL, cum_qty TEXT NOT NULL, cash TEXT NOT NULL,
    order_id TEXT NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL, strategy TEXT NOT NULL, source TEXT NOT NULL,
    signal_id TEXT NOT NULL, leg TEXT NOT NULL, reducing INTEGER NOT NULL, created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL, send_us INTEGER, ack_us INTEGER) WITHOUT ROWID;
CREATE INDEX orders_working ON orders (working) WHERE working = 1;
CREATE INDEX orders_signal ON orders (source, signal_id);
CREATE INDEX orders_time ON orders (created_at);
CREATE TABLE fills (
    account TEXT NOT NULL, exec_id TEXT NOT NULL, cl_ord_id TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL,
    last_qty TEXT NOT NULL, last_px TEXT NOT NULL, at TEXT NOT NULL, strategy TEXT NOT NULL, source TEXT NOT NULL,
    signal_id TEXT NOT NULL, PRIMARY KEY (account, exec_id)) WITHOUT ROWID;
CREATE INDEX fills_order ON fills (cl_ord_id);
CREATE INDEX fills_time ON fills (at);
CREATE TABLE positions (
    account TEXT NOT NULL, symbol TEXT NOT NULL, qty TEXT NOT NULL, cash TEXT NOT NULL, cost TEXT NOT NULL,
    stop_loss TEXT, take_profit TEXT, updated_at TEXT NOT NULL, PRIMARY KEY (account, symbol)) WITHOUT ROWID;
CREATE TABLE halts (
    scope TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL, by TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE days (
    account TEXT NOT NULL, day TEXT NOT NULL, baseline TEXT NOT NULL, PRIMARY KEY (account, day)) WITHOUT ROWID;
CREATE TABLE commands (
    id TEXT PRIMARY KEY, at TEXT NOT NULL, body BLOB NOT NULL, result BLOB) WITHOUT ROWID;
"""


VERSION_2 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE signals (
    seq INTEGER PRIMARY KEY, source TEXT NOT NULL, id TEXT NOT NULL, body_hash TEXT NOT NULL, body BLOB NOT NULL,
    origin TEXT NOT NULL, received_at TEXT NOT NULL, state TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
    plan BLOB NOT NULL, trace BLOB, settled INTEGER NOT NULL DEFAULT 0, UNIQUE (source, id));
CREATE INDEX signals_open ON signals (settled) WHERE settled = 0;
CREATE TABLE orders (
    cl_ord_id TEXT PRIMARY KEY NOT NULL, account TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL,
    order_type TEXT NOT NULL, time_in_force TEXT NOT NULL, order_qty TEXT NOT NULL, limit_price TEXT,
    stop_price TEXT, status TEXT NOT NULL, working INTEGER NOT NULL, cum_qty TEXT NOT NULL, cash TEXT NOT NULL,
    order_id TEXT NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL, strategy TEXT NOT NULL, source TEXT NOT NULL,
    signal_id TEXT NOT NULL, leg TEXT NOT NULL, reducing INTEGER NOT NULL, created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL, send_us INTEGER, ack_us INTEGER, stop_loss TEXT, take_profit TEXT, trail_percent TEXT,
    parent TEXT NOT NULL DEFAULT '');
CREATE INDEX orders_working ON orders (working) WHERE working = 1;
CREATE INDEX orders_signal ON orders (source, signal_id);
CREATE INDEX orders_time ON orders (created_at);
CREATE TABLE fills (
    account TEXT NOT NULL, exec_id TEXT NOT NULL, cl_ord_id TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL,
    last_qty TEXT NOT NULL, last_px TEXT NOT NULL, at TEXT NOT NULL, strategy TEXT NOT NULL, source TEXT NOT NULL,
    signal_id TEXT NOT NULL, fee_qty TEXT NOT NULL DEFAULT '0', PRIMARY KEY (account, exec_id));
CREATE INDEX fills_order ON fills (cl_ord_id);
CREATE INDEX fills_time ON fills (at);
CREATE TABLE positions (
    account TEXT NOT NULL, symbol TEXT NOT NULL, qty TEXT NOT NULL, cash TEXT NOT NULL, cost TEXT NOT NULL,
    stop_loss TEXT, take_profit TEXT, updated_at TEXT NOT NULL, trail_percent TEXT, best TEXT,
    native INTEGER NOT NULL DEFAULT 0, generation INTEGER NOT NULL DEFAULT 1, source TEXT NOT NULL DEFAULT '',
    signal_id TEXT NOT NULL DEFAULT '', strategy TEXT NOT NULL DEFAULT '', PRIMARY KEY (account, symbol))
    WITHOUT ROWID;
CREATE TABLE square_offs (account TEXT PRIMARY KEY, day TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE halts (
    scope TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL, by TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE days (
    account TEXT NOT NULL, day TEXT NOT NULL, baseline TEXT NOT NULL, PRIMARY KEY (account, day)) WITHOUT ROWID;
CREATE TABLE commands (
    id TEXT PRIMARY KEY, at TEXT NOT NULL, body BLOB NOT NULL, result BLOB) WITHOUT ROWID;
"""


def version_2(path: Path) -> None:
    """Write a file as version 2 did, with what ``version_1`` writes and a square-off."""
    with closing(sqlite3.connect(path)) as old:
        old.executescript(VERSION_2)
        old.execute("INSERT INTO meta VALUES ('schema', '2'), ('book', 'old-book')")
        old.execute(
            "INSERT INTO orders VALUES ('W', 'A-1', 'AAPL', 'buy', 'limit', 'day', '3', '101.25', NULL, 'new', 1, '0', "
            "'0', 'b-1', '', '', 'breakout', 'bot', 's-1', 'entry', 0, ?, ?, NULL, NULL, NULL, NULL, NULL, '')",
            (STAMP, STAMP),
        )
        old.execute(
            "INSERT INTO fills VALUES ('A-1', 'x-1', 'W', 'AAPL', 'buy', '1', '100', ?, 'breakout', 'bot', 's-1', '0')",
            (STAMP,),
        )
        old.execute(
            "INSERT INTO positions (account, symbol, qty, cash, cost, stop_loss, updated_at) "
            "VALUES ('A-1', 'AAPL', '3', '-300', '300', '95', ?)",
            (STAMP,),
        )
        old.execute(
            "INSERT INTO signals VALUES (1, 'bot', 's-1', 'hash', '{}', 'api', ?, 'accepted', '', '', '{}', NULL, 0)",
            (STAMP,),
        )
        old.commit()


def schema_of(path: Path) -> dict[str, set[str]]:
    with closing(sqlite3.connect(path)) as file:
        names = file.execute("SELECT name, tbl_name, type FROM sqlite_master").fetchall()
        return {
            name: {row[1] for row in file.execute(f"PRAGMA table_info({name})")}
            if kind == "table"
            else {table}
            for name, table, kind in names
        }


async def old_state(path: Path) -> None:
    """Check that everything of version 1 is there, and that what is new can be kept beside it."""
    async with opened(path) as journal:
        assert journal.book == "old-book"
        loaded = await journal.load()
        (order,) = loaded.orders
        assert (order.cl_ord_id, order.limit_price, order.parent) == ("W", Decimal("101.25"), "")
        assert not order.levels
        assert order.exec_ids == {"x-1"}
        assert [(fill.exec_id, fill.last_px, fill.fee_qty) for fill in loaded.fills] == [
            ("x-1", 100, 0)
        ]
        (position,) = loaded.positions
        assert (position.qty, position.stop_loss, position.generation) == (3, 95, 1)
        assert (position.trail_percent, position.best, position.native) == (None, None, False)
        assert [entry.id for entry in loaded.signals] == ["s-1"]
        assert loaded.square_offs == {}


@pytest.mark.parametrize("write", [version_1, version_2])
async def test_a_file_of_an_older_version_is_brought_up_to_date(path, tmp_path, write):
    write(path)
    await old_state(path)
    async with opened(tmp_path / "new.sqlite3"):
        pass
    assert schema_of(path) == schema_of(tmp_path / "new.sqlite3")
    await old_state(path)  # once more: nothing is left to do
    async with opened(path) as journal:
        position = (await journal.load()).positions[0]
        position.protect(Levels(None, Decimal(110), Decimal("2.5")))
        position.best, position.native, position.generation = Decimal("120.5"), True, 7
        position.source, position.signal_id, position.strategy = "bot", "s-9", "breakout"
        journal.note_position(position)
        journal.note_square_off("A-1", "2026-11-23")
        await journal.flushed()
    async with opened(path) as journal:
        loaded = await journal.load()
        (kept,) = loaded.positions
        for name in set(Position.__slots__) - {"protected"}:
            assert getattr(kept, name) == getattr(position, name), name
        assert loaded.square_offs == {"A-1": "2026-11-23"}


async def test_a_file_of_version_1_that_has_not_named_itself_yet(path):
    version_1(path)
    change(path, "DELETE FROM meta WHERE key = 'schema'")
    await old_state(path)


@pytest.mark.parametrize(
    ("steps", "last"),
    [(steps, last) for steps in (MIGRATIONS, MOVES) for last in range(len(steps[2]))],
)
async def test_a_migration_that_ends_half_way_leaves_version_1_as_it_was(
    path, monkeypatch, steps, last
):
    version_1(path)
    before = schema_of(path)
    with monkeypatch.context() as patched:
        patched.setitem(steps, 2, (*steps[2][: last + 1], "this is no statement"))
        assert "syntax error" in await refused(path)
    assert schema_of(path) == before
    await old_state(path)


def test_a_migration_killed_before_its_commit_leaves_version_1_as_it_was(path):
    version_1(path)
    before = schema_of(path)
    code = (
        "import os, signal, sqlite3, sys\n"
        "from engine.stores import journal_schema\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA journal_mode=WAL')\n"
        "kill = getattr(signal, 'SIGKILL', signal.SIGTERM)\n"
        "connection.set_trace_callback(lambda s: os.kill(os.getpid(), kill) if s == 'COMMIT' else None)\n"
        "journal_schema.make_or_migrate(connection)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode != 0
    assert schema_of(path) == before
    asyncio.run(old_state(path))


async def test_a_long_wal_is_begun_anew_while_writes_go_on(path: Path, monkeypatch) -> None:
    """Checkpoints beside the writer never come to the last of it while it writes without a pause."""
    monkeypatch.setattr(journal_thread, "CHECKPOINT_EVERY_S", 3600.0)

    async with opened(path) as journal:
        for number in range(50):
            await journal.commit_fact("k", "v", {"n": number})
        with closing(sqlite3.connect(path)) as other:
            long = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
        await journal.commit_fact("k", "v", {"n": 50})
        journal._thread._wal_is_long = True  # as the checkpointer says of more than WAL_MOST_BYTES
        await journal.commit_fact("k", "v", {"n": 51})
        await journal.commit_fact("k", "v", {"n": 52})  # behind the fold
        with closing(sqlite3.connect(path)) as other:
            short = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
        assert 0 < short < 10 < long
        assert not journal._thread._wal_is_long
        assert (await journal.load()).facts["k"]["v"] == {"n": 52}


# ---- a command that goes with its plan -------------------------------------------------------------------------------


def kept_commands(path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as file:
        return file.execute("SELECT id, result IS NOT NULL FROM commands ORDER BY id").fetchall()


async def test_a_begun_command_is_written_with_what_is_committed_next(path, monkeypatch):
    """One transaction, and so one wait for the disk; in the audit the command comes before what it did."""
    commits: list[int] = []
    commit = journal_thread.JournalThread._commit

    def counted(thread, connection, batch):
        before = connection.total_changes
        results = commit(thread, connection, batch)
        if connection.total_changes != before:
            commits.append(connection.total_changes)
        return results

    async with opened(path) as journal:
        held = entry("held")
        await journal.commit_signal(held)
        monkeypatch.setattr(journal_thread.JournalThread, "_commit", counted)
        assert await journal.begin_command("c-1", STAMP, {"command": "approve"}) is None
        assert (commits, kept_commands(path)) == ([], [])
        await journal.commit_plan(held)
        assert (len(commits), kept_commands(path)) == (1, [("c-1", 0)])
        journal.note_result("c-1", {"result": "approved"})
        await journal.flushed()
    with closing(sqlite3.connect(path)) as file:
        kinds = [row[0] for row in file.execute("SELECT kind FROM audit ORDER BY seq")]
    assert kinds[-5:] == ["signal", "command", "plan", "result", "stop"]


async def test_a_begun_command_is_carried_out_once(path):
    body = {"command": "approve", "signal": "bot/s"}
    async with opened(path) as journal:
        found = await asyncio.gather(*(journal.begin_command("c-1", STAMP, body) for _ in range(3)))
        running = {"body": body, "result": {"result": "in progress"}, "interrupted": False}
        assert found == [None, running, running]
        assert await journal.commit_command("c-1", STAMP, {"command": "reject"}) == running
        journal.note_result("c-1", {"error": "NOT_HELD"})  # nothing was committed for it
        for again in (journal.begin_command, journal.commit_command):
            assert (await again("c-1", STAMP, body))["result"] == {"error": "NOT_HELD"}
        assert await journal.begin_command("c-2", STAMP, body) is None
        assert kept_commands(path) == [("c-1", 1)]
    assert kept_commands(path) == [("c-1", 1), ("c-2", 0)]  # closing it writes what is queued
    async with opened(path) as journal:
        await journal.load()
        assert (await journal.begin_command("c-2", STAMP, body))["interrupted"]
        found = await asyncio.gather(*(journal.begin_command("c-1", STAMP, body) for _ in range(3)))
        assert [one["result"] for one in found] == [{"error": "NOT_HELD"}] * 3


async def test_a_begun_command_that_waits_is_written_soon(path):
    async with opened(path) as journal:
        assert await journal.begin_command("c-1", STAMP, {"command": "approve"}) is None
        await eventually(lambda: kept_commands(path) == [("c-1", 0)])
