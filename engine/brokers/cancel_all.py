"""One request that cancels whatever works in an account, ours and others', where the broker has such a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from engine.brokers.connection import Exchange
from engine.ports import Swept

if TYPE_CHECKING:
    from engine.brokers.session import WireSession

FRESH_NS: Final = 2_000_000_000
"""How long it may wait for a connection: later, somebody may have armed again, and it would cancel what is new."""


class CancelAll(Exchange):
    """It on its way; ``done`` is told once."""

    __slots__ = ("_done", "_session")

    def __init__(self, session: WireSession, done: Callable[[Swept], None]) -> None:
        super().__init__(send_before_ns=monotonic_ns() + FRESH_NS)
        self._session = session
        self._done = done

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Read which orders it was for; the stream, or the broker's list, tells their ends."""
        session = self._session
        asked: Sequence[str] | None = None
        try:
            session.heard(self, status, raw, body)
            asked = session.judge_cancel_all(status, body)
        except Exception as error:  # noqa: BLE001 (whatever came, whoever waits is told)
            session.complain(error)
        self._done(Swept(self.first_byte_ns, asked))

    def on_failure(self, left: bool, reason: str) -> None:
        """Say that nothing is proven."""
        del reason
        self._done(Swept(self.first_byte_ns if left else 0))
