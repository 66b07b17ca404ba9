"""The desk's beat: who moves on with time alone has a turn when there is something to show, and rests otherwise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter

from PySide6.QtCore import QObject, Qt, QTimer, Signal

BEAT_MS = 250
RESTS = 4  # beats in a second: a part that nothing was told has a turn as one begins
LOOKS = 8  # beats between two looks at those that are said to be out of sight
SLICE_S = 0.004  # this much of one turn of the loop may go to parts that nothing was told


@dataclass(eq=False)
class Part:
    """A part of the desk. ``lively`` says whether what it shows is another thing at every beat (tenths of a second)."""

    tick: Callable[[], None]
    in_sight: Callable[[], bool]
    lively: Callable[[], bool]
    told: int = -1  # what had been told when it last had its turn
    front: bool = (
        True  # not behind a tab, as far as one was told; ``in_sight`` knows, and costs more
    )

    def come_and_go(self, front: bool) -> None:
        """Take the news that it was raised or hidden; it has a turn at the next beat."""
        self.front, self.told = front, -1


def _now_ms() -> int:
    """Return the time of the clock on the wall, whose seconds the beat keeps to."""
    return int(datetime.now(UTC).timestamp() * 1e3)


class Beat(QObject):
    """Gives parts their turns; those that were told something one in each turn of the loop: no moment has all the work.

    ``news`` counts what was told: a part has its turn at the next beat after it rose, else as a second of the clock
    begins. Then all of them move on together, and the window is painted once. While nothing is told and nothing shows
    tenths, there is no beat but that one; ``stir`` ends the rest. Nothing runs between two beats.
    """

    second = Signal()  # a second of the clock has begun

    def __init__(self, news: Callable[[], int], parent: QObject) -> None:
        super().__init__(parent)
        self._news = news
        self._parts: list[Part] = []
        self._due: deque[Part] = deque()
        self._beats = 0
        self._running = self._resting = False
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_time)
        self._turns = QTimer(self)
        self._turns.setInterval(0)
        self._turns.timeout.connect(self.turn)

    def add(self, part: Part) -> None:
        """Take a part."""
        self._parts.append(part)

    def start(self) -> None:
        """Begin."""
        self._running = True
        self._wait()

    def stop(self) -> None:
        """Give no more turns."""
        self._running = False
        self._timer.stop()
        self._turns.stop()
        self._due.clear()

    def stir(self, part: Part | None = None) -> None:
        """Have the next beat within a quarter of a second: something was told, or done in a part."""
        if part is not None:
            part.told = -1
        if self._resting:
            self._wait()

    def _wait(self, *, resting: bool = False) -> None:
        if not self._running:
            return
        self._resting = resting
        step = BEAT_MS * RESTS if resting else BEAT_MS
        self._timer.start(step + 1 - _now_ms() % step)

    def _on_time(self) -> None:
        number = _now_ms() // BEAT_MS
        if number // RESTS != self._beats // RESTS:
            self.second.emit()
        calm = False
        try:
            self.beat(number)
            calm = not self._restless()
        finally:  # whatever a part has done wrong, the others go on
            self._wait(resting=calm)
        if calm and self._due:
            self.turn()  # now: the clock and they are painted together

    def _restless(self) -> bool:
        """Say whether a part has to have a turn before the next second begins."""
        news = self._news()
        return any(part.front and (part.told != news or part.lively()) for part in self._parts)

    def beat(self, number: int | None = None) -> None:
        """See whose turn it is (the timer; tests may call it). ``number`` counts quarters of a second."""
        last, self._beats = self._beats, self._beats + 1 if number is None else number
        if self._due:
            return  # the last ones have not all had theirs
        news = self._news()
        rested, look = (self._beats // every != last // every for every in (RESTS, LOOKS))
        self._due.extend(
            part
            for part in self._parts
            if (part.front or look) and (rested or part.told != news or part.lively())
        )
        if self._due:
            self._turns.start()

    def turn(self) -> None:
        """Let the next part that is in sight have its turn, and further ones while nothing new was told to them."""
        until = perf_counter() + SLICE_S
        while self._due:
            part, news = self._due.popleft(), self._news()
            calm, part.told = part.told == news, news
            if part.in_sight():
                part.tick()
                if not calm or perf_counter() >= until:
                    break
        if not self._due:
            self._turns.stop()
