"""The tables ``controls`` and ``usage``, and the proposal for limits that are not set."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.config import Config
from engine.model import tables
from engine.model.controls import BY_CODE
from engine.model.instrument import Instrument
from engine.risk.controls_book import ControlsBook
from engine.risk.proposal import proposal
from engine.risk.settings import settings_of
from tests.controls.restarts import RESTS, home, outcome
from tests.helpers import make_account, make_state
from tests.planning import Desk
from tests.world import eventually

D = Decimal


class Book:
    """A controls book whose changes are noted."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.book = ControlsBook(
            lambda: "2026-11-23T15:00:00Z",
            self.changed.append,
            lambda: settings_of(Config(), []),
        )

    def state(self, number: str) -> str:
        row = self.book.row(number)
        assert row is not None
        return str(row["state"])


def test_every_control_has_a_row_with_every_column():
    made = Book()
    numbers = list(made.book.keys())
    rows = [made.book.row(number) for number in numbers]
    assert [row["number"] for row in rows if row] == [f"C{n:02}" for n in range(1, 31)]
    assert all(tuple(row) == tables.COLUMNS[tables.CONTROLS] for row in rows if row)
    assert all(row["setting"] and row["meaning"] for row in rows if row)
    assert made.book.row("C31") is None


@pytest.mark.parametrize(("code", "number"), BY_CODE.items())
def test_each_code_is_counted_with_its_control(code, number):
    made = Book()
    made.book.refused(code, "A-1", "2 > 1")
    assert made.changed == [number]
    row = made.book.row(number)
    assert row is not None
    assert (row["refusals"], row["last_code"], row["last_account"]) == (1, code, "A-1")
    assert (row["last_text"], row["last_at"]) == ("2 > 1", "2026-11-23T15:00:00Z")


def test_codes_of_no_control_count_nowhere():
    made = Book()
    made.book.refused_all({"A-1": ("NOT_SUBSCRIBED", "x"), "A-2": ("QTY_MAX", "2 > 1")})
    assert made.changed == ["C02"]
    made.book.told("FLATTEN", "A-1", "x")
    assert made.changed == ["C02"]


def test_a_trip_lasts_until_all_that_tripped_it_is_over():
    made = Book()
    made.book.trip("C24", "alpaca: 12 of 20 failed", key="alpaca")
    made.book.trip("C24", "oanda: 11 of 20 failed", code="BREAKER_OPEN", key="oanda")
    row = made.book.row("C24")
    assert row is not None
    assert (row["state"], row["last_text"]) == ("tripped", "oanda: 11 of 20 failed (and 1 more)")
    made.book.clear("C24", "alpaca")
    assert made.book.is_tripped("C24", "oanda")
    assert made.state("C24") == "tripped"
    made.book.clear("C24", "oanda")
    assert made.state("C24") == "on"
    before = len(made.changed)
    made.book.clear("C24", "oanda")
    assert len(made.changed) == before


def test_an_account_names_its_own_trip():
    made = Book()
    made.book.trip("C23", "5 in a row", code="REJECT_STORM", account="A-1")
    made.book.clear("C23", "A-1")
    assert made.state("C23") == "on"


def test_failing_is_worse_than_tripped_and_tripped_shows_where_a_control_is_off():
    made = Book()
    assert made.state("C11") == "off"
    made.book.trip("C11", "20 executions", key="s")
    assert made.state("C11") == "tripped"
    made.book.fail("C11", "its counts cannot be kept")
    assert made.state("C11") == "failing"
    made.book.clear("C11")
    assert made.state("C11") == "tripped"


def test_settings_are_asked_for_once_until_they_change():
    asked: list[None] = []

    def settings():
        asked.append(None)
        return settings_of(Config(), [])

    changed: list[str] = []
    book = ControlsBook(lambda: "now", changed.append, settings)
    for _ in range(2):
        assert all(book.row(number) for number in list(book.keys()))
    assert len(asked) == 1
    book.renew()
    assert len(changed) == 30
    assert book.row("C01")
    assert len(asked) == 2


def test_the_settings_say_how_many_accounts_have_a_limit():
    states = [
        make_state(make_account("a", limits={"max_order_quantity": "1"})),
        make_state(make_account("b")),
    ]
    found = settings_of(Config.model_validate({"limits": {"max_open_value": "5000"}}), states)
    assert found["C02"] == (True, "1 of 2 accounts have max_order_quantity")
    assert found["C05"] == (False, "0 of 2 accounts have max_position_quantity")
    assert found["C06"] == (True, "firm 5000 open")
    assert found["C10"] == (False, "not set")
    assert settings_of(Config(), [])["C11"] == (False, "not set")


