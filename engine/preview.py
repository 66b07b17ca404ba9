"""What would come of a signal now, account by account: planned as it would be, and nothing of it kept or sent.

The plan is made by the planner itself, over the same live state, and nothing is reserved: no throttle counts, no
content is remembered, no order exists. It is made in parts, between which everybody else's work goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, TypeVar

import orjson

from engine.client import exact
from engine.clock import rfc3339
from engine.errors import CommandRefused, InvalidSignal
from engine.intake.parser import parse_signal
from engine.model import commands as c
from engine.model.account_state import AccountState
from engine.model.identifiers import OPERATOR, PROTECTIVE
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order
from engine.model.signal import Audience, Signal
from engine.obstacles import RULES, Block, Obstacles
from engine.planner import Plan, Release
from engine.risk.trading_state import refusal
from engine.signals_by_hand import SignalsByHand, changed
from engine.trading_engine import TradingEngine

T = TypeVar("T")
Reason = tuple[str, str]
Row = dict[str, Any]
Listed = tuple[list[Block], tuple[str, ...]]
AT_ONCE: Final = 32
"""Accounts per turn of the loop, a third of a millisecond: no signal waits longer for a preview."""
SOURCE: Final = "desk"
"""The source of a signal that names none."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked: a signal, as new or as an approval of a held one, and whom the answer is to name."""

    signal: Signal
    release: Release | None
    accounts: frozenset[str] | None
    whole: Reason | None  # why the signal is refused before anybody is asked


class Previews:
    """Carries out ``preview``, one at a time."""

    def __init__(self, engine: TradingEngine, by_hand: SignalsByHand) -> None:
        self._engine = engine
        self._by_hand = by_hand
        self._obstacles = Obstacles(engine.planner, engine.pretrade)
        self._one = asyncio.Lock()
        self._asked = 0

    async def preview(self, command: c.Preview) -> Row:
        """Say what would come of a signal.

        Raises:
            CommandRefused: the signal breaks a rule of the schema (422), or there is no such signal or account (404),
                or it is not held (409).
        """
        async with self._one:
            case = self._held(command) if command.held is not None else self._new(command)
            await self._engine.prepare(case.signal)
            return await self._answer(case, rules=command.rules)

    # ---- what is asked ---------------------------------------------------------------------------------------

    def _new(self, command: c.Preview) -> Case:
        """Take a signal as though it came in now; with ``scale`` as though it were held and approved with that."""
        engine = self._engine
        self._asked += 1
        document = {
            "id": f"preview.{self._asked}",
            "source": SOURCE,
            "issued_at": rfc3339(engine.clock.now()),
            **(command.signal or {}),
        }
        try:
            body = orjson.dumps(document, default=exact)
            signal = parse_signal(body, source=None, now=engine.clock.now())
        except InvalidSignal as error:
            raise CommandRefused(error.code, error.message, 422) from None
        except TypeError as error:
            raise CommandRefused("INVALID_COMMAND", f"signal: {error}", 422) from None
        if signal.source in {OPERATOR, PROTECTIVE}:
            raise CommandRefused("NOT_ALLOWED", f"source {signal.source} is the engine's own", 422)
        accounts = self._known(command.accounts)
        if accounts is not None:
            signal = replace(signal, audience=_narrowed(signal.audience, accounts))
        release = None
        if command.scale is not None:
            release = Release(accounts or frozenset(engine.fleet.states), command.scale)
        code, message = engine.triage(signal)
        if signal.key in engine.records:
            code, message = "DUPLICATE", f"{signal.key} came before; the first outcome stands"
        return Case(signal, release, accounts, (code, message) if code else None)

    def _held(self, command: c.Preview) -> Case:
        """Take a held signal as though it were approved now."""
        assert command.held is not None
        record = self._by_hand.record(command.held)
        chosen = frozenset(self._by_hand.held_of(record, command.accounts))
        signal = changed(record.signal, command)
        latch = self._engine.states.strictest(
            f"strategy:{signal.strategy}", f"symbol:{signal.symbol}"
        )
        release = Release(
            chosen, command.scale, command.quantity, earlier=self._by_hand.earlier(record)
        )
        return Case(signal, release, chosen, refusal(latch) if latch is not None else None)

    def _known(self, accounts: Iterable[str] | None) -> frozenset[str] | None:
        if accounts is None:
            return None
        for account in accounts:
            if account not in self._engine.fleet.states:
                raise CommandRefused("NOT_FOUND", f"no account {account}", 404)
        return frozenset(accounts)

    # ---- what would come of it -----------------------------------------------------------------------------------

    async def _answer(self, case: Case, *, rules: bool) -> Row:
        engine, signal = self._engine, case.signal
        listed: dict[str, Listed] | None = {} if rules and signal.side is not None else None
        if case.whole is not None:
            plan = Plan(code=case.whole[0], message=case.whole[1])
        else:
            plan = await self._plan(signal, case.release, listed)
        engine.planner.tell_everybody(signal, plan)
        price = signal.entry_price or engine.marks.price(signal.symbol)
        rows = Rows(engine, signal, plan, price)
        if plan.held:
            rows.approved = await self._plan(signal, Release(frozenset(plan.held)))
            engine.planner.tell_everybody(signal, rows.approved)
        await self._in_parts(rows.time())
        found = [row for row in await self._in_parts(rows.all()) if _asked(row, case.accounts)]
        if listed is not None:
            await self._list_others(case, listed)
        if rules:
            await self._in_parts(_with_rules(found, listed or {}, rows.going))
        return {
            "code": plan.code,
            "message": plan.message,
            "price": to_text(price) if price is not None else None,
            "finish_s": rows.finish_s,
            "accounts": sorted(found, key=lambda row: str(row["account"])),
            **({"rules": list(RULES)} if rules else {}),
        }

    async def _plan(
        self, signal: Signal, release: Release | None, listed: dict[str, Listed] | None = None
    ) -> Plan:
        """Plan in parts; into ``listed`` what is in each account's way just before it is decided on."""
        planner = self._engine.planner
        planning = planner.begin(signal, release)
        chosen = planning.chosen
        for start in range(0, len(chosen), AT_ONCE):
            part = chosen[start : start + AT_ONCE]
            if listed is None or planning.run is None:
                planner.decide(planning, part)
            else:
                for state in part:
                    listed[state.id] = self._obstacles.of(state, planning.run)
                    planner.decide(planning, [state])
            await self._others()
        return planner.finish(planning)

    async def _list_others(self, case: Case, listed: dict[str, Listed]) -> None:
        """List what is in the way of those that were not asked, as though they had been."""
        run = self._engine.planner.run(case.signal, case.release)
        others = [
            state
            for state in self._engine.fleet.states.values()
            if state.id not in listed and (case.accounts is None or state.id in case.accounts)
        ]
        for at, state in enumerate(others, 1):
            listed[state.id] = self._obstacles.of(state, run)
            if at % AT_ONCE == 0:
                await self._others()

    async def _in_parts(self, steps: Iterator[T]) -> list[T]:
        made: list[T] = []
        for step in steps:
            made.append(step)
            if len(made) % AT_ONCE == 0:
                await self._others()
        return made

    async def _others(self) -> None:
        """Let everybody else work; while orders leave, until they have left."""
        await asyncio.sleep(0)
        while self._engine.dispatcher.busy:  # noqa: ASYNC110 (a few turns of the loop, not an event)
            await asyncio.sleep(0)


