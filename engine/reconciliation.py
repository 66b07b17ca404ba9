"""The continuous comparison of every account with its broker: orders, positions, cash (control C25).

When an account connects, and then every ``safety.reconcile_*_s`` (its first turn at a moment its id decides, so that
accounts do not come all at once), the broker is asked. A difference found twice in a row takes the account's entries
off (``REDUCING``, reason ``DRIFTED``); cash alone is only told. The broker is truth for what is held, the journal for
what was meant: a person adopts or repairs line by line (engine.adjustments). When the last line is gone, the latch goes
by itself, but only the one that was set here; a latch of anybody else's stays.

Reading stands back: while orders leave, while a broker has asked for quiet, and within a share of what one address may
read (``Capabilities.reads_per_second``). So with many accounts at one address the turns come later than configured; an
account's row says how often they really come.
"""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from engine.clock import rfc3339
from engine.errors import BrokerError, StoreError
from engine.execution.cash import FACT as CASH_FACT
from engine.execution.cash import CashBook, not_comparable, own_sum
from engine.execution.differences import (
    ADOPT,
    CASH,
    ORDER,
    POSITION,
    DifferenceBook,
    Finding,
    signed,
)
from engine.execution.differences import FACT as DIFFERENCE_FACT
from engine.execution.expected import RecentFills
from engine.execution.external import FACT as EXTERNAL_FACT
from engine.execution.external import ExternalOrders, sentence
from engine.execution.turns import Turns
from engine.holdings import FACT as HELD_FACT
from engine.holdings import LAG_NS, Holdings
from engine.kill_exits import KillExits
from engine.masters import FACT as INSTRUMENT_FACT
from engine.masters import Masters
from engine.model import tables
from engine.model.account_state import AccountState
from engine.model.enums import TradingState
from engine.model.messages import ExecutionReport, Fill
from engine.model.numbers import ZERO, to_text
from engine.model.order import BUST
from engine.ports import BrokerSession
from engine.risk.exposure import ForeignOrder

if TYPE_CHECKING:
    from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

BY: Final = "reconciliation"
AGAIN_S: Final = 2.0
"""The second look at a difference comes after this, or the broker's settling time where that is longer."""


