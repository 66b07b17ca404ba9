"""Many orders through a venue that fails one request in five, in every way it knows, and what came of each.

``python -m tests.crash.storm --dialect alpaca --orders 10000`` prints the count; the venue's own book is the
judge. An operator is part of it, as in life: where a broker cannot prove that it never had an order (Kite), a
person looks at the broker's book and says so; and an account that was halted for too many unknown orders is
armed again once none is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.model.enums import OrderStatus, TradingState
from tests.crash.storm_accounts import PLACE, account_documents
from tests.processes import VenueProcess
from tests.world import World, eventually, world

RATE = 0.2
PATIENCE_S = 240.0
SETTLED = 6.0
"""Seconds after which the operator asks a broker's book about an order that is still unknown."""


@dataclass
class Outcome:
    """What a storm came to; ``lost`` and ``duplicated`` hold client order ids, with what is wrong."""

    orders: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    resolved_by_hand: int = 0
    rearmed: int = 0
    seconds: float = 0.0


class Storm:
    """One run."""

    def __init__(self, dialect: str, w: World, venue: VenueProcess) -> None:
        self.dialect = dialect
        self.w = w
        self.venue = venue
        self.outcome = Outcome()

    def book(self) -> dict[str, list[dict[str, Any]]]:
        """Return the venue's orders by client order id."""
        found: dict[str, list[dict[str, Any]]] = {}
        for order in self.venue.orders():
            found.setdefault(order["client_order_id"], []).append(order)
        return found

    async def send(self, orders: int, symbol: str, price: Decimal) -> None:
        """Send signals until ``orders`` have gone out: four market orders, then one that rests and is cancelled.

        An account with an unknown order in the symbol takes no other one meanwhile, so it is more signals than
        orders ÷ accounts.
        """
        engine = self.w.engine
        at_once = 2 * len(engine.fleet.states)
        number = -1
        while engine.counts["orders"] < orders:
            number += 1
            await eventually(
                lambda: len(engine.orders.working()) < at_once, PATIENCE_S, "room for more orders"
            )
            fields: dict[str, Any] = {"id": f"storm-{number}", "symbol": symbol, "valid_for_s": 600}
            if number % 5 == 4:
                far = str(price * Decimal("0.9"))
                fields |= {"order_type": "limit", "limit_price": far, "strategy": f"rest-{number}"}
                fields |= {"time_in_force": "day" if self.dialect == "kite" else "gtc"}
            answer = await self.w.post(**fields)
            assert answer.status_code == 202, answer.text
            if number % 5 == 4:
                cancel = {"id": f"storm-{number}-c", "symbol": symbol, "action": "cancel"}
                await self.w.post(**cancel, strategy=f"rest-{number}")

    async def operate(self) -> None:
        """Do what an operator does, until cancelled."""
        engine = self.w.engine
        since: dict[str, float] = {}
        while True:
            await asyncio.sleep(0.25)
            unknown = [o for o in engine.orders.working() if o.status is OrderStatus.UNKNOWN]
            for order in unknown:
                since.setdefault(order.cl_ord_id, time.monotonic())
            if self.dialect == "kite":
                await self._look_into_the_book(
                    [
                        o.cl_ord_id
                        for o in unknown
                        if time.monotonic() - since[o.cl_ord_id] > SETTLED
                    ]
                )
            doubtful = {order.account for order in unknown}
            for account in engine.fleet.states:
                latch = engine.states.get(f"account:{account}")
                if latch and latch.state is TradingState.HALTED and account not in doubtful:
                    await self.w.command("rearm", scope=latch.scope, reason="no unknown order left")
                    self.outcome.rearmed += 1

    async def _look_into_the_book(self, ids: list[str]) -> None:
        if not ids:
            return
        book = await asyncio.to_thread(self.book)
        for cl_ord_id in ids:
            answer = await self.w.try_command(
                "resolve_unknown", cl_ord_id=cl_ord_id, exists=cl_ord_id in book
            )
            self.outcome.resolved_by_hand += answer.status_code == 200

    async def clear(self) -> None:
        """Wait for calm: every order proven, those that rest cancelled."""
        engine = self.w.engine
        self.venue.post("/sim/faults", [])

        def unproven() -> bool:
            return any(
                order.status in {OrderStatus.UNKNOWN, OrderStatus.PENDING_NEW}
                for order in engine.orders.working()
            )

        await eventually(lambda: not unproven(), PATIENCE_S, "every order is proven")
        deadline = time.monotonic() + PATIENCE_S
        while working := engine.orders.working():
            assert time.monotonic() < deadline, [(o.cl_ord_id, o.status, o.text) for o in working]
            for order in working:
                await self.w.try_command("cancel_order", cl_ord_id=order.cl_ord_id)
            with suppress(AssertionError):
                await eventually(lambda: not engine.orders.working(), 3.0)

    async def judge(self) -> None:
        """Compare the engine's orders with the venue's book."""
        outcome, engine = self.outcome, self.w.engine
        book = self.book()
        await engine.journal.flushed()
        ours: dict[str, Any] = {}
        after = None
        while True:
            params = {"limit": 1000} | ({"after": after} if after else {})
            page = (await self.w.http.get("/v1/orders", params=params)).json()
            ours |= {row["cl_ord_id"]: row for row in page["items"]}
            after = page["next"]
            if after is None:
                break
        outcome.orders = len(ours)
        for cl_ord_id, row in ours.items():
            outcome.statuses[row["status"]] += 1
            if row["code"]:
                outcome.codes[row["code"]] += 1
            self._compare(cl_ord_id, row, book.get(cl_ord_id, []))
        for cl_ord_id in book.keys() - ours.keys():
            outcome.wrong.append(f"{cl_ord_id}: at the venue, not in the journal")
        for row in self.venue.get("/sim/log"):
            if row["fault"]:
                outcome.faults[row["fault"]] += 1

    def _compare(self, cl_ord_id: str, row: dict[str, Any], placed: list[dict[str, Any]]) -> None:
        outcome, status = self.outcome, row["status"]
        if len(placed) > 1:
            outcome.duplicated.append(f"{cl_ord_id}: {len(placed)} orders at the venue")
        filled = sum(Decimal(order["filled_qty"]) for order in placed)
        if filled > Decimal(row["order_qty"]):
            outcome.duplicated.append(f"{cl_ord_id}: {filled} filled of {row['order_qty']}")
        if filled != Decimal(row["cum_qty"]):
            outcome.wrong.append(f"{cl_ord_id}: {row['cum_qty']} of ours, {filled} at the venue")
        if status in {"unknown", "pending_new"}:
            outcome.lost.append(f"{cl_ord_id}: {status} at the end")
        elif status in {"filled", "canceled"} and not placed:
            outcome.lost.append(f"{cl_ord_id}: {status}, and the venue never had it")
        elif status in {"denied", "expired", "rejected"} and not (row["code"] or row["text"]):
            outcome.lost.append(f"{cl_ord_id}: {status} without a reason")
        elif status in {"denied", "expired", "rejected"} and any(
            order["status"] not in {"expired", "rejected"} for order in placed
        ):
            outcome.wrong.append(f"{cl_ord_id}: {status} {row['code']}, and the venue has it")


