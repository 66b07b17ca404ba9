"""Limits that many lanes share, and the queue before them: first come first served, exits first."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from engine.clock import Clock
from engine.execution.rate_limit import RateLimit

AT_ONCE = 256
"""Lanes called per turn of the loop, after which replies, streams and commands get theirs."""
_LATE_S = 0.0005  # a timer that rings early would ring twice


class Waiting(Protocol):
    """A lane, as the queue sees it."""

    turn: Turn | None

    def pump(self) -> None:
        """Send what can be sent."""
        ...


class Turn:
    """A lane's place in the queue. Without a lane it is void: its lane has gone, or came back with an exit."""

    __slots__ = ("called", "entry", "lane", "origin")

    def __init__(self, lane: Waiting, entry: bool) -> None:
        self.lane: Waiting | None = lane
        self.entry = entry
        self.called = False
        self.origin: FairQueue | None = None

    def void(self) -> None:
        """Give the place up."""
        self.lane = None


class FairQueue:
    """A limit shared by many lanes, which wait in line where it is reached.

    A lane is called once per order and goes to the end of the line with its next, so that none is served twice
    while another waits. Only lanes for which there are tokens are called: waiting costs nothing however many wait.

    ``onward``: the next limit on the way (an address's lanes go on to the firm's).
    """

    def __init__(self, limit: RateLimit, clock: Clock, onward: FairQueue | None = None) -> None:
        self.limit = limit
        self.stages: tuple[FairQueue, ...] = (self, *(onward.stages if onward else ()))
        self._onward = onward
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._exits: deque[Turn] = deque()
        self._entries: deque[Turn] = deque()
        self.ahead = 0  # handed on to the next limit, not called yet
        self._serving = False
        self._timer: asyncio.TimerHandle | None = None

    # ---- asked by lanes ------------------------------------------------------------------------------------

    def admit(self, lane: Waiting, entry: bool, now_ns: int) -> bool:
        """Let a lane send one order now; else it has a place in line and is pumped when its turn comes."""
        turn = lane.turn
        if turn is not None and turn.entry is not entry:
            turn.void()
            turn = lane.turn = None
        if turn is None:
            for stage in self.stages:
                if stage.crowded(entry) or not stage.limit.left(now_ns, entry):
                    lane.turn = turn = Turn(lane, entry)
                    stage.join(turn)
                    return False
        elif not turn.called:
            return False
        elif not all(stage.limit.left(now_ns, entry) for stage in self.stages):
            turn.called = False  # a cancel took the token: still the next one
            self.join(turn, first=True)
            return False
        lane.turn = None
        self.spend(now_ns)
        return True

    def spend(self, now_ns: int) -> None:
        """Count one request at every limit of the way."""
        for stage in self.stages:
            stage.limit.spend(now_ns)

    def left(self, now_ns: int, entry: bool = False) -> int:
        """Return how many orders could leave by this way at once."""
        return min(stage.limit.left(now_ns, entry) for stage in self.stages)

    @property
    def paused_until_ns(self) -> int:
        """Return until when a broker has asked this way to be quiet."""
        latest = 0
        for stage in self.stages:
            if stage.limit.paused_until_ns > latest:
                latest = stage.limit.paused_until_ns
        return latest

    # ---- the line --------------------------------------------------------------------------------------------

    def crowded(self, entry: bool) -> bool:
        """Say whether a newcomer has to queue behind another."""
        return bool(self._exits or (entry and self._entries)) and self.first(entry) is not None

    def first(self, entry: bool) -> Turn | None:
        """Return who comes before a newcomer: any exit, and for an entry any entry."""
        return self._head(self._exits) or (self._head(self._entries) if entry else None)

    def _head(self, line: deque[Turn]) -> Turn | None:
        while line:
            if line[0].lane is not None:
                return line[0]
            self._leave(line)
        return None

    def _leave(self, line: deque[Turn]) -> Turn:
        turn = line.popleft()
        if turn.origin is not None:
            turn.origin.ahead -= 1
            turn.origin = None
        return turn

    def join(self, turn: Turn, first: bool = False) -> None:
        """Put a lane into the line, at its end unless it had its turn and could not use it."""
        line = self._entries if turn.entry else self._exits
        if first:
            line.appendleft(turn)
        else:
            line.append(turn)
        if not self._serving and (self._timer is None or line[0] is turn):
            self._sleep()

    def serve(self) -> None:
        """Call those for whom there are tokens, a few hundred at a time."""
        if self._serving:
            return
        self._serving = True
        now, called = self._clock.monotonic_ns(), 0
        try:
            while called < AT_ONCE and (turn := self.first(entry=True)) is not None:
                if self.limit.left(now, turn.entry) <= self.ahead:
                    break
                self._leave(self._entries if turn.entry else self._exits)
                called += 1
                if self._onward is not None:
                    turn.origin = self
                    self.ahead += 1
                    self._onward.join(turn)
                else:
                    self._call(turn)
        finally:
            self._serving = False
            self._sleep()  # whatever one lane's order does, the others' turn comes
        if called and self._onward is not None:
            self._onward.serve()

    @staticmethod
    def _call(turn: Turn) -> None:
        lane = turn.lane
        assert lane is not None
        turn.called = True
        lane.pump()
        if lane.turn is turn and turn.called:
            lane.turn = None  # it had nothing to send after all

    def _sleep(self) -> None:
        """Wake when the first in line can go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        turn = self.first(entry=True)
        if turn is None:
            return
        now = self._clock.monotonic_ns()
        wait = (
            self.limit.after(self.ahead + 1, now, turn.entry)
            if self.ahead
            else self.limit.wait_ns(now, turn.entry)
        )
        self._timer = self._loop.call_later(wait / 1e9 + _LATE_S if wait else 0, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.serve()

    def close(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