class Reconciliation:
    """Keeps every account compared with its broker."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        keep = engine.journal.note_fact
        self.book = DifferenceBook(keep)
        self.external = ExternalOrders(keep)
        self.cash = CashBook(keep)
        self.fills = RecentFills()
        self.holdings = Holdings(engine, self.fills)
        self.masters = Masters(engine, self.freeze)
        self._locks: dict[str, asyncio.Lock] = {}
        self._no_cash: dict[str, str] = {}  # why an account's cash is not compared
        safety = engine.config.safety
        self.counts = {"comparisons_total": 0, "differences_total": 0, "external_orders_total": 0}
        """Since the start: comparisons made, differences that counted, foreign orders told."""
        self.turns = Turns(
            engine.clock,
            engine.fleet.states,
            engine.fleet.sessions,
            engine.dispatcher,
            {
                ORDER: safety.reconcile_orders_s,
                POSITION: safety.reconcile_positions_s,
                CASH: safety.reconcile_cash_s,
            },
            self.compare,
            self._gone,
        )

    # ---- life ------------------------------------------------------------------------------------------------

    def load(self, facts: dict[str, dict[str, Any]]) -> None:
        """Go on after a restart: ``facts`` by kind and key, as the journal kept them."""
        self.book.load(facts.get(DIFFERENCE_FACT, {}))
        self.external.load(facts.get(EXTERNAL_FACT, {}))
        self.cash.load(facts.get(CASH_FACT, {}))
        self.masters.load(facts.get(INSTRUMENT_FACT, {}))
        self.holdings.load(facts.get(HELD_FACT, {}))

    async def start(self) -> None:
        """Begin to take turns."""
        self._engine.spawn(self.turns.run(), "reconciliation")

    async def stop(self) -> None:
        """End with the engine, which owns what runs here."""

    def on_fill(self, fill: Fill, moved: Decimal) -> None:
        """Note by how much a fill has moved its position."""
        now = self._engine.clock.monotonic_ns()
        self.fills.note(fill.account, fill.symbol, now, moved)
        self.cash.traded(fill.account, fill.last_qty, fill.last_px)
        if fill.exec_id.startswith(BUST):
            text = (
                f"a fill of {fill.cl_ord_id} was undone by the broker: {fill.symbol} {fill.side.value} "
                f"{to_text(fill.last_qty)} at {to_text(fill.last_px)} was booked against it"
            )
            self._engine.alert("critical", "BUSTED", fill.account, text)
            self._engine.journal.audit(
                "bust", {"exec_id": fill.exec_id, "text": text}, fill.account
            )

    async def first(self, state: AccountState, session: BrokerSession) -> None:
        """Compare a freshly connected account's orders and positions, whatever is configured for later.

        Raises:
            BrokerError: the broker could not be asked.
        """
        for symbol in sorted(
            self._engine.keeper.open_symbols(state.id)
        ):  # its exits need to know the lot
            await self._engine.instruments.ensure(state.broker, symbol)
        async with self.lock(state.id):
            await self._orders(state, session)
            if self._engine.config.safety.reconcile_positions_s:
                await self._positions(state, session)
        state.reconciled = True
        self.turns.begin(state.id)
        self._show(state.id)

    async def compare(self, state: AccountState, session: BrokerSession, kinds: list[str]) -> None:
        """Compare an account; a broker that cannot be asked is shown in its row and asked again in time."""
        async with self.lock(state.id):
            try:
                for kind in kinds:
                    await self.again(state, session, kind)
            except (BrokerError, StoreError) as error:
                state.last_error = f"reconciliation: {error}"
            except Exception as error:  # a fault of ours: told, and the other accounts go on
                log.exception("reconciling %s failed", state.id)
                state.last_error = f"reconciliation: {error!r}"
                self._engine.alert("critical", "INTERNAL", state.id, state.last_error)
        self._show(state.id)

    def lock(self, account: str) -> asyncio.Lock:
        """Return the lock under which an account is compared, adopted or repaired."""
        return self._locks.setdefault(account, asyncio.Lock())

    # ---- orders ------------------------------------------------------------------------------------------------

    async def _orders(self, state: AccountState, session: BrokerSession) -> None:
        engine, now = self._engine, rfc3339(self._engine.clock.now())
        check = await engine.reconciler.compare(state, session)
        new, changed = self.external.listed(state.id, check.foreign, now)
        self._count_foreign(state.id, check.foreign)
        exits = KillExits(engine.shared).of(state.id) if new else ()
        for order in new:
            self.counts["external_orders_total"] += 1
            text = sentence(order, exits)
            engine.alert("warning", "FOREIGN_ORDER", state.id, text)
            engine.journal.audit("foreign_order", {"text": text}, state.id)
        for key in changed:
            engine.publisher.touch(tables.EXTERNAL, key)
        await self._take(state, session, ORDER, check.findings)

    def _count_foreign(self, account: str, reports: list[ExecutionReport]) -> None:
        """Let the pre-trade limits count what may fill of orders that are none of ours."""
        self._engine.pretrade.exposure.foreign(
            account,
            [
                ForeignOrder(
                    report.order_id or report.cl_ord_id,
                    report.symbol,
                    report.side,
                    report.order_qty - (report.cum_qty or ZERO),
                    report.limit_price or report.stop_price,
                )
                for report in reports
                if report.side is not None and report.order_qty is not None
            ],
        )

    # ---- positions ---------------------------------------------------------------------------------------------

    async def _positions(self, state: AccountState, session: BrokerSession) -> None:
        findings = await self.holdings.compare(state, session)
        await self._take(state, session, POSITION, findings)
        await self.masters.look(state)

    # ---- cash ----------------------------------------------------------------------------------------------------

    async def _cash(self, state: AccountState, session: BrokerSession) -> None:
        engine, capabilities = self._engine, session.capabilities
        if not capabilities.cash:
            balances = state.balances
        else:
            since = engine.clock.monotonic_ns() - max(LAG_NS, int(capabilities.settle_s * 1e9))
            balances = await session.balances()
            if self.fills.since(state.id, since):
                self.turns.soon(state.id, CASH, AGAIN_S + capabilities.settle_s)
                return  # what moved the money is on its way to one of us
        if balances is None:
            return
        positions = engine.keeper.of(state.id)
        why = self._no_cash[state.id] = not_comparable(capabilities, balances, positions)
        if why:
            self.cash.forget(state.id)
            await self._take(state, session, CASH, [])
            return
        expected = self.cash.expected(state.id, balances.cash, own_sum(capabilities, positions))
        findings = []
        if expected is not None:
            differs, unit = balances.cash - expected, balances.currency
            findings = [
                Finding(
                    state.id,
                    CASH,
                    unit,
                    unit,
                    to_text(expected),
                    to_text(balances.cash),
                    signed(differs),
                    f"cash expected {to_text(expected)} {unit}, broker has {to_text(balances.cash)}: a payment, fee "
                    "or interest that no fill tells of",
                    actions=(ADOPT,),
                    value=abs(differs),
                    qty=balances.cash,
                )
            ]
        await self._take(state, session, CASH, findings)

    # ---- what follows from it ----------------------------------------------------------------------------------

    async def _take(
        self,
        state: AccountState,
        session: BrokerSession,
        kind: str,
        findings: list[Finding],
    ) -> None:
        """Enter what a comparison found; act on what counts from now on, and on what is gone."""
        engine = self._engine
        now = rfc3339(engine.clock.now())
        change = self.book.compared(state.id, kind, findings, now)
        if self.book.suspected(state.id, kind):
            self.turns.soon(state.id, kind, max(AGAIN_S, session.capabilities.settle_s))
        for line in change.proven:
            self.counts["differences_total"] += 1
            found = line.found
            severity = "warning" if kind == CASH else "critical"
            engine.alert(severity, found.code, state.id, found.text)
            engine.journal.audit("difference", _facts(found), state.id)
        for line in change.gone:
            engine.journal.audit("difference_gone", _facts(line.found), state.id)
        for key in {found.key for found in findings} | {line.found.key for line in change.gone}:
            engine.publisher.touch(tables.DIFFERENCES, key)
        await self.settle(state)

    async def settle(self, state: AccountState) -> None:
        """Latch an account for lines nothing was done for yet; lift our own latch once no line is left."""
        engine, scope = self._engine, f"account:{state.id}"
        lines = [line for line in self.book.lines(state.id) if line.found.kind != CASH]
        latch = engine.states.get(scope)
        ours = latch is not None and latch.by == BY
        if lines:
            fresh = [line for line in lines if not line.acted]
            if fresh or not engine.controls.is_tripped("C25", state.id):
                text = "; ".join(line.found.text for line in lines)
                engine.controls.trip("C25", text, code=lines[0].found.code, account=state.id)
            if not fresh or not (latch is None or ours):
                return  # a stricter or an operator's latch: ours follows once that is lifted
            for line in fresh:
                line.acted = True
                self.book.note(line)
            if latch is None:
                await self.freeze(scope, fresh[0].found.code, fresh[0].found.text)
            return
        engine.controls.clear("C25", state.id)
        waits = any(self.book.suspected(state.id, kind) for kind in (ORDER, POSITION))
        if ours and not waits:
            await engine.latch(scope, TradingState.ACTIVE, "no difference is left", BY)

    async def freeze(self, scope: str, code: str, text: str) -> None:
        """Take a scope's entries off."""
        engine = self._engine
        if engine.states.get(scope) is None:
            await engine.latch(scope, TradingState.REDUCING, f"{code}: {text}", BY)

    def _gone(self, account: str) -> None:
        """Forget a removed account."""
        engine = self._engine
        for key in self.book.forget(account):
            engine.publisher.touch(tables.DIFFERENCES, key)
        _new, gone = self.external.listed(account, [], rfc3339(engine.clock.now()))
        for key in gone:
            engine.publisher.touch(tables.EXTERNAL, key)
        self._count_foreign(account, [])

    async def again(self, state: AccountState, session: BrokerSession, kind: str) -> None:
        """Compare once more, before a person's decision is carried out; the caller holds the account's lock.

        Raises:
            BrokerError: the broker could not be asked.
        """
        self.counts["comparisons_total"] += 1
        compare = {ORDER: self._orders, POSITION: self._positions, CASH: self._cash}
        await compare[kind](state, session)

    def agree(self, state: AccountState, session: BrokerSession, cash: Decimal) -> None:
        """Take the broker's cash as right from here on."""
        ours = own_sum(session.capabilities, self._engine.keeper.of(state.id))
        self.cash.agree(state.id, cash, ours)

    def adopted(self, found: Finding) -> None:
        """Take a line out that a person has settled, and what followed from it."""
        self.book.drop(found.key)
        self._engine.publisher.touch(tables.DIFFERENCES, found.key)
        self._show(found.account)

    # ---- what is shown -------------------------------------------------------------------------------------------

    def _show(self, account: str) -> None:
        self._engine.publisher.touch(tables.ACCOUNTS, account)

    def differences(self, account: str | None = None) -> list[Finding]:
        """Return what differs, of one account or of all."""
        return [line.found for line in self.book.lines(account)]

    def columns(self, state: AccountState) -> dict[str, Any]:
        """Return an account's columns of the table ``accounts``."""
        return {
            "differences": len(self.book.lines(state.id)),
            "external_orders": len(self.external.of(state.id)),
            "reconciliation": self._says(state),
        }

    def _says(self, state: AccountState) -> str:
        """Say how often an account really is compared, and of what it is not."""
        if not state.reconciled:
            return "not compared since the start"
        every = self.turns.every_s(state.id)
        parts = [f"{_PLURAL[kind]} every {seconds:.0f} s" for kind, seconds in every.items()]
        if ORDER not in every:
            parts.append("orders when it connects")
        if symbols := self.holdings.not_compared.get(state.id):
            parts.append(f"positions not compared: {symbols}")
        if why := self._no_cash.get(state.id):
            parts.append(f"cash not compared: {why}")
        return ", ".join(parts)


_PLURAL = {ORDER: "orders", POSITION: "positions", CASH: "cash"}


def _facts(found: Finding) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "subject": found.subject,
        "symbol": found.symbol,
        "expected": found.expected,
        "actual": found.actual,
        "difference": found.difference,
        "code": found.code,
        "text": found.text,
    }
