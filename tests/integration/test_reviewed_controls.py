"""What a review of the controls found: cases in which they stopped too much, or let pass what they should stop."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.api import strangers
from engine.api.server import build_app
from engine.api.signatures import HookKeys
from engine.config import Config
from engine.eligibility import rules
from engine.execution.external import ExternalOrders
from engine.home import Home, hook_secret
from engine.model.enums import ExecType, Side, TradingState
from engine.model.messages import ExecutionReport
from engine.operators import Operators, Role
from engine.risk.clock_guard import ClockGuard
from engine.risk.controls_book import ControlsBook
from engine.risk.daily_loss import DailyLoss
from engine.risk.exposure import ForeignOrder
from engine.risk.trading_state import Latch, TradingStates
from engine.risk.trips import Trips
from engine.stores.vault import FileVault
from tests.contract.kinds import WIRED
from tests.helpers import HandClock, make_account, make_state
from tests.integration.stand_in_engine import StandInEngine
from tests.processes import VenueProcess
from tests.world import alpaca, eventually, paper, venue, world

TOKEN = "the-token-of-this-test"


# ---- a kill is not undone by a control that acts in the same moment ------------------------------------------


class Kept:
    """A journal that keeps nothing."""

    def note_fact(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        """Take a fact."""

    def audit(self, kind: str, facts: dict[str, Any], account: str = "") -> None:
        """Take a row."""


def trips_over(states: TradingStates) -> tuple[Trips, list[Awaitable[None]]]:
    """Return trips whose spawned work waits in a list, as it does in a busy loop."""
    waiting: list[Awaitable[None]] = []

    async def latch(scope: str, state: TradingState, reason: str, by: str) -> None:
        states.set(Latch(scope, state, reason, "", by))

    clock = HandClock()
    controls = ControlsBook(str, lambda _number: None, dict)
    trips = Trips(
        clock,
        states,
        controls,
        Kept(),
        lambda *_: None,
        latch,
        lambda work, _: waiting.append(work),
    )
    return trips, waiting


@pytest.mark.parametrize("how", ["trips", "clears"])
async def test_a_kill_between_a_trip_and_its_latch_stands(how: str) -> None:
    states = TradingStates()
    trips, waiting = trips_over(states)
    trips.trip("C26", "all", "CLOCK", "off")
    if how == "clears":
        await waiting.pop(0)
        trips.clear("C26", "all", "right again")
    states.set(Latch("all", TradingState.HALTED, "kill", "", "operator"))
    for work in waiting:
        await work
    latch = states.get("all")
    assert latch is not None
    assert (latch.state, latch.by) == (TradingState.HALTED, "operator")


# ---- the firm's daily loss ---------------------------------------------------------------------------------------


def firm(pnl: dict[str, Decimal], facts: dict[str, Any]) -> tuple[DailyLoss, list[str], Any]:
    """Return the firm's daily loss (limit 100) over accounts that come and go."""
    states = {name: make_state(make_account(name)) for name in pnl}
    tripped: list[str] = []

    def keep(_kind: str, key: str, value: dict[str, Any] | None) -> None:
        facts[key] = value

    losses = DailyLoss(
        HandClock(), states, Decimal(100), lambda name: pnl.get(name, Decimal(0)), rules.within_daily_loss,
        lambda scope, _text: tripped.append(scope), lambda *_: None, keep,
    )  # fmt: skip
    losses.load(facts)
    return losses, tripped, states


def test_an_account_that_leaves_takes_no_profit_of_earlier_days_with_it() -> None:
    pnl = {"A-1": Decimal(10_000), "A-2": Decimal(0)}
    losses, tripped, states = firm(pnl, {})
    losses.tick()
    del states["A-1"]
    losses.tick()
    assert tripped == []
    pnl["A-2"] = Decimal(-100)
    losses.tick()
    assert tripped == ["all"]


def test_what_an_account_lost_today_counts_after_it_is_gone_and_back() -> None:
    facts: dict[str, Any] = {}
    pnl = {"A-1": Decimal(5000), "A-2": Decimal(0)}
    losses, _tripped, states = firm(pnl, facts)
    losses.tick()
    pnl["A-1"] -= 99
    del states["A-1"]
    losses.tick()
    losses, tripped, _states = firm(pnl, facts)  # a restart with the account there again
    losses.tick()
    assert tripped == []
    pnl["A-2"] = Decimal(-1)
    losses.tick()
    assert tripped == ["all"]


def test_an_account_that_comes_brings_no_loss_of_earlier_days() -> None:
    pnl = {"A-1": Decimal(0)}
    losses, tripped, states = firm(pnl, {})
    losses.tick()
    states["A-2"] = make_state(make_account("A-2"))
    pnl["A-2"] = Decimal(-5000)
    losses.tick()
    assert tripped == []
    pnl["A-2"] -= 100
    losses.tick()
    assert tripped == ["all"]


