"""What outlives every engine of a simulated day: time, chance, the trace, what happened, what broke."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from random import Random

from tests.simulation.faults import FAULTS

MORNING = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
SECOND = 1_000_000_000


class World:
    """Time and chance of one seed. ``rng(name)`` is a stream of chance of its own: one use does not move another."""

    def __init__(self, seed: int, lines: list[str] | None = None) -> None:
        self.seed = seed
        self.now_ns = 0
        self.turn_ns = 20_000  # what one turn of an engine's loop takes
        self.wall_offset_ns = 0  # how far the wall clock was stepped
        self.monotonic_base_ns = 5_000 * SECOND
        self.calm = False  # no more faults: what is open must come to an end
        self.faults: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._digest = hashlib.sha256()
        self._lines = lines
        self._streams: dict[str, Random] = {}

    # ---- chance ----------------------------------------------------------------------------------------------

    def rng(self, name: str) -> Random:
        """Return the stream of chance of this name."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Random(f"{self.seed}:{name}")
        return stream

    def fault(self, name: str) -> None:
        """Count a fault that has just been done."""
        if name not in FAULTS:
            raise KeyError(f"fault {name!r} is not in the list")
        self.faults[name] += 1
        self.trace("fault", name)

    def chance(self, stream: str, probability: float) -> bool:
        """Say whether something happens, never once all is calm."""
        return not self.calm and self.rng(stream).random() < probability

    # ---- time ------------------------------------------------------------------------------------------------

    def at(self, moment_ns: int, event: Callable[[], None]) -> None:
        """Let something happen at a moment, after everything planned before for the same one."""
        self._number += 1
        heappush(self._events, (max(moment_ns, self.now_ns), self._number, event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let something happen in a while."""
        self.at(self.now_ns + int(seconds * SECOND), event)

    def advance(self, moment_ns: int) -> None:
        """Go to a moment through everything that happens until then."""
        waiting = self._events
        while waiting and waiting[0][0] <= moment_ns:
            at, _, event = heappop(waiting)
            self.now_ns = max(self.now_ns, at)
            event()
        self.now_ns = max(self.now_ns, moment_ns)

    def advance_to_first(self, moment_ns: int) -> None:
        """Go to the next thing that happens, at most to a moment."""
        if self._events and self._events[0][0] < moment_ns:
            moment_ns = self._events[0][0]
        self.advance(moment_ns)

    def wall(self) -> datetime:
        """Return the machine's wall clock."""
        return MORNING + timedelta(microseconds=(self.now_ns + self.wall_offset_ns) // 1000)

    # ---- what happened ---------------------------------------------------------------------------------------

    def trace(self, *facts: object) -> None:
        """Add a line to the trace, whose digest proves that two runs are the same."""
        line = " ".join(map(str, (self.now_ns, *facts)))
        self._digest.update(line.encode())
        self._digest.update(b"\n")
        if self._lines is not None:
            self._lines.append(line)

    def digest(self) -> str:
        """Return the trace's SHA-256."""
        return self._digest.hexdigest()

    def violation(self, invariant: str, text: str) -> None:
        """Note that an invariant does not hold."""
        self.trace("violation", invariant, text)
        if len(self.violations) < 20:
            self.violations.append(f"{invariant} at {self.now_ns / SECOND:.6f} s: {text}")


class SimClock:
    """The engine's clock (``engine.clock.Clock``) over the world's time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._base_ns = world.monotonic_base_ns

    def now(self) -> datetime:
        """Return the wall clock, which may be stepped."""
        return self._world.wall()

    def monotonic_ns(self) -> int:
        """Return the interval clock, which begins anew with every boot of the machine."""
        return self._world.now_ns + self._base_ns