def _with_rules(
    rows: Iterable[Row], listed: Mapping[str, Listed], going: Container[str]
) -> Iterator[None]:
    """Add to each row its deciding ``rule``, all that ``blocks`` it and what could not be asked (``unasked``)."""
    for row in rows:
        account, code = row["account"], row["code"]
        blocks, unasked = listed.get(account, ([], ()))
        if row["outcome"] == "hold":  # a person's approval counts for no throttle
            blocks = [block for block in blocks if block[0] != "throttle"]
        rule = next((name for name, reason in blocks if reason[0] == code), "")
        if row["outcome"] in {"skip", "refuse"} and not rule:
            rule = _rule_of(code, leaving=account in going)
            blocks = sorted(
                [*blocks, (rule, (code, row["message"]))], key=lambda block: RULES.index(block[0])
            )
        row["rule"] = rule
        row["unasked"] = list(unasked)
        row["blocks"] = [
            {"rule": name, "code": reason[0], "message": reason[1]} for name, reason in blocks
        ]
        yield


def _rule_of(code: str, *, leaving: bool) -> str:
    """Return the rule of a refusal that is none of an entry's own checks."""
    if leaving:
        return "leaving"
    return _RULE_OF.get(code, "signal")


_RULE_OF: Final = {
    "NOT_SUBSCRIBED": "strategy", "SYMBOL_NOT_ALLOWED": "symbol", "NOT_IN_AUDIENCE": "audience",
    "INACTIVE": "standing", "NOT_CONNECTED": "standing", "NO_POSITION": "size", "NO_ORDERS": "size",
    "FANOUT_ACCOUNTS": "fan_out", "FANOUT_VALUE": "fan_out",
}  # fmt: skip


