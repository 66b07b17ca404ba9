"""What a day leaves behind, read by people: notes, the report, statements, scrubbing, and running it again."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from engine.cli.common import DONE, USAGE
from engine.client import days_at, replay_client
from engine.days.page import day_page, statement_page
from engine.days.record import DayRecord, file_of, lines_of
from engine.days.recorded import bounds, read_day
from engine.days.report import figures_of
from engine.days.rerun import RerunPlan, rerun
from engine.errors import CommandRefused, ConfigError, StoreError
from engine.model import tables
from engine.model.enums import ConnectionState
from engine.simbroker import SimBroker
from engine.stores.journal_reading import journal_of, reading
from main import main
from tests.listener import Listener
from tests.world import World, alpaca, eventually, paper, venue, world

FIXED = {"method": "fixed", "quantity": "2"}


def today() -> Any:
    return datetime.now(UTC).date()


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue(follow_percent=Decimal("0.0001")) as made:
        yield made


def accounts(sim: SimBroker) -> list[dict[str, Any]]:
    return [
        alpaca(1, url(sim), sizing=FIXED),
        alpaca(2, url(sim), sizing=FIXED, approval="review"),
        alpaca(3, url(sim), sizing={"method": "fixed", "quantity": "9"}, limits={"max_order_quantity": "5"}),
    ]  # fmt: skip


async def trade(w: World, sim: SimBroker) -> list[str]:
    """Two buys (the second approved for A-002) and a sale at a better price; return the signals' keys."""
    keys = []
    for number, (action, price) in enumerate((("buy", "100"), ("buy", "101"), ("sell", "110"))):
        async with httpx.AsyncClient(trust_env=False) as market:
            (await market.post(f"{url(sim)}/sim/price", json={"AAPL": price})).raise_for_status()
        w.engine.set_prices({"AAPL": Decimal(price)})
        detail = await w.send(id=f"day-{number}", symbol="AAPL", action=action)
        keys.append(detail["signal"]["key"])
        if number == 1:
            await w.command("approve", signal=keys[-1])
            await eventually(lambda: len(w.engine.records[keys[1]].orders) == 2)
    await eventually(lambda: w.engine.counts["fills"] == 4)
    return keys


# ---- notes -----------------------------------------------------------------------------------------------------------