async def storm(
    directory: Path,
    dialect: str,
    orders: int,
    *,
    accounts: int = 50,
    rate: float = RATE,
    seed: int = 1,
) -> Outcome:
    """Send ``orders`` orders through a venue that fails a share ``rate`` of them; return what came of it."""
    started = time.monotonic()
    with VenueProcess(directory, "--dialect", dialect) as venue:
        documents, symbol, price = account_documents(dialect, accounts, venue)
        venue.post("/sim/price", {symbol: str(price)})
        sections: dict[str, dict[str, Any]] = {
            "engine": {"reply_timeout_s": 0.5},
            "market": {"source": "none"},
            "limits": {"price_reference": "when_available", "max_accounts_per_signal": accounts},
        }
        async with world(directory, documents, **sections) as w:
            run = Storm(dialect, w, venue)
            operator = asyncio.get_running_loop().create_task(run.operate())
            try:
                mix = {"action": "mix", "rate": rate, "seed": seed, "match": PLACE[dialect]}
                venue.post("/sim/faults", [mix])
                await run.send(orders, symbol, price)
                await run.clear()
            finally:
                operator.cancel()
                await asyncio.gather(operator, return_exceptions=True)
            await run.judge()
        run.outcome.seconds = time.monotonic() - started
        return run.outcome


def main() -> None:
    """Run one storm and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialect", choices=sorted(PLACE), default="alpaca")
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="volley-storm-") as directory:
        outcome = asyncio.run(
            storm(
                Path(directory),
                given.dialect,
                given.orders,
                accounts=given.accounts,
                rate=given.rate,
                seed=given.seed,
            )
        )
    print(json.dumps(outcome.__dict__, indent=1, default=str))  # noqa: T201 (its purpose)
    raise SystemExit(bool(outcome.lost or outcome.duplicated or outcome.wrong))


if __name__ == "__main__":
    main()