class Rows:
    """The answer's rows: a plan's, with what its orders are worth and when they would have left."""

    def __init__(
        self, engine: TradingEngine, signal: Signal, plan: Plan, price: Decimal | None
    ) -> None:
        self._engine = engine
        self._signal = signal
        self._plan = plan
        self._price = price
        self.approved = Plan()  # what approving the held ones would come to
        self.finish_s = 0.0
        self._denied: dict[str, Reason] = {}  # by the gate before the first byte
        self._leaves: dict[str, float] = {}
        self.going = {order.account for order in plan.orders}

    def time(self) -> Iterator[None]:
        """Ask the gate of every order, and predict when each would have left; a step an order."""
        engine = self._engine
        for order in self._plan.orders:
            refused = engine.gate(order)
            if refused is not None:
                self._denied[order.account] = refused
            yield
        going = [o.account for o in self._plan.orders if o.account not in self._denied]
        now, entry = engine.clock.monotonic_ns(), self._signal.side is not None
        for account, leaves in engine.dispatcher.schedule(going, now, entry=entry):
            self._leaves[account] = leaves
            yield
        self.finish_s = max(self._leaves.values(), default=0.0)

    def all(self) -> Iterator[Row]:
        """Return the rows, one by one."""
        plan = self._plan
        for order in plan.orders:
            yield self._order(order)
        for account, orders in plan.cancels.items():
            quantity = sum((order.leaves_qty for order in orders), ZERO)
            yield _row(account, "send", message=f"cancels {len(orders)} of {to_text(quantity)}")
        for account in plan.stops:
            yield _row(account, "send", message="its stops change")
        approved = {order.account: order for order in self.approved.orders}
        for account in plan.held:
            yield self._held(account, approved.get(account))
        for outcome, reasons in (("skip", plan.skipped), ("refuse", plan.refused)):
            for account, (code, message) in reasons.items():
                yield _row(account, outcome, code, message)

    def _order(self, order: Order) -> Row:
        refused = self._denied.get(order.account) or self._too_late(order)
        if refused is not None:
            return self._sized(_row(order.account, "refuse", *refused), order)
        code, message = self._waits(order)
        row = _row(order.account, "send", code, message)
        row["leaves_in_s"] = None if code else self._leaves.get(order.account)
        return self._sized(row, order)

    def _too_late(self, order: Order) -> Reason | None:
        """Say that an order would be too old before its turn comes."""
        leaves = self._leaves.get(order.account)
        if leaves is None:
            return "NOT_CONNECTED", "the account has no broker session"
        most = self._engine.max_age_s(self._signal)
        if leaves <= most:
            return None
        return "STALE", f"its turn would come in {leaves:.1f} s, allowed are {most:g} s"

    def _waits(self, order: Order) -> Reason:
        """Say what an entry would wait for that no limit tells the end of."""
        lane = self._engine.dispatcher.lanes.get(order.account)
        if lane is None or order.reducing or not lane.waits:
            return "", ""
        return next(iter(lane.waits.items()))

    def _held(self, account: str, order: Order | None) -> Row:
        if order is not None:
            return self._sized(_row(account, "hold", message="waits for approval"), order)
        reasons = self.approved.skipped | self.approved.refused
        code, message = reasons.get(account, ("", ""))
        return _row(account, "hold", code, f"waits for approval, which would be refused: {message}")

    def _sized(self, row: Row, order: Order) -> Row:
        """Add what an order is: side, quantity, price, value, and the loss should its stop be hit."""
        row["side"] = order.side.value
        row["quantity"] = to_text(order.order_qty)
        if self._price is None:
            return row
        state: AccountState | None = self._engine.fleet.states.get(order.account)
        broker = state.broker if state is not None else ""
        units = order.order_qty * self._engine.instruments.get(broker, order.symbol).multiplier
        row["price"] = to_text(self._price)
        row["value"] = to_text(units * self._price)
        if order.stop_loss is not None and not order.reducing:
            row["risk"] = to_text(abs(self._price - order.stop_loss) * units)
        return row


def _row(account: str, outcome: str, code: str = "", message: str = "") -> Row:
    return {
        "account": account,
        "outcome": outcome,
        "code": code,
        "message": message,
        "side": None,
        "quantity": None,
        "price": None,
        "value": None,
        "risk": None,
        "leaves_in_s": None,
    }


def _asked(row: Row, accounts: frozenset[str] | None) -> bool:
    return accounts is None or row["account"] in accounts


def _narrowed(audience: Audience | None, accounts: frozenset[str]) -> Audience:
    """Return an audience of ``accounts`` only, as far as they were meant before."""
    if audience is None:
        return Audience(accounts=accounts)
    meant = accounts if audience.accounts is None else audience.accounts & accounts
    return replace(audience, accounts=meant)