async def test_a_note_is_shown_exported_durable_and_audited(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        key = (await trade(w, sim))[0]
        order = next(iter(w.engine.orders.orders))
        await w.command("note", on="signal", key=key, text="  late <b>&  ", tags=["late", "check"])
        await w.command("note", on="order", key=order, text="odd")
        await w.command("note", on="position", key="A-001/AAPL", tags=["core"])
        noted = {row["key"]: row for row in await w.rows("signals")}[key]
        assert (noted["note"], noted["tags"]) == ("late <b>&", ["late", "check"])
        assert {row["cl_ord_id"]: row["note"] for row in await w.rows("orders")}[order] == "odd"
        assert (await w.rows("positions", account="A-001"))[0]["tags"] == ["core"]
        assert await w.refused("note", on="signal", key="bot/none", text="x") == (404, "NOT_FOUND")
        assert await w.refused("note", on="order", key=order, text="x" * 2001) == (
            422,
            "INVALID_COMMAND",
        )
        assert await w.refused("note", on="order", key=order, tags=["no blank"]) == (
            422,
            "INVALID_COMMAND",
        )
    async with world(tmp_path) as w:
        rows = {row["key"]: row for row in w.engine.publisher.rows(tables.SIGNALS)}
        assert rows[key]["note"] == "late <b>&"
        await w.command("note", on="signal", key=key)
        assert {row["key"]: row for row in await w.rows("signals")}[key]["note"] == ""
    with reading(tmp_path / "home" / "journal.sqlite3") as connection:
        facts = [
            json.loads(row[0])
            for row in connection.execute("SELECT facts FROM audit WHERE kind = 'command'")
        ]
    texts = [one["command"].get("text") for one in facts if one["command"]["command"] == "note"]
    assert texts == ["late <b>&", "odd", "", "x", ""]  # what was refused, too


# ---- the report ------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


async def test_the_report_adds_up_to_what_the_engine_says(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        key = (await trade(w, sim))[0]
        await w.command(
            "note", on="signal", key=key, text="<script>alert(1)</script>", tags=["odd"]
        )
        answer = await w.command("report", day=str(today()))
        realised = sum((w.engine.keeper.pnl(a).realised for a in ("A-001", "A-002")), Decimal(0))
        before = len(await w.rows("orders"))
    made = figures_of(read_day(w.path, today()))
    assert (made.signals.total(), len(made.orders), len(made.fills)) == (3, before, 4)
    assert (
        made.total.realised == realised == Decimal(19)
    )  # two of four, bought at 100 and 101, sold at 110
    assert made.refusals["refused", "QTY_MAX"] == 3
    assert sum((one.total for one in made.by_account.values()), Decimal(0)) == made.total.total
    assert sum((one.total for one in made.by_symbol.values()), Decimal(0)) == made.total.total
    assert made.latency["ack"]["count"] == 4
    assert [told.facts["command"] for told in made.acts] == ["approve", "note"]
    held = {(one.account, one.closing_qty) for one in made.held}
    assert held == {("A-001", Decimal(2)), ("A-002", Decimal(2))}
    page = answer["text"]
    tags = Tags()
    tags.feed(page)
    names = {tag for tag, _ in tags.seen}
    assert {"svg", "table", "title"} <= names
    assert not names & {"script", "link", "iframe", "object", "img", "form"}
    outside = [
        v
        for _, attrs in tags.seen
        for n, v in attrs.items()
        if n in {"src", "href", "action"} or n.startswith("on")
    ]
    assert outside == []
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Quantity limit" in page
    assert "default-src 'none'" in page


async def test_the_report_command_reads_only_and_any_role_may(
    tmp_path: Path, sim: SimBroker
) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        await trade(w, sim)
        await w.engine.journal.flushed()
        count = "SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM commands)"
        with reading(w.path / "journal.sqlite3") as connection:
            before = tuple(connection.execute(count).fetchone())
        answer = await w.command("report", day=str(today()), account="A-001", form="csv")
        assert answer["text"].splitlines()[0].startswith("line,at,account,symbol")
        with reading(w.path / "journal.sqlite3") as connection:
            assert tuple(connection.execute(count).fetchone()) == before
        assert await w.refused("report", day="2026-02-30") == (422, "INVALID_COMMAND")
        assert await w.refused("report", day=str(today()), zone="Nowhere/At") == (
            422,
            "INVALID_COMMAND",
        )
        assert await w.refused("report", day=str(today()), account="A-009") == (404, "NOT_FOUND")


async def test_statement_lines_add_up(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        await trade(w, sim)
        position = w.engine.keeper.get("A-001", "AAPL")
        assert position is not None
    out = tmp_path / "statement.csv"
    arguments = ["report", "--home", str(w.path), "--day", str(today()), "--account", "A-001"]
    assert await asyncio.to_thread(main, [*arguments, "--format", "csv", "-o", str(out)]) == DONE
    rows = list(csv.DictReader(out.read_text("utf-8").splitlines()))
    of = {
        line: [row for row in rows if row["line"] == line] for line in {row["line"] for row in rows}
    }
    assert {row["account"] for row in rows} == {"A-001"}
    assert [row["side"] for row in of["fill"]] == ["buy", "buy", "sell"]
    assert len(of["order"]) == 3
    signed = sum(
        Decimal(row["quantity"]) * (1 if row["side"] == "buy" else -1) for row in of["fill"]
    )
    assert Decimal(of["closing_position"][0]["quantity"]) == signed == position.qty
    assert Decimal(of["realised"][0]["value"]) == position.realised
    assert Decimal(of["closing_equity"][0]["value"]) > 0
    page = statement_page(figures_of(read_day(w.path, today()), "A-001"))
    assert "A-002" not in page
    assert "A-001" in page


async def test_a_wrong_day_account_or_place_is_refused_in_one_line(
    tmp_path: Path, sim: SimBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        await trade(w, sim)
    out = tmp_path / "r.html"
    base = ["report", "--home", str(w.path), "-o", str(out)]
    for more in (
        ["--day", "yesterday"],
        ["--account", "A-009"],
        ["--zone", "Nowhere/At"],
        ["--format", "csv"],
    ):
        assert await asyncio.to_thread(main, [*base, *more]) == USAGE
        assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".r.html")]
    with pytest.raises(StoreError, match="no journal"):
        journal_of(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_day_begins_at_its_zones_midnight() -> None:
    day = datetime(2026, 3, 8, tzinfo=UTC).date()  # 23 hours long in New York
    assert bounds(day, "America/New_York") == (
        "2026-03-08T05:00:00.000000Z",
        "2026-03-09T04:00:00.000000Z",
    )
    with pytest.raises(ConfigError):
        bounds(day, "Nowhere/At")


async def test_an_empty_day_makes_a_page(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        pass
    made = figures_of(read_day(w.path, datetime(2020, 1, 2, tzinfo=UTC).date()))
    page = day_page(made)
    assert "No command was given." in page
    assert made.total.total == 0
    assert days_at(w.path) == []
    with pytest.raises(StoreError, match="nothing is recorded"):
        replay_client(w.path)


async def test_the_journal_of_another_version_is_refused(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        await trade(w, sim)
    copy = tmp_path / "copy.sqlite3"
    shutil.copy(w.path / "journal.sqlite3", copy)
    with sqlite3.connect(copy) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    connection.close()
    with pytest.raises(StoreError, match="update Volley"):
        days_at(copy)
    (tmp_path / "text").write_text("not a database, but long enough to look at" * 40)
    with pytest.raises(StoreError):
        days_at(tmp_path / "text")


# ---- the record of the day -------------------------------------------------------------------------------------------


async def test_the_record_keeps_prices_accounts_and_alerts_once(
    tmp_path: Path, sim: SimBroker
) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        record = next(service for service in w.engine.services if isinstance(service, DayRecord))
        w.engine.set_prices({"AAPL": Decimal("101.5")})
        w.engine.alert("warning", "STALE", "A-001", "look here")
        state = w.engine.fleet.states["A-001"]
        await eventually(lambda: state.balances is not None, what="its money is known")
        await record.stop()
        lines = list(lines_of(w.path, str(today())))
        assert lines[-1]["prices"] == {"AAPL": "101.5"}
        assert [row["text"] for line in lines for row in line["alerts"]] == ["look here"]
        known: dict[str, Any] = {}
        for line in lines:
            known |= line["accounts"].get("A-001", {})
        assert Decimal(known["equity"]) > 0
        assert "credentials" not in known
    text = file_of(w.path, str(today())).read_bytes()
    file_of(w.path, str(today())).write_bytes(text + b'{"at": "2026-1')  # cut by a crash
    assert len(list(lines_of(w.path, str(today())))) == len(lines)


# ---- scrubbing -------------------------------------------------------------------------------------------------------


async def test_a_replay_ends_where_the_engine_was(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        keys = await trade(w, sim)
        await w.command("pause", scope="strategy:breakout", reason="enough")
        await w.engine.journal.flushed()
        live = {name: {row[tables.KEYS[name]]: row for row in w.engine.publisher.rows(name)} for name in (
            tables.SIGNALS, tables.ORDERS, tables.FILLS, tables.POSITIONS, tables.HALTS)}  # fmt: skip
        detail = await w.detail(keys[1])
        client = await asyncio.to_thread(replay_client, w.path)  # beside the running engine
    heard = Listener()
    await client.start(heard)
    assert heard.link is ConnectionState.CONNECTED
    assert heard.tables[tables.SIGNALS] == {}
    client.move(client.ends)
    shown = heard.tables
    assert shown[tables.FILLS] == live[tables.FILLS]
    assert shown[tables.HALTS] == live[tables.HALTS]
    for table, columns in (
        (
            tables.SIGNALS,
            (
                "state",
                "code",
                "sent",
                "held",
                "refused",
                "filled",
                "working",
                "accounts",
                "last_ack_us",
            ),
        ),
        (
            tables.ORDERS,
            ("status", "cum_qty", "leaves_qty", "avg_px", "order_id", "code", "ack_us"),
        ),
        (tables.POSITIONS, ("qty", "avg_px", "realised")),
    ):
        assert shown[table].keys() == live[table].keys()
        for key, row in live[table].items():
            assert {c: shown[table][key][c] for c in columns} == {c: row[c] for c in columns}, (
                table,
                key,
            )
    again = await client.signal_detail(keys[1])
    told = {
        row["account"]: (row["outcome"], row["status"], row["cum_qty"])
        for row in detail["accounts"]
    }
    assert {
        row["account"]: (row["outcome"], row["status"], row["cum_qty"]) for row in again["accounts"]
    } == told
    await client.stop()


async def test_every_moment_is_the_same_forwards_and_backwards(
    tmp_path: Path, sim: SimBroker
) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        keys = await trade(w, sim)
    client, heard = replay_client(w.path), Listener()
    await client.start(heard)
    moments = [client.begins + (client.ends - client.begins) * step / 60 for step in range(61)]
    forwards = []
    for moment in moments:
        client.move(moment)
        forwards.append(orjson.dumps(heard.tables, option=orjson.OPT_SORT_KEYS))
    for moment, there in zip(reversed(moments), reversed(forwards), strict=True):
        client.move(moment)
        assert orjson.dumps(heard.tables, option=orjson.OPT_SORT_KEYS) == there
    # Held until it was approved, and no order before its signal.
    approved = next(mark for mark in client.marks if mark.kind == "command")
    client.move(approved.at - 1e-6)
    assert heard.tables[tables.SIGNALS][keys[1]]["held"] == 1
    assert {row["account"] for row in heard.tables[tables.ORDERS].values()} == {"A-001"}
    signals = [mark.at for mark in client.marks if mark.kind == "signal"]
    client.move(signals[0] - 1e-6)
    assert heard.tables[tables.ORDERS] == {}
    with pytest.raises(CommandRefused) as refusal:
        await client.signal_detail(keys[0])
    assert refusal.value.code == "NOT_FOUND"


async def test_a_recording_takes_no_commands_and_changes_nothing(
    tmp_path: Path, sim: SimBroker
) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        await trade(w, sim)
    before = {path.name: path.read_bytes() for path in w.path.iterdir() if path.is_file()}
    copy = tmp_path / "copy.sqlite3"
    shutil.copy(w.path / "journal.sqlite3", copy)
    for place in (w.path, copy):
        client, heard = replay_client(place, str(today())), Listener()
        await client.start(heard)
        client.move(client.ends)
        assert len(heard.tables[tables.ORDERS]) == 4
        for act in (client.command("kill", scope="all"), client.send_signal({"id": "x"})):
            with pytest.raises(CommandRefused) as refusal:
                await act
            assert refusal.value.code == "REPLAY"
    after = {path.name: path.read_bytes() for path in w.path.iterdir() if path.is_file()}
    assert {
        name: content for name, content in after.items() if not name.endswith(("-shm", "-wal"))
    } == {name: content for name, content in before.items() if not name.endswith(("-shm", "-wal"))}


# ---- once more -------------------------------------------------------------------------------------------------------


async def test_the_same_rules_come_to_the_same_and_others_show_what_changes(
    tmp_path: Path, sim: SimBroker
) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        keys = await trade(w, sim)
    rules = tmp_path / "rules.toml"
    rules.write_text('[limits]\nmax_signal_value = "1000000000"\n', "utf-8")
    same = await rerun(RerunPlan(w.path, today(), config=rules, speed=1e6))
    assert same.summary()["changed"] == 0, [row for row in same.rows() if row["changed"]]
    assert same.summary()["orders"] == {"then": 4, "now": 4}
    assert same.then.total.realised == same.now.total.realised
    assert same.now.latency["ack"]["count"] == 4
    assert same.now.latency["send"]["p50"] > 0

    others = accounts(sim)
    others[0] = {**others[0], "limits": {"max_order_quantity": "1"}}
    others[1] = {**others[1], "approval": "auto"}
    file = tmp_path / "others.json"
    file.write_text(json.dumps(others), "utf-8")
    out = tmp_path / "compare.json"
    arguments = [
        "replay",
        str(w.path),
        "--day",
        str(today()),
        "--accounts",
        str(file),
        "--speed",
        "1000000",
    ]
    arguments += ["--config", str(rules), "-o", str(out)]
    assert await asyncio.to_thread(main, arguments) == DONE
    found = json.loads(out.read_text("utf-8"))
    lines = {(row["signal"], row["account"]): row for row in found["rows"]}
    first = lines[keys[0], "A-001"]
    assert (first["outcome_then"], first["outcome_now"], first["code_now"]) == (
        "sent",
        "refused",
        "QTY_MAX",
    )
    second = lines[keys[0], "A-002"]
    assert (second["outcome_then"], second["outcome_now"], second["cum_qty_now"]) == (
        "held",
        "sent",
        "2",
    )
    assert not lines[keys[0], "A-003"]["changed"]
    assert found["changed"] == sum(row["changed"] for row in found["rows"]) > 0
    assert any("begins with" in note for note in found["notes"])


async def test_a_rerun_tells_nobody_and_goes_by_no_proxy(tmp_path: Path, sim: SimBroker) -> None:
    told: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await reader.read(1))
        writer.close()

    listener = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        async with world(tmp_path, [alpaca(1, url(sim), sizing=FIXED)]) as w:
            await w.send(symbol="AAPL")
            await eventually(lambda: w.position("A-001") == 2)
        rules = tmp_path / "rules.toml"
        rules.write_text('[alerts]\nchannels = ["env:RERUN_URL"]\nmin_severity = "info"\n', "utf-8")
        egress = {"proxy": f"http://127.0.0.1:{port}"}
        file = tmp_path / "proxied.json"
        file.write_text(json.dumps([alpaca(1, url(sim), sizing=FIXED, egress=egress)]), "utf-8")
        plan = RerunPlan(w.path, today(), config=rules, accounts=file, speed=1e6)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RERUN_URL", f"json://127.0.0.1:{port}/")
            again = await rerun(plan)
    assert again.summary()["orders"] == {"then": 1, "now": 1}
    assert told == []


async def test_a_rerun_without_accounts_or_signals_says_so(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, [paper(1, sizing=FIXED)]) as w:
        w.engine.set_prices({"AAPL": Decimal(100)})
        await w.send(symbol="AAPL")
    copy = tmp_path / "copy" / "journal.sqlite3"
    copy.parent.mkdir()
    shutil.copy(w.path / "journal.sqlite3", copy)
    with pytest.raises(ConfigError, match="--accounts"):
        await rerun(RerunPlan(copy, today()))
    with pytest.raises(ConfigError, match="no signal"):
        await rerun(RerunPlan(w.path, datetime(2020, 1, 2, tzinfo=UTC).date()))


def test_texts_of_outside_cannot_break_a_page() -> None:
    from engine.days import html

    made = html.page(
        "</title><script>",
        "\x1b[31m",
        [html.table(("<a>",), [[html.text('"><img src=x onerror=1>')]])],
    )
    assert not re.search(r"<script|<img|\x1b", made)
