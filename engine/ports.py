"""What the engine needs of the outside, as Protocols. Implementations live in brokers, stores and market."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

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

    ``native_exits``: the broker itself works the stop loss and take profit an entry carries
    (``Order.stop_loss``, ``take_profit``); ``native_trailing`` the same for ``trail_percent``; where it does
    not, the engine's own protective exits do. ``per_calendar_second``: the most orders of one account in one
    calendar second of the broker's clock (0: no such rule). ``per_address_second``: the most requests from one
    egress address a second, all accounts together (0: none). ``connects_per_second``: how fast new connections
    may be opened from one address (0: no limit). ``sessions_end``: whether credentials die and need renewing.

    For reconciliation (control C25): ``spot``: positions are balances of assets, so what we never traded may come and
    go. ``cash``: what moves the money: ``trades`` (each at once, by its value), ``realised`` (gains and losses only) or
    empty (fills do not tell). ``day_zone``: the zone at whose midnight the broker's book of orders begins anew and day
    orders are over (empty: it says itself what has ended). ``reads_per_second``: what all accounts of one egress
    address may spend on it (0: no bound); ``counts_reads``: whether its limit of orders per account is one of requests,
    reads among them (C09); ``orders_cost``, ``positions_cost``: what a list of each costs of that.
    """

    client_id: str
    settle_s: float
    order_types: frozenset[OrderType]
    time_in_force: frozenset[TimeInForce]
    max_orders_per_second: float
    burst: int
    can_replace: bool = True
    native_exits: bool = False
    native_trailing: bool = False
    per_calendar_second: int = 0
    per_address_second: float = 0.0
    connects_per_second: float = 0.0
    sessions_end: bool = False
    spot: bool = False
    cash: str = ""
    day_zone: str = ""
    reads_per_second: float = 0.0
    counts_reads: bool = False
    orders_cost: float = 1.0
    positions_cost: float = 1.0

    def refusal(self, order_type: OrderType, time_in_force: TimeInForce) -> str:
        """Say why the broker has no such order, empty if it has."""
        if order_type in self.order_types and time_in_force in self.time_in_force:
            return ""
        return f"the broker has no {order_type.value} order {time_in_force.value}"


@dataclass(frozen=True, slots=True)
class Headroom:
    """What an account's session has left; everything unknown is ``None``.

    ``expires_at``: when the session's token ends. ``probed_at``: the last time the broker answered us.
    ``warm``/``wanted``: order connections open and idle or busy, and how many there should be.
    ``used``/``limit``: requests the broker says were used of its own window. ``paused_until_ns``: monotonic
    moment before which the broker asked not to be called (429, 418), 0 for none. ``todo``: what a person has to
    do, empty when nothing.
    """

    expires_at: datetime | None = None
    probed_at: datetime | None = None
    warm: int = 0
    wanted: int = 0
    used: int | None = None
    limit: int | None = None
    paused_until_ns: int = 0
    todo: str = ""


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

    def on_ready(self, account: str) -> None:
        """Take the news that the session may be ready, after ``ready()`` said no because other accounts had every
        connection of a pool they share. An account's own report is that news where its own order was out.
        """
        ...

    def on_limits(
        self,
        account: str,
        *,
        used: int | None = None,
        limit: int | None = None,
        resets_in_s: float | None = None,
        retry_after_s: float | None = None,
        address_wide: bool = False,
    ) -> None:
        """Take what a broker says of its rate limits: usage of a window, or a pause it asks for.

        ``address_wide``: it holds for every account that leaves by the same address, not only this one.
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

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up by client id; ``None`` is the broker's word that it has none.

        ``symbol`` is the order's, for brokers that find an order only within its symbol; ``order_id`` the
        broker's id if known, for exits to which the broker gave a client id of its own.
        """
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

    async def market_open(self, symbol: str) -> bool | None:
        """Say whether the market of ``symbol`` is open now; ``None`` when the broker has no such clock."""
        ...

    def refusal(self, order_type: OrderType, time_in_force: TimeInForce) -> str:
        """Say in a sentence why this account can have no such order, empty if it can."""
        ...

    def works_exits(self, order: Order) -> bool:
        """Say whether the broker will itself work this entry's stop loss, take profit and trail.

        ``False``: the order is sent without them and the engine's protective exits watch instead. It must be
        the same answer whenever it is asked for the same order.
        """
        ...

    def headroom(self) -> Headroom:
        """Return what the session has left, from what is known; never asks the broker."""
        ...


@runtime_checkable
class PacedSession(Protocol):
    """A session that reads by turns and hears its broker's clock (control C09, C26)."""

    def pace(self, turn: Callable[[], float], date: Callable[[datetime, int, int], None]) -> None:
        """Ask ``turn`` before each read: seconds to wait, 0 to go now, counted then. ``date`` hears the clock of each
        probe's answer with the monotonic moments its request left and its answer came.
        """
        ...


@dataclass(frozen=True, slots=True)
class Swept:
    """What came of the cancel of all. ``written_ns``: when its first byte left (0: never). ``asked``: the broker's ids
    of the orders it was for; ``None``: no proof of anything.
    """

    written_ns: int
    asked: Sequence[str] | None = None


@runtime_checkable
class SweepingSession(Protocol):
    """A session whose broker may cancel whatever works in the account in one request."""

    def cancel_all(self, done: Callable[[Swept], None]) -> bool:
        """Ask for it; ``done`` is told once, later. Say whether the broker has such a request."""
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


@dataclass(frozen=True, slots=True)
class SessionToken:
    """A token that stands for a broker's session until it ends; ``owner`` names the key it was made with.

    ``refresh`` renews it, empty where only a person can.
    """

    token: str = field(repr=False)
    expires_at: datetime
    owner: str = ""
    refresh: str = field(default="", repr=False)


class TokenStore(Protocol):
    """Keeps session tokens encrypted, so that a restart does not need a new login."""

    def load(self, account: str) -> SessionToken | None:
        """Return an account's token, ended or not; ``None`` if there is none that can be read."""
        ...

    def save(self, account: str, token: SessionToken) -> None:
        """Keep a token in the place of the one before, durably."""
        ...

    def forget(self, account: str) -> None:
        """Remove an account's token."""
        ...

    def version(self) -> int:
        """Return a number that differs once any token was saved, by whichever process; cheap."""
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
