"""Taking back what was just done, for a few seconds, where the world allows it.

An order that rests can be cancelled, a held signal rejected, a pause ended. What has filled stays filled: for that
there is no undo, and none is offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from time import monotonic
from typing import TYPE_CHECKING, Any

from engine.model import tables
from gui.commands import Work
from gui.notifications import Notifier

if TYPE_CHECKING:
    from gui.desk import Desk

UNDO_MS = 5_000
BY_HAND = "by hand at the desk"
_TAKEN_BACK = frozenset({"pending_new", "new", "partially_filled", "unknown"})
_AT_ONCE = frozenset({"ioc", "fok"})


class Undo:
    """The last thing that can be taken back."""

    def __init__(
        self,
        notifier: Notifier,
        start: Callable[[Work, str], None],
        changed: Callable[[], None],
    ) -> None:
        self._notifier = notifier
        self._start = start
        self._changed = changed
        self._make: Callable[[], Work] | None = None
        self._title = ""
        self._until = 0.0

    def offer(self, title: str, text: str, make: Callable[[], Work]) -> None:
        """Say that something was done and offer to take it back; ``make`` returns the coroutine that does."""
        self._make, self._title = make, title
        self._until = monotonic() + UNDO_MS / 1000
        self._notifier.offer(title, text, "Undo", lambda: self._run(make, title), UNDO_MS)
        self._changed()

    def available(self) -> bool:
        """Say whether there is something to take back now."""
        return self._make is not None and monotonic() < self._until

    def run(self) -> None:
        """Take back the last thing."""
        if self._make is not None and self.available():
            self._run(self._make, self._title)

    def _run(self, make: Callable[[], Work], title: str) -> None:
        if make is self._make:  # once: the key and the button are two ways to one act
            self._make = None
        elif self._make is None:
            return
        self._start(make(), f"Undo: {title}")


def rests(order: dict[str, Any]) -> bool:
    """Say whether a signal's orders wait for a price, so that there is time to take them back."""
    kind, life = str(order.get("order_type") or "market"), str(order.get("time_in_force") or "day")
    return kind != "market" and life not in _AT_ONCE and order.get("action") in {"buy", "sell"}


async def take_back(desk: Desk, key: str, accounts: Collection[str] | None = None) -> None:
    """Cancel what a signal has working and reject what of it waits for approval; the engine says what that is.

    ``accounts``: only the orders of these (an approval's), and what still waits goes on waiting.
    """
    rows = (await desk.signal_detail(key)).get("accounts", ())
    held = accounts is None and any(row.get("outcome") == "held" for row in rows)
    working = [
        row["cl_ord_id"]
        for row in rows
        if row.get("cl_ord_id")
        and row.get("status") in _TAKEN_BACK
        and (accounts is None or row["account"] in accounts)
    ]
    if held:
        await desk.command("reject", signal=key, reason="undone at the desk")
    if working:
        await desk.each("Undo", "cancel_order", [{"cl_ord_id": name} for name in working])
    elif held:
        desk.say("ok", "Undone", "Rejected before anything was sent.")
    else:
        desk.say("warning", "Nothing left to undo", "No order of it works any more.")


def say_approved(
    desk: Desk, signal: dict[str, Any], title: str, text: str, accounts: Collection[str]
) -> None:
    """Say that a held signal was approved for some accounts; orders that rest can be taken back."""
    if rests(signal):
        desk.undo.offer(title, text, lambda: take_back(desk, signal["key"], accounts))
    else:
        desk.say("ok", title, text)


async def pause(desk: Desk, title: str, scopes: list[str], reason: str = "") -> None:
    """Pause scopes and offer to resume them; what was paused before stays so when that is undone.

    Raises:
        CommandRefused: the first refusal, after the others were paused.
    """
    before = set(desk.store.rows(tables.HALTS))
    answers = await asyncio.gather(
        *(desk.command("pause", scope=s, reason=reason or BY_HAND) for s in scopes),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    paused = [s for s, answer in zip(scopes, answers, strict=True) if answer not in refused]
    fresh = [scope for scope in paused if scope not in before]
    if fresh:
        desk.undo.offer(
            title,
            "No new entries; exits pass.",
            lambda: desk.each("Resumed", "resume", [{"scope": scope} for scope in fresh]),
        )
    elif paused:
        desk.say("ok", title, "It was paused before.")
    if refused:
        raise refused[0]