# ---- the clock ------------------------------------------------------------------------------------------------------


class BusyClock(HandClock):
    """A machine so busy that once a process stands still between two readings."""

    held_up_s = 0.0

    def now(self) -> datetime:
        """Return the time, after having stood still."""
        held, self.held_up_s = self.held_up_s, 0.0
        self.advance(held)
        return super().now()


def clock_guard(clock: HandClock) -> tuple[ClockGuard, list[str], list[int]]:
    """Return a guard, and what it has tripped and aged."""
    tripped: list[str] = []
    aged: list[int] = []
    guard = ClockGuard(
        clock, 250, 1000, lambda scope, _text: tripped.append(scope), lambda *_: None,
        lambda *_: tripped.append("warned"), aged.append, lambda *_: None,
    )  # fmt: skip
    return guard, tripped, aged


def test_standing_still_between_two_readings_is_no_step() -> None:
    clock = BusyClock()
    guard, tripped, aged = clock_guard(clock)
    clock.held_up_s = 5
    guard.look()
    guard.look()
    assert tripped == []
    assert aged == []


def test_standing_still_while_a_date_is_judged_proves_nothing() -> None:
    clock = BusyClock()
    guard, tripped, _aged = clock_guard(clock)
    now = clock.monotonic_ns()
    date = clock.now().replace(microsecond=0)
    clock.held_up_s = 5
    guard.heard("alpaca", date, now, now)
    assert tripped == []
    guard.heard("alpaca", date - timedelta(seconds=30), now, now)
    assert tripped == ["broker:alpaca"]


# ---- the breaker ----------------------------------------------------------------------------------------------------


async def test_one_account_that_is_locked_out_does_not_keep_the_breaker_open(
    tmp_path: Path,
) -> None:
    async with venue() as sim:
        accounts = [alpaca(n, f"http://127.0.0.1:{sim.port}") for n in range(1, 4)]
        async with world(tmp_path, accounts) as w:
            guards, fleet = w.engine.guards, w.engine.fleet
            state = fleet.states["A-001"]
            locked = fleet.sessions["A-001"]
            await locked.stop()  # its reads fail from now on
            state.usable = True
            for _ in range(20):
                guards._note_answer(state, failed=True)
            lanes = w.engine.dispatcher.lanes
            assert all("BREAKER_OPEN" in lane.waits for lane in lanes.values())
            await eventually(
                lambda: not any("BREAKER_OPEN" in lane.waits for lane in lanes.values()), 20
            )


# ---- limits ---------------------------------------------------------------------------------------------------------


async def test_what_a_signal_had_before_counts_with_the_multiplier(tmp_path: Path) -> None:
    limits = {"max_signal_value": Decimal(100_000)}
    sizing = {"method": "fixed", "quantity": "6"}
    accounts = [paper(n, approval="review", sizing=sizing) for n in (1, 2)]
    async with world(tmp_path, accounts, limits=limits) as w:
        await w.http.post("/v1/prices", json={"AAPL": "100"})
        instruments = w.engine.instruments
        await instruments.ensure("paper", "AAPL")
        known = replace(instruments.get("paper", "AAPL"), multiplier=Decimal(100))
        instruments._known["paper", "AAPL"] = known  # no practice instrument has one
        answer = await w.post(id="cut", order_type="limit", limit_price="99")
        assert answer.json()["state"] == "held", answer.text
        first = await w.command("approve", signal="bot/cut", accounts=["P-001"])
        assert list(first["orders"]) == ["P-001"]  # 6 × 99 × 100 = 59 400
        second = await w.refused("approve", signal="bot/cut", accounts=["P-002"])
        assert second == (409, "FANOUT_VALUE")


async def test_foreign_orders_of_an_account_that_is_gone_count_no_more(tmp_path: Path) -> None:
    limits = {"max_open_value": Decimal(10_000)}
    async with world(tmp_path, [paper(1), paper(2)], limits=limits) as w:
        book = w.engine.pretrade.exposure
        order = ForeignOrder("X-1", "AAPL", Side.BUY, Decimal(50), Decimal(100))
        book.foreign("P-002", [order])
        assert book.open_value() == 5000
        await w.engine.fleet.store.remove("P-002")
        await w.command("reload_accounts")
        await eventually(lambda: book.open_value() == 0)


