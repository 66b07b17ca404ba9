"""The last question before an order's first byte: may it leave now?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.clock import rfc3339
from engine.kill_latch import FIRM, GENERATION, KillLatch
from engine.model.account_state import AccountState
from engine.model.enums import TradingState
from engine.model.identifiers import OPERATOR
from engine.model.order import Order
from engine.portfolio.position_keeper import PositionKeeper
from engine.risk.trading_state import TradingStates, may_send, refusal
from engine.stores.journal import Journal

Reason = tuple[str, str]


class Gate:
    """Asked of every order at the last moment, and of nobody else's business: it changes nothing.

    ``daily_loss`` says of an account with such a limit whether it has lost it.
    """

    def __init__(
        self,
        journal: Journal,
        accounts: Mapping[str, AccountState],
        keeper: PositionKeeper,
        states: TradingStates,
        shared: KillLatch,
        daily_loss: Callable[[AccountState], Reason | None],
    ) -> None:
        self._journal = journal
        self._accounts = accounts
        self._keeper = keeper
        self._states = states
        self._shared = shared
        self._daily_loss = daily_loss
        self.look_at_latch: Callable[[], None] = lambda: None
        self.position: Callable[[AccountState, Order], Reason | None] = lambda _state, _order: None
        """Says of an entry whether it may lead to too large a position (C05)."""
        self.no_lease: Callable[[], Reason | None] | None = None  # where the book is leased (C27)

    def refusal(self, order: Order) -> Reason | None:
        """Say why an order may not leave now; asked at the last moment before its first byte."""
        shared = self._shared
        if shared.words[GENERATION] != shared.seen:
            self.look_at_latch()  # the kill switch was pressed outside this process
        if self._journal.failed:
            return "INTERNAL", f"the journal failed: {self._journal.failed}"
        if self.no_lease is not None and (stale := self.no_lease()):
            return stale
        state = self._accounts.get(order.account)
        if state is None:
            return "INACTIVE", "the account was removed"
        if order.reducing:
            held = self._keeper.get(order.account, order.symbol)
            if held is None or held.qty * order.side.sign >= 0:
                return "NO_POSITION", "nothing is left to close"
        elif not state.active:
            return "INACTIVE", "the account was switched off"
        elif state.limits.max_daily_loss is not None and (lost := self._daily_loss(state)):
            return lost
        elif state.summed and (over := self.position(state, order)):
            return over
        return self._latched(order, state) if self._states else None

    def _latched(self, order: Order, state: AccountState) -> Reason | None:
        latch = self._states.strictest(
            f"account:{order.account}",
            f"broker:{state.broker}",
            f"strategy:{order.strategy}",
            f"symbol:{order.symbol}",
        )
        if may_send(latch, reducing=order.reducing, manual=order.source == OPERATOR):
            halted = latch is not None and latch.state is TradingState.HALTED
            return self._closed_outside(order, state) if halted else None
        assert latch is not None
        return refusal(latch)

    def _closed_outside(self, order: Order, state: AccountState) -> Reason | None:
        """Refuse an exit made before another process began to close its position: the book does not know of that."""
        scopes = {
            FIRM,
            f"account:{order.account}",
            f"broker:{state.broker}",
            f"symbol:{order.symbol}",
        }
        for record in self._shared.flat():
            since = record["flat"] if record["scope"] in scopes else None
            # Earlier versions did not note since when.
            if isinstance(since, str) and rfc3339(order.created_at) < since:
                return "HALTED", "its position was closed outside the engine"
        return None
