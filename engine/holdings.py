"""Positions against the broker's: what our fills and what was held before us add up to, and what explains the rest."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from engine.errors import BrokerError
from engine.execution.differences import POSITION, Finding, signed
from engine.execution.expected import RecentFills, Span, by_our_names, looks_split, outside
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus
from engine.model.messages import BrokerPosition
from engine.model.numbers import ZERO, to_text
from engine.ports import BrokerSession

if TYPE_CHECKING:
    from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

FACT: Final = "held_before"
LAG_NS: Final = 2_000_000_000
"""A broker's list of positions may be this much older than its other news."""
_NOTHING: Final = Span(ZERO, ZERO, ZERO)


class Holdings:
    """Compares positions. What an account held before we traded there is kept in the journal and expected to stay."""

    def __init__(self, engine: TradingEngine, fills: RecentFills) -> None:
        self._engine = engine
        self._fills = fills
        self._held: dict[str, tuple[str, dict[str, Decimal]]] = {}  # where, and how much of what
        self.not_compared: dict[str, str] = {}
        """By account: the symbols it has traded that its broker's list proves nothing of."""

    def load(self, facts: dict[str, dict[str, Any]]) -> None:
        """Go on after a restart."""
        for account, fact in facts.items():
            held = {symbol: Decimal(text) for symbol, text in fact["held"].items()}
            self._held[account] = (fact["place"], held)

    async def compare(self, state: AccountState, session: BrokerSession) -> list[Finding]:
        """Read an account's positions and return those that nothing of ours explains.

        Raises:
            BrokerError: the broker could not be asked.
            StoreError: what was held before us could not be made durable.
        """
        engine, capabilities = self._engine, session.capabilities
        since = engine.clock.monotonic_ns() - max(LAG_NS, int(capabilities.settle_s * 1e9))
        told = await session.positions()
        held = self._held_before(state)
        ours = {position.symbol for position in engine.keeper.of(state.id)}
        actual = by_our_names(told, [*ours, *(held or ())])
        if held is None:
            held = await self._first_holdings(state, actual, ours)
        lots: dict[str, Decimal] = {}
        if capabilities.spot:  # what fees leave behind of a lot cannot be sold and is no difference
            lots = {symbol: self._below_a_lot(state, symbol) for symbol in {*ours, *actual}}
        suspects = outside(self._spans(state, since, held), actual, lots)
        if suspects:
            doubt = await self._look_up(state, session, set(suspects))
            spans = self._spans(state, since, held)
            for symbol, (bought, sold) in doubt.items():
                spans[symbol] = spans.get(symbol, _NOTHING).wider(bought, sold)
            suspects = outside(spans, actual, lots)
        if capabilities.spot:
            suspects = self._follow(state, held, actual, suspects)
            mixed = self._mixed(state)
            suspects = [symbol for symbol in suspects if symbol not in mixed]
        return [self._finding(state, symbol, actual.get(symbol), held) for symbol in suspects]

    def _spans(
        self, state: AccountState, since_ns: int, held: dict[str, Decimal]
    ) -> dict[str, Span]:
        spans = {
            position.symbol: self._fills.span(state.id, position.symbol, since_ns, position.qty)
            for position in self._engine.keeper.of(state.id)
        }
        for symbol, quantity in held.items():
            spans[symbol] = spans.get(symbol, _NOTHING).moved(quantity)
        return spans

    def _place(self, state: AccountState) -> str:
        account = state.account
        return f"{account.broker} {account.base_url or account.environment}"

    def _held_before(self, state: AccountState) -> dict[str, Decimal] | None:
        """Return what an account held before we traded there, ``None`` if it was never asked."""
        place, held = self._held.get(state.id, ("", None))
        return held if place == self._place(state) else None

    async def _first_holdings(
        self, state: AccountState, actual: dict[str, BrokerPosition], ours: set[str]
    ) -> dict[str, Decimal]:
        """Take what the broker holds of symbols we never traded there as held before us, durably."""
        touched = ours | {order.symbol for order in state.working.values()}
        held = {symbol: one.qty for symbol, one in actual.items() if symbol not in touched}
        fact = self._held_fact(state, held)
        await self._engine.journal.commit_fact(FACT, state.id, fact)
        self._held[state.id] = (fact["place"], held)
        if held:
            self._engine.journal.audit("held_before", fact, state.id)
        return held

    async def absorb(self, state: AccountState, symbol: str, moved: Decimal) -> Decimal:
        """Take what has gone of a position first from what was held before us; return what of it is ours.

        Raises:
            StoreError: it could not be made durable.
        """
        held = self._held_before(state) or {}
        before = held.get(symbol, ZERO)
        if before * moved >= 0:
            return moved
        taken = max(moved, -before) if moved < 0 else min(moved, -before)
        held[symbol] = before + taken
        await self._engine.journal.commit_fact(FACT, state.id, self._held_fact(state, held))
        return moved - taken

    def _held_fact(self, state: AccountState, held: dict[str, Decimal]) -> dict[str, Any]:
        texts = {symbol: to_text(quantity) for symbol, quantity in held.items()}
        return {"place": self._place(state), "held": texts}

    def _follow(
        self,
        state: AccountState,
        held: dict[str, Decimal],
        actual: dict[str, BrokerPosition],
        suspects: list[str],
    ) -> list[str]:
        """Let assets come and go that we never traded (paid in, earned, sold elsewhere); return the other suspects."""
        ours = {position.symbol for position in self._engine.keeper.of(state.id)}
        ours |= {order.symbol for order in state.working.values()}
        moved = [symbol for symbol in suspects if symbol not in ours]
        for symbol in moved:
            one = actual.get(symbol)
            held[symbol] = one.qty if one else ZERO
        if moved:
            self._engine.journal.note_fact(FACT, state.id, self._held_fact(state, held))
        return [symbol for symbol in suspects if symbol in ours]

    def _mixed(self, state: AccountState) -> set[str]:
        """Return the symbols that a list of coins proves nothing of: pairs that are not paid in the account's currency
        (``ETHBTC``), and pairs of the coins that those move.
        """
        currency = state.balances.currency if state.balances is not None else ""
        ours = {position.symbol for position in self._engine.keeper.of(state.id)}
        others = {symbol for symbol in ours if not symbol.endswith(currency)}
        coins = {symbol: symbol.removesuffix(currency).rstrip("/") for symbol in ours - others}
        for symbol, coin in coins.items():
            if any(other.startswith(coin) or other.endswith(coin) for other in tuple(others)):
                others.add(symbol)
        self.not_compared[state.id] = ", ".join(sorted(others))
        return others

    def _below_a_lot(self, state: AccountState, symbol: str) -> Decimal:
        instrument = self._engine.instruments.find(state.broker, symbol)
        return instrument.lot if instrument is not None else ZERO

    async def _look_up(
        self, state: AccountState, session: BrokerSession, symbols: set[str]
    ) -> dict[str, tuple[Decimal, Decimal]]:
        """Ask what became of the orders that could explain a difference: all they filled before the list was made is
        known then. Return what those without an answer may have bought and sold.
        """
        doubt: dict[str, tuple[Decimal, Decimal]] = {}
        for order in list(state.working.values()):
            if order.symbol not in symbols or not order.was_sent:
                continue
            report = None
            if order.status is not OrderStatus.PENDING_NEW:
                try:
                    report = await session.find(order.cl_ord_id, order.symbol, order.order_id)
                except BrokerError as error:
                    log.info("%s: looking up %s: %s", state.id, order.cl_ord_id, error)
            if report is not None:
                self._engine.on_report(report)
            elif order.status.working:
                bought, sold = doubt.get(order.symbol, (ZERO, ZERO))
                if order.side.sign > 0:
                    bought += order.leaves_qty
                else:
                    sold += order.leaves_qty
                doubt[order.symbol] = (bought, sold)
        return doubt

    def _finding(
        self,
        state: AccountState,
        symbol: str,
        told: BrokerPosition | None,
        held: dict[str, Decimal],
    ) -> Finding:
        position = self._engine.keeper.get(state.id, symbol)
        before = held.get(symbol, ZERO)
        expected = (position.qty if position else ZERO) + before
        actual = told.qty if told else ZERO
        mark = self._engine.marks.price(symbol)
        text = f"position {symbol} expected {to_text(expected)}, broker has {to_text(actual)}"
        if before:
            text += f" ({to_text(before)} of it held before)"
        code = "DRIFTED"
        if position and told and not before and looks_split(position.qty, position.cost, told):
            code = "CORPORATE_ACTION"
            text += f" at {to_text(round(told.avg_px, 6))}, worth the same: it looks like a split"
        return Finding(
            state.id,
            POSITION,
            symbol,
            symbol,
            to_text(expected),
            to_text(actual),
            signed(actual - expected),
            text,
            code,
            value=None if mark is None else abs(actual - expected) * mark,
            qty=actual - before,
            avg_px=told.avg_px if told and told.avg_px else None,
        )
