"""What the engine needs of the outside, as Protocols. Implementations live in brokers, stores and market."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from engine.model.account import Account
from engine.model.enums import ConnectionState, OrderType, TimeInForce
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.order import Order


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a broker promises; the engine's behaviour on an unknown outcome hangs on it.

    ``client_id``: ``durable`` (a repeated id is refused for ever), ``open_only`` (refused while the first
    order is open) or ``label`` (no promise). ``settle_s``: how long after a send a look-up must wait before
    "not found" is believed. ``max_orders_per_second`` and ``burst``: the broker's own limit per account.
    """

    client_id: str
    settle_s: float
    order_types: frozenset[OrderType]
    time_in_force: frozenset[TimeInForce]
    max_orders_per_second: float
    burst: int
    can_replace: bool = True


class BrokerSink(Protocol):
    """Where a session delivers facts. Called on the engine's loop; must not block and must not raise."""

    def on_report(self, report: ExecutionReport) -> None:
        """Take one execution report."""
        ...

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        """Take a change of the session's state, with a sentence for the operator.

        After a reconnection (``connected`` following anything else) the engine reconciles the account.
        """
        ...


class BrokerSession(Protocol):
    """One account at one broker.

    ``submit``, ``cancel`` and ``replace`` never block, never await and never raise: what became of the
    request arrives at the sink as a report (``UNSENT`` when not a byte left, ``UNKNOWN`` when bytes left and
    no proof came back). Orders of one session leave in the order they were submitted. The session stamps
    ``first_byte_ns``, ``last_byte_ns`` and ``acked_ns`` of an order with ``time.monotonic_ns``.
    Everything with ``async`` may raise ``BrokerError``.
    """

    account_id: str
    capabilities: Capabilities
    state: ConnectionState

    async def start(self) -> None:
        """Connect, warm the wire and follow the order stream until ``stop``; returns once usable or failed."""
        ...

    async def stop(self) -> None:
        """Close every connection; afterwards nothing is left running."""
        ...

    def ready(self) -> bool:
        """Say whether ``submit`` would write at once (a warm, idle connection is there)."""
        ...

    def submit(self, order: Order) -> None:
        """Send a new order."""
        ...

    def cancel(self, order: Order) -> None:
        """Ask to cancel a working order."""
        ...

    def replace(self, order: Order, replacement: Order) -> None:
        """Ask to put ``replacement`` in the place of ``order``."""
        ...

    async def find(self, cl_ord_id: str) -> ExecutionReport | None:
        """Look an order up by client id; ``None`` is the broker's word that it has none."""
        ...

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders, ours and others'."""
        ...

    async def positions(self) -> list[BrokerPosition]:
        """List open positions."""
        ...

    async def balances(self) -> Balances:
        """Read the account's money."""
        ...

    async def instrument(self, symbol: str) -> Instrument | None:
        """Read what a symbol is at this broker; ``None`` if it has no such symbol."""
        ...

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Read current prices of those of ``symbols`` the broker quotes."""
        ...


class BrokerAdapter(Protocol):
    """A broker: makes sessions. One instance a broker name; it may share what accounts can share."""

    name: str
    capabilities: Capabilities

    def session(
        self, account: Account, credentials: dict[str, str], sink: BrokerSink
    ) -> BrokerSession:
        """Make one account's session; ``credentials`` are revealed.

        Raises:
            ConfigError: a credential is missing or ``base_url`` is not allowed.
        """
        ...

    async def close(self) -> None:
        """Release what is shared."""
        ...


AccountsChanged = Callable[[Sequence[str]], Awaitable[None]]


class AccountStore(Protocol):
    """Where account documents live (SQLite or MongoDB)."""

    async def open(self) -> None:
        """Connect and ensure indexes."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...

    async def load(self) -> list[Account]:
        """Return every account. A document that cannot be read is reported by ``problems``, never dropped unseen."""
        ...

    def problems(self) -> dict[str, str]:
        """Return id → sentence for the documents the last ``load`` could not read."""
        ...

    async def get(self, account_id: str) -> Account | None:
        """Return one account."""
        ...

    async def put(self, accounts: Iterable[Account]) -> None:
        """Insert or replace accounts, all or none."""
        ...

    async def remove(self, account_id: str) -> bool:
        """Remove one; say whether it was there."""
        ...

    async def watch(self, changed: AccountsChanged) -> None:
        """Call ``changed`` with the ids that changed, within a second of each change, until cancelled."""
        ...


class Vault(Protocol):
    """Keeps secrets: turns credentials as written into something safe to store, and back at the last moment."""

    def seal(self, account_id: str, name: str, text: str) -> str:
        """Return what may be stored: references stay, literal text is encrypted."""
        ...

    def reveal(self, account_id: str, name: str, stored: str) -> str:
        """Return the secret.

        Raises:
            ConfigError: it cannot be found or decrypted; says which and what to do, never the secret.
        """
        ...


class Mirror(Protocol):
    """A copy of live state for other programs (Redis); never the only copy, never waited for."""

    async def open(self) -> None:
        """Connect."""
        ...

    async def close(self) -> None:
        """Write what is pending within a second or two, and disconnect."""
        ...

    def order(self, account: str, cl_ord_id: str, row: dict[str, Any]) -> None:
        """Note an order's newest row."""
        ...

    def position(self, account: str, symbol: str, row: dict[str, Any]) -> None:
        """Note a position's newest row."""
        ...

    def event(self, kind: str, row: dict[str, Any]) -> None:
        """Publish an event."""
        ...

    def status(self) -> tuple[ConnectionState, str]:
        """Return the connection's state and a sentence."""
        ...


class History(Protocol):
    """Signals, orders and fills as a projection for other programs (MongoDB); may lag, never blocks."""

    async def open(self) -> None:
        """Connect and ensure indexes."""
        ...

    async def close(self) -> None:
        """Write what is pending within a second or two, and disconnect."""
        ...

    def write(self, collection: str, key: str, row: dict[str, Any]) -> None:
        """Note the newest ``row`` of ``collection`` (``signals``, ``orders``, ``fills``) under ``key``."""
        ...

    def status(self) -> tuple[ConnectionState, str]:
        """Return the connection's state and a sentence."""
        ...