async def test_usage_has_a_row_for_each_limit_that_is_set_and_follows_it(tmp_path: Path) -> None:
    limits = {"max_positions": 5, "max_open_value": "370", "max_orders_per_day": 4}
    firm = {"limits": {"max_gross_exposure": "1000"}}
    async with home(tmp_path, limits=limits) as place, place.engine(**firm) as running:
        publisher = running.engine.publisher
        subscription = publisher.subscribe()
        rows = {row["key"]: row for row in subscription.snapshot()["tables"]["usage"]}
        assert set(rows) == {
            "account:A-001/max_positions", "account:A-001/max_open_value", "account:A-001/max_orders_per_day",
            "all/max_gross_exposure",
        }  # fmt: skip
        assert all(tuple(row) == tables.COLUMNS[tables.USAGE] for row in rows.values())
        assert (await outcome(running, "s-1", **RESTS))[0] == ""
        seen: dict[str, dict[str, object]] = {}
        gone: set[str] = set()

        def read() -> None:
            batch = subscription.take()
            if batch is not None:
                seen.update({row["key"]: row for row in batch["changes"].get("usage", ())})
                gone.update(batch.get("removed", {}).get("usage", ()))

        def all_there() -> bool:
            read()
            return set(seen) == set(rows)

        await eventually(all_there, what="the rows are told")
        row = seen["account:A-001/max_open_value"]
        assert (row["scope"], row["limit"]) == ("account:A-001", "max_open_value")
        assert (row["used"], row["most"], row["percent"]) == ("185", "370", 50)
        assert (row["unit"], row["text"]) == ("money", "185 of 370 money")
        assert seen["all/max_gross_exposure"]["used"] == "185"
        assert seen["account:A-001/max_positions"]["text"] == "1 of 5 positions"
        await running.command(
            "set_limits", account="A-001", limits={"max_positions": None}, reason="test"
        )

        def is_gone() -> bool:
            read()
            return gone == {"account:A-001/max_positions"}

        await eventually(is_gone, what="the row is removed")
        subscription.close()


# ---- the proposal


def prices(desk: Desk, **marks: str) -> None:
    for symbol, price in marks.items():
        desk.marks.set(symbol, D(price))


@pytest.mark.parametrize(
    ("fields", "limits", "says"),
    [
        ({}, {"max_order_value": "500", "max_order_quantity": "50"}, "50 CHEAP at 10"),
        (
            {"symbols": ["AAPL"]},
            {"max_order_value": "500", "max_order_quantity": "5"},
            "5 AAPL at 100",
        ),
        (
            {"symbols": ["DEAR"]},
            {"max_order_value": "500", "max_order_quantity": "1"},
            "1 DEAR at 900",
        ),
        ({"symbols": ["NONE"]}, {"max_order_value": "500"}, "no price is known"),
    ],
)
def test_it_is_five_percent_of_equity_and_what_that_buys(fields, limits, says):
    state = make_state(make_account(**fields))
    desk = Desk(state)
    prices(desk, CHEAP="10", DEAR="900")
    found = proposal(
        state, D("10019.99"), [], desk.marks, lambda _broker, symbol: Instrument(symbol)
    )
    assert found.limits == limits
    assert found.text.startswith("5 % of equity 10019.99 is 500")
    assert says in found.text
    assert make_account(limits=found.limits)


def test_what_it_holds_comes_before_what_has_a_price():
    state = make_state()
    desk = Desk(state)
    prices(desk, CHEAP="10")
    found = proposal(state, D(10_000), ["AAPL"], desk.marks, lambda _broker, _symbol: None)
    assert found.limits["max_order_quantity"] == "5"
    assert found.text.endswith("its own fixed size of 10 would be refused")


@pytest.mark.parametrize(
    ("equity", "says"),
    [(None, "not known"), (D("NaN"), "not known"), (D(19), "is less than 1"), (D(-5), "less")],
)
def test_without_equity_nothing_is_proposed(equity, says):
    state = make_state()
    found = proposal(state, equity, [], Desk(state).marks, lambda _broker, _symbol: None)
    assert found.limits == {}
    assert says in found.text


def test_lots_and_multipliers_count():
    state = make_state(make_account(symbols=["AAPL"]))
    future = Instrument("AAPL", lot=D("0.5"), min_qty=D("0.5"), multiplier=D(2))
    found = proposal(state, D(10_500), [], Desk(state).marks, lambda _broker, _symbol: future)
    assert found.limits == {"max_order_value": "525", "max_order_quantity": "2.5"}
