"""The engine's own parts as it sees them: what wiring puts in, so that the facade imports none of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Protocol

from engine.execution.lane import Lane
from engine.model.account_state import AccountState
from engine.model.messages import Fill
from engine.model.order import Order
from engine.model.position import Levels, Position
from engine.ports import BrokerSession
from engine.risk.trading_state import Latch
from engine.signal_record import SignalRecord


class PriceSource(Protocol):
    """Where reference prices come from."""

    @property
    def problem(self) -> str:
        """Return what is wrong, empty when nothing is."""
        ...

    def follow(self, symbol: str) -> None:
        """Keep a symbol's price fresh."""
        ...

    async def ask(self, symbol: str) -> None:
        """Get a symbol's price now, within a second."""
        ...

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """End."""
        ...


class Staged(Protocol):
    """Releases of which one account goes first (engine.staged_releases)."""

    def on_order(self, record: SignalRecord, order: Order) -> None:
        """Follow a change of one of a signal's orders."""
        ...


class Exits(Protocol):
    """Every way out of a position that nobody sends by hand (engine.exits)."""

    def load(self, squared: dict[str, str]) -> None:
        """Go on after a restart; positions and orders have been loaded."""
        ...

    async def start(self) -> None:
        """Begin to keep time."""
        ...

    async def stop(self) -> None:
        """End; what waits to be sent is denied."""
        ...

    def makes_way(self, order: Order) -> bool:
        """Take an entry against an open position that must wait until what rests there has ended."""
        ...

    def hold(self, order: Order) -> bool:
        """Take an exit that must wait until what rests of its position has ended; say whether it must."""
        ...

    def fits(self, order: Order) -> bool:
        """Cut an exit to what is left to close; ``False``: nothing is, and it was denied."""
        ...

    def deny(self, order: Order, code: str, text: str) -> bool:
        """Deny an exit that waits; say whether it did."""
        ...

    def on_fill(self, fill: Fill, order: Order, position: Position) -> None:
        """Follow a fill."""
        ...

    def on_order(self, order: Order) -> None:
        """Follow a change of an order."""
        ...

    def on_reconciled(self, account: str) -> None:
        """Take the news that an account's orders are as its broker has them."""
        ...

    def look_again(self) -> None:
        """Act wherever a latch has forbidden an exit: it was lifted."""
        ...

    def change_soon(self, position: Position, levels: Levels, change_id: str) -> None:
        """Set where a position is to be closed; where that fails it is told."""
        ...

    async def change(self, position: Position, levels: Levels, change_id: str) -> None:
        """Set where a position is to be closed.

        Raises:
            CommandRefused: the old levels stand; says why.
            StoreError: it could not be made durable; the old levels stand.
        """
        ...

    def wrong_side(self, position: Position, levels: Levels) -> tuple[str, str] | None:
        """Refuse levels that would close an open position at once."""
        ...


class Reconciliation(Protocol):
    """Compares every account with its broker, again and again (engine.reconciliation)."""

    async def first(self, state: AccountState, session: BrokerSession) -> None:
        """Compare a freshly connected account.

        Raises:
            BrokerError: the broker could not be asked.
        """
        ...

    def on_fill(self, fill: Fill, moved: Decimal) -> None:
        """Note by how much a fill has moved its position."""
        ...


class News(Protocol):
    """Follows up news of orders (engine.order_news)."""

    def record_stages(self, record: SignalRecord) -> None:
        """Count a signal's stages once all its orders are answered."""
        ...

    def on_fill(self, fill: Fill, order: Order) -> None:
        """Apply a fill to its position and tell everybody."""
        ...

    def send_again(self, order: Order) -> None:
        """Send an order once more of which the broker is known to have nothing."""
        ...


class Guards(Protocol):
    """The controls that act while trading (engine.guards)."""

    def guard(self, state: AccountState, lane: Lane) -> None:
        """Take a new lane."""
        ...

    def reconciled(self, state: AccountState) -> None:
        """Let an account's entries leave that waited for its first comparison with its broker."""
        ...

    def halt(self, scope: str, reason: str) -> None:
        """Halt a scope at once, durably a moment later."""
        ...

    def latched(self, scope: str, before: Latch | None, after: Latch) -> None:
        """Follow a scope's latch."""
        ...

    def answered(self, order: Order) -> None:
        """Follow an order's change."""
        ...

    def decided(self, record: SignalRecord) -> None:
        """Take a signal all of whose orders have been answered."""
        ...

    def look_at_clock(self) -> None:
        """Compare the wall clock with the monotonic one, before a signal's age is believed."""
        ...


class Service(Protocol):
    """Runs beside the engine: another intake, a watch."""

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """End."""
        ...


class Operator(Protocol):
    """Carries out commands (engine.operator_desk)."""

    async def handle(self, document: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        ...


class Reports(Protocol):
    """Answers questions about the engine (engine.reports)."""

    async def start(self) -> None:
        """Begin ticking."""
        ...

    async def stop(self) -> None:
        """End."""
        ...

    async def signal_detail(self, key: str) -> dict[str, Any] | None:
        """Return one signal."""
        ...

    async def list_rows(
        self, table: str, where: dict[str, str], limit: int, after: str | None
    ) -> dict[str, Any]:
        """Return a page of rows."""
        ...

    def latency(self) -> dict[str, Any]:
        """Return the stages' percentiles."""
        ...

    def readiness(self) -> list[str]:
        """Return why the engine is not ready."""
        ...

    def to_do(self) -> list[dict[str, str]]:
        """Return what a person must do for each account."""
        ...

    def metrics_text(self) -> str:
        """Return Prometheus text."""
        ...
