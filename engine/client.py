"""What a front end sees of the engine: rows coming in, commands going out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.model.enums import ConnectionState
from engine.model.numbers import to_text

if TYPE_CHECKING:
    from engine.client_local import LocalEngine

Row = dict[str, Any]

log = logging.getLogger(__name__)


class EngineListener(Protocol):
    """Takes what the engine says; called on the front end's loop."""

    def on_snapshot(self, tables: dict[str, list[Row]]) -> None:
        """Replace everything known (first connection, reconnection, gap)."""
        ...

    def on_batch(self, changes: dict[str, list[Row]], removed: dict[str, list[str]]) -> None:
        """Take changed rows and removed keys, per table (engine.model.tables)."""
        ...

    def on_link(self, state: ConnectionState, text: str) -> None:
        """Take the state of the link; rows known so far are stale unless connected."""
        ...


class EngineClient(Protocol):
    """A link to one engine, in this process or over a WebSocket."""

    async def start(self, listener: EngineListener) -> None:
        """Connect and keep connected until ``stop``; returns at once, the listener hears."""
        ...

    async def stop(self) -> None:
        """Disconnect."""
        ...

    async def command(self, command: str, **fields: Any) -> dict[str, Any]:
        """Carry out an operator's command (engine.model.commands); the id is made here.

        Raises:
            CommandRefused: the engine says no (code and sentence), or cannot be reached
                (code ``NO_ENGINE``).
        """
        ...

    async def send_signal(self, document: dict[str, Any]) -> dict[str, Any]:
        """Send a signal (schema v1); returns ``{"signal_id","state","code"?}``.

        Raises:
            CommandRefused: with the code and sentence of the refusal.
        """
        ...

    async def signal_detail(self, key: str) -> dict[str, Any]:
        """Return one signal (``source/id``) with its rows per account and its trace.

        Raises:
            CommandRefused: no such signal, or the engine cannot be reached.
        """
        ...


def tell(call: Callable[..., None], *facts: object) -> None:
    """Tell a listener something; a mistake of its own must not end the link."""
    try:
        call(*facts)
    except Exception:
        log.exception("a listener of the engine failed")


def exact(value: object) -> str:
    """Write what JSON has no type for: decimals as text."""
    if isinstance(value, Decimal):
        return to_text(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")


def remote_client(url: str, token: str) -> EngineClient:
    """Return a client of the engine at ``url`` (``ws://HOST:PORT`` or ``http://HOST:PORT``).

    Raises:
        ConfigError: ``url`` is no such address.
    """
    from engine.client_remote import RemoteClient

    return RemoteClient(url, token)


def load_remote() -> None:
    """Load what ``remote_client`` needs (0.2 s) ahead of time: while the engine still starts."""
    import engine.client_remote  # noqa: F401


def local_client(engine: LocalEngine) -> EngineClient:
    """Return a client of an engine that runs in this process and on this loop."""
    from engine.client_local import LocalClient

    return LocalClient(engine)


class Moment(Protocol):
    """A moment of a recording that is worth going to: ``kind`` is ``signal``, ``alert`` or ``command``."""

    @property
    def at(self) -> float:
        """Return when, in seconds since 1970."""
        ...

    @property
    def kind(self) -> str:
        """Return what."""
        ...

    @property
    def text(self) -> str:
        """Return it in words."""
        ...


class Recording(EngineClient, Protocol):
    """A recorded day in the place of an engine; commands are refused."""

    position: float
    """The moment shown, in seconds since 1970."""

    @property
    def day(self) -> str:
        """Return the day shown."""
        ...

    @property
    def begins(self) -> float:
        """Return the first moment."""
        ...

    @property
    def ends(self) -> float:
        """Return the last moment."""
        ...

    @property
    def marks(self) -> Sequence[Moment]:
        """Return the moments worth going to, in their order."""
        ...

    @property
    def recorded(self) -> frozenset[str]:
        """Return the tables that only the record of the day tells of, as far as it did."""
        ...

    @property
    def behind(self) -> float:
        """Return what share of the last jump the listener has still to hear, 0 when it knows all."""
        ...

    def move(self, moment: float) -> None:
        """Go to a moment; the listener hears what changed by it, of a long way the rest by ``catch_up``."""
        ...

    def catch_up(self) -> None:
        """Tell the next part of a long way."""
        ...


def replay_client(place: Path, day: str | None = None) -> Recording:
    """Read a recorded day of a home or a copy of its journal; takes a while, and no lock.

    Raises:
        StoreError: there is no journal, it cannot be read, or nothing is recorded.
        ConfigError: no such day.
    """
    from engine.client_replay import load

    return load(place, day)


def days_at(place: Path) -> list[str]:
    """Return the days recorded in a home or a copy of its journal, newest first.

    Raises:
        StoreError: there is no journal, or it cannot be read.
    """
    from engine.days.recorded import recorded_days

    return recorded_days(place)
