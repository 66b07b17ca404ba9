"""Accounts and limits edited while orders are on their way (F47), and exits that come before their entry (F44)."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from engine.model.enums import OrderStatus
from engine.stores.accounts_sqlite import SqliteAccountStore
from tests.world import World, alpaca, by_account, eventually, venue, world

PRICES = {"AAPL": Decimal(100)}
LIMIT = {"order_type": "limit", "limit_price": "97", "time_in_force": "gtc"}


async def remove(here: World, account: str) -> None:
    store = SqliteAccountStore(here.path / "accounts.sqlite3")
    await store.open()
    assert await store.remove(account)
    await store.close()
    await here.command("reload_accounts")


async def resize(here: World, account: str, quantity: Decimal) -> None:
    store = SqliteAccountStore(here.path / "accounts.sqlite3")
    await store.open()
    before = await store.get(account)
    assert before is not None
    sizing = before.sizing.model_copy(update={"quantity": quantity})
    await store.put([before.model_copy(update={"sizing": sizing})])
    await store.close()
    await here.command("reload_accounts")


async def test_a_removed_account_s_waiting_order_is_denied_and_its_working_one_still_managed(
    tmp_path: Path,
):
    async with venue() as sim:
        sim.venue.market.pin("AAPL", PRICES["AAPL"])
        url = f"http://127.0.0.1:{sim.port}"
        slow = {"max_orders_per_second": 1}
        accounts = [alpaca(1, url, limits=slow), alpaca(2, url)]
        async with world(tmp_path, accounts) as here:
            here.engine.set_prices(PRICES)
            states = here.engine.fleet.states
            await eventually(lambda: all(state.reconciled for state in states.values()))
            first = await here.send(id="s-1", **LIMIT)
            working = here.order(first, "A-001")
            await eventually(lambda: working.status is OrderStatus.NEW)
            answer = await here.post(id="s-2", **LIMIT)
            assert answer.status_code == 202
            waiting = here.engine.records["bot/s-2"].orders["A-001"]
            assert waiting.status is OrderStatus.PENDING_NEW  # one a second: it waits in its lane
            await remove(here, "A-001")
            await eventually(lambda: waiting.status.terminal)
            assert (waiting.status, waiting.code) == (OrderStatus.DENIED, "INACTIVE")
            assert working.status is OrderStatus.NEW  # still managed
            await here.command("cancel_order", cl_ord_id=working.cl_ord_id)
            await eventually(lambda: working.status is OrderStatus.CANCELED)
            other = here.engine.records["bot/s-2"].orders["A-002"]
            await eventually(lambda: other.status is OrderStatus.NEW)
            assert sum(len(account.open) for account in sim.venue.accounts.values()) == 2


async def test_an_intent_keeps_the_quantity_it_was_planned_with(tmp_path: Path):
    async with venue() as sim:
        sim.venue.market.pin("AAPL", PRICES["AAPL"])
        url = f"http://127.0.0.1:{sim.port}"
        slow = {"max_orders_per_second": 1}
        async with world(tmp_path, [alpaca(1, url, limits=slow)]) as here:
            here.engine.set_prices(PRICES)
            await eventually(lambda: here.engine.fleet.states["A-001"].reconciled)
            await here.send(id="s-1", **LIMIT)
            await here.post(id="s-2", **LIMIT)
            waiting = here.engine.records["bot/s-2"].orders["A-001"]
            assert waiting.status is OrderStatus.PENDING_NEW
            await resize(here, "A-001", Decimal(7))
            await eventually(lambda: waiting.status is OrderStatus.NEW)
            assert waiting.order_qty == 1
            here.engine.set_prices(PRICES)
            after = await here.send(id="s-3", **LIMIT)
            assert here.order(after, "A-001").order_qty == 7


async def test_an_exit_that_comes_before_its_entry_does_nothing(tmp_path: Path):
    async with venue() as sim:
        sim.venue.market.pin("AAPL", PRICES["AAPL"])
        async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as here:
            here.engine.set_prices(PRICES)
            await eventually(lambda: here.engine.fleet.states["A-001"].reconciled)
            exit_first = by_account(await here.send(id="s-2", action="close"))["A-001"]
            assert (exit_first["outcome"], exit_first["code"]) == ("skipped", "NO_POSITION")
            await here.send(id="s-1")
            await eventually(lambda: here.position("A-001") == 1)
            assert sim.venue.order_count == 1
