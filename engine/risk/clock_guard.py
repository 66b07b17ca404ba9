"""Control C26: whether this machine's clock can be believed.

Three witnesses: the monotonic clock (the wall clock must not step against it), the brokers' ``Date`` headers (it must
not differ from theirs), and the latest moment this book has seen (a start must not lie before it). Where the clock is
off, entries wait for a person, or for the clock to be put right; exits and cancels pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from engine.clock import Clock, rfc3339

FACT: Final = "clock"
MARK: Final = "latest"
MARK_EVERY_NS: Final = 10_000_000_000
_READINGS: Final = 5
_HELD_UP_NS: Final = 20_000_000
Trip = Callable[[str, str], None]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO: Final = timedelta(microseconds=1)


class ClockGuard:
    """Looks at the clock each second and at each signal.

    ``trip`` and ``clear`` are called with a scope (``all``, or ``broker:NAME``) and a sentence; ``warn`` with a broker
    (or nothing) and a sentence; ``stepped`` with the nanoseconds by which the wall clock went ahead of the monotonic
    one: what waits is that much older than its deadline knows.
    """

    def __init__(  # noqa: PLR0913 (whom it watches and whom it tells)
        self,
        clock: Clock,
        warn_ms: int,
        block_ms: int,
        trip: Trip,
        clear: Trip,
        warn: Callable[[str, str], None],
        stepped: Callable[[int], None],
        keep: Callable[[str, str, dict[str, Any] | None], None],
    ) -> None:
        self._clock = clock
        self._warn_ns = warn_ms * 1_000_000
        self._block_ns = block_ms * 1_000_000
        self._trip = trip
        self._clear = clear
        self._warn = warn
        self._stepped = stepped
        self._keep = keep
        self._offset = self._base = self._offset_ns()
        self._behind: datetime | None = None  # the mark this start lies before
        self._marked_ns = 0
        self._off = False

    def _wall_ns(self) -> int:
        return (self._clock.now() - _EPOCH) // _MICRO * 1000

    def _offset_ns(self) -> int:
        """Return wall minus monotonic; read again where we were held up in between, which looks like a step."""
        readings = 0
        while True:
            mono = self._clock.monotonic_ns()
            wall = self._wall_ns()
            readings += 1
            if self._clock.monotonic_ns() - mono < _HELD_UP_NS or readings == _READINGS:
                return wall - mono

    def load(self, facts: Mapping[str, dict[str, Any]]) -> None:
        """Compare the start with the latest moment the book has seen (T18)."""
        mark = facts.get(MARK)
        if mark is None or not self._block_ns:
            return
        latest, now = datetime.fromisoformat(mark["at"]), self._clock.now()
        behind = (latest - now) // _MICRO * 1000
        if behind > self._block_ns:
            self._behind = latest
            self._trip("all", f"{_text(-behind)}: the book has seen {rfc3339(latest)}")

    def look(self) -> None:
        """Compare the wall clock with the monotonic one; cheap enough for every signal."""
        offset = self._offset_ns()
        step, self._offset = offset - self._offset, offset
        if step > self._block_ns > 0:
            self._stepped(step)
        if not self._block_ns:
            return
        if self._off:
            if abs(offset - self._base) <= self._block_ns:
                self._off = False
                self._clear("all", "the clock was put right")
        elif abs(step) > self._block_ns:
            self._base = offset - step
            self._off = True
            self._trip("all", f"{_text(step)}: it was set while the engine ran")
        elif abs(step) > self._warn_ns > 0:
            self._warn("", f"{_text(step)}: it was set while the engine ran")

    def tick(self) -> None:
        """Look, and note the latest moment from time to time."""
        self.look()
        if self._behind is not None and self._clock.now() >= self._behind:
            self._behind = None
            self._clear("all", "the clock has passed the latest moment of the book")
        now = self._clock.monotonic_ns()
        if self._off or self._behind is not None or now - self._marked_ns < MARK_EVERY_NS:
            return
        self._marked_ns = now
        self.mark()

    def mark(self) -> None:
        """Keep this moment as the latest the book has seen."""
        if not self._off and self._behind is None:
            self._keep(FACT, MARK, {"at": rfc3339(self._clock.now())})

    def accept(self, scope: str) -> None:
        """Take the clock as it is: a person has lifted the block."""
        if scope == "all":
            self._off, self._behind = False, None
            self._offset = self._base = self._offset_ns()

    def heard(self, broker: str, date: datetime, sent_ns: int, came_ns: int) -> None:
        """Compare with a broker's ``Date``: whole seconds, written between our request's and its reply's moment.

        What is proven is the least the clocks differ: the second has another second's room, and the way took its time.
        """
        offset = self._offset_ns()
        theirs = (date - _EPOCH) // _MICRO * 1000
        ahead = sent_ns + offset - (theirs + 1_000_000_000)
        behind = theirs - (came_ns + offset)
        off = ahead if ahead > 0 else -behind if behind > 0 else 0
        scope = f"broker:{broker}"
        if abs(off) > self._block_ns > 0:
            self._trip(scope, f"{_text(off)}, by {broker}'s clock")
            return
        self._clear(scope, f"the clock agrees with {broker}'s")
        if self._off:  # a witness says that the step has put it right
            self._off = False
            self._base = self._offset
            self._clear("all", f"the clock agrees with {broker}'s")
        if abs(off) > self._warn_ns > 0:
            self._warn(broker, f"{_text(off)}, by {broker}'s clock")


def _text(off_ns: int) -> str:
    return f"CLOCK {off_ns / 1e9:+.1f} s"