def test_foreign_orders_of_one_account_leave_anothers_alone() -> None:
    facts: dict[str, Any] = {}

    def keep(_kind: str, key: str, value: dict[str, Any] | None) -> None:
        facts.pop(key, None)
        if value is not None:
            facts[key] = value

    def report(account: str, order_id: str) -> ExecutionReport:
        return ExecutionReport(account, "", ExecType.STATUS, order_id=order_id)

    book = ExternalOrders(keep)
    for account in ("A", "A-1"):
        new, _changed = book.listed(account, [report(account, "1"), report(account, "2")], "then")
        assert len(new) == 2
    again = ExternalOrders(keep)
    again.load(dict(facts))
    new, changed = again.listed("A", [report("A", "2"), report("A", "3")], "now")
    assert [one.key for one in new] == ["A/3"]
    assert changed == {"A/1", "A/2", "A/3"}
    assert set(facts) == {"A/2", "A/3", "A-1/1", "A-1/2"}
    assert [one.since for one in again.of("A")] == ["then", "now"]


# ---- reconciliation ----------------------------------------------------------------------------------------------


async def test_a_pair_paid_in_a_coin_is_no_difference(tmp_path: Path) -> None:
    """Binance lists coins: an ETHBTC position is ETH gained and BTC spent, and in no list as such."""
    kind = next(one for one in WIRED if one.name == "binance")
    prices = {"ETHBTC": "0.6", "BTCUSDT": "1000", "ETHUSDT": "600", "XRPUSDT": "1"}
    with VenueProcess(tmp_path, "--dialect", "binance", "--still") as process:
        process.post("/sim/price", prices)
        account = {
            "id": "B-1",
            "broker": "binance",
            "base_url": process.url,
            "credentials": dict(kind.credentials),
            "sizing": {"method": "fixed", "quantity": "20"},
        }
        async with world(tmp_path, [account]) as w:
            await w.http.post("/v1/prices", json=prices)
            for symbol in ("BTCUSDT", "ETHBTC", "XRPUSDT"):
                await w.send(id=symbol, symbol=symbol)
                await eventually(lambda symbol=symbol: w.position("B-1", symbol))
            state, session = w.engine.fleet.states["B-1"], w.engine.fleet.sessions["B-1"]
            await eventually(lambda: state.balances is not None)
            holdings = w.engine.reconciliation.holdings
            assert await holdings.compare(state, session) == []
            assert holdings.not_compared["B-1"] == "BTCUSDT, ETHBTC"
            w.engine.keeper.get("B-1", "XRPUSDT").qty += 500
            found = await holdings.compare(state, session)
            assert [one.symbol for one in found] == ["XRPUSDT"]


# ---- who may ---------------------------------------------------------------------------------------------------------


async def test_pausing_what_a_control_paused_is_no_way_to_resume_it(tmp_path: Path) -> None:
    async with world(tmp_path, [paper(1)]) as w:
        operators = Operators(Home(w.path))
        trade = {"Authorization": f"Bearer {operators.add('tom', Role.TRADE)}"}
        scope = "account:P-001"
        await w.engine.latch(scope, TradingState.REDUCING, "DRIFTED", "reconciliation")
        codes = []
        for name in ("pause", "resume"):
            command = {"id": name, "command": name, "scope": scope}
            answer = await w.http.post("/v1/commands", json=command, headers=trade)
            codes.append(answer.status_code)
        assert codes == [403, 403]
        latch = w.engine.states.get(scope)
        assert latch is not None
        assert latch.by == "reconciliation"
        await w.command(
            "pause", scope=scope
        )  # who may lift it may also put a pause of their own there
        await w.command("resume", scope=scope)
        assert w.engine.states.get(scope) is None


async def test_who_is_right_is_let_in_beside_somebody_who_guesses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLLEY_TOKEN", TOKEN)
    home = Home(tmp_path)
    app = build_app(StandInEngine(), home, Config())
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 4000))
    good = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8787") as client:
        for number in range(strangers.BURST + 5):
            wrong = await client.post(f"/v1/hooks/tv/guess-{number}", content=b"{}")
        assert (wrong.status_code, wrong.json()["code"]) == (429, "BUSY")
        assert int(wrong.headers["retry-after"]) >= 1
        guess = await client.get("/v1/orders", headers={"authorization": "Bearer guess"})
        assert guess.status_code == 429
        assert (await client.get("/v1/orders", headers=good)).status_code == 200
        path = f"/v1/hooks/tv/{hook_secret(home, 'tv')}"
        taken = await client.post(path, content=b"{}")
        assert taken.status_code not in {401, 404, 429}


def test_keys_that_were_moved_away_and_back_are_known_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    keys = HookKeys(home, FileVault(home.path, keyring=None))
    name, _key = keys.make("tv")
    assert keys.ids("tv") == [name]
    path, aside = home.path / "hook_keys.json", home.path / "aside"
    path.rename(aside)
    assert keys.ids("tv") == []
    aside.rename(path)
    assert keys.ids("tv") == [name]
