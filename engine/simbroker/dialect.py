"""What the simulated venue needs of a dialect: one broker's words over the one book."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from engine.simbroker.http import Request
from engine.simbroker.streams import Stream
from engine.simbroker.venue import Execution, VenueOrder


class Reply(NamedTuple):
    """An answer; ``after`` runs once its bytes are written, so events never overtake it.

    ``headers`` are whole lines, each ending in CR LF; a ``content-type`` among them replaces JSON's.
    ``stream``: the reply never ends; after its head (``body`` is not sent) the dialect is handed
    the open stream, writes lines with ``send`` and is told of its end by ``stream_closed``.
    """

    status: int
    body: bytes = b""
    after: Callable[[], None] | None = None
    headers: str = ""
    stream: Callable[[Stream], None] | None = None


class Facts(NamedTuple):
    """What a fault can match and the request log names."""

    account: str = ""
    client_order_id: str = ""
    symbol: str = ""


class Dialect(Protocol):
    """One broker's HTTP routes, order stream and errors. Instances live as long as the venue.

    A dialect reads the time from ``venue.now()``, which a fault can set wrong, and accounts through
    ``venue.login``, which refuses the ones whose credentials a fault has ended (``venue.renew``
    takes a new session's).
    """

    name: str

    def facts(self, request: Request, path: str, query: Mapping[str, str]) -> Facts:
        """Read who asks for what, before anything is checked."""
        ...

    def handle(self, request: Request, path: str, query: Mapping[str, str]) -> Reply:
        """Authenticate, limit and answer one request; every error is the broker's own object."""
        ...

    def failure(self, status: int, retry_after_s: float | None = None) -> Reply:
        """Return what this broker says with a status that a fault asked for (429, 418, 500, ...)."""
        ...

    def accepts_stream(self, request: Request, path: str) -> bool:
        """Say whether a WebSocket may be opened here; the answer is 403 where not."""
        ...

    def stream_opened(self, stream: Stream, request: Request) -> None:
        """Greet a new WebSocket (some brokers authenticate by its address)."""
        ...

    def stream_message(self, stream: Stream, message: bytes) -> str:
        """Take one message of a WebSocket; return the account it speaks for, for the log."""
        ...

    def stream_closed(self, stream: Stream) -> None:
        """Forget a WebSocket, or a reply that never ended."""
        ...

    def told(self, event: str, order: VenueOrder, execution: Execution | None) -> None:
        """Tell the order's account an event.

        It is one of new, fill, partial_fill, canceled, expired, replaced, rejected.
        """
        ...

    def streams(self) -> Sequence[Stream]:
        """Return every open order stream, for ``POST /sim/disconnect``."""
        ...
