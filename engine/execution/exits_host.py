"""What the guards of positions need of the engine they serve."""

from __future__ import annotations

from typing import Protocol

from engine.model.account_state import AccountState
from engine.model.messages import Quote
from engine.model.order import Order
from engine.model.position import Position
from engine.ports import BrokerSession


class ExitsHost(Protocol):
    """The engine, as the guards see it."""

    def position(self, account: str, symbol: str) -> Position | None:
        """Return a position, also when it is flat."""
        ...

    def state(self, account: str) -> AccountState | None:
        """Return an account."""
        ...

    def session(self, account: str) -> BrokerSession | None:
        """Return an account's broker session."""
        ...

    def quote(self, symbol: str) -> Quote | None:
        """Return the newest price."""
        ...

    def gate(self, order: Order) -> tuple[str, str] | None:
        """Say why an order may not leave now."""
        ...

    def send_exits(self, orders: list[Order]) -> None:
        """Count orders as working from now on, make them durable, then send them."""
        ...

    def note(self, position: Position) -> None:
        """Make a position's changed protection durable soon, and show it."""
        ...

    def follow(self, symbol: str) -> None:
        """Keep a symbol's price fresh."""
        ...

    def ask_for_legs(self, position: Position) -> None:
        """Ask the broker for the exits it made along with a position's newest entry."""
        ...

    def alert(self, severity: str, code: str, account: str, text: str) -> None:
        """Tell the operator."""
        ...
